"""Architectures x schemes: shapes, gradients, and counts derived by hand."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import SCHEMES, build, images

import bnn_jax as bnn
from bnn_jax import schemes
from bnn_jax.layers import Latent, Product, Residual

# Every scheme on the two cheap ones; on each larger one some, so that every scheme meets convolutions.
CASES = [(a, s) for a in ('mlp', 'lenet5') for s in SCHEMES] + [
    ('vgg_small', 'XNOR_K'),
    ('vgg_small', 'BNN'),
    ('alexnet', 'XNOR'),
    ('nin', 'XNOR'),
    ('nin', 'BNN'),
    ('extraction', 'BWN'),
    ('resnet18', 'BWN'),
    ('resnet18', 'BNN'),
    ('resnet18', 'XNOR'),
    ('resnet18', 'BIREAL'),
]


@pytest.mark.parametrize(('architecture', 'scheme'), CASES)
def test_gradients_are_finite_and_reach_every_parameter_group(architecture, scheme):
    model = build(architecture, SCHEMES[scheme])
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x = jnp.asarray(images(architecture))

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = nnx.merge(graphdef, params, rest, copy=True)(x)
            return jnp.mean(logits * jnp.linspace(-1, 1, logits.size).reshape(logits.shape)), logits

        return jax.grad(loss, has_aux=True)(params)

    gradients, logits = gradient(params)
    assert logits.shape == (len(x), 10) and logits.dtype == jnp.float32
    kernels = [g for g in jax.tree.leaves(gradients) if g.ndim > 1]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    if len(x) > 1:  # a batch of one image, normalised per channel after a dense layer, has no gradient
        assert all(np.any(np.asarray(g) != 0) for g in kernels)
    latent = [
        v for v in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, nnx.Variable)) if isinstance(v, Latent)
    ]
    assert bool(latent) == (scheme != 'FLOAT')


def abstract(architecture, scheme, **keywords):
    return nnx.eval_shape(
        lambda: getattr(bnn.models, architecture)(1000, scheme=SCHEMES[scheme], rngs=nnx.Rngs(0), **keywords)
    )


ALEXNET = [
    11 * 11 * 3 * 96,
    5 * 5 * 96 * 256,
    3 * 3 * 256 * 384,
    3 * 3 * 384 * 384,
    3 * 3 * 384 * 256,
    6 * 6 * 256 * 4096,
    4096 * 4096,
    4096 * 1000,
]
ALEXNET_PIXELS = [55 * 55, 27 * 27, 13 * 13, 13 * 13, 13 * 13, 1, 1, 1]


@pytest.mark.parametrize('scheme', ['BC', 'BWN', 'XNOR', 'BNN'])
def test_alexnet_counts(scheme):
    summary = bnn.summarize(abstract('alexnet', scheme), (1, 224, 224, 3))
    macs = [weights * pixels for weights, pixels in zip(ALEXNET, ALEXNET_PIXELS, strict=True)]
    assert summary.weights == sum(ALEXNET) == 62_367_776
    assert summary.binary_params == (sum(ALEXNET) if scheme == 'BNN' else sum(ALEXNET[1:-1]))
    assert sum(ALEXNET[1:-1]) == 58_236_928
    one_bit = {'BC': 0, 'BWN': 0, 'XNOR': sum(macs[1:-1]), 'BNN': sum(macs[1:])}[scheme]
    assert (summary.macs_1bit, summary.macs_32bit) == (one_bit, sum(macs) - one_bit)


@pytest.mark.parametrize('scheme', ['FLOAT', 'BWN', 'XNOR', 'BIREAL'])
def test_resnet18_counts(scheme):
    summary = bnn.summarize(abstract('resnet18', scheme), (1, 224, 224, 3))
    stages = [(64, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)]
    binary = sum(9 * out * (into + 3 * out) for into, out, _ in stages)
    binary_macs = sum(9 * out * (into + 3 * out) * size**2 for into, out, size in stages)
    shortcuts, shortcut_macs = 64 * 128 + 128 * 256 + 256 * 512, 3 * 64 * 128 * 28**2
    assert binary == 10_985_472 and binary_macs == 1_676_279_808
    assert summary.weights == binary + shortcuts + 7 * 7 * 3 * 64 + 512_000 == 11_678_912
    assert summary.params == 11_689_512 or scheme == 'XNOR'  # as published; XNOR normalises inputs, not outputs
    assert summary.binary_params == (0 if scheme == 'FLOAT' else binary)
    float_macs = 7 * 7 * 3 * 64 * 112**2 + shortcut_macs + 512_000
    assert float_macs == 137_793_536
    if scheme in ('XNOR', 'BIREAL'):
        assert (summary.macs_1bit, summary.macs_32bit) == (binary_macs, float_macs)
    else:
        assert (summary.macs_1bit, summary.macs_32bit) == (0, binary_macs + float_macs)


def test_bireal18_is_the_published_one():
    """11,699,112 parameters as Larq's zoo counts them: with two statistics a channel of the 4,800 normalised."""
    model = abstract('resnet18', 'BIREAL')
    channels = 64 + 4 * (64 + 128 + 256 + 512) + 128 + 256 + 512
    trainable = sum(layer.params for layer in bnn.summarize(model, (1, 224, 224, 3)).layers)
    assert channels == 4_800 and trainable + 2 * channels == 11_699_112
    residuals = [layer for layer in model.body.layers if isinstance(layer, Residual)]
    products = [sum(isinstance(inner, Product) for inner in layer.body.layers) for layer in residuals]
    assert products == [1] * 16
    changed = [
        [type(inner).__name__ for inner in layer.shortcut.layers] for layer in residuals if layer.shortcut.layers
    ]
    assert changed == [['AvgPool', 'Product', 'Norm']] * 3
    assert not any(layer.kind == 'Relu' for layer in bnn.summarize(model, (1, 224, 224, 3)).layers)


READINGS = {
    'FLOAT': (schemes.residual_norm_after, schemes.residuals_norm_after),
    'BC': (schemes.residual_norm_after, schemes.residuals_norm_after),
    'BWN': (schemes.residual_norm_after, schemes.residuals_norm_after),
    'BNN': (schemes.residual_sign_after, schemes.residuals_sign_after),
    'XNOR': (schemes.residual_norm_before, schemes.residuals_norm_before),
    'XNOR_K': (schemes.residual_norm_before, schemes.residuals_norm_before),
    'BIREAL': (schemes.residual_sign_after, schemes.residuals_sign_after),
}


@pytest.mark.parametrize(('name', 'readings'), READINGS.items())
def test_both_readings_of_a_block_multiply_the_same(name, readings):
    """Shortcut convolutions real or binary, strided or averaged: the same multiply-adds, 1-bit where both are binary."""
    shortcut_macs = 3 * 64 * 128 * 28**2
    for residual, shortcut, downsample in itertools.product(
        readings, (schemes.real, schemes.itself), (schemes.product_norm, schemes.average_product_norm)
    ):
        scheme = dataclasses.replace(SCHEMES[name], residual=residual, shortcut=shortcut, downsample=downsample)
        model = nnx.eval_shape(lambda s=scheme: bnn.models.resnet18(1000, scheme=s, rngs=nnx.Rngs(0)))
        summary = bnn.summarize(model, (1, 224, 224, 3))
        binary_shortcuts = scheme.activation is not None and shortcut is schemes.itself
        one_bit = 0 if scheme.activation is None else 1_676_279_808 + (512_000 if name == 'BNN' else 0)
        assert summary.macs_1bit == one_bit + (shortcut_macs if binary_shortcuts else 0)
        assert summary.macs_1bit + summary.macs_32bit == 1_676_279_808 + 137_793_536
        count = sum(isinstance(layer, Residual) for layer in model.body.layers)
        assert count == (16 if residual is readings[1] else 8)


def test_resnet34_has_sixteen_blocks_and_odd_images_work():
    model = abstract('resnet34', 'XNOR')
    convolutions = 2 * (3 + 4 + 6 + 3)
    summary = bnn.summarize(model, (1, 225, 223, 3))
    assert sum(layer.weight_bits == 1 for layer in summary.layers) == convolutions
    assert summary.layers[0].output_shape == (1, 113, 112, 64)


def test_lenet5_and_vgg_small_sizes():
    lenet = bnn.summarize(abstract('lenet5', 'XNOR'), (1, 28, 28, 1))
    assert [layer.weights for layer in lenet.layers if layer.weights] == [500, 25_000, 400_000, 500_000]
    vgg = bnn.summarize(abstract('vgg_small', 'BNN'), (1, 32, 32, 3))
    convolutions = 9 * (3 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 512**2)
    assert vgg.weights == vgg.binary_params == convolutions + 8192 * 1024 + 1024**2 + 1024 * 1000


EXTRACTION = [  # size, into, out, pixels of the output at 224
    (7, 3, 64, 112),
    (3, 64, 192, 56),
    (1, 192, 128, 28),
    (3, 128, 256, 28),
    (1, 256, 256, 28),
    (3, 256, 512, 28),
    *[(1, 512, 256, 14), (3, 256, 512, 14)] * 4,
    (1, 512, 512, 14),
    (3, 512, 1024, 14),
    *[(1, 1024, 512, 7), (3, 512, 1024, 7)] * 2,
    (1, 1024, 1000, 7),
]
NIN = [
    (5, 3, 192, 32),
    (1, 192, 160, 32),
    (1, 160, 96, 32),
    (5, 96, 192, 16),
    (1, 192, 192, 16),
    (1, 192, 192, 16),
    (3, 192, 192, 8),
    (1, 192, 192, 8),
    (1, 192, 1000, 8),
]


@pytest.mark.parametrize('scheme', ['FLOAT', 'BWN', 'XNOR', 'BNN'])
@pytest.mark.parametrize(('architecture', 'layers', 'size'), [('extraction', EXTRACTION, 224), ('nin', NIN, 32)])
def test_counts_of_networks_of_convolutions(architecture, layers, size, scheme):
    summary = bnn.summarize(abstract(architecture, scheme), (1, size, size, 3))
    weights = [k * k * into * out for k, into, out, _ in layers]
    macs = [count * pixels**2 for count, (*_, pixels) in zip(weights, layers, strict=True)]
    assert [layer.weights for layer in summary.layers if layer.weights] == weights
    assert summary.binary_params == {'FLOAT': 0, 'BNN': sum(weights)}.get(scheme, sum(weights[1:-1]))
    one_bit = {'XNOR': sum(macs[1:-1]), 'BNN': sum(macs[1:])}.get(scheme, 0)
    assert (summary.macs_1bit, summary.macs_32bit) == (one_bit, sum(macs) - one_bit)
    if scheme == 'FLOAT':  # a scale and a shift for every filter but those of the last layer, which have a bias
        assert summary.params == sum(weights) + 2 * sum(out for _, _, out, _ in layers[:-1]) + 1000
    if architecture == 'extraction':
        assert (sum(weights), sum(weights[1:-1])) == (23_418_048, 22_384_640)
        assert scheme != 'FLOAT' or summary.params == 23_437_224


def test_the_activation_is_the_architectures_where_the_scheme_has_one():
    """Extraction: leaky wherever BWN rectifies, also after the real last convolution; under BNN nowhere."""
    for scheme, leaky in (('BWN', 21), ('XNOR', 3), ('BNN', 0)):
        kinds = [layer.kind for layer in bnn.summarize(abstract('extraction', scheme), (1, 64, 64, 3)).layers]
        assert kinds.count('LeakyRelu') == leaky and 'Relu' not in kinds
        assert kinds[-1] == 'GlobalAveragePool'


def test_stride_2_convolution_pads_symmetrically():
    """As the sources do; SAME would pad an even image on one side only."""
    from bnn_jax.products import Convolution
    from bnn_jax.windows import Window

    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1)
    y = Convolution(Window.of(3, 2, ((1, 1), (1, 1))))(x, jnp.arange(9.0).reshape(3, 3, 1, 1))
    assert y[0, :, :, 0].tolist() == [[4, 0], [0, 0]]


@pytest.mark.parametrize(
    ('keywords', 'message'),
    [
        ({'width': 0}, 'width: got 0'),
        ({'input_shape': (28, 28)}, 'input_shape: got'),
        ({'input_shape': (9, 9, 1)}, 'smaller than the window'),
    ],
)
def test_bad_sizes_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        bnn.models.lenet5(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), **keywords)
    with pytest.raises(ValueError, match='num_classes: got 0'):
        bnn.models.lenet5(0, scheme=bnn.XNOR, rngs=nnx.Rngs(0))


def test_bad_images_are_refused():
    model = build('lenet5', bnn.XNOR)
    packed = bnn.convert(model)
    for network in (model, packed):
        with pytest.raises(TypeError, match='images: got dtype uint8, expected floating'):
            network(np.zeros((1, 17, 19, 1), np.uint8))
        with pytest.raises(ValueError, match=r'images: got shape \(17, 19, 1\), expected \(N, H, W, 1\)'):
            network(np.zeros((17, 19, 1), np.float32))
        with pytest.raises(ValueError, match=r'expected \(N, H, W, 1\)'):
            network(np.zeros((1, 17, 19, 3), np.float32))
        with pytest.raises(ValueError, match='empty batch'):
            network(np.zeros((0, 17, 19, 1), np.float32))
        with pytest.raises(ValueError, match=r'dense layer: got input of shape \(1, 70\)|expected \(N, '):
            network(np.zeros((1, 28, 28, 1), np.float32))


def test_images_that_are_not_finite_give_nan_in_both_arithmetics():
    model = build('lenet5', bnn.XNOR)
    model.eval()
    x = images('lenet5')
    x[0, 3, 3, 0] = np.nan
    for network in (model, bnn.convert(model)):
        finite = np.isfinite(np.asarray(network(x)))
        assert not finite[0].any() and finite[1].all()


def test_bfloat16_images_are_accepted():
    model = build('lenet5', bnn.XNOR)
    model.eval()
    x = jnp.asarray(images('lenet5')).astype(jnp.bfloat16)
    logits = model(x)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, model(x.astype(jnp.float32)))


def test_models_work_in_nnx_tree_mode():
    """Flax's coming default."""
    with nnx.set_graph_mode(False):
        model = build('vgg_small', bnn.XNOR)
        model.eval()
        x = images('vgg_small')
        np.testing.assert_array_equal(bnn.convert(model)(x), model(x))
