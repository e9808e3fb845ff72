"""The CIFAR-10 rows: each is what its source says, its training step traces, and what it trains converts."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from networks import abstract, evaluated

import bnn_jax as bnn
from bnn_jax import quantizers, schemes
from bnn_jax.data import PlusMinusOne, Standardize, crop, flip
from bnn_jax.nn.variables import Latent
from bnn_jax.schemes import initializers, presets, residuals_norm_before
from bnn_jax.training import Config, CrossEntropy, SquaredHinge
from bnn_jax.training.results import deployed
from experiments import (
    cifar10_nin,
    cifar10_resnet18,
    cifar10_resnet20,
    cifar10_vgg_small,
    cifar10_vgg_small_one_dense,
)

ROOT = Path(__file__).parents[2]

SHORTCUTS = dataclasses.replace(bnn.XNOR, residual=residuals_norm_before)
NIN = (320, 128, 1e-2, {0: 1, 120 / 320: 0.1, 200 / 320: 0.01, 240 / 320: 1e-3, 280 / 320: 1e-4})
BINARYNET = (500, 50, 1e-3, {0: 1, 0.5: 0.5, 1: 0})
BOP = (500, 50, 1e-4, {0: 1, 0.2: 0.1, 0.4: 0.01, 0.6: 1e-3, 0.8: 1e-4})
IRNET = (400, 128, 0.1, {0: 1, 0.5: 0.5, 1: 0})
# A fifth at first, the whole after 4 of 600 epochs, half of it in the middle of the 596 others.
RECU = (600, 256, 0.1, {0: 0.2, 2 / 600: 0.6, 4 / 600: 1, 302 / 600: 0.5, 1: 0})
T = schemes.Geometric(1e-3, 10.0)
SLOWER = dataclasses.replace(
    bnn.IRNET,
    weight=schemes.Scheduled(quantizers.balanced_sign_ede, T),
    activation=schemes.Scheduled(quantizers.sign_ede, T),
)
ONE_DENSE = {'head': schemes.pool_product, 'init': initializers.he_normal_fan_out}
ONE_SHORTCUT = dataclasses.replace(
    presets.RECU_PYTORCH, residual=schemes.residual_hard_tanh, first=schemes.real_unrectified
)

ROWS = {
    # scheme, (epochs, batch, largest rate, rate by share of the run)
    'cifar10_nin FLOAT': (bnn.FLOAT, NIN),
    'cifar10_nin BWN': (bnn.BWN, NIN),
    'cifar10_nin XNOR': (bnn.XNOR, (320, 128, 1e-3, NIN[3])),
    'cifar10_nin XNOR_PYTORCH_CIFAR': (presets.XNOR_PYTORCH_CIFAR, NIN),
    'cifar10_vgg_small FLOAT': (bnn.FLOAT, BINARYNET),
    'cifar10_vgg_small BC': (bnn.BC, BINARYNET),
    'cifar10_vgg_small BWN': (bnn.BWN, BINARYNET),
    'cifar10_vgg_small BNN': (bnn.BNN, BINARYNET),
    'cifar10_vgg_small BNN_BOP': (bnn.BNN, BOP),
    'cifar10_vgg_small XNOR': (bnn.XNOR, BINARYNET),
    'cifar10_vgg_small_one_dense IRNET': (
        dataclasses.replace(bnn.IRNET, **ONE_DENSE),
        (300, 128, 0.007, IRNET[3]),
    ),
    'cifar10_vgg_small_one_dense RECU': (dataclasses.replace(presets.RECU_PYTORCH, **ONE_DENSE), RECU),
    'cifar10_resnet20 IRNET': (SLOWER, IRNET),
    'cifar10_resnet20 RECU': (presets.RECU_PYTORCH, RECU),
    'cifar10_resnet18 RECU': (ONE_SHORTCUT, RECU),
    'cifar10_resnet20 FLOAT': (bnn.FLOAT, IRNET),
    'cifar10_resnet20 BIREAL': (bnn.BIREAL, IRNET),
    'cifar10_resnet20 BIREAL_L2': (bnn.BIREAL, IRNET),
    'cifar10_resnet20 XNOR': (SHORTCUTS, IRNET),
    'cifar10_resnet18 FLOAT': (bnn.FLOAT, IRNET),
    'cifar10_resnet18 BIREAL': (bnn.BIREAL, IRNET),
    'cifar10_resnet18 XNOR': (SHORTCUTS, IRNET),
}
STEPS = 48_000
"""The number of steps of a whole run, in these tests."""


RECIPES = {
    module.RECIPE.name: module.RECIPE
    for module in (cifar10_nin, cifar10_vgg_small, cifar10_vgg_small_one_dense, cifar10_resnet20, cifar10_resnet18)
}


@pytest.fixture
def row(request) -> tuple[str, str, Config]:
    """Name, what the recipe says of it, and the config that its command runs."""
    recipe, row = RECIPES[request.param.split()[0]], request.param.split()[1]
    (said,) = re.findall(rf'^- {row}: (.*(?:\n  .*)*)', recipe.description or '', re.M)
    return request.param, said, recipe.row(row)


each_row = pytest.mark.parametrize('row', ROWS, indirect=True)


def test_every_row_is_here():
    assert {f'{name} {row}' for name, recipe in RECIPES.items() for row in recipe.rows} == set(ROWS)


@each_row
def test_a_row_is_what_its_source_says(row):
    name, said, config = row
    scheme, (epochs, batch_size, rate, rates) = ROWS[name]
    assert config.model.keywords['scheme'] == scheme
    assert (config.epochs, config.batch_size, config.learning_rate) == (epochs, batch_size, rate)
    with jax.numpy_dtype_promotion('standard'):
        schedule = config.schedule(rate, STEPS)
        for share, factor in rates.items():
            np.testing.assert_allclose(schedule(round(share * STEPS)), rate * factor, rtol=1e-4, atol=1e-9)
    binarynet = name.startswith('cifar10_vgg_small ')
    plain = binarynet and not name.endswith('BOP')
    assert config.augmentations == (() if plain else (crop(4), flip)) and config.evaluation_augmentations == ()
    assert config.loss is (SquaredHinge if plain else CrossEntropy)
    standard = Standardize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    if name.endswith(('IRNET', 'RECU')):
        standard = Standardize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert config.standardize == (PlusMinusOne() if binarynet else standard)
    text = RECIPES[config.recipe].description or ''
    for part in (
        'Source: ',
        f'python -m experiments.{config.recipe} --scheme=SCHEME --data_dir=FOLDER',
        f'{epochs} epochs',
    ):
        assert part in text
    published = re.findall(r'(\d\d\.\d+)(?:%| to)', said)
    assert published or said == 'none quoted.'
    table, start = (ROOT / 'experiments' / 'README.md').read_text(), f'| `{name.replace(" ", " --scheme=")}`'
    line = next(line for line in table.splitlines() if line.startswith(start))
    assert all(figure in line for figure in published)


@pytest.mark.parametrize(
    'row', ['cifar10_nin XNOR_PYTORCH_CIFAR', 'cifar10_resnet20 BIREAL', 'cifar10_resnet18 XNOR'], indirect=True
)
def test_what_it_trains_converts(row):
    config = dataclasses.replace(row[2], width=1 / 16)
    model = config.model(rngs=nnx.Rngs(0), width=config.width)
    model.eval()
    packed = bnn.convert(deployed(config, model))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    if row[0] != 'cifar10_nin XNOR_PYTORCH_CIFAR':  # whose sign(0) is another one while it trains
        np.testing.assert_array_equal(packed(images), evaluated(model, images))
    assert packed.report.bytes < bnn.summarize(model, (1, 32, 32, 3)).bytes


def by_hand() -> dict[str, int]:
    """Multiply-adds of one image: output pixels, window, channels in and out; shortcuts of 1x1; the head."""
    nin = 32**2 * (75 * 192 + 192 * 160 + 160 * 96) + 16**2 * (25 * 96 * 192 + 2 * 192**2) + 8**2 * (10 * 192**2 + 1920)
    vgg = 32**2 * 9 * (3 * 128 + 128**2) + 16**2 * 9 * (128 * 256 + 256**2) + 8**2 * 9 * (256 * 512 + 512**2)
    vgg += 8192 * 1024 + 1024**2 + 10240
    resnet20 = 32**2 * 9 * (3 * 16 + 6 * 16**2) + 16**2 * (9 * (16 * 32 + 5 * 32**2) + 16 * 32)
    resnet20 += 8**2 * (9 * (32 * 64 + 5 * 64**2) + 32 * 64) + 640
    resnet18 = 32**2 * 9 * (3 * 64 + 4 * 64**2)
    for size, into in ((16, 64), (8, 128), (4, 256)):
        resnet18 += size**2 * (9 * (2 * into**2 + 3 * (2 * into) ** 2) + 2 * into**2)
    return {
        'nin XNOR': nin,
        'vgg_small BC': vgg,
        'vgg_small_one_dense IRNET': vgg - 8192 * 1024 - 1024**2 - 10240 + 8192 * 10,
        'resnet20 FLOAT': resnet20,
        # Its shortcuts have no parameters.
        'resnet20 IRNET': resnet20 - 16**2 * 16 * 32 - 8**2 * 32 * 64,
        'resnet18 BIREAL': resnet18 + 5120,
    }


@pytest.mark.parametrize(
    'row',
    [f'cifar10_{name}' for name in by_hand()],
    indirect=True,
)
def test_the_networks_are_the_sources(row):
    name, _, config = row
    summary = bnn.summarize(abstract(config.model), (1, 32, 32, 3))
    assert summary.macs_1bit + summary.macs_32bit == by_hand()[name.removeprefix('cifar10_')]


GRADIENT, WEIGHT = 0.25, 0.5


def first_updates(config: Config) -> dict[tuple, np.ndarray]:
    """The first two updates of every parameter, if all parameters are 1/2 and all gradients 1/4."""
    model = abstract(config.model, width=1 / 16)
    # Layers of few shapes are computed by few programs.
    params = jax.tree.map(
        lambda leaf: np.full([min(n, 2) for n in leaf.shape], WEIGHT, np.float32), nnx.state(model, nnx.Param)
    )
    gradients = jax.tree.map(lambda leaf: np.full(leaf.shape, GRADIENT, np.float32), params)
    with jax.numpy_dtype_promotion('standard'):
        tx = config.optimizer(lambda step: config.learning_rate)
        state, steps = tx.init(params), []
        for _ in range(2):
            updates, state = tx.update(gradients, state, params)
            steps.append(dict(nnx.to_flat_state(updates)))
    return {path: np.stack([np.asarray(step[path][...]) for step in steps]) for path in steps[0]}


def latents(config: Config) -> set[tuple]:
    """Where latent weights are."""
    model = abstract(config.model, width=1 / 16)
    return {path for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)) if isinstance(variable, Latent)}


@pytest.mark.parametrize(
    'row',
    [
        *('cifar10_nin FLOAT', 'cifar10_resnet20 BIREAL', 'cifar10_resnet20 BIREAL_L2', 'cifar10_resnet20 RECU'),
        *('cifar10_vgg_small BNN', 'cifar10_vgg_small BNN_BOP'),
    ],
    indirect=True,
)
def test_its_optimizer_is_the_sources(row):
    """Two steps of the same gradient: Adam's are the rate, of momentum 0.9 the second is 1.9 times the first."""
    name, _, config = row
    latent = latents(config)
    for path, steps in first_updates(config).items():
        if name.startswith('cifar10_resnet20'):
            decay = 5e-4 if name.endswith(('L2', 'RECU')) else 0 if path in latent else 1e-4
            first = -0.1 * (GRADIENT + decay * WEIGHT)
            expected = [first, 1.9 * first]
        elif name == 'cifar10_vgg_small BNN_BOP':
            # Every weight is positive, as is its gradient: all signs flip, twice.
            expected = [-2 + 1 - WEIGHT] * 2 if path[-1] == 'kernel' else [-1e-2] * 2
        elif name == 'cifar10_vgg_small BNN' and path[-1] == 'kernel':
            shape = steps.shape[1:]
            fans = np.prod(shape) / shape[-1] + np.prod(shape) / shape[-2]
            expected = [-1e-3 * np.sqrt(fans / 1.5)] * 2
        else:
            expected = [-config.learning_rate] * 2
        for step, value in zip(steps, expected, strict=True):
            np.testing.assert_allclose(step, value, rtol=1e-4, err_msg=str(path))


def test_nin_has_l2_in_the_gradient():
    """Where the gradient is what L2 of 1e-5 takes away, nothing moves."""
    config = cifar10_nin.RECIPE.row('FLOAT')
    with jax.numpy_dtype_promotion('standard'):
        tx = config.optimizer(lambda step: 1e-2)
        params = np.float32([0.5, 0.5])
        updates, _ = tx.update(np.float32([-1e-5 * 0.5, -1e-6]), tx.init(params), params)
    np.testing.assert_allclose(updates, [0, -1e-2], rtol=1e-2, atol=1e-6)
