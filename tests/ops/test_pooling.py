"""Max pooling: value and gradient against loops, ties going to the first pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.pooling import max_pool
from bnn_jax.ops.windows import Window

# (N, H, W, C), size, strides, pads.
CASES = {
    '2/2': ((2, 6, 8, 3), (2, 2), (2, 2), ((0, 0), (0, 0))),
    '3/2, rows left over': ((1, 8, 9, 2), (3, 3), (2, 2), ((0, 0), (0, 0))),
    '3/2, padded': ((2, 7, 6, 2), (3, 3), (2, 2), ((1, 1), (1, 0))),
    '3/1': ((1, 5, 4, 2), (3, 3), (1, 1), ((1, 1), (1, 1))),
    'gaps between windows': ((1, 8, 7, 2), (2, 1), (3, 4), ((0, 0), (0, 0))),
}


@pytest.mark.parametrize('case', CASES)
def test_the_first_maximum_of_a_window_gets_its_gradient(case):
    shape, size, strides, pads = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, size=shape).astype(np.float32)  # full of ties
    y, vjp = jax.vjp(jax.jit(lambda x: max_pool(x, size, strides, pads)), x)
    g = rng.normal(size=y.shape).astype(np.float32)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    dx = np.zeros_like(padded)
    for n, a, b, c in np.ndindex(*y.shape):
        rows, columns = a * strides[0], b * strides[1]
        window = padded[n, rows : rows + size[0], columns : columns + size[1], c]
        i, j = np.unravel_index(window.argmax(), window.shape)
        assert y[n, a, b, c] == window[i, j]
        dx[n, rows + i, columns + j, c] += g[n, a, b, c]
    top, left = pads[0][0], pads[1][0]
    expected = dx[:, top : top + shape[1], left : left + shape[2]]
    np.testing.assert_allclose(vjp(jnp.asarray(g))[0], expected, atol=1e-6)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_off_cpu_the_gradient_is_xla_s(platform):
    gradient = jax.grad(lambda x: max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))).sum())
    text = jax.jit(gradient).trace(jnp.zeros((2, 9, 9, 3))).lower(lowering_platforms=(platform,)).as_text()
    assert 'select_and_scatter' in text


def test_a_dilated_window_is_refused():
    with pytest.raises(ValueError, match=r'max pooling: got padding VALID and dilation \(1, 2\) .* dilation \(1, 1\)'):
        MaxPool(Window.of(2, 1, 'VALID', (1, 2)))(jnp.zeros((1, 5, 5, 1)))
