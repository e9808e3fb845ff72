"""IR-Net's and ReCU's quantizers against loops over single numbers in NumPy, float64, written from the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax import quantizers
from bnn_jax.schemes import Exponential, Geometric

RNG = np.random.default_rng(0)
# Filters far from balanced, one of them with a few large weights among zeros, whose scale is another power of two.
W = RNG.normal(size=(3, 2, 4, 5)) * np.array([0.05, 0.3, 1, 2, 1]) + np.array([0, 0.5, -1, 0.1, 0])
W[..., 4] = np.where(RNG.uniform(size=(3, 2, 4)) < 0.15, 4.0, 0.0) + 0.01 * RNG.normal(size=(3, 2, 4))
G = RNG.normal(size=W.shape)


def standardized(filter_, eps):
    """u = (w - mean) / deviation of a list of weights, and the matrix of du_i / dw_j."""
    n = len(filter_)
    mean = sum(filter_) / n
    centered = [w - mean for w in filter_]
    d = (sum(c * c for c in centered) / (n - 1) + eps) ** 0.5
    jacobian = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            jacobian[i, j] = ((i == j) - 1 / n) / d - centered[i] * centered[j] / ((n - 1) * d**3)
    return np.array([c / d for c in centered]), jacobian


def of_filters(function, eps):
    """Values, gradients and scales, filter by filter: function(u, g) -> (values, gradient to u, scale)."""
    values, gradients, scales = np.empty_like(W), np.empty_like(W), []
    for f in range(W.shape[-1]):
        u, jacobian = standardized(W[..., f].ravel().tolist(), eps)
        value, to_u, scale = function(u, G[..., f].ravel())
        values[..., f], gradients[..., f] = (a.reshape(W.shape[:-1]) for a in (value, to_u @ jacobian))
        scales.append(scale)
    return values, gradients, scales


def ir_net(t):
    k = max(1 / t, 1)

    def function(u, g):
        scale = 2.0 ** round(np.log2(np.mean(np.abs(u))))
        return scale * np.where(u >= 0, 1.0, -1.0), scale * g * k * t * (1 - np.tanh(t * u) ** 2), scale

    return of_filters(function, 0)


def recu(tau, scaled):
    factor = 2 * 2**0.5
    magnitudes = [
        abs(factor * u) for f in range(W.shape[-1]) for u in standardized(W[..., f].ravel().tolist(), 1e-5)[0]
    ]
    largest = -np.mean(magnitudes) * np.log(2 - 2 * tau)

    def function(u, g):
        inside = np.abs(factor * u) <= largest
        scale = np.mean(np.minimum(np.abs(factor * u), largest))
        used = scale if scaled else 1.0
        return used * np.where(u >= 0, 1.0, -1.0), used * factor * g * inside, scale

    return of_filters(function, 1e-5)


QUANTIZERS = {
    'balanced_sign_ede': (quantizers.balanced_sign_ede, (0.1, 1.0, 10.0), ir_net),
    'recu_sign': (quantizers.recu_sign, (0.85, 0.99), lambda tau: recu(tau, False)),
    'recu_scaled_sign': (quantizers.recu_scaled_sign, (0.85, 0.99), lambda tau: recu(tau, True)),
}


@pytest.mark.parametrize(('quantize', 'numbers', 'by_hand'), QUANTIZERS.values(), ids=QUANTIZERS)
def test_values_and_gradients_are_the_papers(quantize, numbers, by_hand):
    @jax.jit
    def run(w, number, g):
        y, vjp = jax.vjp(lambda w: quantize(w, number), w)
        return y, vjp(g)[0]

    with jax.enable_x64(True):
        for number in numbers:
            y, dw = run(W, number, G)
            value, gradient, _ = by_hand(number)
            # Each has about 50 roundings of float64.
            np.testing.assert_allclose(y, value, rtol=1e-13)
            np.testing.assert_allclose(dw, gradient, rtol=1e-11, atol=1e-13)
    y, dw = run(jnp.asarray(W, jnp.bfloat16), jnp.float32(numbers[0]), jnp.asarray(G, jnp.bfloat16))
    assert y.dtype == dw.dtype == jnp.bfloat16 and np.isfinite(np.asarray(dw, np.float32)).all()


def test_scales_are_those_of_the_weights():
    np.testing.assert_array_equal(quantizers.power_of_two_scale(jnp.asarray(W, jnp.float32)), ir_net(1.0)[2])
    assert set(ir_net(1.0)[2]) == {1, 0.5}
    scales = quantizers.recu_scale(jnp.asarray(W, jnp.float32), 0.9)
    np.testing.assert_allclose(scales, recu(0.9, True)[2], rtol=1e-5)  # float32
    assert not np.any(jax.grad(lambda w: quantizers.power_of_two_scale(w).sum())(jnp.asarray(W, jnp.float32)))


def test_the_nearest_power_of_two_on_both_sides_of_a_jump():
    """Filters of two magnitudes, whose mean |u| passes sqrt(1/2), at which the scale jumps from 1/2 to 1."""
    ratios = np.linspace(1, 12, 200)
    w = np.concatenate([np.ones((3, 200)), -np.ones((3, 200)), ratios[None], -ratios[None]]).astype(np.float32)
    u = (w.astype(np.float64) - w.mean(0)) / w.std(0, ddof=1, dtype=np.float64)
    exponents = np.log2(np.abs(u).mean(0))
    assert np.abs(exponents + 0.5).min() > 1e-6 and len(set(np.round(exponents))) == 2
    np.testing.assert_array_equal(quantizers.power_of_two_scale(w), 2.0 ** np.round(exponents))


@pytest.mark.parametrize('quantize', [quantizers.balanced_sign_ede, quantizers.recu_scaled_sign])
def test_a_filter_of_equal_weights_is_finite(quantize):
    w = jnp.asarray([[2.0, 1.0], [2.0, -1.0], [2.0, 3.0]], jnp.float32)
    y, vjp = jax.vjp(lambda w: quantize(w, 0.9), w)
    gradient = np.asarray(vjp(jnp.ones_like(y))[0])
    assert np.isfinite(y).all() and np.isfinite(gradient).all() and np.any(gradient[:, 1])
    np.testing.assert_array_equal(y[:, 0], 0)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r'balanced: got shape \(3,\), expected rank >= 2'):
        quantizers.balanced(jnp.ones(3))
    with pytest.raises(TypeError, match='got dtype int32'):
        quantizers.power_of_two_scale(jnp.ones((3, 2), jnp.int32))


def test_activations_of_recu_are_standardized_by_image():
    x = 0.4 + RNG.normal(size=(2, 3, 2, 2)) * np.array([0.3, 2.0]).reshape(2, 1, 1, 1)
    g, expected = RNG.normal(size=x.shape), np.empty_like(x)
    for image in range(2):
        numbers, incoming = x[image].ravel(), g[image].ravel()
        n, mean = len(numbers), sum(numbers) / len(numbers)
        d = (sum((a - mean) ** 2 for a in numbers) / (n - 1) + 1e-5) ** 0.5
        to_a = [c * max(2 - 2 * abs(a / d), 0) for a, c in zip(numbers, incoming, strict=True)]
        # a_i = x_i / d, dd/dx_j = (x_j - mean) / ((n - 1) d).
        through_d = sum(c * a for c, a in zip(to_a, numbers, strict=True)) / d**2
        expected[image] = np.reshape(
            [to_a[j] / d - through_d * (numbers[j] - mean) / ((n - 1) * d) for j in range(n)], x.shape[1:]
        )
    with jax.enable_x64(True):
        y, vjp = jax.vjp(quantizers.sign_approx_by_image, jnp.asarray(x))
        np.testing.assert_array_equal(y, np.where(x >= 0, 1, -1))
        np.testing.assert_allclose(vjp(jnp.asarray(g))[0], expected, rtol=1e-12, atol=1e-14)


def test_schedules():
    with jax.enable_x64(True):
        progress = jnp.asarray([0.0, 0.25, 1.0])
        np.testing.assert_allclose(Geometric(0.1, 10.0)(progress), [0.1, 10**-0.5, 10], rtol=1e-14)
        middle = 0.85 + 0.14 * (np.exp(0.25) - 1) / (np.e - 1)
        np.testing.assert_allclose(Exponential(0.85, 0.99)(progress), [0.85, middle, 0.99], rtol=1e-14)
    assert Geometric(0.1, 10.0) == Geometric(0.1, 10.0) and hash(Geometric(1.0, 2.0)) != hash(Geometric(2.0, 1.0))
