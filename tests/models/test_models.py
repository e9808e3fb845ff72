"""Architectures x schemes: shapes, gradients, and counts derived by hand."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from flax import nnx
from networks import SCHEMES, build, evaluated, images

import bnn_jax as bnn
from bnn_jax import schemes
from bnn_jax.models.googlenet import inception
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Auxiliary, Residual
from bnn_jax.nn.product import Product
from bnn_jax.nn.variables import Latent

# Every scheme on one network of convolutions and dense layers, and what that one lacks: no convolution; wide strides. The
# gradients of the other networks are compared with published code: experiments/test_golden_recipes.py.
CASES = [('lenet5', scheme) for scheme in SCHEMES] + [('mlp', 'BNN'), ('alexnet', 'XNOR')]


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
    if len(x) > 1:  # a batch of one image, normalized per channel after a dense layer, has no gradient
        assert all(np.any(np.asarray(g) != 0) for g in kernels)
    latent = [
        v for v in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, nnx.Variable)) if isinstance(v, Latent)
    ]
    assert bool(latent) == (scheme != 'FLOAT')


def abstract(architecture, scheme, **keywords):
    return networks.abstract(getattr(bnn.models, architecture), num_classes=1000, scheme=SCHEMES[scheme], **keywords)


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


@pytest.mark.parametrize('scheme', ['FLOAT', 'BC', 'BWN', 'XNOR', 'BNN'])
def test_alexnet_counts(scheme):
    summary = bnn.summarize(abstract('alexnet', scheme), (1, 224, 224, 3))
    macs = [weights * pixels for weights, pixels in zip(ALEXNET, ALEXNET_PIXELS, strict=True)]
    assert summary.weights == sum(ALEXNET) == 62_367_776
    assert summary.binary_params == {'FLOAT': 0, 'BNN': sum(ALEXNET)}.get(scheme, sum(ALEXNET[1:-1]))
    assert sum(ALEXNET[1:-1]) == 58_236_928
    one_bit = {'XNOR': sum(macs[1:-1]), 'BNN': sum(macs[1:])}.get(scheme, 0)
    assert (summary.macs_1bit, summary.macs_32bit) == (one_bit, sum(macs) - one_bit)


def test_alexnet_of_227_without_padding_multiplies_the_same():
    ours = bnn.summarize(abstract('alexnet', 'XNOR'), (1, 224, 224, 3))
    without = abstract('alexnet', 'XNOR', input_shape=(227, 227, 3), padding=0)
    assert bnn.summarize(without, (1, 227, 227, 3)) == ours


@pytest.mark.parametrize('scheme', ['FLOAT', 'XNOR', 'BIREAL'])
def test_residual_networks_for_cifar(scheme):
    stages = [(16, 16, 32), (16, 32, 16), (32, 64, 8)]
    binary = [9 * out * (into + 5 * out) for into, out, _ in stages]
    macs = sum(count * size**2 for count, (*_, size) in zip(binary, stages, strict=True))
    summary = bnn.summarize(abstract('resnet20', scheme), (1, 32, 32, 3))
    rest = 27 * 16 + 16 * 32 + 32 * 64 + 64 * 1000
    assert summary.weights == sum(binary) + rest == 270_896 + 64 * 990
    rest_macs = 27 * 16 * 32**2 + 16 * 32 * 16**2 + 32 * 64 * 8**2 + 64 * 1000
    one_bit = 0 if scheme == 'FLOAT' else macs
    assert (summary.macs_1bit, summary.macs_32bit) == (one_bit, macs + rest_macs - one_bit)
    stem = bnn.models.small_stem
    small = bnn.summarize(abstract('resnet18', scheme, stem=stem, input_shape=(32, 32, 3)), (1, 32, 32, 3))
    assert small.weights == 11_678_912 - 147 * 64 + 27 * 64
    # Four stages of 32, 16, 8, 4 pixels a side where ImageNet's have 56, 28, 14, 7.
    one_bit = 1_676_279_808 * 32**2 // 56**2
    assert small.macs_1bit == (0 if scheme == 'FLOAT' else one_bit)
    with pytest.raises(ValueError, match=r'blocks: got \(1, 1\) for filters'):
        abstract('resnet20', scheme, blocks=(1, 1))


RESNETS = {  # blocks a stage; weights, multiply-adds of the 3x3 convolutions; all weights; all parameters as published
    'resnet18': ((2, 2, 2, 2), 10_985_472, 1_676_279_808, 11_678_912, 11_689_512),
    'resnet34': ((3, 4, 6, 3), 21_086_208, 3_525_967_872, 21_779_648, 21_797_672),
}


@pytest.mark.parametrize(
    ('architecture', 'scheme'),
    [
        *(('resnet18', scheme) for scheme in ('FLOAT', 'XNOR', 'BIREAL')),
        ('resnet34', 'FLOAT'),
    ],
)
def test_residual_networks_for_imagenet(architecture, scheme):
    blocks, weights_3x3, macs_3x3, all_weights, published = RESNETS[architecture]
    summary = bnn.summarize(abstract(architecture, scheme), (1, 224, 224, 3))
    stages = [(64, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)]
    weights = [9 * out * (into + (2 * count - 1) * out) for (into, out, _), count in zip(stages, blocks, strict=True)]
    binary, binary_macs = sum(weights), sum(w * size**2 for w, (*_, size) in zip(weights, stages, strict=True))
    shortcuts, shortcut_macs = 64 * 128 + 128 * 256 + 256 * 512, 3 * 64 * 128 * 28**2
    assert binary == weights_3x3 and binary_macs == macs_3x3
    assert summary.weights == binary + shortcuts + 7 * 7 * 3 * 64 + 512_000 == all_weights
    assert summary.params == published or scheme == 'XNOR'  # XNOR normalizes inputs, not outputs
    assert summary.binary_params == (0 if scheme == 'FLOAT' else binary)
    float_macs = 7 * 7 * 3 * 64 * 112**2 + shortcut_macs + 512_000
    assert float_macs == 137_793_536
    if scheme in ('XNOR', 'BIREAL'):
        assert (summary.macs_1bit, summary.macs_32bit) == (binary_macs, float_macs)
    else:
        assert (summary.macs_1bit, summary.macs_32bit) == (0, binary_macs + float_macs)


def test_bireal18_is_the_published_one():
    """11,699,112 parameters as Larq's zoo counts them: with two statistics a channel of the 4,800 normalized."""
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
    'BWN': (schemes.residual_norm_after, schemes.residuals_norm_after),
    'BNN': (schemes.residual_sign_after, schemes.residuals_sign_after),
    'XNOR': (schemes.residual_norm_before, schemes.residuals_norm_before),
    'BIREAL': (schemes.residual_sign_after, schemes.residuals_sign_after),
}


@pytest.mark.parametrize(('name', 'readings'), READINGS.items())
def test_both_readings_of_a_block_multiply_the_same(name, readings):
    """Shortcut convolutions real or binary, strided or averaged: the same multiply-adds, 1-bit where both are binary."""
    stages = [(64, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)]  # one block each
    block_macs = sum(9 * out * (into + out) * size**2 for into, out, size in stages)
    shortcut_macs = sum(into * out * size**2 for into, out, size in stages[1:])
    both = itertools.product((schemes.real, schemes.itself), (schemes.product_norm, schemes.average_product_norm))
    for residual, (shortcut, downsample) in zip((*readings, *readings[::-1]), both, strict=True):
        scheme = dataclasses.replace(SCHEMES[name], residual=residual, shortcut=shortcut, downsample=downsample)
        model = networks.abstract(bnn.models.resnet18, num_classes=1000, scheme=scheme, blocks=(1, 1, 1, 1))
        summary = bnn.summarize(model, (1, 224, 224, 3))
        binary_shortcuts = scheme.activation is not None and shortcut is schemes.itself
        one_bit = 0 if scheme.activation is None else block_macs + (512_000 if name == 'BNN' else 0)
        assert summary.macs_1bit == one_bit + (shortcut_macs if binary_shortcuts else 0)
        assert summary.macs_1bit + summary.macs_32bit == block_macs + shortcut_macs + 147 * 64 * 112**2 + 512_000
        count = sum(isinstance(layer, Residual) for layer in model.body.layers)
        assert count == (8 if residual is readings[1] else 4)


def test_resnet34_has_sixteen_blocks_and_odd_images_work():
    model = abstract('resnet34', 'XNOR')
    convolutions = 2 * (3 + 4 + 6 + 3)
    summary = bnn.summarize(model, (1, 225, 223, 3))
    assert sum(layer.weight_bits == 1 for layer in summary.layers) == convolutions
    assert summary.layers[0].output_shape == (1, 113, 112, 64)


def test_lenet5_mlp_and_vgg_small_counts():
    lenet = bnn.summarize(abstract('lenet5', 'XNOR'), (1, 28, 28, 1))
    assert [layer.weights for layer in lenet.layers if layer.weights] == [500, 25_000, 400_000, 500_000]
    assert (lenet.macs_1bit, lenet.macs_32bit) == (25_000 * 8**2 + 400_000, 500 * 24**2 + 500_000)
    mlp = bnn.summarize(abstract('mlp', 'BNN'), (1, 28, 28, 1))
    assert mlp.weights == mlp.binary_params == 784 * 4096 + 2 * 4096**2 + 4096 * 1000
    assert (mlp.macs_1bit, mlp.macs_32bit) == (2 * 4096**2 + 4096 * 1000, 784 * 4096)
    vgg = bnn.summarize(abstract('vgg_small', 'BNN'), (1, 32, 32, 3))
    weights = [9 * 3 * 128, 9 * 128**2, 9 * 128 * 256, 9 * 256**2, 9 * 256 * 512, 9 * 512**2]
    weights += [8192 * 1024, 1024**2, 1024 * 1000]
    macs = [w * side**2 for w, side in zip(weights, (32, 32, 16, 16, 8, 8, 1, 1, 1), strict=True)]
    assert vgg.weights == vgg.binary_params == sum(weights)
    assert (vgg.macs_1bit, vgg.macs_32bit) == (sum(macs[1:]), macs[0])


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


@pytest.mark.parametrize(
    ('architecture', 'layers', 'size', 'scheme'),
    [('extraction', EXTRACTION, 224, 'FLOAT'), ('extraction', EXTRACTION, 224, 'XNOR')]
    + [('nin', NIN, 32, 'FLOAT'), ('nin', NIN, 32, 'BNN')],
)
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


INCEPTION = [  # input channels, pixels, and the filters of the paper's table 1
    (192, 28, 64, 96, 128, 16, 32, 32),
    (256, 28, 128, 128, 192, 32, 96, 64),
    (480, 14, 192, 96, 208, 16, 48, 64),
    (512, 14, 160, 112, 224, 24, 64, 64),
    (512, 14, 128, 128, 256, 24, 64, 64),
    (512, 14, 112, 144, 288, 32, 64, 64),
    (528, 14, 256, 160, 320, 32, 128, 128),
    (832, 7, 256, 160, 320, 32, 128, 128),
    (832, 7, 384, 192, 384, 48, 128, 128),
]


@pytest.mark.parametrize('scheme', ['FLOAT', 'BNN', 'BIREAL'])
def test_googlenet_counts(scheme):
    """6,998,552 is the published count of the network without normalization, a bias for every filter."""
    stem = [(147 * 64, 112, 64), (64 * 64, 56, 64), (576 * 192, 56, 192)]  # weights, pixels, filters
    for into, size, one, before_3, three, before_5, five, pooled in INCEPTION:
        stem += [(into * one, size, one), (into * before_3, size, before_3), (9 * before_3 * three, size, three)]
        stem += [(into * before_5, size, before_5), (25 * before_5 * five, size, five), (into * pooled, size, pooled)]
    products = [*stem, (1024 * 1000, 1, 1000)]
    weights, macs = [w for w, *_ in products], [w * size**2 for w, size, _ in products]
    filters = sum(out for *_, out in products)
    assert sum(weights) + filters == 6_998_552
    summary = bnn.summarize(abstract('googlenet', scheme), (1, 224, 224, 3))
    assert [layer.weights for layer in summary.layers if layer.weights] == weights
    if scheme in ('FLOAT', 'BIREAL'):
        assert summary.params == sum(weights) + 2 * (filters - 1000) + 1000
    assert summary.binary_params == {'FLOAT': 0, 'BNN': sum(weights)}.get(scheme, sum(weights[1:-1]))
    one_bit = {'FLOAT': 0, 'BNN': sum(macs[1:])}.get(scheme, sum(macs[1:-1]))
    assert (summary.macs_1bit, summary.macs_32bit) == (one_bit, sum(macs) - one_bit)


def test_dropout_of_auxiliary_heads_that_there_are_not():
    with pytest.raises(ValueError, match='auxiliary_dropout: got 0.7 without auxiliary heads, expected None'):
        bnn.models.googlenet(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), auxiliary_dropout=0.7)


def test_auxiliary_heads_of_googlenet():
    """Each is a mean, 128 filters of 1x1, 1024 units and the classes, after modules of 512 and 528 channels at 14x14."""
    model = abstract('googlenet', 'FLOAT', auxiliary=(0.3, 0.2))
    plain = abstract('googlenet', 'FLOAT')
    with_heads, without = (sum(v.size for _, v in nnx.to_flat_state(nnx.state(m, nnx.Param))) for m in (model, plain))
    rest = 2 * 128 + 4 * 4 * 128 * 1024 + 2 * 1024 + 1024 * 1000 + 1000
    assert with_heads - without == 512 * 128 + 528 * 128 + 2 * rest
    assert bnn.summarize(model, (1, 224, 224, 3)).params == bnn.summarize(plain, (1, 224, 224, 3)).params == without
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    graphdef, state = nnx.split(model)
    weights = []

    def outputs(state, images):
        logits, heads = nnx.merge(graphdef, state, copy=True).with_auxiliary(images)
        weights.extend(weight for weight, _ in heads)
        return logits, [logits for _, logits in heads]

    logits, heads = jax.eval_shape(outputs, state, images)
    assert weights == [0.3, 0.2] and [h.shape for h in heads] == [logits.shape] * 2 == [(2, 1000)] * 2
    with pytest.raises(ValueError, match=r'auxiliary: got \(0.3,\), expected the weights of two losses'):
        abstract('googlenet', 'FLOAT', auxiliary=(0.3,))


def test_training_adds_the_losses_of_auxiliary_heads_and_evaluation_ignores_them():
    builder = NetworkBuilder((9, 8, 3), scheme=bnn.BIREAL, width=1.0, rngs=nnx.Rngs(0))
    inception(builder, 5, 3, 7, 2, 4, 33)
    builder.auxiliary(0.3, 5, lambda branch: branch.dense(11))
    builder.conv(10, 3)
    model, rng = builder.network(5, average=True), np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 9, 8, 3)).astype(np.float32), np.arange(4)
    state = bnn.training.init(model, optax.sgd(0.1))
    after, metrics = bnn.training.train_step(state, {'image': x, 'label': labels})

    @jax.jit
    def outputs(state, x):
        return nnx.merge(state.graphdef, state.params, state.rest, copy=True).with_auxiliary(x)

    logits, ((weight, head),) = outputs(state, x)

    def loss(logits):
        z = np.asarray(logits, np.float64)
        return np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(4), labels])

    np.testing.assert_allclose(weight, 0.3, rtol=1e-6)
    np.testing.assert_allclose(metrics['loss'], loss(logits) + 0.3 * loss(head), rtol=1e-5)  # float32
    trained = bnn.training.model_of(after)
    expected = evaluated(trained, x)
    kernel = auxiliary_kernel(trained)
    assert np.any(np.asarray(kernel[...] != auxiliary_kernel(model)[...]))
    kernel[...] = -kernel[...]
    np.testing.assert_array_equal(evaluated(trained, x), expected)


def auxiliary_kernel(model):
    """The first kernel of the auxiliary head."""
    auxiliary = next(layer for layer in model.body.layers if isinstance(layer, Auxiliary))
    return next(layer for layer in auxiliary.head.layers if isinstance(layer, Product)).kernel


def test_branches_of_different_sizes_are_refused():
    builder = NetworkBuilder((9, 8, 3), scheme=bnn.FLOAT, width=1.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r'branches: got outputs of sizes \[\(7, 6\), \(9, 8\)\], expected one size'):
        builder.branches(lambda branch: branch.conv(4, 1), lambda branch: branch.conv(4, 3))


def test_a_numpy_integer_pads_all_sides():
    builder = NetworkBuilder((8, 8, 3), scheme=bnn.XNOR, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(4, 3, padding=np.int64(1))
    assert builder.shape == (8, 8, 4)


def test_only_the_first_block_of_each_branch_has_the_first_scheme():
    builder = NetworkBuilder((8, 8, 3), scheme=bnn.XNOR, width=1.0, rngs=nnx.Rngs(0))
    builder.branches(lambda branch: branch.conv(4, 1), lambda branch: [branch.conv(4, 1), branch.conv(4, 1)])
    builder.conv(4, 1)
    layers = [*builder.layers[0].branches[0].layers, *builder.layers[0].branches[1].layers, *builder.layers[1:]]
    products = [layer for layer in layers if isinstance(layer, Product)]
    assert [product.scheme.activation is None for product in products] == [True, True, False, False]


def test_the_activation_is_the_architectures_where_the_scheme_has_one():
    """Extraction: leaky wherever BWN rectifies, also after the real last convolution; under XNOR once at each end."""
    for scheme, leaky in (('BWN', 21), ('XNOR', 2), ('BNN', 0)):
        kinds = [layer.kind for layer in bnn.summarize(abstract('extraction', scheme), (1, 64, 64, 3)).layers]
        assert kinds.count('LeakyRelu') == leaky and 'Relu' not in kinds
        assert kinds[-1] == 'GlobalAveragePool'


def test_stride_2_convolution_pads_symmetrically():
    """The sources pad both sides; SAME would pad an even image on one side only."""
    from bnn_jax.nn.operations import Convolution
    from bnn_jax.ops.windows import Window

    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1)
    y = Convolution(Window.of(3, 2, ((1, 1), (1, 1))))(x, jnp.arange(9.0).reshape(3, 3, 1, 1))
    assert y[0, :, :, 0].tolist() == [[4, 0], [0, 0]]


@pytest.mark.parametrize(
    ('keywords', 'message'),
    [
        ({'width': 0}, 'width: got 0'),
        ({'input_shape': (28, 28)}, 'input_shape: got'),
        ({'input_shape': 5}, 'input_shape: got 5, expected'),
        ({'input_shape': (28, 28.5, 1)}, 'input_shape: got'),
        ({'input_shape': (9, 9, 1)}, 'smaller than the window'),
    ],
)
def test_bad_sizes_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        bnn.models.lenet5(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), **keywords)
    with pytest.raises(ValueError, match='num_classes: got 0'):
        bnn.models.lenet5(0, scheme=bnn.XNOR, rngs=nnx.Rngs(0))


def test_bad_schemes_and_keys_are_refused():
    with pytest.raises(TypeError, match="scheme: got 'XNOR', expected a Scheme such as bnn_jax.XNOR"):
        bnn.models.mlp(10, scheme='XNOR', rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r'rngs: got 0, expected flax.nnx.Rngs\(seed\)'):
        bnn.models.mlp(10, scheme=bnn.XNOR, rngs=0)


def test_one_stream_of_keys_is_enough_for_drawn_weights():
    keywords = {'scheme': bnn.BC_STOCHASTIC, 'input_shape': (2, 2, 1), 'hidden': (4, 4)}
    model = bnn.models.mlp(np.int64(3), rngs=nnx.Rngs(params=0), **keywords)
    assert model(np.ones((1, 2, 2, 1), np.float32)).shape == (1, 3)


def test_bad_images_are_refused():
    model = build('lenet5', bnn.XNOR)
    packed = bnn.convert(model)
    for network in (model, packed):
        for dtype in (np.uint8, object):
            with pytest.raises(TypeError, match=f'images: got dtype {np.dtype(dtype)}, expected floating'):
                network(np.zeros((1, 17, 19, 1), dtype))
        with pytest.raises(TypeError, match='images: got a masked array, expected a number at every pixel'):
            network(np.ma.zeros((1, 17, 19, 1), np.float32))
        with pytest.raises(ValueError, match=r'images: got shape \(17, 19, 1\), expected \(N, H, W, 1\)'):
            network(np.zeros((17, 19, 1), np.float32))
        with pytest.raises(ValueError, match=r'expected \(N, H, W, 1\)'):
            network(np.zeros((1, 17, 19, 3), np.float32))
        with pytest.raises(ValueError, match='empty batch'):
            network(np.zeros((0, 17, 19, 1), np.float32))
        with pytest.raises(ValueError, match=r'dense layer: got input of shape \(1, 70\)|expected \(N, '):
            network(np.zeros((1, 28, 28, 1), np.float32))


def test_numbers_of_either_byte_order():
    packed, x = bnn.convert(build('lenet5', bnn.XNOR)), images('lenet5')
    np.testing.assert_array_equal(packed(x.astype('>f4')), packed(x))


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
        model = build('lenet5', bnn.XNOR)
        model.eval()
        x = images('lenet5')
        np.testing.assert_array_equal(bnn.convert(model)(x), model(x))
