"""Winograd's 3x3 convolutions against the plain sum over taps in float64; exactly equal on signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import compiled_quickly

from bnn_jax.nn.epilogue import binary_product
from bnn_jax.nn.operations import Convolution
from bnn_jax.ops import native_convolution, winograd
from bnn_jax.ops.convolution import convolution
from bnn_jax.ops.windows import Window
from bnn_jax.quantizers import sign

# (N, H, W, C), F, pads.
CASES = {
    'even': ((2, 6, 8, 3), 4, ((1, 1), (1, 1))),
    'odd, batch 1': ((1, 7, 5, 2), 3, ((1, 1), (1, 1))),
    'unpadded': ((3, 6, 7, 4), 2, ((0, 0), (0, 0))),
    'asymmetric': ((2, 5, 4, 3), 3, ((2, 0), (1, 2))),
    'one output': ((2, 3, 3, 5), 4, ((0, 0), (0, 0))),
    'one row, wide padding': ((1, 1, 9, 2), 2, ((2, 2), (2, 2))),
}

SIGNS = [1.0, -1.0]


ONE_BAND, MANY_BANDS = 2**21, 1
in_one_band = pytest.mark.parametrize('always', [ONE_BAND], indirect=True)
in_many_bands = pytest.mark.parametrize('always', [MANY_BANDS], indirect=True)


@pytest.fixture(params=[ONE_BAND, MANY_BANDS], ids=['one band', 'many bands'])
def always(request, monkeypatch):
    """Winograd for any number of channels, with one band of rows or as many bands as possible."""
    monkeypatch.setattr(native_convolution, 'runs', lambda dtype: False)
    monkeypatch.setattr(winograd, 'MANY', 1)
    monkeypatch.setattr(winograd, 'TILES', 1)
    monkeypatch.setattr(winograd, 'BLOCK', request.param)
    jax.clear_caches()  # Gradients are traced once for each shape.
    yield
    jax.clear_caches()


def operands(case, dtype=np.float32, values=None):
    shape, out, pads = CASES[case]
    rng = np.random.default_rng(1)
    height, width = (extent + sum(pair) - 2 for extent, pair in zip(shape[1:3], pads, strict=True))
    shapes = shape, (3, 3, shape[-1], out), (shape[0], height, width, out)
    drawn = (rng.normal(size=s) if values is None else rng.choice(values, size=s) for s in shapes)
    return *(np.asarray(jnp.asarray(array, dtype)) for array in drawn), pads


def by_taps(x, kernel, g, pads):
    """y, dx, dkernel in float64, as sums over the nine taps."""
    x, kernel, g = (array.astype(np.float64) for array in (x, kernel, g))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    y, dx, dkernel = np.zeros_like(g), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(3, 3):
        seen = np.s_[:, i : i + g.shape[1], j : j + g.shape[2]]
        y += padded[seen] @ kernel[i, j]
        dx[seen] += g @ kernel[i, j].T
        dkernel[i, j] = np.einsum('nabc,nabf->cf', padded[seen], g)
    (top, _), (left, _) = pads
    return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel


def of_convolution(x, kernel, g, pads):
    """y, dx, dkernel of `convolution` when it is differentiated."""
    y, vjp = jax.vjp(lambda x, kernel: convolution(x, kernel, (1, 1), pads), x, kernel)
    return y, *vjp(g.astype(y.dtype))


def products(*operands, platform='cpu'):
    """The numbers of matrix products and convolutions in the program for a platform."""
    *arrays, pads = operands
    return counted(jax.jit(lambda *a: of_convolution(*a, pads)).trace(*arrays), platform)


def counted(traced, platform='cpu'):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count('stablehlo.dot_general'), text.count('stablehlo.convolution')


@compiled_quickly()
def test_value_and_gradients_are_those_of_the_plain_sum(always):
    """Up to rounding; exactly if the operands are signs, because sums of integers are exact."""
    # A single row of tiles is a single band.
    cases = [case for case in CASES if winograd.BLOCK == ONE_BAND or not case.startswith('one')]
    pads = [CASES[case][2] for case in cases]

    @jax.jit
    def of_every_case(operands):
        return [of_convolution(*arrays, pair) for arrays, pair in zip(operands, pads, strict=True)]

    real, signs = ([operands(case, values=values)[:3] for case in cases] for values in (None, SIGNS))
    assert counted(of_every_case.trace(real)) == (32 * len(cases), len(cases))
    for case, arrays, pair, got in zip(cases, real, pads, of_every_case(real), strict=True):
        for actual, expected in zip(got, by_taps(*arrays, pair), strict=True):
            assert actual.dtype == np.float32
            # Float32 rounds 16 sums of up to four terms before and after each product: a few times the error of the plain sum.
            limit = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=limit, err_msg=case)
    for case, arrays, pair, got in zip(cases, signs, pads, of_every_case(signs), strict=True):
        for actual, expected in zip(got, by_taps(*arrays, pair), strict=True):
            np.testing.assert_array_equal(actual, expected, err_msg=case)


def test_signs_of_many_channels_are_exact():
    rng = np.random.default_rng(2)
    x, kernel = (rng.choice(SIGNS, size=s).astype(np.float32) for s in ((1, 4, 4, 1024), (3, 3, 1024, 2)))
    y = by_taps(x, kernel, np.zeros((1, 4, 4, 2)), ((1, 1), (1, 1)))[0]
    # The gradient to the input is a convolution with the rotated window.
    turned = jnp.asarray(kernel[::-1, ::-1].swapaxes(2, 3))
    np.testing.assert_array_equal(winograd.input_gradient(turned, jnp.asarray(x), ((1, 1), (1, 1))), y)
    # Equal signs give the largest sum.
    ones = winograd.input_gradient(jnp.ones((3, 3, 2, 1024)), jnp.ones((1, 4, 4, 1024)), ((2, 2), (2, 2)))
    np.testing.assert_array_equal(ones, np.full((1, 2, 2, 2), 9 * 1024))


@in_one_band
@compiled_quickly()
def test_float64_keeps_its_precision(always):
    with jax.enable_x64(True):
        *arrays, pads = operands('asymmetric', np.float64)
        got = jax.jit(lambda *a: of_convolution(*a, pads))(*arrays)
        for actual, expected in zip(got, by_taps(*arrays, pads), strict=True):
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@in_one_band
@compiled_quickly()
def test_bfloat16_operands_are_accumulated_in_float32(always):
    """y in float32 to its precision; gradients rounded once, to bfloat16."""
    x, kernel, g, pads = operands('odd, batch 1', jnp.bfloat16)
    y, dx, dkernel = jax.jit(lambda *a: of_convolution(*a, pads))(x, kernel, g)
    expected = by_taps(x, kernel, g, pads)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
    for actual, wanted in zip((dx, dkernel), expected[1:], strict=True):
        np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=2**-8, atol=1e-4 * np.abs(wanted).max())


@in_many_bands
@compiled_quickly()
def test_vmap_equals_a_call_for_each(always):
    *arrays, pads = operands('even')
    stacked = [np.stack([array, -2 * array[::-1]]) for array in arrays]
    alone = jax.jit(lambda *a: of_convolution(*a, pads))
    got = jax.jit(jax.vmap(alone))(*stacked)
    for i in range(2):
        one = alone(*(array[i] for array in stacked))
        for actual, expected in zip(got, one, strict=True):
            np.testing.assert_allclose(actual[i], expected, rtol=1e-5, atol=1e-4)


@in_one_band
def test_the_value_is_the_plain_sum(always):
    """The same bits, whether or not it is differentiated."""
    x, kernel, _, pads = operands('even')
    plain = jax.jit(lambda x, kernel: convolution(x, kernel, (1, 1), pads))
    differentiated = jax.jit(
        lambda x, kernel: jax.vjp(lambda x, kernel: convolution(x, kernel, (1, 1), pads), x, kernel)[0]
    )
    for function in (plain, differentiated):
        text = function.lower(x, kernel).as_text()
        assert 'dot_general' not in text and text.count('stablehlo.convolution') == 1
    np.testing.assert_array_equal(plain(x, kernel), differentiated(x, kernel))


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_off_cpu_xla_convolves(platform, always):
    assert products(*operands('even'), platform=platform) == (0, 3)


@pytest.mark.parametrize(
    ('x', 'kernel', 'strides', 'pads', 'expected'),
    [
        ((4, 16, 16, 128), (3, 3, 128, 128), (1, 1), ((1, 1), (1, 1)), True),
        ((4, 15, 15, 128), (3, 3, 128, 128), (1, 1), ((1, 1), (1, 1)), True),
        ((4, 16, 14, 128), (3, 3, 128, 128), (1, 1), ((1, 1), (1, 1)), False),
        ((4, 16, 16, 128), (3, 3, 128, 128), (1, 1), ((1, 1), (0, 0)), False),
        ((4, 16, 16, 128), (3, 3, 128, 127), (1, 1), ((1, 1), (1, 1)), False),
        ((4, 16, 16, 3), (3, 3, 3, 128), (1, 1), ((1, 1), (1, 1)), False),
        ((4, 16, 16, 51_781), (3, 3, 51_781, 128), (1, 1), ((1, 1), (1, 1)), True),
        ((4, 16, 16, 51_782), (3, 3, 51_782, 128), (1, 1), ((1, 1), (1, 1)), False),
        ((4, 16, 16, 128), (3, 3, 128, 128), (2, 2), ((1, 1), (1, 1)), False),
        ((4, 16, 16, 128), (3, 3, 128, 128), (1, 1), ((3, 1), (1, 1)), False),
        ((4, 16, 16, 128), (5, 5, 128, 128), (1, 1), ((1, 1), (1, 1)), False),
    ],
)
def test_winograd_is_for_3x3_windows_at_stride_1_with_many_channels_and_tiles(x, kernel, strides, pads, expected):
    assert winograd.pays(x, kernel, strides, pads) is expected


def test_the_number_of_bands(always):
    kernel, g = jnp.ones((3, 3, 3, 4)), jnp.ones((2, 4, 6, 4))
    loop = str(jax.make_jaxpr(lambda *a: winograd.input_gradient(*a, ((1, 1), (1, 1))))(kernel, g))
    assert f'length={2 if winograd.BLOCK == 1 else 1}\n' in loop


@in_many_bands
def test_gradients_of_binary_products_use_winograd(always):
    """Only operands and scale are kept for the backward pass."""
    x, kernel, g, pads = operands('even', values=SIGNS)
    product, scale = Convolution(Window.of(3, 1, pads)), jnp.float32([0.5, 2, 1, 0.25])

    def pulled_back(x, weight, g):
        y, vjp = jax.vjp(lambda x, weight: binary_product(product, x, weight, scale, sign), x, weight)
        return y, *vjp(g)

    latent = kernel / 4
    assert counted(jax.jit(pulled_back).trace(x, latent, g)) == (32, 1)
    y = np.asarray(jax.jit(pulled_back)(x, latent, g)[0])
    np.testing.assert_array_equal(y, np.asarray(scale) * by_taps(x, kernel, g, pads)[0])
    _, kept = jax.vjp(lambda x, weight: binary_product(product, x, weight, scale, sign), x, latent)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) <= x.size + kernel.size + scale.size
