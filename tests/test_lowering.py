"""Training steps and predictions lower for CUDA and for TPU; what they lower to is counted.

The steps are those of every network, at full size, and of every scheme of the recipes: no array of a network's size is
made. The predictions are those of a small network.

Neither device is needed: this shows that every operation has a lowering for the device, not that a device's compiler takes
it, nor how fast it runs.
"""

import functools
import itertools
import math
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import abstract, rngs_to_trace

import bnn_jax as bnn
from bnn_jax.nn import MaxPool, NetworkBuilder, Window
from bnn_jax.training import Config, init, logits_of
from bnn_jax.training.step import update
from experiments import recipes

ROOT = Path(__file__).parent.parent
PLATFORMS = ('cuda', 'tpu')
CONFIGS = {recipe.run_name(row): recipe.row(row) for recipe in recipes().values() for row in recipe.rows}
"""Every row of every recipe."""

ORIGINAL = {'imagenet': (300, 400, 3), 'digits': (8, 8, 1), 'fashion_mnist': (28, 28, 1), 'cifar10': (32, 32, 3)}
"""Pixels of a data set's images, by the beginning of an experiment's name; augmentations make of them what is trained on."""

# What a network multiplies at the recipe's width, by hand: (pixels of a side after it, window, channels in, out) of every
# convolution, (units in, out) of every dense layer.
ALEXNET = [
    *((55, 11, 3, 96), (27, 5, 96, 256), (13, 3, 256, 384), (13, 3, 384, 384), (13, 3, 384, 256)),
    *((6 * 6 * 256, 4096), (4096, 4096), (4096, 1000)),
]
RESNET18 = [
    *[(112, 7, 3, 64)] + 4 * [(56, 3, 64, 64)],
    *[(28, 3, 64, 128)] + 3 * [(28, 3, 128, 128)] + [(28, 1, 64, 128)],
    *[(14, 3, 128, 256)] + 3 * [(14, 3, 256, 256)] + [(14, 1, 128, 256)],
    *[(7, 3, 256, 512)] + 3 * [(7, 3, 512, 512)] + [(7, 1, 256, 512)],
    (512, 1000),
]
EXTRACTION = [
    *((112, 7, 3, 64), (56, 3, 64, 192)),
    *((28, 1, 192, 128), (28, 3, 128, 256), (28, 1, 256, 256), (28, 3, 256, 512)),
    *4 * [(14, 1, 512, 256), (14, 3, 256, 512)] + [(14, 1, 512, 512), (14, 3, 512, 1024)],
    *2 * [(7, 1, 1024, 512), (7, 3, 512, 1024)] + [(7, 1, 1024, 1000)],
]
QUARTER_VGG_SMALL = [
    *((8, 3, 1, 32), (8, 3, 32, 32), (4, 3, 32, 64), (4, 3, 64, 64), (2, 3, 64, 128), (2, 3, 128, 128)),
    *((128, 256), (256, 256), (256, 10)),
]
SIXTEENTH_ALEXNET = [
    *((55, 11, 3, 6), (27, 5, 6, 16), (13, 3, 16, 24), (13, 3, 24, 24), (13, 3, 24, 16)),
    *((6 * 6 * 16, 256), (256, 256), (256, 10)),
]
LENET5 = [(24, 5, 1, 20), (8, 5, 20, 50), (4 * 4 * 50, 500), (500, 10)]
NIN = [
    *((32, 5, 3, 192), (32, 1, 192, 160), (32, 1, 160, 96), (16, 5, 96, 192), (16, 1, 192, 192), (16, 1, 192, 192)),
    *((8, 3, 192, 192), (8, 1, 192, 192), (8, 1, 192, 10)),
]
VGG_SMALL = [
    *((32, 3, 3, 128), (32, 3, 128, 128), (16, 3, 128, 256), (16, 3, 256, 256), (8, 3, 256, 512), (8, 3, 512, 512)),
    *((4 * 4 * 512, 1024), (1024, 1024), (1024, 10)),
]
RESNET20 = [
    *[(32, 3, 3, 16)] + 6 * [(32, 3, 16, 16)],
    *[(16, 3, 16, 32)] + 5 * [(16, 3, 32, 32)] + [(16, 1, 16, 32)],
    *[(8, 3, 32, 64)] + 5 * [(8, 3, 64, 64)] + [(8, 1, 32, 64)],
    (64, 10),
]
SMALL_RESNET18 = [
    *[(32, 3, 3, 64)] + 4 * [(32, 3, 64, 64)],
    *[(16, 3, 64, 128)] + 3 * [(16, 3, 128, 128)] + [(16, 1, 64, 128)],
    *[(8, 3, 128, 256)] + 3 * [(8, 3, 256, 256)] + [(8, 1, 128, 256)],
    *[(4, 3, 256, 512)] + 3 * [(4, 3, 512, 512)] + [(4, 1, 256, 512)],
    (512, 10),
]


def without_shortcuts(layers: list) -> list:
    """The layers of a ResNet whose shortcuts have no parameters: all but the 1x1 convolutions."""
    return [layer for layer in layers if len(layer) != 4 or layer[1] != 1]


NETWORKS = {
    # beginning of the name (the longest counts): pixels of an image, layers
    'imagenet_alexnet': ((224, 224, 3), ALEXNET),
    'imagenet_alexnet_xnor_pytorch': ((227, 227, 3), ALEXNET),
    'imagenet_resnet18': ((224, 224, 3), RESNET18),
    'imagenet_extraction': ((224, 224, 3), EXTRACTION),
    'digits_vgg_small': ((8, 8, 1), QUARTER_VGG_SMALL),
    'fashion_mnist_lenet5': ((28, 28, 1), LENET5),
    'cifar10_nin': ((32, 32, 3), NIN),
    'cifar10_vgg_small': ((32, 32, 3), VGG_SMALL),
    'cifar10_vgg_small_one_dense': ((32, 32, 3), [*VGG_SMALL[:6], (4 * 4 * 512, 10)]),
    'cifar10_resnet20': ((32, 32, 3), RESNET20),
    'cifar10_resnet20_irnet': ((32, 32, 3), without_shortcuts(RESNET20)),
    'cifar10_resnet20_recu': ((32, 32, 3), without_shortcuts(RESNET20)),
    'cifar10_resnet18': ((32, 32, 3), SMALL_RESNET18),
    'cifar10_resnet18_recu': ((32, 32, 3), without_shortcuts(SMALL_RESNET18)),
    'cifar10_upscaled_alexnet': ((224, 224, 3), SIXTEENTH_ALEXNET),
}


def known(table: dict, name: str):
    """The table's value for the longest beginning of an experiment's name."""
    beginnings = [beginning for beginning in table if name.startswith(beginning)]
    assert beginnings, f'{name}: a new experiment; say here by hand what it must lower to'
    return table[max(beginnings, key=len)]


def abstract_batch(config: Config, original: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of a recipe, made of images of this size by its own augmentations."""
    image, rng = np.zeros(original, np.uint8), np.random.default_rng(0)
    for augmentation in config.augmentations:
        image = augmentation(image, rng)
    image = config.standardize(image)
    return {
        'image': jax.ShapeDtypeStruct((config.batch_size, *image.shape), image.dtype),
        'label': jax.ShapeDtypeStruct((config.batch_size,), np.int32),
    }


def shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split('x')))


TENSOR = r'tensor<([\dx]+)xf32>'
CONVOLUTION = re.compile(
    rf'stablehlo\.convolution\(.*?dim_numbers = (.*?), window.*: \({TENSOR}, {TENSOR}\) -> {TENSOR}'
)
DOT = re.compile(rf'stablehlo\.dot_general .*?contracting_dims = (.*?), .*: \({TENSOR}, {TENSOR}\) -> {TENSOR}')


def forward(text: str) -> Counter:
    """The products of the forward pass, as the tables above have them, each with the batch's size before it.

    Gradients contract other axes: [f, 0, 1, b]x[i, 0, 1, o] and [0]x[0] for weights, [0, 1, o, i] and [1]x[1] for inputs.
    """
    layers = []
    for numbers, _, kernel, out in CONVOLUTION.findall(text):
        if numbers == '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]':
            (batch, side, width, _), (window, window_width, *channels) = shape(out), shape(kernel)
            assert side == width and window == window_width
            layers.append((batch, side, window, *channels))
    for contracted, x, kernel, _ in DOT.findall(text):
        if contracted == '[1] x [0]':
            layers.append((shape(x)[0], *shape(kernel)))
    return Counter(layers)


def custom_calls(text: str) -> list[str]:
    return re.findall(r'custom_call\s*@(\w+)', text)


def test_a_call_that_only_one_platform_has_would_be_seen():
    matrix = jax.ShapeDtypeStruct((3, 3), np.float32)
    lowered = jax.jit(jnp.linalg.cholesky).trace(matrix).lower(lowering_platforms=('cpu',))
    assert any('lapack' in name for name in custom_calls(lowered.as_text()))


def network_and_scheme(name: str) -> set[str]:
    """Which network of the table a row trains, and its scheme."""
    network = max((beginning for beginning in NETWORKS if name.startswith(beginning)), key=len, default=name)
    return {network, repr(CONFIGS[name].model.keywords['scheme'])}


@functools.cache
def enough_rows() -> list[str]:
    """Rows that have every network and every scheme among them, small images first."""
    names, seen = [], set()
    for new in (2, 1):  # First the rows with both new, which makes them few.
        for name in sorted(CONFIGS, key=lambda name: known(NETWORKS, name)[0]):
            if len(network_and_scheme(name) - seen) == new:
                names.append(name)
                seen |= network_and_scheme(name)
    return names


def abstract_state(config: Config):
    tx = config.optimizer(config.schedule(config.learning_rate, 58_000))
    return jax.eval_shape(lambda: init(config.model(rngs=rngs_to_trace(), width=config.width), tx, steps=58_000))


@pytest.mark.parametrize('name', [name for name in CONFIGS if name not in enough_rows()])
def test_images_and_update_of_the_other_rows(name):
    config = CONFIGS[name]
    image = abstract_batch(config, known(ORIGINAL, name))['image']
    assert image.shape == (config.batch_size, *known(NETWORKS, name)[0])
    state = abstract_state(config)
    with jax.numpy_dtype_promotion('standard'):  # As in `update`.
        updates, _ = jax.eval_shape(state.tx.update, state.params, state.opt_state, state.params)
    assert jax.eval_shape(optax.apply_updates, state.params, updates) == state.params


@pytest.mark.parametrize(('name', 'platform'), list(zip(enough_rows(), itertools.cycle(PLATFORMS))))
def test_a_training_step(name, platform):
    """On one platform each, in turn: the rows share their operations, and `test_predictions` has both platforms."""
    config = CONFIGS[name]
    layers = known(NETWORKS, name)[1]
    batch = abstract_batch(config, known(ORIGINAL, name))
    state = abstract_state(config)
    traced = jax.jit(update, donate_argnums=0).trace(state, batch)

    # The progress is made of the step's number: what it was before is not read.
    read = len(jax.tree.leaves(state)) - len(jax.tree.leaves(nnx.filter_state(state.rest, bnn.nn.Progress)))
    size, convolutions = config.batch_size, sum(len(layer) == 4 for layer in layers)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    arguments = text[text.index('@main(') :].partition('->')[0]
    assert f'tensor<{"x".join(map(str, batch["image"].shape))}xf32>' in arguments
    assert f'tensor<{size}xi32>' in arguments
    assert arguments.count('tf.aliasing_output') == read, 'the state is not donated whole'
    assert custom_calls(text) == []
    assert 'f64' not in text
    assert forward(text) == Counter((size, *layer) for layer in layers)
    # Every product has its gradient to weights and to its input, but for the images, which have none.
    assert text.count('stablehlo.convolution') == 3 * convolutions - 1
    assert text.count('stablehlo.dot_general') == 3 * (len(layers) - convolutions)


# The table of memory in the documents.

TABLE = {
    'AlexNet, XNOR': ('alexnet', bnn.presets.XNOR_PAPER, 512),
    'AlexNet, float': ('alexnet', bnn.FLOAT, 512),
    'ResNet-18, XNOR': ('resnet18', bnn.presets.XNOR_PAPER, 256),
    'ResNet-18, float': ('resnet18', bnn.FLOAT, 256),
    'GoogLeNet variant, BWN': ('extraction', bnn.presets.BWN_PAPER, 128),
}


def gigabytes(shapes) -> float:
    return sum(4 * math.prod(shape) for shape in shapes) / 1e9


@pytest.mark.parametrize('title', TABLE)
def test_the_table_of_memory(title):
    """All numbers are float32. The state is weights, statistics and two moments."""
    name, scheme, batch = TABLE[title]
    model = abstract(getattr(bnn.models, name), num_classes=1000, scheme=scheme)
    params, rest = (
        [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, kind))] for kind in (nnx.Param, nnx.BatchStat)
    )
    outputs = gigabytes(layer.output_shape for layer in bnn.summarize(model, (batch, 224, 224, 3)).layers)
    numbers = (gigabytes([(batch, 224, 224, 3)]), gigabytes(3 * params + rest), gigabytes(params))
    row = ' | '.join([title, str(batch), *(f'{number:.2f}' for number in numbers), f'{outputs:.1f}'])
    assert f'| {row} |' in (ROOT / 'docs' / 'accelerators.md').read_text()


# Prediction, in both arithmetics.


def lowered(model) -> dict[str, str]:
    """The lowered program of `logits_of` on a batch of test images, by platform."""
    call = logits_of(model)
    traced = call.func.trace(*call.args, jax.ShapeDtypeStruct((2, 9, 8, 3), np.float32))
    return {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS}


def small_network(scheme):
    """Three convolutions with padding, of which the first is real in most schemes, and two dense layers."""
    builder = NetworkBuilder((9, 8, 3), scheme=scheme, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(20, 3, padding=1)
    builder.conv(33, 3, padding=1)
    builder.conv(20, 3, padding=1, pool=MaxPool(Window.of(2, 2)))
    builder.dense(40)
    model = builder.network(5)
    model.eval()
    return model


PREDICTIONS = {
    # scheme: float convolutions and float dense layers that are left after conversion; None: not converted
    'FLOAT': None,
    'DOREFA': None,
    'BC': (3, 2),
    'BC_STOCHASTIC': (3, 2),
    'BWN': (3, 2),
    'BNN': (1, 0),
    'XNOR': (1, 1),
    'XNOR_K': (1, 1),
    'BIREAL': (1, 1),
    'IRNET': (1, 1),
    'RECU': (1, 1),
}


def test_every_scheme_is_here():
    assert {name for name in bnn.schemes.__dict__ if isinstance(getattr(bnn.schemes, name), bnn.schemes.Scheme)} == {
        *PREDICTIONS
    }


@pytest.mark.parametrize('scheme', PREDICTIONS)
def test_predictions(scheme):
    model = small_network(getattr(bnn, scheme))
    for text in lowered(model).values():
        assert custom_calls(text) == []
        assert (text.count('stablehlo.convolution'), text.count('stablehlo.dot_general')) == (3, 2)
    if PREDICTIONS[scheme] is None:
        return
    for text in lowered(bnn.convert(model)).values():
        assert custom_calls(text) == []
        assert (len(CONVOLUTION.findall(text)), len(DOT.findall(text))) == PREDICTIONS[scheme]
        # Off CPU the packed products are unpacked to 8 bits for XLA's own ones (`kernels.AUTO`).
        assert ('xi8>' in text) == (PREDICTIONS[scheme] != (3, 2))
