"""Architectures x schemes: shapes, gradients, and counts derived by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import SCHEMES, build, images

import bnn_jax as bnn
from bnn_jax.layers import Latent

# Every scheme on the two cheap ones; on each larger one some, so that every scheme meets convolutions.
CASES = [(a, s) for a in ('mlp', 'lenet5') for s in SCHEMES] + [
    ('vgg_small', 'XNOR_K'),
    ('vgg_small', 'BNN'),
    ('alexnet', 'XNOR'),
    ('resnet18', 'BWN'),
    ('resnet18', 'BNN'),
    ('resnet18', 'XNOR'),
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


@pytest.mark.parametrize('scheme', ['FLOAT', 'BWN', 'XNOR'])
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
    if scheme == 'XNOR':
        assert (summary.macs_1bit, summary.macs_32bit) == (binary_macs, float_macs)
    else:
        assert (summary.macs_1bit, summary.macs_32bit) == (0, binary_macs + float_macs)


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
