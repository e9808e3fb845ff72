"""Dilated and in groups: value and both gradients are those of the dense kernel, zeros where it has no weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_convolution import by_loops

from bnn_jax.ops.convolution import convolution
from bnn_jax.ops.general_convolution import general_convolution

# (N, H, W, channels), (kh, kw, filters), strides, pads, dilation, groups.
CASES = {
    'dilated': ((2, 7, 8, 3), (3, 3, 4), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    'dilated by two numbers, strided': ((1, 9, 8, 2), (3, 2, 3), (2, 1), ((0, 3), (1, 0)), (1, 3), 1),
    'the image between two taps': ((2, 1, 2, 3), (3, 2, 2), (1, 3), ((4, 3), (3, 4)), (2, 4), 1),
    'groups': ((2, 5, 6, 6), (3, 3, 4), (2, 1), ((1, 1), (1, 1)), (1, 1), 2),
    'one channel a group, dilated': ((1, 6, 7, 3), (2, 3, 6), (1, 1), ((1, 0), (2, 2)), (1, 2), 3),
}


def parts(dilation, groups, into, out):
    """Where the taps and channels of each group lie in a dense kernel, and its filters."""
    for g in range(groups):
        filters = slice(g * out // groups, (g + 1) * out // groups)
        channels = slice(g * into // groups, (g + 1) * into // groups)
        yield (slice(None, None, dilation[0]), slice(None, None, dilation[1]), channels, filters), (..., filters)


def operands(case, dtype):
    """x, kernel, g of a case, and y, dx, dkernel by loops over the dense kernel in float64."""
    shape, (kh, kw, out), strides, pads, dilation, groups = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = (np.asarray(jnp.asarray(rng.normal(size=s), dtype)) for s in (shape, (kh, kw, shape[3] // groups, out)))
    dense = np.zeros((dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1, shape[3], out), kernel.dtype)
    for inside, filters in parts(dilation, groups, shape[3], out):
        dense[inside] = kernel[filters]
    y = by_loops(x, dense, None, strides, pads)[0]
    g = np.asarray(jnp.asarray(rng.normal(size=y.shape), dtype))
    y, dx, of_dense = by_loops(x, dense, g.astype(np.float64), strides, pads)
    dkernel = np.zeros(kernel.shape)
    for inside, filters in parts(dilation, groups, shape[3], out):
        dkernel[filters] = of_dense[inside]
    return (x, kernel, g), (strides, pads, dilation, groups), (y, dx, dkernel)


def pulled_back(x, kernel, g, static):
    y, vjp = jax.vjp(lambda x, kernel: general_convolution(x, kernel, *static), x, kernel)
    return y, *vjp(g.astype(y.dtype))


@pytest.mark.parametrize('case', CASES)
def test_value_and_gradients_are_those_of_the_dense_kernel(case):
    arrays, static, expected = operands(case, np.float32)
    for actual, wanted in zip(jax.jit(pulled_back, static_argnums=3)(*arrays, static), expected, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('case', CASES)
def test_bfloat16_operands_are_accumulated_in_float32(case):
    """Gradients of g rounded to bfloat16, exact but for one rounding of the result."""
    (x, kernel, g), static, expected = operands(case, jnp.bfloat16)
    fine = g.astype(np.float32) * np.float32(1 + 2**-10)  # rounds to g
    got = pulled_back(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(fine), static)
    assert [a.dtype for a in got] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-5)
    for actual, wanted in zip(got[1:], expected[1:], strict=True):
        np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=2**-8, atol=1e-4 * np.abs(wanted).max())


def test_float64_keeps_its_precision():
    with jax.enable_x64(True):
        arrays, static, expected = operands('dilated', np.float64)
        for actual, wanted in zip(pulled_back(*map(jnp.asarray, arrays), static), expected, strict=True):
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-12)


def test_without_dilation_it_is_convolution():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    static = (1, 1), ((1, 1), (1, 1))
    ours = jax.make_jaxpr(jax.grad(lambda k: general_convolution(x, k, *static).sum()))(kernel)
    assert str(ours) == str(jax.make_jaxpr(jax.grad(lambda k: convolution(x, k, *static).sum()))(kernel))
