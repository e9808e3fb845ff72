"""Native float32 convolution and gradients: all instruction sets against loops over taps, threads, batches, signs, devices."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.native import library
from bnn_jax.ops import native_convolution
from bnn_jax.ops.convolution import convolution

SETS = library.instruction_sets()
every_set = pytest.mark.parametrize('instructions', SETS)
SIGNS = [1.0, -1.0]

# (N, H, W, C), (kh, kw, F), strides, pads: tiles of 1 to 12 pixels, blocks of 1 to 3 vectors of 4, 8 or 16 filters, whole and
# in part; strips of rows and of images; copied with their padding and read in place.
CASES = {
    'one of all': ((1, 1, 1, 1), (1, 1, 1), (1, 1), ((0, 0), (0, 0))),
    '1x1': ((2, 4, 13, 40), (1, 1, 48), (1, 1), ((0, 0), (0, 0))),
    '1x1 stride 2, odd': ((3, 7, 9, 17), (1, 1, 20), (2, 2), ((0, 0), (0, 0))),
    '3x3, batch 1': ((1, 8, 8, 16), (3, 3, 16), (1, 1), ((1, 1), (1, 1))),
    '3x3 stride 2, odd': ((2, 7, 9, 3), (3, 3, 33), (2, 2), ((1, 1), (1, 1))),
    '3x3 stride 2, even': ((3, 8, 8, 5), (3, 3, 32), (2, 2), ((1, 1), (1, 1))),
    '3x3, many small images': ((70, 3, 2, 4), (3, 3, 7), (1, 1), ((1, 1), (1, 1))),
    '3x3, strips': ((2, 40, 31, 24), (3, 3, 5), (1, 1), ((1, 1), (1, 1))),
    '3x3 unpadded': ((2, 9, 15, 8), (3, 3, 100), (1, 1), ((0, 0), (0, 0))),
    '5x5, one channel': ((2, 9, 11, 1), (5, 5, 17), (1, 1), ((2, 2), (2, 2))),
    'asymmetric': ((2, 5, 6, 3), (3, 2, 65), (1, 2), ((2, 0), (0, 1))),
    'padding wider than the window': ((2, 3, 3, 2), (2, 2, 12), (1, 1), ((3, 2), (2, 4))),
    'stride longer than the window': ((2, 8, 9, 2), (2, 1, 3), (3, 4), ((0, 0), (1, 0))),
    '5x5 stride 2, strips': ((2, 60, 60, 3), (5, 5, 17), (2, 2), ((2, 2), (2, 2))),
    'window taller than the image': ((3, 2, 3, 4), (7, 7, 9), (1, 1), ((3, 3), (3, 3))),
    'rows and columns left over': ((2, 8, 9, 2), (3, 3, 3), (3, 4), ((0, 0), (0, 0))),
    'no image': ((0, 4, 4, 3), (3, 3, 5), (1, 1), ((1, 1), (1, 1))),
}


def operands(case, values=None):
    """x, kernel, g, strides, pads."""
    shape, (kh, kw, out), strides, pads = CASES[case]
    rng = np.random.default_rng(0)
    size = zip(shape[1:3], pads, (kh, kw), strides, strict=True)
    rows, columns = ((extent + sum(pair) - taps) // stride + 1 for extent, pair, taps, stride in size)
    shapes = shape, (kh, kw, shape[3], out), (shape[0], rows, columns, out)
    drawn = (rng.normal(size=s) if values is None else rng.choice(values, size=s) for s in shapes)
    return *(a.astype(np.float32) for a in drawn), strides, pads


def by_taps(x, kernel, g, strides, pads):
    """y, dx, dkernel in float64, one tap after another."""
    x, kernel, g = (a.astype(np.float64) for a in (x, kernel, g))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    y, dx, dkernel = np.zeros_like(g), np.zeros_like(padded), np.zeros_like(kernel)
    rows, columns = (slice(0, (extent - 1) * stride + 1, stride) for extent, stride in zip(g.shape[1:], strides))  # noqa: B905
    for i, j in np.ndindex(*kernel.shape[:2]):
        seen = padded[:, i:, j:][:, rows, columns]
        y += seen @ kernel[i, j]
        dx[:, i:, j:][:, rows, columns] += g @ kernel[i, j].T
        dkernel[i, j] = np.einsum('nabc,nabf->cf', seen, g)
    (top, _), (left, _) = pads
    return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel


def native(x, kernel, g, strides, pads, instructions=''):
    static = {'strides': strides, 'pads': pads, 'instructions': instructions}
    return (
        native_convolution.product(x, kernel, **static),
        native_convolution.input_gradient(kernel, g, shape=x.shape, **static),
        native_convolution.kernel_gradient(x, g, shape=kernel.shape, **static),
    )


@every_set
@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_of_integers_are_exact(instructions, case):
    """Sums of products of small integers stay below 2^24, so float32 rounds none of them, in any order."""
    arrays = operands(case, values=[-3, -1, 0, 1, 2])
    for actual, expected in zip(native(*arrays, instructions), by_taps(*arrays), strict=True):
        np.testing.assert_array_equal(actual, expected)


@every_set
@pytest.mark.parametrize('case', ['1x1', '3x3 stride 2, odd', '3x3, strips', '5x5, one channel'])
def test_real_numbers(instructions, case):
    """The error is that of float32 sums of about a thousand terms of size 1: at most n 2^-24, usually far less."""
    arrays = operands(case)
    for actual, expected in zip(native(*arrays, instructions), by_taps(*arrays), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@every_set
@pytest.mark.parametrize('channels', [1, 8, 16, 33, 70])
@pytest.mark.parametrize('strides', [(1, 1), (2, 1)])
def test_signs_alone_are_counted_to_the_same_integers(instructions, channels, strides):
    """Also with one number among them that is no sign, wherever it is."""
    rng, pads = np.random.default_rng(1), ((1, 1), (2, 0))
    x, kernel = (rng.choice(SIGNS, size=s).astype(np.float32) for s in ((3, 9, 11, channels), (3, 3, channels, 37)))
    for place, value in ((None, 1.0), ((-1, -1, -1, -1), 0.0), ((0, 0, 0, 0), 2.0), ((1, 4, 4, 0), -0.5)):
        changed = x.copy()
        if place is not None:
            changed[place] = value
        y = np.asarray(native_convolution.product(changed, kernel, strides, pads, instructions))
        g = np.zeros(y.shape)
        np.testing.assert_array_equal(y, by_taps(changed, kernel, g, strides, pads)[0])
        assert not np.signbit(y[y == 0]).any()
    changed[place] = np.nan
    assert np.isnan(native_convolution.product(changed, kernel, strides, pads, instructions)).any()


def bits(array) -> np.ndarray:
    return np.asarray(array).view(np.uint32)


@every_set
@pytest.mark.parametrize('case', ['1x1', '3x3 stride 2, even', '3x3, strips', '3x3, many small images'])
def test_an_image_is_the_same_in_every_batch(instructions, case):
    x, kernel, _, strides, pads = operands(case)
    whole = bits(native_convolution.product(x, kernel, strides, pads, instructions))
    for n in range(min(len(x), 3)):
        np.testing.assert_array_equal(
            bits(native_convolution.product(x[n : n + 1], kernel, strides, pads, instructions)), whole[n : n + 1]
        )


@pytest.mark.parametrize('channels', [3, 130])
def test_the_value_is_the_same_whether_or_not_it_is_differentiated(channels):
    """To the bit, also where the gradients are Winograd's; eager, compiled, and with another batch."""
    rng, static = np.random.default_rng(2), ((1, 1), ((1, 1), (1, 1)))
    x, kernel = (jnp.float32(rng.normal(size=s)) for s in ((16, 9, 9, channels), (3, 3, channels, 200)))
    plain = bits(convolution(x, kernel, *static))
    np.testing.assert_array_equal(plain, bits(jax.jit(lambda *a: convolution(*a, *static))(x, kernel)))
    np.testing.assert_array_equal(plain, bits(jax.vjp(lambda *a: convolution(*a, *static), x, kernel)[0]))
    np.testing.assert_array_equal(plain[:1], bits(convolution(x[:1], kernel, *static)))


@pytest.mark.parametrize('case', ['3x3 stride 2, odd', '3x3 unpadded', 'asymmetric'])
def test_gradients_are_those_of_xlas_own_convolution(case):
    """Both round float32 sums, in two orders: a few 2^-24 of the largest terms apart."""
    x, kernel, g, strides, pads = operands(case)
    y, vjp = jax.vjp(lambda x, kernel: convolution(x, kernel, strides, pads), x, kernel)
    xla = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    for actual, expected in zip(vjp(jnp.asarray(g)), jax.vjp(xla, x, kernel)[1](jnp.asarray(g)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


def test_it_is_lowered_for_cpu():
    x, kernel, g, strides, pads = operands('3x3, batch 1')

    def pulled_back(x, kernel, g):
        y, vjp = jax.vjp(lambda x, kernel: convolution(x, kernel, strides, pads), x, kernel)
        return y, vjp(g)

    text = jax.jit(pulled_back).lower(x, kernel, g).as_text()
    assert 'stablehlo.convolution' not in text and 'dot_general' not in text
    names = 'bnn_jax_float_convolution', 'bnn_jax_float_input_gradient', 'bnn_jax_float_kernel_gradient'
    assert all(text.count(f'custom_call @{name}') == 1 for name in names)
    half = (a.astype(jnp.bfloat16) for a in map(jnp.asarray, (x, kernel)))
    assert 'custom_call @bnn' not in jax.jit(lambda *a: convolution(*a, strides, pads)).lower(*half).as_text()


def test_vmap_equals_a_call_for_each():
    x, kernel, g, strides, pads = operands('3x3 stride 2, odd')
    xs, kernels = np.stack([x, 2 * x]), np.stack([kernel, -kernel])
    stacked = jax.vmap(lambda x, kernel: convolution(x, kernel, strides, pads))(xs, kernels)
    for i in range(2):
        np.testing.assert_array_equal(bits(stacked[i]), bits(convolution(xs[i], kernels[i], strides, pads)))


def test_shapes_that_do_not_fit_are_refused():
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 2, 5))
    with pytest.raises(jax.errors.JaxRuntimeError, match='convolution: shapes that do not fit'):
        native_convolution.product(x, kernel, (1, 1), ((1, 1), (1, 1))).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="instruction set: got 'sse9', which this processor lacks"):
        native_convolution.product(x, kernel, (1, 1), ((1, 1), (1, 1)), 'sse9').block_until_ready()


THREADS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from bnn_jax.ops import native_convolution as native
rng, digest = np.random.default_rng(0), hashlib.sha256()
for (h, w, c, f), (s, t), size in (((17, 16, 16, 24), (1, 1), 3), ((9, 9, 70, 65), (2, 2), 5), ((8, 8, 200, 128), (1, 1), 5)):
    pads = ((size // 2,) * 2,) * 2
    x, k = (jnp.float32(rng.normal(size=z)) for z in ((23, h, w, c), (size, size, c, f)))
    y = native.product(x, k, (s, t), pads)
    g = jnp.sin(y)
    dx, dk = (native.input_gradient(k, g, x.shape, (s, t), pads), native.kernel_gradient(x, g, k.shape, (s, t), pads))
    for a in (y, dx, dk):
        digest.update(np.asarray(a).tobytes())
print(digest.hexdigest())
"""


def test_no_number_depends_on_how_many_threads_there_are():
    runs = [
        # XLA has as many threads as it is told that there are processors.
        subprocess.run(
            [sys.executable, '-c', THREADS],
            env=os.environ | {'NPROC': n, 'PJRT_NPROC': n},
            capture_output=True,
            text=True,
        )
        for n in ('1', '3')
    ]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr + runs[1].stderr
    assert runs[0].stdout == runs[1].stdout


def test_on_several_cpu_devices_xlas_own_is_taken(monkeypatch):
    """XLA could not share out a call that it cannot look into. tests/ops/test_convolution.py runs on eight."""
    monkeypatch.setattr(library, '_cpu_devices', lambda: 8)
    assert not native_convolution.runs(jnp.float32)
    text = jax.jit(lambda *a: convolution(*a, (1, 1), ((0, 0), (0, 0)))).lower(
        jnp.zeros((1, 3, 3, 1)), jnp.zeros((1, 1, 1, 1))
    )
    assert 'stablehlo.convolution' in text.as_text()


@every_set
@pytest.mark.parametrize(('rows', 'terms', 'out'), [(1, 300, 100), (9, 129, 17), (130, 17, 48), (8, 16, 49), (0, 3, 5)])
def test_a_product_of_matrices_is_a_convolution_of_one_pixel_to_the_bit(rows, terms, out, instructions):
    """Rows in one tile and in several, terms in whole blocks and beyond, vectors of filters whole and in part."""
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, terms), (terms, out)))
    y = native_convolution.matrix_product(x, w, instructions=instructions)
    of_pixels = native_convolution.product(x[None, None], w[None, None], (1, 1), ((0, 0), (0, 0)), instructions)
    np.testing.assert_array_equal(y, of_pixels[0, 0])
    # A sum of n rounded products is off by n roundings at most.
    np.testing.assert_allclose(y, x.astype(np.float64) @ w, rtol=0, atol=terms * 2**-24 * 20)
    if rows > 1:
        np.testing.assert_array_equal(native_convolution.matrix_product(x[1:2], w, instructions=instructions)[0], y[1])
