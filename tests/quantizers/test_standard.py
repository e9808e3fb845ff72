"""Quantizers: values, gradients, dtypes and edges against closed forms typed here in NumPy, and golden vectors."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bnn_jax import quantizers
from bnn_jax.ops import bits

# The points as weights (4, 2): two filters, alpha 5/4 and 1/2. All numbers are exact in bfloat16, and so is every
# product and sum that the piecewise linear gradients make of them: there the comparison is exact.
POINTS = np.array([[-2, -1], [2, -0.5], [1, 0.5], [-0.0, 0]])
INCOMING = np.array([[3, -1], [0.5, 2], [-2, 1.5], [1, -3]])
KEY = jax.random.key(0)


# Closed forms, float64.


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def inside(x):
    return np.where(np.abs(x) <= 1, 1.0, 0.0)


def alpha(w):
    return np.abs(w).reshape(-1, w.shape[-1]).mean(0)


def scaled_sign(w):
    return alpha(w) * sign(w)


def exact_gradient(w, g):
    n, s = w[..., 0].size, sign(w)
    return alpha(w) * g * inside(w) + s / n * (g * s).reshape(n, -1).sum(0)


def swish_gradient(beta, x, g):
    return g * beta * (2 - beta * x * np.tanh(beta * x / 2)) / (1 + np.cosh(beta * x))


def ede_gradient(t, x, g):
    return g * max(1 / t, 1) * t * (1 - np.tanh(t * x) ** 2)


def dorefa_weights(bits, x):
    n, t = 2**bits - 1, np.tanh(x)
    return 2 * np.round(n * (t / (2 * np.abs(t).max()) + 0.5)) / n - 1


def dorefa_weights_gradient(x, g):
    t = np.tanh(x)
    return g * (1 - t**2) / np.abs(t).max()


def dorefa_activations(bits, x):
    n = 2**bits - 1
    return np.round(n * np.clip(x, 0, 1)) / n


class Case(NamedTuple):
    """A quantizer and its closed forms: value(x), NaN where it is drawn at random; gradient(x, g).

    eps: allowed error in units of the dtype's epsilon, relative above 1 and absolute below; 0: equal. It is 4 where
    tanh, cosh or a division by 2^bits - 1 is rounded.
    """

    quantize: Callable
    value: Callable
    gradient: Callable
    eps: int = 0


CASES = {
    'sign': Case(quantizers.sign, sign, lambda x, g: 0 * g),
    'sign_ste': Case(quantizers.sign_ste, sign, lambda x, g: g * inside(x)),
    'sign_approx': Case(quantizers.sign_approx, sign, lambda x, g: g * (2 - 2 * np.abs(x)) * inside(x)),
    'sign_ede, t 0.5': Case(partial(quantizers.sign_ede, t=0.5), sign, partial(ede_gradient, 0.5), 4),
    'sign_ede, t 3': Case(partial(quantizers.sign_ede, t=3.0), sign, partial(ede_gradient, 3.0), 4),
    'sign_swish': Case(quantizers.sign_swish, sign, partial(swish_gradient, 5), 4),
    'sign_swish, beta 2': Case(partial(quantizers.sign_swish, beta=2), sign, partial(swish_gradient, 2), 4),
    'stochastic_sign_ste': Case(
        partial(quantizers.stochastic_sign_ste, key=KEY),
        lambda x: np.where(np.abs(x) >= 1, sign(x), np.nan),
        lambda x, g: g * inside(x),
    ),
    'scaled_sign_ste': Case(quantizers.scaled_sign_ste, scaled_sign, exact_gradient),
    'scaled_sign_plain_ste': Case(quantizers.scaled_sign_plain_ste, scaled_sign, lambda w, g: g * inside(w)),
    'scaled_sign_ste_const_alpha': Case(
        quantizers.scaled_sign_ste_const_alpha, scaled_sign, lambda w, g: alpha(w) * g * inside(w)
    ),
    'scaled_sign_paper': Case(
        quantizers.scaled_sign_paper, scaled_sign, lambda w, g: g * (1 / w[..., 0].size + alpha(w) * inside(w))
    ),
    'layer_scaled_sign': Case(quantizers.layer_scaled_sign, lambda w: np.abs(w).mean() * sign(w), lambda w, g: g),
    'dorefa_weights, bits 1': Case(
        partial(quantizers.dorefa_weights, bits=1), lambda w: np.abs(w).mean() * sign(w), lambda w, g: g
    ),
    **{
        f'dorefa_weights, bits {b}': Case(
            partial(quantizers.dorefa_weights, bits=b), partial(dorefa_weights, b), dorefa_weights_gradient, 4
        )
        for b in (2, 3, 8)
    },
    **{
        f'dorefa_activations, bits {b}': Case(
            partial(quantizers.dorefa_activations, bits=b),
            partial(dorefa_activations, b),
            lambda x, g: np.where((x >= 0) & (x <= 1), g, 0),
            4,
        )
        for b in (1, 2, 3, 8)
    },
}
every_case = pytest.mark.parametrize('case', CASES.values(), ids=CASES)


def value_and_gradient(quantize, x, g):
    y, vjp = jax.vjp(quantize, x)
    return y, vjp(g)[0]


def assert_within(actual, expected, eps, dtype='float32'):
    tolerance = eps * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance)


def special_weights(shape, seed=0):
    """Float32 weights with a filter of zeros and one that holds every edge: +-1, its neighbors, +-0, beyond."""
    w = 0.7 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    edges = np.array([1, -1, 0, -0.0, 1.5, -1.5, np.nextafter(1, 2, dtype='f'), np.nextafter(-1, 0, dtype='f')], 'f')
    filters = w.reshape(-1, shape[-1])
    filters[:, 0], filters[: len(edges), 1] = 0, edges[: len(filters)]
    return filters.reshape(shape)


weight_shapes = pytest.mark.parametrize('shape', [(3, 3, 5, 7), (20, 6)], ids=['HWIO', 'dense'])


@every_case
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_value_and_gradient_at_the_points(case, dtype):
    x, g = jnp.asarray(POINTS, dtype), jnp.asarray(INCOMING, dtype)
    y, dx = value_and_gradient(case.quantize, x, g)
    chex.assert_type([y, dx], jnp.dtype(dtype))
    chex.assert_equal_shape([x, y, dx])
    chex.assert_trees_all_equal(case.quantize(x), y)
    expected = case.value(POINTS)
    known = ~np.isnan(expected)
    assert_within(y[known], expected[known], case.eps, dtype)
    assert_within(dx, case.gradient(POINTS, INCOMING), case.eps, dtype)


@pytest.mark.parametrize('case', [case for case in CASES if case != 'stochastic_sign_ste'])
@weight_shapes
def test_value_and_gradient_on_weights(case, shape):
    case = CASES[case]
    w = special_weights(shape)
    g = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    y, dw = jax.jit(partial(value_and_gradient, case.quantize))(w, g)
    # At most 45 terms a filter of order 1, each rounded: 8 eps is above log2(45) roundings of a sum of that order.
    assert_within(y, case.value(w.astype(np.float64)), 8)
    assert_within(dw, case.gradient(w.astype(np.float64), g.astype(np.float64)), 8)


@every_case
def test_jit_and_vmap_equal_eager(case):
    run = partial(value_and_gradient, case.quantize)
    stack = jnp.asarray(np.stack([POINTS, 0.5 * POINTS[::-1], special_weights((4, 2), 2)]), jnp.float32)
    gs = jnp.asarray(np.stack([INCOMING, INCOMING[::-1], 1 - INCOMING]), jnp.float32)
    eager = [run(x, g) for x, g in zip(stack, gs, strict=True)]
    ys, dxs = (np.stack(parts) for parts in zip(*eager, strict=True))
    jitted = jax.jit(run)
    for (y, dx), (y_jit, dx_jit) in zip(eager, map(jitted, stack, gs), strict=True):
        assert_within(y_jit, y, case.eps)
        assert_within(dx_jit, dx, 4)  # a gradient's sum over the filter may be taken in another order
    y_vmap, dx_vmap = jax.vmap(run)(stack, gs)
    assert_within(y_vmap, ys, case.eps)
    assert_within(dx_vmap, dxs, 4)


@every_case
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_nan_stays_nan(case, dtype):
    x = POINTS.copy()
    x[2, 1] = np.nan
    assert jnp.isnan(case.quantize(jnp.asarray(x, dtype))[2, 1])


@every_case
@pytest.mark.parametrize('dtype', ['int32', 'bool'])
def test_other_dtypes_raise(case, dtype):
    with pytest.raises(TypeError, match=f'got dtype {dtype}, expected a floating dtype'):
        case.quantize(jnp.ones((4, 2), dtype))


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, 16, elements=st.floats(width=32, allow_subnormal=False)))
def test_sign_of_any_float(x):
    expected = np.where(np.isnan(x), x, sign(x))
    np.testing.assert_array_equal(quantizers.sign(x), expected)
    y, dx = value_and_gradient(quantizers.sign_ste, jnp.asarray(x), jnp.ones(16))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, inside(x))


def test_subnormal_signs_agree_in_every_compilation():
    """A processor that flushes subnormal numbers takes them for 0; the compiler, folding constants, does not."""
    x = np.array([-1e-40, 1e-40, -1e-45, 1e-45], np.float32)
    eager = np.asarray(quantizers.sign(x))
    np.testing.assert_array_equal(jax.jit(quantizers.sign)(x), eager)
    np.testing.assert_array_equal(jax.jit(lambda: quantizers.sign(x))(), eager)
    np.testing.assert_array_equal(bits.unpack(bits.pack(x), 4), eager)
    np.testing.assert_array_equal(jax.jit(lambda: bits.unpack(bits.pack(x), 4))(), eager)


# alpha


@weight_shapes
def test_alpha(shape):
    w = special_weights(shape)
    n, g = w[..., 0].size, np.arange(1.0, shape[-1] + 1)
    y, dw = jax.jit(partial(value_and_gradient, quantizers.alpha))(w, g.astype(np.float32))
    chex.assert_shape(y, shape[-1:])
    # A pairwise sum of n <= 45 terms: log2(n) + 1 roundings, below 4 eps.
    assert_within(y, alpha(w.astype(np.float64)), 4)
    assert y[0] == 0
    assert_within(dw, sign(w) / n * g, 4)


def test_layer_alpha_is_one_number_for_every_filter():
    w = special_weights((3, 3, 5, 7))
    y = quantizers.layer_alpha(w)
    chex.assert_shape(y, (7,))
    assert_within(y, np.full(7, np.abs(w.astype(np.float64)).mean()), 4)
    assert len(set(np.asarray(y))) == 1


def test_alpha_of_bfloat16_is_summed_in_float32():
    w = np.full((4096, 1), 0.375)
    y = quantizers.alpha(jnp.asarray(w, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert y[0] == 0.375  # a bfloat16 sum stops growing near 256 times its terms


SCALES = {
    'alpha': quantizers.alpha,
    'layer_alpha': quantizers.layer_alpha,
    'scaled_sign_ste': quantizers.scaled_sign_ste,
    'layer_scaled_sign': quantizers.layer_scaled_sign,
    'input_scale': lambda w: quantizers.input_scale(w, 3, 1, 'SAME'),
}


@pytest.mark.parametrize('scale', SCALES.values(), ids=SCALES)
def test_scales_are_the_same_bits_in_every_compilation(scale):
    w = special_weights((3, 3, 5, 7))
    eager = scale(jnp.asarray(w))
    chex.assert_trees_all_equal(jax.jit(scale)(w), eager)
    chex.assert_trees_all_equal(jax.jit(lambda: scale(jnp.asarray(w)))(), eager)


@pytest.mark.parametrize(
    ('quantize', 'shape'),
    [(quantizers.alpha, (3,)), (quantizers.scaled_sign_ste, (3,))],
    ids=['alpha', 'scaled_sign_ste'],
)
def test_rank_too_small_raises(quantize, shape):
    with pytest.raises(ValueError, match='expected rank >= 2'):
        quantize(jnp.ones(shape))


def test_one_scale_for_a_scalar_raises():
    for quantize in (quantizers.layer_alpha, quantizers.layer_scaled_sign):
        with pytest.raises(ValueError, match='layer_alpha: got a scalar, expected rank >= 1'):
            quantize(jnp.ones(()))


def test_alpha_of_integers_raises():
    for scale in (quantizers.alpha, quantizers.layer_alpha):
        with pytest.raises(TypeError, match='got dtype int32, expected a floating dtype'):
            scale(jnp.ones((3, 2), jnp.int32))


# Stochastic sign, DoReFa


def assert_frequencies(x, p):
    """Draws are +1 as often as p says, each within 5 standard deviations: a fair coin fails once in 1.7 million keys."""
    draws = 20_000
    y = quantizers.stochastic_sign_ste(jnp.broadcast_to(jnp.asarray(x, jnp.float32), (draws, len(x))), KEY)
    assert set(np.unique(y)) == {-1, 1}
    frequency = np.asarray(y == 1).mean(0)
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / draws)).all()  # exact where p is 0 or 1


def test_stochastic_sign_probabilities():
    x, p = [-2, -1, 0, 0.5, 0.75, 1, 2, -0.5], [0, 0, 0.5, 0.75, 0.875, 1, 1, 0.25]
    assert_frequencies(np.tile(x, 4), np.tile(p, 4))


def test_stochastic_sign_is_its_keys():
    x = jnp.zeros(64)
    first, second = jax.random.split(KEY)
    chex.assert_trees_all_equal(quantizers.stochastic_sign_ste(x, first), quantizers.stochastic_sign_ste(x, first))
    assert (quantizers.stochastic_sign_ste(x, first) != quantizers.stochastic_sign_ste(x, second)).any()


@pytest.mark.parametrize('bad', [0, 17, -1, 2.5, True, '2', None])
@pytest.mark.parametrize('quantize', [quantizers.dorefa_weights, quantizers.dorefa_activations])
def test_bad_number_of_bits_raises(quantize, bad):
    with pytest.raises(ValueError, match='bits: got .*, expected an integer from 1 to 16'):
        quantize(jnp.ones((4, 2)), bad)


@pytest.mark.parametrize('quantize', [quantizers.sign_ste, quantizers.sign_approx, quantizers.sign_swish])
def test_python_numbers_have_gradients(quantize):
    assert jax.grad(quantize)(0.5) == jax.grad(quantize)(jnp.float32(0.5))


def test_dorefa_weights_of_zeros():
    y, dx = value_and_gradient(partial(quantizers.dorefa_weights, bits=2), jnp.zeros((4, 2)), jnp.ones((4, 2)))
    assert_within(y, np.full((4, 2), 1 / 3), 4)  # round(3 / 2) is 2, halves to even
    chex.assert_trees_all_equal(dx, jnp.ones((4, 2)))


# Input scale K


def explicit_pads(extents, size, strides, padding):
    """((top, bottom), (left, right)); SAME gives ceil(extent / stride) outputs, the odd zero at the end."""
    if padding == 'VALID':
        return ((0, 0), (0, 0))
    if padding != 'SAME':
        return padding
    totals = [max((-(-e // s) - 1) * s + k - e, 0) for e, k, s in zip(extents, size, strides, strict=True)]
    return tuple((t // 2, t - t // 2) for t in totals)


def input_scale_and_gradient(x, size, strides, padding, g_of):
    """K by loops, float64, and its gradient for an incoming gradient g_of(shape of K)."""
    (top, bottom), (left, right) = explicit_pads(x.shape[1:3], size, strides, padding)
    a = np.pad(np.abs(x).mean(-1), ((0, 0), (top, bottom), (left, right)))
    rows = (a.shape[1] - size[0]) // strides[0] + 1
    columns = (a.shape[2] - size[1]) // strides[1] + 1
    k, da = np.zeros((len(x), rows, columns, 1)), np.zeros_like(a)
    g = g_of(k.shape)
    for i in range(rows):
        for j in range(columns):
            window = np.s_[:, i * strides[0] : i * strides[0] + size[0], j * strides[1] : j * strides[1] + size[1]]
            k[:, i, j, 0] = a[window].sum((1, 2)) / (size[0] * size[1])
            da[window] += g[:, i, j, :, None] / (size[0] * size[1])
    da = da[:, top : top + x.shape[1], left : left + x.shape[2], None]
    return k, da * np.sign(x) / x.shape[-1]


@pytest.mark.parametrize(
    ('shape', 'size', 'strides', 'padding'),
    [
        ((1, 7, 9, 3), (3, 3), (2, 2), 'SAME'),
        ((1, 7, 8, 3), (2, 3), (3, 2), 'SAME'),
        ((1, 5, 7, 1), (3, 2), (2, 1), 'VALID'),
        ((1, 9, 7, 5), (2, 3), (2, 2), ((1, 0), (2, 1))),
        ((3, 2, 3, 2), (3, 4), (1, 1), ((2, 1), (2, 2))),
        ((1, 4, 5, 6), (1, 1), (1, 1), 'VALID'),
    ],
)
def test_input_scale(shape, size, strides, padding):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    g_of = lambda shape: np.linspace(-1, 1, np.prod(shape)).reshape(shape)
    k, dx = input_scale_and_gradient(x.astype(np.float64), size, strides, padding, g_of)
    run = partial(quantizers.input_scale, kernel_size=size, strides=strides, padding=padding)
    y, dy = jax.jit(partial(value_and_gradient, run))(x, jnp.asarray(g_of(k.shape), jnp.float32))
    chex.assert_shape(y, k.shape)
    # Two means of at most 25 numbers of order 1, and their gradients: below 8 roundings each.
    assert_within(y, k, 8)
    assert_within(dy, dx, 8)


def test_input_scale_takes_integers_for_square_windows_and_keeps_bfloat16():
    x = jnp.asarray(special_weights((2, 7, 9, 4)))
    same = quantizers.input_scale(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    chex.assert_trees_all_equal(quantizers.input_scale(x, 3, 2, [[1, 1], [1, 1]]), same)
    narrow = quantizers.input_scale(x.astype(jnp.bfloat16), 3, 2, ((1, 1), (1, 1)))
    assert narrow.dtype == jnp.bfloat16
    assert_within(narrow, np.asarray(same, np.float64), 2, jnp.bfloat16)  # input and output are rounded


@pytest.mark.parametrize(
    ('x', 'arguments', 'error', 'message'),
    [
        (jnp.ones((1, 4, 4, 2), jnp.int32), (3,), TypeError, 'got dtype int32, expected a floating dtype'),
        (jnp.ones((4, 4, 2)), (3,), ValueError, 'expected rank 4'),
        (jnp.ones((1, 4, 4, 2)), (0,), ValueError, 'window size: got 0'),
        (jnp.ones((1, 4, 4, 2)), ((3, 3, 3),), ValueError, 'window size: got'),
        (jnp.ones((1, 4, 4, 2)), (2.5,), ValueError, 'window size: got 2.5'),
        (jnp.ones((1, 4, 4, 2)), (3, 0), ValueError, 'strides: got 0'),
        (jnp.ones((1, 4, 4, 2)), (3, 1, 'same'), ValueError, "padding: got 'same'"),
        (jnp.ones((1, 4, 4, 2)), (3, 1, ((1, 1),)), ValueError, 'padding: got'),
        (jnp.ones((1, 4, 4, 2)), (3, 1, ((-1, 1), (0, 0))), ValueError, 'padding: got'),
        (jnp.ones((1, 4, 4, 2)), (3, 1, 1), ValueError, 'padding: got 1'),
        (jnp.ones((1, 4, 4, 2)), (5,), ValueError, 'smaller than the window'),
    ],
)
def test_input_scale_errors(x, arguments, error, message):
    with pytest.raises(error, match=message):
        quantizers.input_scale(x, *arguments)


# Golden vectors (torch layouts). REFERENCE: output of jiecaoyu/XNOR-Net-PyTorch; DERIVED: closed forms in float64.


def golden(name):
    """One dict a case: the arrays stored as <case>/<array>."""
    cases = {}
    with np.load(Path(__file__).parents[1] / 'golden' / f'{name}.npz') as file:
        for key in file.files:
            case, _, array = key.rpartition('/')
            cases.setdefault(case, {})[array] = file[key]
    return cases


def filters_last(w):
    """OIHW -> HWIO, (out, in) -> (in, out)."""
    return np.transpose(w, (2, 3, 1, 0) if w.ndim == 4 else None)


FORWARD, GRADIENT, EQ11 = golden('binop_forward'), golden('binop_gradient'), golden('derived_eq11')
BINACTIVE, BC_BNN = golden('binactive'), golden('derived_bc_bnn')['']


@pytest.mark.parametrize('case', FORWARD)
def test_golden_alpha_and_scaled_sign(case):
    """REFERENCE. Its sign(0) is 0; ours is +1, so exactly where W is 0 (and alpha is not) ours is alpha."""
    w, expected = (filters_last(FORWARD[case][name]) for name in ('w_latent', 'w_bin'))
    a = FORWARD[case]['alpha']
    # The reference's w_bin is float32, of a sum in an order of its own: 8 eps of at most 257 terms of one sign.
    scale, y = map(np.asarray, jax.jit(lambda w: (quantizers.alpha(w), quantizers.scaled_sign_ste(w)))(w))
    assert_within(scale, a, 8)
    assert_within(y[w != 0], expected[w != 0], 8)
    np.testing.assert_array_equal(y != 0, np.broadcast_to(a != 0, w.shape))
    np.testing.assert_array_equal(expected != 0, w != 0)
    assert_within(y[w == 0], np.broadcast_to(a, w.shape)[w == 0], 8)


FORMULAS = {
    'f_ste_clip': quantizers.sign_ste,
    'f_paper': quantizers.scaled_sign_paper,
    'f_theano': quantizers.scaled_sign_ste_const_alpha,
    'f_exact': quantizers.scaled_sign_ste,
}


@jax.jit
def gradients_of_all(w, g):
    return {formula: value_and_gradient(quantize, w, g)[1] for formula, quantize in FORMULAS.items()}


@pytest.mark.parametrize('case', GRADIENT)
def test_golden_gradients(case):
    """DERIVED formulas and REFERENCE grad_w_*.

    In f_exact and grad_w_* sign(0) is 0; ours is +1, so exactly the filters that hold a 0 differ. grad_w_* are
    n (1 - 1/C) times the exact gradient, C the input channels, ImageNet's 1e9 times more.
    """
    arrays = {name: filters_last(array) for name, array in GRADIENT[case].items()}
    w, g = arrays['w_latent'], arrays['grad_wtilde']
    ours = {formula: np.asarray(dw) for formula, dw in gradients_of_all(w, g).items()}

    def assert_gradients(actual, expected):
        # Float32 sums of at most 257 terms of either sign: 1e-6 of the largest gradient is about 8 eps.
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())

    for formula in ('f_ste_clip', 'f_paper', 'f_theano'):
        assert_gradients(ours[formula], arrays[formula])

    # Through alpha, sign(0) = +1 adds the zeros' own gradients to the sum and gives the zeros a share of it.
    axes, n, s, zero = tuple(range(w.ndim - 1)), w[..., 0].size, sign(w), w == 0
    with_zeros = s * (g * s).sum(axes) / n
    without_zeros = np.where(zero, 0, s * (g * s * ~zero).sum(axes) / n)
    assert_gradients(ours['f_exact'], arrays['f_exact'] + with_zeros - without_zeros)
    no_zero = ~zero.any(axes)
    difference = np.abs(ours['f_exact'] - arrays['f_exact']).max(axes)
    np.testing.assert_array_equal(difference <= 1e-6 * np.abs(arrays['f_exact']).max(), no_zero)

    factors = {'grad_w_imagenet': 1e9, 'grad_w_mnist': 1, 'grad_w_cifar': 1}
    for name in factors.keys() & arrays.keys():  # the reference has no dense layers on CIFAR
        factor = factors[name] * n * (1 - 1 / w.shape[-2])
        assert_gradients(ours['f_exact'][..., no_zero], arrays[name][..., no_zero] / factor)


@pytest.mark.parametrize('case', ['imagenet', 'mnist', 'cifar', '2d'])
def test_golden_binactive(case):
    """REFERENCE. Its sign(0) is 0 and its mask is |x| < 1: exactly there ours are +1 and g, elsewhere equal."""
    inputs = BINACTIVE['']
    suffix = '2d' if case == '2d' else ''
    x, g = inputs['x' + suffix], inputs['gy' + suffix]
    y_golden, dx_golden = (inputs['y2d'], inputs['dx2d']) if suffix else (BINACTIVE[case]['y'], BINACTIVE[case]['dx'])
    y, dx = map(np.asarray, value_and_gradient(quantizers.sign_ste, jnp.asarray(x), jnp.asarray(g)))
    zero, edge = x == 0, np.abs(x) == 1
    assert suffix or (zero.any() and edge.any())
    np.testing.assert_array_equal(y, np.where(zero, 1, y_golden))
    np.testing.assert_array_equal(y != y_golden, zero)
    np.testing.assert_array_equal(dx, np.where(edge, g, dx_golden))
    np.testing.assert_array_equal(dx != dx_golden, edge)


def test_golden_binactive_mean_is_the_input_scale_of_a_pixel():
    """REFERENCE: CIFAR's mean over channels of |x|."""
    x = np.moveaxis(BINACTIVE['']['x'], 1, -1)
    # A float32 mean of 6 numbers of order 1, on both sides.
    assert_within(quantizers.input_scale(x, 1), np.moveaxis(BINACTIVE['cifar']['mean'], 1, -1), 4)


def test_golden_binaryconnect():
    """DERIVED: BinaryConnect's probabilities and deterministic signs."""
    w = BC_BNN['w'].astype(np.float32)
    assert_frequencies(w, BC_BNN['p_plus1'])
    np.testing.assert_array_equal(quantizers.sign(w), BC_BNN['w_det_paper'])


def test_golden_binarynet():
    """DERIVED: the inclusive gradient is ours; Torch's exclusive one differs exactly at |x| = 1."""
    x, g = (jnp.asarray(BC_BNN[name], jnp.float32) for name in ('x', 'gy'))
    y, dx = value_and_gradient(quantizers.sign_ste, x, g)
    np.testing.assert_array_equal(y, BC_BNN['y'])
    np.testing.assert_array_equal(dx, BC_BNN['dx_theano_incl'].astype(np.float32))
    np.testing.assert_array_equal(dx != BC_BNN['dx_torch_excl'].astype(np.float32), jnp.abs(x) == 1)


@pytest.mark.parametrize('case', EQ11)
def test_golden_eq11(case):
    """DERIVED: A, K and alpha, and their product with the exact convolution, XNOR-Net's eq. 11."""
    arrays = EQ11[case]
    image = np.transpose(arrays['I'], (0, 2, 3, 1)).astype(np.float32)
    w = filters_last(arrays['W']).astype(np.float32)
    pad, stride = int(arrays['pad']), int(arrays['stride'])
    padding = ((pad, pad), (pad, pad))

    @jax.jit
    def scales(image, w):
        k = quantizers.input_scale(image, w.shape[:2], stride, padding)
        return quantizers.input_scale(image, 1), k, quantizers.alpha(w)

    a, k, scale = scales(image, w)
    # Inputs rounded to float32, then means of at most 576 numbers below 4, pairwise: 8 eps.
    assert_within(jnp.moveaxis(a, -1, 1), arrays['A'], 8)
    assert_within(jnp.moveaxis(k, -1, 1), arrays['K'], 8)
    assert_within(scale, arrays['alpha'], 8)
    y = np.moveaxis(arrays['conv_zero_pad'], 1, -1) * np.asarray(k, np.float64) * np.asarray(scale, np.float64)
    # Relative error of K plus that of alpha; the product itself is taken in float64.
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), arrays['y_eq11'], rtol=2e-6)
    np.testing.assert_array_equal(quantizers.sign(image), np.transpose(arrays['signI'], (0, 2, 3, 1)))
    np.testing.assert_array_equal(quantizers.sign(w), filters_last(arrays['signW']))
