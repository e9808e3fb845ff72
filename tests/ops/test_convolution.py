"""Convolution: value and both gradients against loops over every product, in every dtype, under jit, vmap and sharding.

As it is where the C++ library is not; test_native_convolution.py has what it is with it.
"""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import compiled_quickly

from bnn_jax.ops import cpu_gradients, native_convolution
from bnn_jax.ops.convolution import convolution


@pytest.fixture(autouse=True)
def _without_the_library(monkeypatch):
    monkeypatch.setattr(native_convolution, 'runs', lambda dtype: False)


# (N, H, W, C), (kh, kw, F), strides, pads.
CASES = {
    '1x1': ((2, 4, 5, 3), (1, 1, 4), (1, 1), ((0, 0), (0, 0))),
    '1x1 strided, many channels': ((1, 5, 4, 33), (1, 1, 2), (2, 2), ((0, 0), (0, 0))),
    '3x3 stride 2, odd': ((2, 7, 9, 3), (3, 3, 4), (2, 2), ((1, 1), (1, 1))),
    '3x3, many channels, large image': ((1, 13, 14, 40), (3, 3, 2), (1, 1), ((1, 1), (1, 1))),
    '5x5, unpadded': ((3, 8, 9, 2), (5, 5, 6), (1, 1), ((0, 0), (0, 0))),
    '5x5, one channel, batch 1': ((1, 9, 8, 1), (5, 5, 3), (1, 1), ((0, 0), (0, 0))),
    '11x11 stride 4': ((1, 19, 20, 3), (11, 11, 2), (4, 4), ((2, 2), (2, 2))),
    'asymmetric': ((2, 5, 6, 3), (3, 2, 4), (1, 2), ((2, 0), (0, 1))),
    'asymmetric, unpadded rows': ((2, 9, 3, 2), (4, 2, 3), (1, 1), ((0, 1), (0, 0))),
    'rows and columns left over': ((2, 8, 9, 2), (3, 3, 3), (3, 4), ((0, 0), (0, 0))),
    'padding wider than the window': ((1, 3, 3, 2), (2, 2, 2), (1, 1), ((3, 2), (2, 3))),
}


def by_loops(x, kernel, g, strides, pads):
    """y, dx, dkernel in float64, one window at a time."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    kh, kw, _, out = kernel.shape
    rows, columns = ((padded.shape[1 + d] - kernel.shape[d]) // strides[d] + 1 for d in (0, 1))
    y, dx, dkernel = np.zeros((len(x), rows, columns, out)), np.zeros_like(padded), np.zeros_like(kernel)
    for n, a, b in np.ndindex(len(x), rows, columns):
        window = np.s_[n, a * strides[0] : a * strides[0] + kh, b * strides[1] : b * strides[1] + kw]
        for f in range(out):
            y[n, a, b, f] = (padded[window] * kernel[..., f]).sum()
            if g is not None:
                dx[window] += g[n, a, b, f] * kernel[..., f]
                dkernel[..., f] += g[n, a, b, f] * padded[window]
    (top, _), (left, _) = pads
    return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel


def operands(case, dtype):
    shape, (kh, kw, out), strides, pads = CASES[case]
    rng = np.random.default_rng(0)
    x = np.asarray(jnp.asarray(rng.normal(size=shape), dtype))
    kernel = np.asarray(jnp.asarray(rng.normal(size=(kh, kw, shape[-1], out)), dtype))
    y = by_loops(x, kernel, None, strides, pads)[0]
    return x, kernel, np.asarray(jnp.asarray(rng.normal(size=y.shape), dtype)), strides, pads


def pulled_back(x, kernel, g, strides, pads):
    """y, dx, dkernel by JAX."""
    y, vjp = jax.vjp(lambda x, kernel: convolution(x, kernel, strides, pads), x, kernel)
    return y, *vjp(g.astype(y.dtype))


@pytest.fixture(params=[(2**18, 512), (1, 1)], ids=['one block', 'many blocks'])
def blocks(request, monkeypatch):
    """The products of patches in one block, or in as many as possible."""
    monkeypatch.setattr(cpu_gradients, 'BLOCK', request.param[0])
    monkeypatch.setattr(cpu_gradients, 'ROWS', request.param[1])
    jax.clear_caches()  # Gradients are traced once for each shape.
    yield
    jax.clear_caches()


@pytest.mark.usefixtures('blocks')
@compiled_quickly()
def test_value_and_gradients_are_those_of_the_loops():
    cases = {case: operands(case, np.float32) for case in CASES}

    @jax.jit
    def of_every_case(arrays):
        return {case: pulled_back(*arrays[case], *cases[case][3:]) for case in arrays}

    found = of_every_case({case: row[:3] for case, row in cases.items()})
    for case, row in cases.items():
        for actual, expected in zip(found[case], by_loops(*row), strict=True):
            assert actual.dtype == np.float32
            limit = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=limit, err_msg=case)


@pytest.mark.parametrize('case', ['3x3 stride 2, odd', '5x5, unpadded'])
@compiled_quickly()
def test_float64_keeps_its_precision(case):
    with jax.enable_x64(True):
        x, kernel, g, strides, pads = operands(case, np.float64)
        for actual, expected in zip(
            jax.jit(lambda *a: pulled_back(*a, strides, pads))(x, kernel, g),
            by_loops(x, kernel, g, strides, pads),
            strict=True,
        ):
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('case', ['3x3 stride 2, odd', '5x5, unpadded', '3x3, many channels, large image'])
@compiled_quickly()
def test_bfloat16_operands_are_accumulated_in_float32(case):
    """y in float32 to its precision; gradients of g rounded to bfloat16, exact but for one rounding of the result."""
    x, kernel, g, strides, pads = operands(case, jnp.bfloat16)
    fine = g.astype(np.float32) * np.float32(1 + 2**-10)  # rounds to g
    y, dx, dkernel = jax.jit(lambda *a: pulled_back(*a, strides, pads))(x, kernel, fine)
    expected = by_loops(x, kernel, g.astype(np.float64), strides, pads)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
    for actual, wanted in zip((dx, dkernel), expected[1:], strict=True):
        np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=2**-8, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize('case', ['3x3 stride 2, odd', '5x5, unpadded'])
@compiled_quickly()
def test_vmap_equals_a_call_for_each(case):
    shape, _, strides, pads = CASES[case]
    x, kernel, g, _, _ = operands(case, np.float32)
    xs, gs, kernels = (np.stack([a, 2 * a[::-1], -a]) for a in (x, g, kernel))
    alone = jax.jit(lambda *a: pulled_back(*a, strides, pads))
    got = jax.jit(jax.vmap(alone))(xs, kernels, gs)
    for i in range(3):
        one = alone(xs[i], kernels[i], gs[i])
        for actual, expected in zip(got, one, strict=True):
            np.testing.assert_allclose(actual[i], expected, rtol=1e-5, atol=1e-4)


def test_operands_of_two_dtypes_are_refused():
    with pytest.raises(TypeError):
        convolution(jnp.zeros((1, 3, 3, 1)), jnp.zeros((1, 1, 1, 1), jnp.bfloat16), (1, 1), ((0, 0), (0, 0)))


def gradients(x, kernel):
    return jax.grad(lambda x, kernel: convolution(x, kernel, (1, 1), ((0, 0), (0, 0))).sum(), (0, 1))(x, kernel)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_off_cpu_the_gradients_are_convolutions(platform, dtype):
    x, kernel = jnp.zeros((2, 9, 9, 3), dtype), jnp.zeros((5, 5, 3, 4), dtype)
    text = jax.jit(gradients).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count('stablehlo.convolution') >= 2 and 'dot_general' not in text and 'while' not in text
    text = jax.jit(gradients).trace(x, kernel).lower(lowering_platforms=('cpu',)).as_text()
    assert 'dot_general' in text


def test_a_gradient_nobody_asks_for_is_not_computed():
    """The image's, in the first layer: the compiled step has one convolution, the forward one, and no shifted products."""
    x, kernel = jnp.zeros((2, 40, 40, 3)), jnp.zeros((3, 3, 3, 4))

    def loss(kernel, x):
        return jnp.square(convolution(x, kernel, (1, 1), ((1, 1), (1, 1)))).sum()

    def convolutions(argnums):
        text = jax.jit(jax.grad(loss, argnums)).lower(kernel, x).compile().as_text()
        return len(re.findall(r'= \S+ convolution\(', text))

    assert convolutions((0, 1)) - convolutions(0) == 1


SHARDED = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from bnn_jax.ops.convolution import convolution

mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
for channels in (3,):
    x = jax.device_put(jnp.ones((16, 20, 20, channels)), NamedSharding(mesh, PartitionSpec('data')))
    k, l = (jax.device_put(jnp.ones(s), NamedSharding(mesh, PartitionSpec())) for s in
            ((3, 3, channels, 40), (5, 5, 40, 4)))

    def loss(k, l, x):
        y = convolution(x, k, (2, 2), ((1, 1), (1, 1)))
        return jnp.square(convolution(y, l, (1, 1), ((0, 0), (0, 0)))).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(k, l, x).compile()
    text = compiled.as_text()
    assert 'all-reduce' in text and 'all-gather' not in text and 'all-to-all' not in text, text
    for sharded, whole in zip(compiled(k, l, x), jax.jit(jax.grad(loss, (0, 1)))(*map(jax.device_get, (k, l, x)))):
        assert jnp.allclose(jax.device_get(sharded), jax.device_get(whole), rtol=1e-5)
"""


def test_a_sharded_batch_stays_where_it_is():
    """On eight devices the gradients are summed over them, and no operand is gathered."""
    run = subprocess.run(
        [sys.executable, '-c', SHARDED], env=os.environ | {'JAX_NUM_CPU_DEVICES': '8'}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
