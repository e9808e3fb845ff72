"""Quantizers of the published codes and gradient factors: golden vectors, closed forms in NumPy, edges."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax import quantizers
from bnn_jax.quantizers import gradient_factors, published

DATA = Path(__file__).parents[1] / 'golden'


def golden(name: str) -> dict:
    """case -> name -> array; a case of an array without one is ''."""
    cases: dict = {}
    with np.load(DATA / f'{name}.npz') as file:
        for key in file:
            case, _, array = key.rpartition('/')
            cases.setdefault(case, {})[array] = file[key]
    return cases


GRADIENT, FORWARD, BINACTIVE = golden('binop_gradient'), golden('binop_forward'), golden('binactive')


def filters_last(w):
    """OIHW -> HWIO, (out, in) -> (in, out)."""
    return np.transpose(w, (2, 3, 1, 0) if w.ndim == 4 else None)


def gradient(quantize, x, g):
    return np.asarray(jax.jit(lambda x, g: jax.vjp(quantize, x)[1](g)[0])(x, g))


# Array of the golden file -> the quantizer of its formula and, for a reference output, the tolerance of its float32.
FORMULAS = {
    'f_ste': published.scaled_sign_identity,
    'f_theano': gradient_factors.times_alpha(published.scaled_sign_identity),
    'f_lua_adam_elementwise': gradient_factors.less_one_channel(published.scaled_sign_zero_lua),
    'f_lua_sgd_elementwise': gradient_factors.times_n(
        gradient_factors.less_one_channel(published.scaled_sign_zero_lua)
    ),
    'f_pytorch_small': gradient_factors.times_n(gradient_factors.less_one_channel(published.scaled_sign_zero_ste)),
    'f_pytorch_imagenet': gradient_factors.times_1e9(
        gradient_factors.times_n(gradient_factors.less_one_channel(published.scaled_sign_zero_ste))
    ),
}


@pytest.mark.parametrize('case', GRADIENT)
@pytest.mark.parametrize('formula', FORMULAS)
def test_golden_weight_gradients(formula, case):
    """DERIVED, float64: the published codes' gradients."""
    vectors = {name: filters_last(array) for name, array in GRADIENT[case].items()}
    with jax.enable_x64(True):
        w, g = (jnp.asarray(vectors[name], jnp.float64) for name in ('w_latent', 'grad_wtilde'))
        actual = gradient(FORMULAS[formula], w, g)
    assert actual.dtype == np.float64
    expected = vectors[formula]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


OUTPUTS = {
    'grad_w_mnist': 'f_pytorch_small',
    'grad_w_cifar': 'f_pytorch_small',
    'grad_w_imagenet': 'f_pytorch_imagenet',
}


@pytest.mark.parametrize(
    ('case', 'output'), [(case, output) for case in GRADIENT for output in OUTPUTS if output in GRADIENT[case]]
)
def test_golden_outputs_of_the_pytorch_code(case, output):
    """REFERENCE, float32: its sums are in another order."""
    vectors = {name: filters_last(array) for name, array in GRADIENT[case].items()}
    w, g = (jnp.asarray(vectors[name], jnp.float32) for name in ('w_latent', 'grad_wtilde'))
    actual, expected = gradient(FORMULAS[OUTPUTS[output]], w, g), vectors[output]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('case', FORWARD)
def test_golden_weights_with_sign_zero(case):
    """REFERENCE: alpha sign(W) with 0 where W is 0."""
    w, expected = (filters_last(FORWARD[case][name]) for name in ('w_latent', 'w_bin'))
    for quantize in (published.scaled_sign_zero_ste, published.scaled_sign_zero_lua):
        # A float32 mean of at most 257 terms, in an order of its own.
        np.testing.assert_allclose(quantize(jnp.asarray(w)), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(quantize(jnp.asarray(w))) == 0, expected == 0)


@pytest.mark.parametrize('case', [case for case in BINACTIVE if case])
def test_golden_activations(case):
    """REFERENCE: sign(0) = 0 and nothing passes at |x| = 1, to the last bit."""
    x, g = (jnp.asarray(BINACTIVE[''][name]) for name in ('x', 'gy'))
    np.testing.assert_array_equal(published.sign_zero_ste_exclusive(x), BINACTIVE[case]['y'])
    np.testing.assert_array_equal(gradient(published.sign_zero_ste_exclusive, x, g), BINACTIVE[case]['dx'])
    np.testing.assert_array_equal(published.sign_ste_exclusive(x), quantizers.sign(x))
    np.testing.assert_array_equal(gradient(published.sign_ste_exclusive, x, g), BINACTIVE[case]['dx'])


EDGES = np.array([-2, -1, -0.5, -0.0, 0, 0.5, 1, 2, np.nan], np.float32)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_sign_zero_at_the_edges(dtype):
    x = jnp.asarray(EDGES, dtype)
    for quantize in (published.sign_zero, published.sign_zero_ste_exclusive):
        y = quantize(x)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(y, np.float32), [-1, -1, -1, 0, 0, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(gradient(published.sign_zero, x[:-1], jnp.ones(8, dtype)), np.zeros(8))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_sign_minus_at_the_edges(dtype):
    """Darknet's: x > 0 ? 1 : -1; the gradient is that of its hard tanh, 0 from 1 on."""
    x = jnp.asarray(EDGES, dtype)
    for quantize in (published.sign_minus, published.sign_minus_ste_exclusive):
        y = quantize(x)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(y, np.float32), [-1, -1, -1, -1, -1, 1, 1, 1, np.nan])
        with pytest.raises(TypeError, match='expected a floating dtype'):
            quantize(jnp.ones(2, jnp.int32))
    g = np.arange(1, 9, dtype=np.float32)
    actual = gradient(published.sign_minus_ste_exclusive, x[:-1], jnp.asarray(g, dtype))
    np.testing.assert_array_equal(np.asarray(actual, np.float32), np.where(np.abs(EDGES[:-1]) < 1, g, 0))
    np.testing.assert_array_equal(gradient(published.sign_minus, x[:-1], jnp.ones(8, dtype)), np.zeros(8))


def test_weights_of_darknet():
    """Filter by filter in NumPy: w > 0 ? mean : -mean; the gradient passes as it is."""
    rng = np.random.default_rng(0)
    w, g = (rng.normal(size=(3, 3, 4, 5)).astype(np.float32) for _ in range(2))
    w[0, 0, 0], w[1, 1, 2, 3] = 0, -0.0
    expected = np.empty_like(w)
    for f in range(5):
        mean = np.abs(w[..., f].astype(np.float64)).mean()
        expected[..., f] = np.where(w[..., f] > 0, mean, -mean)
    np.testing.assert_allclose(published.scaled_sign_minus_identity(jnp.asarray(w)), expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient(published.scaled_sign_minus_identity, jnp.asarray(w), jnp.asarray(g)), g)


def test_unquantized_weights():
    w = jnp.asarray([[0.5, -0.0], [-2, 0.25]])
    np.testing.assert_array_equal(published.unquantized(w), w)
    np.testing.assert_array_equal(gradient(published.unquantized, w, 3 * jnp.ones_like(w)), np.full((2, 2), 3))


WEIGHTS = [value for name, value in vars(published).items() if name.startswith('scaled_')]
FACTORS = [
    gradient_factors.times_n,
    gradient_factors.times_1e9,
    gradient_factors.less_one_channel,
    gradient_factors.times_alpha,
]


@pytest.mark.parametrize('quantize', WEIGHTS)
def test_weight_quantizers_keep_the_dtype(quantize):
    w = jnp.asarray([[-1.5, 0.5], [0.25, 0], [1, -0.5]], jnp.bfloat16)
    y, vjp = jax.vjp(quantize, w)
    assert y.dtype == vjp(jnp.ones_like(y))[0].dtype == jnp.bfloat16
    with pytest.raises(TypeError, match='expected a floating dtype'):
        quantize(jnp.ones((2, 2), jnp.int32))


@pytest.mark.parametrize('factor', FACTORS)
def test_a_factor_changes_the_gradient_only(factor):
    rng = np.random.default_rng(0)
    w, g = (jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32) for _ in range(2))
    plain, multiplied = published.scaled_sign_identity, factor(published.scaled_sign_identity)
    np.testing.assert_array_equal(multiplied(w), plain(w))
    alpha = np.abs(np.asarray(w, np.float64)).mean((0, 1, 2))
    expected = {'times_n': 36, 'times_1e9': 1e9, 'less_one_channel': 3 / 4, 'times_alpha': alpha}[factor.__name__]
    np.testing.assert_allclose(gradient(multiplied, w, g), np.asarray(g) * expected, rtol=1e-6)
    assert factor(plain) == multiplied and hash(factor(plain)) == hash(multiplied)
    narrow = jax.vjp(multiplied, w.astype(jnp.bfloat16))[1](g.astype(jnp.bfloat16))[0]
    assert narrow.dtype == jnp.bfloat16


def test_one_input_channel_still_trains():
    w = jnp.asarray([[0.5, -0.25]])
    quantize = gradient_factors.less_one_channel(published.scaled_sign_identity)
    np.testing.assert_array_equal(gradient(quantize, w, jnp.ones_like(w)), [[1, 1]])
