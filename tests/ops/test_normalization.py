"""Batch normalization: values from the definition, gradients from finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.ops.normalization import batch_norm

EPS = 1e-3


def reference(x, gamma, beta):
    axes = tuple(range(x.ndim - 1))
    return gamma * (x - x.mean(axes)) / np.sqrt(x.var(axes) + EPS) + beta


@pytest.mark.parametrize('shape', [(5, 3), (2, 3, 4, 2)])
def test_values_and_gradients(shape):
    rng = np.random.default_rng(0)
    x, gamma, beta, g = (rng.normal(size=s) + 0.3 for s in (shape, shape[-1:], shape[-1:], shape))
    with jax.enable_x64(True):
        (y, mean, var), vjp = jax.vjp(lambda *a: batch_norm(*a, EPS), *map(jnp.asarray, (x, gamma, beta)))
        got = vjp((jnp.asarray(g), jnp.ones_like(mean), jnp.ones_like(var)))  # no gradient through mean and var
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(y, reference(x, gamma, beta), rtol=1e-12)
    np.testing.assert_allclose(mean, x.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(var, x.var(axes), rtol=1e-12)
    for k, operand in enumerate((x, gamma, beta)):
        for index in np.ndindex(*operand.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in (x, gamma, beta)]
                moved[k][index] += step
                ends.append((g * reference(*moved)).sum())
            np.testing.assert_allclose(got[k][index], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)
