"""Layers in training arithmetic: exact products, gradients, padding, normalization."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.nn.containers import Branches, Sequential
from bnn_jax.nn.epilogue import binary_product
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import AvgPool, LeakyRelu
from bnn_jax.ops.windows import Window


def signs(rng, *shape) -> np.ndarray:
    return np.where(rng.normal(size=shape) >= 0, 1, -1).astype(np.float32)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('pad_value', [0, 1, -1])
def test_convolution_of_signs_is_exact(dtype, pad_value):
    rng = np.random.default_rng(0)
    x, w = signs(rng, 2, 7, 6, 37), signs(rng, 3, 3, 37, 5)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=pad_value)
    expected = np.zeros((2, 4, 3, 5), np.float32)
    for i in range(4):
        for j in range(3):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[:, i, j] = np.einsum('nhwc,hwcf->nf', window, w)
    product = Convolution(Window.of(3, 2, ((1, 1), (1, 1))), pad_value)
    y = product(jnp.asarray(x, dtype), jnp.asarray(w, dtype))
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize('pad_value', [0, 1, -1])
def test_dilated_convolution_of_signs_and_its_k(pad_value):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 7, 6, 37)).astype(np.float32), signs(rng, 3, 2, 37, 5)
    pads = ((0, 0), (2, 2), (0, 3), (0, 0))
    padded = np.pad(np.where(x >= 0, 1, -1), pads, constant_values=pad_value)
    magnitude = np.pad(np.abs(x), pads).mean(-1, dtype=np.float64)
    expected, k = np.zeros((2, 4, 6, 5), np.float32), np.zeros((2, 4, 6, 1))
    for i, j in np.ndindex(4, 6):
        window = np.s_[:, 2 * i : 2 * i + 5 : 2, j : j + 4 : 3]
        expected[:, i, j] = np.einsum('nhwc,hwcf->nf', padded[window], w)
        k[:, i, j, 0] = magnitude[window].mean((1, 2))
    product = Convolution(Window.of((3, 2), (2, 1), pads[1:3], (2, 3)), pad_value)
    np.testing.assert_array_equal(product(jnp.where(x >= 0, 1.0, -1.0), jnp.asarray(w)), expected)
    np.testing.assert_allclose(product.input_scale(jnp.asarray(x)), k, rtol=1e-5)  # float32 sums of 222 terms


def test_dense_product_of_many_signs_is_exact_in_bfloat16():
    rng = np.random.default_rng(0)
    x, w = signs(rng, 2, 70_001), signs(rng, 70_001, 3)
    y = Dense()(jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16))
    np.testing.assert_array_equal(y, x.astype(np.int64) @ w.astype(np.int64))


def test_binary_product_has_the_gradient_of_the_quantized_weight():
    rng = np.random.default_rng(0)
    x, w, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 9), (9, 5), (4, 5)))

    def ours(x, w):
        return binary_product(Dense(), x, bnn.quantizers.scaled_sign_paper(w), bnn.quantizers.alpha(w))

    def plain(x, w):
        return x @ bnn.quantizers.scaled_sign_paper(w)

    y, vjp = jax.vjp(ours, x, w)
    expected, expected_vjp = jax.vjp(plain, x, w)
    for actual, wanted in zip((y, *vjp(g)), (expected, *expected_vjp(g)), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)  # other order of float32 operations


@pytest.mark.parametrize('scheme', ['BWN', 'XNOR', 'XNOR_K'])
def test_layer_against_the_papers_formula(scheme):
    """y = (x or sign x) * alpha sign W (* K) + b, in float64 with NumPy."""
    layer = Product(Dense(), 33, 4, scheme=getattr(bnn, scheme), use_bias=True, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(4, dtype=jnp.float32)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 33)).astype(np.float32)
    w = np.asarray(layer.kernel[...], np.float64)
    quantized = np.abs(w).mean(0) * np.where(w >= 0, 1, -1)
    inputs = x if scheme == 'BWN' else np.where(x >= 0, 1, -1)
    k = np.abs(x).astype(np.float64).mean(1, keepdims=True) if scheme == 'XNOR_K' else 1
    expected = inputs @ quantized * k + np.arange(4)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)  # float32 sums of 33 terms


def test_no_gradient_flows_through_k():
    layer = Product(Dense(), 8, 3, scheme=bnn.XNOR_K, use_bias=False, rngs=nnx.Rngs(0))
    x = jnp.full((1, 8), 2.0)  # outside the straight-through window: only K could pass a gradient
    assert not np.asarray(jax.grad(lambda x: layer(x).sum())(x)).any()


def test_real_input_is_padded_with_zero_whatever_the_scheme_says():
    scheme = dataclasses.replace(bnn.BWN, pad_value=1)
    layer = Product(
        Convolution(Window.of(3, 1, ((1, 1), (1, 1)))), 2, 3, scheme=scheme, use_bias=False, rngs=nnx.Rngs(0)
    )
    assert layer.operation.pad_value == 0


def test_norm_in_evaluation_and_training():
    norm = Norm(6, scheme=bnn.FLOAT, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for name in ('scale', 'bias', 'mean'):
        getattr(norm, name)[...] = jnp.asarray(rng.normal(size=6), jnp.float32)
    norm.var[...] = jnp.asarray(rng.uniform(0.1, 4, size=6), jnp.float32)
    gamma, beta, mean, var = (np.asarray(getattr(norm, n)[...], np.float64) for n in ('scale', 'bias', 'mean', 'var'))
    x = rng.normal(size=(5, 3, 2, 6)).astype(np.float32)
    norm.eval()
    expected = gamma * (x - mean) / np.sqrt(var + 1e-4) + beta
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)  # float32, cancellation near 0
    norm.train()
    batch_mean, batch_var = x.mean((0, 1, 2), dtype=np.float64), x.var((0, 1, 2), dtype=np.float64)
    expected = gamma * (x - batch_mean) / np.sqrt(batch_var + 1e-4) + beta
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.9 * mean + 0.1 * batch_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 * var + 0.1 * batch_var, rtol=1e-5)
    with pytest.raises(ValueError, match='expected 6 channels last'):
        norm(jnp.zeros((1, 2, 2, 5)))


@pytest.mark.parametrize('shape', [(6, 3), (5, 2, 3, 3)], ids=['dense', 'map'])
def test_norm_with_unbiased_running_variance(shape):
    """PyTorch's: running <- 0.9 running + 0.1 n / (n - 1) biased, n values a channel; the output is not touched."""
    norms = [
        Norm(3, scheme=dataclasses.replace(bnn.FLOAT, variance_factor=factor), rngs=nnx.Rngs(0))
        for factor in (bnn.schemes.biased, bnn.schemes.unbiased)
    ]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for norm in norms:
        norm.var[...] = jnp.asarray([0.5, 2, 30], jnp.float32)
        norm.train()
    np.testing.assert_array_equal(*(norm(jnp.asarray(x)) for norm in norms))
    np.testing.assert_array_equal(*(norm.mean[...] for norm in norms))
    expected = 0.9 * np.array([0.5, 2, 30]) + 0.1 * x.astype(np.float64).reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(norms[1].var[...], expected, rtol=1e-6)
    norms[1].train()
    if len(shape) == 2:
        with pytest.raises(ValueError, match='got 1 value per channel'):
            norms[1](jnp.asarray(x[:1]))


def test_norm_without_gamma_and_beta():
    norm = Norm(3, scheme=dataclasses.replace(bnn.FLOAT, affine=False), rngs=nnx.Rngs(0))
    assert not nnx.state(norm, nnx.Param)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-4)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_gamma_is_projected_before_it_is_read():
    scheme = dataclasses.replace(bnn.FLOAT, gamma_before=jnp.abs)
    norm, plain = (Norm(3, scheme=s, rngs=nnx.Rngs(0)) for s in (scheme, bnn.FLOAT))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
    for evaluate in (True, False):
        norm.scale[...] = jnp.asarray([-2.0, 0.5, -0.25])
        plain.scale[...] = jnp.asarray([2.0, 0.5, 0.25])
        for layer in (norm, plain):
            layer.eval() if evaluate else layer.train()
        np.testing.assert_array_equal(norm(x), plain(x))
    # Overwritten in training, and the gradient is that at the projected value.
    np.testing.assert_array_equal(norm.scale[...], plain.scale[...])


def test_a_latent_kernel_is_read_projected():
    """The gradient ignores `before`: it is that of a layer with the projected kernel."""
    scheme = dataclasses.replace(bnn.XNOR, projection=None, before=bnn.schemes.projections.center_and_clip)
    layer, plain = (Product(Dense(), 9, 4, scheme=s, use_bias=False, rngs=nnx.Rngs(0)) for s in (scheme, bnn.XNOR))
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(1.5 * rng.normal(size=(9, 4)), jnp.float32)
    layer.kernel[...] = kernel
    plain.kernel[...] = bnn.schemes.projections.center_and_clip(kernel)
    assert (np.asarray(layer.kernel[...]) != np.asarray(plain.kernel[...])).any()
    x = jnp.asarray(rng.normal(size=(5, 9)), jnp.float32)

    def gradient(layer):
        graphdef, params = nnx.split(layer)
        return jax.grad(lambda p: (nnx.merge(graphdef, p, copy=True)(x) ** 2).sum())(params)['kernel'][...]

    np.testing.assert_array_equal(layer(x), plain(x))
    np.testing.assert_array_equal(gradient(layer), gradient(plain))


def test_dropout_of_binarized_inputs():
    """Training: {0, +-1 / (1 - rate)}, another mask every call, the mean kept; evaluation: untouched."""
    scheme = dataclasses.replace(bnn.BNN, weight=bnn.quantizers.sign_ste)
    layer = Product(Dense(), 4000, 1, scheme=scheme, use_bias=False, dropout=0.75, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.ones((4000, 1))
    x = jnp.full((2, 4000), 0.5)
    layer.train()
    first, second = (np.asarray(layer(x)) for _ in range(2))
    assert (first % 4 == 0).all()
    # Sums of 4,000 numbers, each 4 with probability 1/4: standard deviation 4 sqrt(4000 / 4 * 3 / 4) = 110.
    assert (np.abs(first - 4000) < 600).all()
    assert (first != second).any()
    assert first[0] != first[1]
    layer.eval()
    np.testing.assert_array_equal(layer(x), np.full((2, 1), 4000))


def test_dropout_hits_dense_layers_after_vectors_only():
    scheme = dataclasses.replace(bnn.XNOR, dropout=0.5, bias=True)
    model = bnn.models.vgg_small(3, scheme=scheme, rngs=nnx.Rngs(0), width=0.02, input_shape=(8, 8, 3))
    products = [layer for layer in model.body.layers if isinstance(layer, Product)]
    assert [layer.dropout for layer in products] == [0] * 7 + [0.5, 0.5]
    assert all(layer.bias is not None for layer in products)


def test_each_feature_is_normalized():
    scheme = dataclasses.replace(bnn.XNOR, chain=bnn.schemes.feature_norm_product_relu_pool)
    model = bnn.models.lenet5(3, scheme=scheme, rngs=nnx.Rngs(0), width=0.2, input_shape=(20, 24, 1))
    norms = [layer.num_features for layer in model.body.layers if isinstance(layer, Norm)]
    assert norms == [4, 4, 10 * 2 * 3, 100]
    model.eval()
    assert model(jnp.ones((2, 20, 24, 1))).shape == (2, 3)


def test_every_filter_of_he_normal_has_the_right_spread():
    from bnn_jax.schemes.initializers import he_normal

    w = np.asarray(he_normal(jax.random.key(0), (5, 5, 40, 300)))
    assert w.dtype == np.float32
    # 300,000 draws: the standard error of a standard deviation is sigma / sqrt(2 n) = 0.13 %.
    np.testing.assert_allclose(w.std(), np.sqrt(2 / 1000), rtol=0.01)
    assert abs(w.mean()) < 4 * np.sqrt(2 / 1000) / np.sqrt(w.size)
    assert np.unique(w).size > 0.9 * w.size


@pytest.mark.parametrize('kind', ['threefry2x32', 'rbg'])
def test_he_normal_is_the_same_in_a_trace(kind):
    from bnn_jax.schemes.initializers import CHUNK, he_normal

    key, shape = jax.random.key(0, impl=kind), (10, CHUNK // 5)
    # In a trace XLA may multiply the two factors of a number first: one rounding less.
    traced = jax.jit(he_normal, static_argnums=1)(key, shape)
    np.testing.assert_allclose(traced, he_normal(key, shape), rtol=3e-7)


@pytest.mark.parametrize('partitionable', [True, False])
def test_few_numbers_of_he_normal_are_the_first_of_many(partitionable):
    from bnn_jax.schemes.initializers import FEW, he_normal

    with jax.threefry_partitionable(partitionable):
        few, many = (np.asarray(he_normal(jax.random.key(0), (10, n))) for n in (FEW // 10, FEW))
    np.testing.assert_array_equal(many.ravel()[: few.size], few.ravel())


@pytest.mark.parametrize(('size', 'strides', 'pad'), [(3, 2, 1), (2, 2, 0), (5, 3, 2)])
def test_average_pooling_counts_the_zeros_of_its_border(size, strides, pad):
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 5)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((extent + 2 * pad - size) // strides + 1 for extent in (7, 8))
    expected = np.zeros((2, rows, columns, 5))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, strides * i : strides * i + size, strides * j : strides * j + size]
            expected[:, i, j] = window.sum((1, 2), dtype=np.float64) / size**2
    y = AvgPool(Window.of(size, strides, ((pad, pad), (pad, pad))))(jnp.asarray(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)  # float32 sums of up to 25 terms


def test_leaky_relu_and_its_gradient():
    x = jnp.asarray([-3.0, -1e-3, -0.0, 0.0, 0.5, jnp.nan])
    y, vjp = jax.vjp(LeakyRelu(0.1), x)
    np.testing.assert_allclose(y, [-0.3, -1e-4, 0, 0, 0.5, np.nan], rtol=1e-6)  # slope in float32
    np.testing.assert_array_equal(vjp(jnp.ones(6))[0][:5], np.float32([0.1, 0.1, 0.1, 0.1, 1]))


def test_branches_lie_side_by_side():
    branches = Branches([Sequential([LeakyRelu(0.5)]), Sequential([]), Sequential([AvgPool(Window.of(1))])])
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = np.concatenate([np.where(x > 0, x, x / 2), x, x], -1)
    np.testing.assert_array_equal(branches(jnp.asarray(x)), expected)


def test_groups_that_do_not_fit_are_refused():
    product = Convolution(Window.of(3), groups=3)
    for into, out in ((6, 4), (4, 6)):
        with pytest.raises(ValueError, match=f'in 3 groups: got {into} channels to {out} filters'):
            Product(product, into, out, scheme=bnn.XNOR, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match='groups: got 0, expected a positive integer'):
        Convolution(Window.of(3), groups=0)
    with pytest.raises(ValueError, match='convolution: got 3 groups, expected one group for K'):
        product.input_scale(jnp.ones((1, 4, 4, 6)))
    assert product.macs(6, 9, (1, 2, 2, 9)) == 2 * 2 * 9 * 2 * 9


def test_signs_times_real_numbers_in_groups():
    """Packed words give the same as training. The inputs are integers, whose sums are exact in any order."""
    rng = np.random.default_rng(0)
    x, w = jnp.float32(rng.integers(-9, 10, (2, 5, 4, 80))), jnp.asarray(signs(rng, 3, 3, 40, 6))
    product = Convolution(Window.of(3, 1, 'SAME', 2), groups=2)
    words = product.pack_kernel(w)
    np.testing.assert_array_equal(product.unpack_kernel(words, 80), w)
    np.testing.assert_array_equal(product.signed(x, words), product(x, w))
