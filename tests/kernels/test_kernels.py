"""Packed products: every backend equals integer arithmetic in NumPy exactly, at every border, and says what is wrong."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.kernels import (
    BACKENDS,
    Backend,
    packed_conv2d,
    packed_conv2d_signs,
    packed_matmul,
    packed_signs,
    signed_conv2d,
    signed_matmul,
)
from bnn_jax.kernels import backend as backends
from bnn_jax.kernels.from_matmul import FromMatmul
from bnn_jax.ops.bits import words_for

DATA = Path(__file__).parents[1] / 'golden'
OWN = {name: kernel for name, kernel in BACKENDS.items() if not isinstance(kernel, FromMatmul)}
"""Backends with convolutions of their own; the others share those of FromMatmul."""


def plain(x, w, k):
    """The product that a FromMatmul is made of, in two lines."""
    differing = jax.lax.population_count(x[:, :, None] ^ w[:, None])
    return k - 2 * jnp.sum(differing, axis=0, dtype=jnp.int32)


every_backend = pytest.mark.parametrize('backend', [*BACKENDS, 'auto'])
every_convolution = pytest.mark.parametrize(
    'backend', [*OWN.values(), FromMatmul(plain)], ids=[*OWN, 'a matrix product alone']
)


# The definition and interpreted Pallas kernels are large programs of integers that nobody runs for speed.
as_shipped = [
    name if name == 'reference' or name.startswith('pallas') else pytest.param(name, marks=pytest.mark.as_shipped)
    for name in OWN
]


def random_signs(*shape, seed=0):
    return np.random.default_rng(seed).choice(np.int32([-1, 1]), shape)


def packed(signs, axis=-1):
    """The convention, by NumPy: 32 signs a word, least significant bit first, a set bit for -1, tail bits 0."""
    bits = np.moveaxis(signs, axis, -1) < 0
    tail = [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 32)]
    octets = np.packbits(np.pad(bits, tail), axis=-1, bitorder='little')
    return np.moveaxis(np.ascontiguousarray(octets).view('<u4').astype(np.uint32), -1, axis)


def explicit_pads(extents, size, strides, padding):
    """((top, bottom), (left, right)) of a window from its first to its last tap; SAME gives ceil(extent / stride) outputs,
    the odd pixel at the end."""
    if padding == 'VALID':
        return ((0, 0), (0, 0))
    if padding != 'SAME':
        return padding
    totals = [max((-(-e // s) - 1) * s + k - e, 0) for e, k, s in zip(extents, size, strides, strict=True)]
    return tuple((t // 2, t - t // 2) for t in totals)


def convolved(x, w, strides, padding, pad_value, dilation=(1, 1), groups=1):
    """Convolution in integers: (N, H, W, C), (kh, kw, C / groups, out) -> (N, H', W', out)."""
    if groups > 1:
        parts = zip(np.split(x, groups, axis=-1), np.split(w, groups, axis=-1), strict=True)
        return np.concatenate([convolved(a, b, strides, padding, pad_value, dilation) for a, b in parts], axis=-1)
    size = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[:2], strict=True)]
    pads = explicit_pads(x.shape[1:3], size, strides, padding)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=pad_value)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))[:, :: strides[0], :: strides[1]]
    return np.einsum('nijckl,klcf->nijf', windows[..., :: dilation[0], :: dilation[1]], w)


def assert_exact(y, expected, case=''):
    assert y.dtype == jnp.int32
    np.testing.assert_array_equal(y, expected, err_msg=case)


def together(calls, operands):
    """The results of all functions on their operands, compiled as one program to save time."""
    return jax.jit(lambda operands: [call(*each) for call, each in zip(calls, operands, strict=True)])(operands)


# packed_matmul


@every_backend
@pytest.mark.parametrize('k', [1, 33])
def test_matmul(backend, k):
    x, w = random_signs(5, k), random_signs(3, k, seed=1)
    assert_exact(packed_matmul(packed(x), packed(w), k, backend=backend), x @ w.T)


@every_backend
@pytest.mark.parametrize(('m', 'k', 'n'), [(300, 2240, 1), (65, 1100, 257)])
def test_matmul_tiles(backend, m, k, n):
    """Rows, columns and words that leave a remainder in the tiles and blocks of every backend; one row, one output."""
    x, w = random_signs(m, k), random_signs(n, k, seed=1)
    assert_exact(packed_matmul(packed(x), packed(w), k, backend=backend), x @ w.T)


@every_backend
def test_matmul_beyond_16_bits(backend):
    """Sums of more than 65536 terms, both extremes among them."""
    k = 70_001
    x, w = random_signs(20, k), random_signs(2, k, seed=1)
    x[0], x[1], w[0] = 1, -1, 1
    expected = x @ w.T
    assert {k, -k} <= set(expected.ravel())
    assert_exact(packed_matmul(packed(x), packed(w), k, backend=backend), expected)


@pytest.mark.parametrize('backend', as_shipped)
def test_matmul_golden(backend):
    """DERIVED dot products. The stored words have set bit = +1: inverting the n true bits gives ours."""
    sizes = (27, 32, 64, 96, 100, 2400)
    with np.load(DATA / 'derived_popcount.npz') as file:
        operands = [[file[f'n{n}/{name}'] ^ packed(np.full(n, -1)) for name in ('a_words', 'b_words')] for n in sizes]
        dots = [file[f'n{n}/dot'] for n in sizes]
    products = together([partial(packed_matmul, k=n, backend=backend) for n in sizes], operands)
    for n, y, dot in zip(sizes, products, dots, strict=True):
        assert_exact(y, dot, f'n = {n}')


@every_backend
def test_matmul_under_jit_and_vmap(backend):
    x, w = random_signs(4, 5, 100), random_signs(3, 100, seed=1)
    x_words, w_words = packed(x), packed(w)
    matmul = partial(packed_matmul, k=100, backend=backend)
    assert_exact(jax.jit(jax.vmap(matmul, in_axes=(0, None)))(x_words, w_words), x @ w.T)
    if backend in OWN:
        assert_exact(jax.jit(lambda: matmul(x_words[0], w_words))(), x[0] @ w.T)


# packed_conv2d

# Window, strides, padding, dilation, (N, H, W), pad values; the golden vectors below add 3x3 and 5x5 with all three.
GEOMETRIES = {
    '1x1': ((1, 1), (1, 1), 'VALID', (1, 1), (1, 4, 5), [0]),
    '1x1, stride 2': ((1, 1), (2, 2), 'SAME', (1, 1), (1, 5, 7), [0]),
    '3x3 SAME, batch 3': ((3, 3), (1, 1), 'SAME', (1, 1), (3, 4, 5), [0]),
    '3x3 SAME, stride 2, odd image': ((3, 3), (2, 2), 'SAME', (1, 1), (1, 7, 9), [0, -1]),
    '3x3 SAME, stride 2, even image': ((3, 3), (2, 2), 'SAME', (1, 1), (1, 6, 8), [0]),
    '3x2, strides (2, 3), asymmetric': ((3, 2), (2, 3), ((0, 1), (2, 0)), (1, 1), (3, 7, 8), [0, 1, -1]),
    '2x3, padding wider than the window': ((2, 3), (1, 2), ((3, 0), (0, 4)), (1, 1), (1, 3, 4), [0, 1, -1]),
    '3x4, larger than the image': ((3, 4), (1, 1), ((1, 1), (2, 1)), (1, 1), (1, 2, 3), [0, 1]),
    '3x3 dilated by 2, SAME': ((3, 3), (1, 1), 'SAME', (2, 2), (2, 5, 7), [0, 1, -1]),
    '3x3 dilated by (1, 3), stride 2': ((3, 3), (2, 2), ((1, 1), (3, 3)), (1, 3), (1, 6, 9), [0, -1]),
    '2x3 dilated by (3, 1), unpadded': ((2, 3), (1, 1), 'VALID', (3, 1), (2, 6, 5), [0]),
    '3x2 dilated by (2, 4), wider than the image': ((3, 2), (1, 3), ((4, 3), (3, 4)), (2, 4), (1, 1, 2), [0, 1, -1]),
}


def assert_convolutions(cases, backend):
    """cases: name -> images (N, H, W), channels, window, filters, and options that differ from the defaults."""
    calls, operands, expected = [], [], []
    for images, channels, size, filters, options in cases.values():
        x, w = random_signs(*images, channels), random_signs(*size, channels, filters, seed=1)
        calls.append(partial(packed_conv2d, channels=channels, **options, backend=backend))
        operands.append((packed(x), packed(w, 2)))
        expected.append(convolved(x, w, **options))
    for name, y, integers in zip(cases, together(calls, operands), expected, strict=True):
        assert_exact(y, integers, name)


@every_convolution
def test_conv2d_geometries(backend):
    assert_convolutions(
        {
            f'{name}, pad value {pad_value}': (
                images,
                33,
                size,
                4,
                {'strides': strides, 'padding': padding, 'pad_value': pad_value, 'dilation': dilation},
            )
            for name, (size, strides, padding, dilation, images, pad_values) in GEOMETRIES.items()
            for pad_value in pad_values
        },
        backend,
    )


@every_convolution
def test_conv2d_channels(backend):
    """Padding -1 fills words up to the tail; padding 0 is corrected by sums of weights."""
    cases = ((1, 0), (1, -1), (3, -1), (31, -1), (32, -1), (33, 1), (64, -1), (100, 0), (100, -1))
    assert_convolutions(
        {
            f'{channels} channels, pad value {pad_value}': (
                (2, 4, 3),
                channels,
                (2, 2),
                5,
                {'strides': (1, 1), 'padding': 'SAME', 'pad_value': pad_value},
            )
            for channels, pad_value in cases
        },
        backend,
    )


# Groups

# Groups, channels, filters, window, strides, padding, dilation, (N, H, W), pad values: groups that share words and some that
# do not, narrow ones (fewer than 32 channels each) with as many filters as channels and with more, images of odd sizes.
GROUPS = {
    'two, of whole words': (2, 128, 64, (3, 3), (1, 1), 'SAME', (1, 1), (1, 5, 6), [0]),
    'two, of 40 channels': (2, 80, 40, (3, 3), (1, 1), 'SAME', (1, 1), (2, 4, 5), [0, 1, -1]),
    'two, dilated, stride 2': (2, 132, 66, (3, 2), (2, 1), 'SAME', (1, 2), (1, 7, 5), [0]),
    'three, of 30 channels': (3, 90, 45, (3, 3), (2, 1), ((2, 0), (1, 3)), (1, 1), (1, 7, 5), [0, -1]),
    'narrow, of 4 channels': (8, 32, 32, (3, 3), (1, 1), 'SAME', (1, 1), (1, 5, 6), [0]),
    'narrow, of 2 channels to 3 filters': (20, 40, 60, (2, 3), (1, 2), 'SAME', (2, 1), (1, 4, 7), [-1]),
    'depthwise': (64, 64, 64, (3, 3), (1, 1), 'SAME', (1, 1), (1, 5, 7), [0, 1]),
    'depthwise, 45 channels, batch 2': (45, 45, 45, (3, 3), (1, 1), 'SAME', (1, 1), (2, 4, 5), [0, -1]),
    'depthwise, stride 2, odd image': (33, 33, 33, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 7, 9), [0]),
    'depthwise, dilated': (40, 40, 40, (3, 3), (1, 2), ((2, 2), (3, 3)), (2, 3), (1, 5, 8), [0]),
    'depthwise, 5x4, padding wider than the image': (
        32,
        32,
        32,
        (5, 4),
        (3, 2),
        ((4, 4), (3, 5)),
        (1, 1),
        (1, 3, 2),
        [0, 1],
    ),
    'depthwise, two filters a channel': (35, 35, 70, (3, 3), (1, 1), 'SAME', (1, 1), (1, 4, 4), [0]),
    'depthwise, one column': (37, 37, 37, (3, 1), (1, 1), 'VALID', (1, 1), (1, 6, 1), [0]),
}


def in_groups(name, pad_value):
    """Signs, weights, the convolution of both, and its options."""
    groups, channels, filters, size, strides, padding, dilation, images, _ = GROUPS[name]
    x, w = random_signs(*images, channels), random_signs(*size, channels // groups, filters, seed=1)
    options = {'strides': strides, 'padding': padding, 'dilation': dilation, 'pad_value': pad_value, 'groups': groups}
    return x, w, convolved(x, w, **options), options


def layouts(w, groups):
    """The words of weights along the input channels and, of narrow groups, along the filters; and how to say so."""
    yield packed(w, 2), {}
    if groups > 1 and w.shape[2] < 32:
        yield packed(w, 3), {'filters': w.shape[3]}


@every_convolution
def test_conv2d_in_groups(backend):
    """Integers, and their signs against thresholds, from both layouts of the weights."""
    cases, calls, operands = [], [], []
    for name, pad_value in ((name, value) for name, row in GROUPS.items() for value in row[-1]):
        x, w, expected, options = in_groups(name, pad_value)
        thresholds = np.int32(np.random.default_rng(2).integers(-4, 5, w.shape[3]))
        thresholds[:2] = np.iinfo(np.int32).min, np.iinfo(np.int32).max  # Never below the one, always below the other.
        flips = random_signs(w.shape[3], seed=3)
        signs = packed(np.where((expected < thresholds) ^ (flips < 0), -1, 1))
        for w_words, layout in layouts(w, options['groups']):
            shared = {'channels': x.shape[3], **options, **layout, 'backend': backend}
            calls += [partial(packed_conv2d, **shared), partial(packed_conv2d_signs, **shared)]
            operands += [(packed(x), w_words), (packed(x), w_words, thresholds, packed(flips))]
            cases.append((f'{name}, pad value {pad_value}, {layout}', expected, signs))
    found = together(calls, operands)
    for (name, expected, signs), y, words in zip(cases, found[::2], found[1::2], strict=True):
        assert_exact(y, expected, name)
        np.testing.assert_array_equal(words, signs, err_msg=name)


@pytest.mark.parametrize('backend', ['native', 'xla', 'auto'])
def test_signed_conv2d_in_groups(backend):
    """Integers, whose float32 sums are exact in any order."""
    cases, calls, operands = [], [], []
    for name in GROUPS:
        x, w, _, options = in_groups(name, GROUPS[name][-1][-1])
        x = np.random.default_rng(0).integers(-99, 100, x.shape)
        for w_words, layout in layouts(w, options['groups']):
            cases.append((f'{name}, {layout}', convolved(x, w, **options)))
            calls.append(partial(signed_conv2d, **options, **layout, backend=backend))
            operands.append((np.float32(x), w_words))
    found = together(calls, operands)
    for (name, expected), y in zip(cases, found, strict=True):
        np.testing.assert_array_equal(y, expected, err_msg=name)


@pytest.mark.parametrize('backend', ['reference', 'native', 'xla', 'dense'])
def test_groups_under_jit_and_vmap(backend):
    x, w = random_signs(3, 1, 4, 5, 40), random_signs(3, 3, 1, 40, seed=1)
    expected = np.stack([convolved(images, w, (1, 1), 'SAME', 0, groups=40) for images in x])
    for w_words, layout in layouts(w, 40):
        conv = partial(packed_conv2d, channels=40, padding='SAME', groups=40, **layout, backend=backend)
        assert_exact(jax.jit(conv)(packed(x[0]), w_words), expected[0])
        assert_exact(jax.vmap(conv, in_axes=(0, None))(packed(x), w_words), expected)


@pytest.mark.parametrize('backend', ['xla', 'dense', 'native'])
def test_a_depthwise_layer_is_few_equations_whatever_its_channels(backend):
    def equations(channels):
        words = jax.ShapeDtypeStruct((1, 8, 8, channels // 32), np.uint32)
        w_words = jax.ShapeDtypeStruct((3, 3, 1, channels // 32), np.uint32)
        conv = partial(packed_conv2d, channels=channels, groups=channels, filters=channels, backend=backend)
        text = str(jax.make_jaxpr(conv)(words, w_words))
        return text.count(' = ')

    assert equations(64) == equations(1024) < 250


GROUP_ERRORS = {
    'not a divisor': (64, {'groups': 3}, 'groups: got 3 of 64 channels and 64 filters, expected a divisor of both'),
    'zero': (64, {'groups': 0}, 'groups: got 0, expected a positive integer'),
    'words of all channels': (64, {'groups': 2}, 'w_words: got 2 words for 32 signs, expected 1'),
    'filters of one group': (64, {'filters': 64}, 'filters: got words along the filters for 64 channels in each of 1'),
    'words of the filters': (64, {'groups': 64, 'filters': 128}, 'w_words: got 64 words for 128 signs, expected 4'),
    'words of another axis': (64, {'groups': 64, 'filters': 2048}, r'expected \(kh, kw, 1, 64\) for words along'),
}


@pytest.mark.parametrize(('channels', 'options', 'message'), GROUP_ERRORS.values(), ids=GROUP_ERRORS)
def test_group_errors(channels, options, message):
    x_words, w_words = np.zeros((1, 4, 4, 2), np.uint32), np.zeros((3, 3, 2, 64), np.uint32)
    with pytest.raises(ValueError, match=message):
        packed_conv2d(x_words, w_words, channels, **options)


# A backend of one's own


class Counting(Backend):
    """A user's kernel: a matrix product, and nothing else."""

    def matmul(self, x_words, w_words, k):
        differing = jax.lax.population_count(x_words[:, None] ^ w_words[None])
        return k - 2 * jnp.sum(differing, axis=-1, dtype=jnp.int32)


@pytest.mark.parametrize('name', ['two, of 40 channels', 'depthwise, 45 channels, batch 2'])
def test_a_matrix_product_makes_a_backend(name):
    """Given by instance; everything else is made of it."""
    x, w, expected, options = in_groups(name, 0)
    thresholds, flip = np.zeros(w.shape[3], np.int32), np.zeros(words_for(w.shape[3]), np.uint32)
    calls, operands = [], []
    for w_words, layout in layouts(w, options['groups']):
        shared = {'channels': x.shape[3], **options, **layout, 'backend': Counting()}
        calls += [partial(packed_conv2d, **shared), partial(packed_conv2d_signs, **shared)]
        operands += [(packed(x), w_words), (packed(x), w_words, thresholds, flip)]
    found = together(calls, operands)
    for y, words in zip(found[::2], found[1::2], strict=True):
        assert_exact(y, expected)
        np.testing.assert_array_equal(words, packed(np.where(expected < 0, -1, 1)))


def test_a_matrix_product_makes_products_of_matrices():
    x, w = random_signs(5, 50), random_signs(3, 50, seed=1)
    assert_exact(packed_matmul(packed(x), packed(w), 50, backend=Counting()), x @ w.T)
    np.testing.assert_array_equal(signed_matmul(jnp.float32(x), packed(w), backend=Counting()), x @ w.T)
    np.testing.assert_array_equal(packed_signs(jnp.float32(x), backend=Counting()), packed(x))


def test_a_misspelled_method_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match=r'Fast.conv2d_sign: a backend has no such method.*did you mean conv2d_signs\?'):

        class Fast(Counting):
            def conv2d_sign(self):
                pass

    class Helped(Counting):
        def _helper(self):
            pass

    assert isinstance(Helped(), Backend)


def test_a_backend_without_a_matrix_product_says_so():
    class Nothing(Backend):
        pass

    with pytest.raises(NotImplementedError, match=r'Nothing has no method matmul\(x_words, w_words, k\), expected one'):
        packed_matmul(WORDS, WORDS, 33, backend=Nothing())


# Real numbers times packed signs: integers here, whose float32 sums are exact in any order.


@pytest.mark.parametrize('backend', ['native', 'xla', 'auto'])
@pytest.mark.parametrize('filters', [5, 70])
def test_signed_products(backend, filters, monkeypatch):
    """All filters at once, and tile by tile with filters left over."""
    monkeypatch.setattr(backends, 'TILE', 32 * 450)
    x = np.random.default_rng(0).integers(-99, 100, (2, 6, 5, 50))
    w = random_signs(3, 3, 50, filters, seed=1)
    plain = ('SAME', 0, (1, 1)), ('SAME', -1, (1, 1)), (((1, 0), (0, 2)), 1, (1, 1))
    calls, operands, expected = [], [], []
    for padding, pad_value, dilation in (*plain, ('SAME', 0, (2, 2)), (((2, 0), (0, 3)), -1, (1, 2))):
        options = {'strides': (2, 1), 'padding': padding, 'pad_value': pad_value, 'dilation': dilation}
        calls.append(partial(signed_conv2d, **options, backend=backend))
        operands.append((np.float32(x), packed(w, 2)))
        expected.append(convolved(x, w, **options))
    rows, w = x.reshape(2, -1)[:, :450], random_signs(filters, 450, seed=2)
    calls.append(partial(signed_matmul, backend=backend))
    operands.append((np.float32(rows), packed(w)))
    expected.append(rows @ w.T)
    for y, integers in zip(together(calls, operands), expected, strict=True):
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, integers)


def test_signed_products_never_unpack_all_weights():
    """The largest temporary arrays of the compiled function hold a tile: 4 MiB of 144 MiB."""
    x, w = jax.ShapeDtypeStruct((1, 9216), jnp.float32), jax.ShapeDtypeStruct((4096, 288), jnp.uint32)
    for backend in ('native', 'xla'):
        memory = jax.jit(partial(signed_matmul, backend=backend)).lower(x, w).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 4096 * 288 * 4 + 3 * 4 * backends.TILE


def test_signed_products_say_what_is_wrong():
    w = packed(random_signs(4, 40))
    with pytest.raises(TypeError, match='x: got dtype int32, expected real numbers'):
        signed_matmul(jnp.ones((2, 40), jnp.int32), w)
    with pytest.raises(ValueError, match='x: got shape .*, expected rank 2'):
        signed_matmul(jnp.ones((2, 1, 40)), w)
    with pytest.raises(ValueError, match='w_words: got 2 words for 70 signs, expected 3'):
        signed_matmul(jnp.ones((2, 70)), w)


with np.load(DATA / 'derived_eq11.npz') as file:
    EQ11 = dict(file)


@pytest.mark.parametrize('backend', as_shipped)
def test_conv2d_golden(backend):
    """DERIVED convolutions of signs with all three pad values (NCHW, OIHW)."""
    names, calls, operands = [], [], []
    for case in sorted({key.split('/')[0] for key in EQ11}):
        x, w = EQ11[f'{case}/signI'].transpose(0, 2, 3, 1), EQ11[f'{case}/signW'].transpose(2, 3, 1, 0)
        stride, pad = int(EQ11[f'{case}/stride']), int(EQ11[f'{case}/pad'])
        options = {'channels': x.shape[3], 'strides': stride, 'padding': ((pad, pad), (pad, pad)), 'backend': backend}
        for pad_value, name in ((0, 'zero'), (-1, 'minus1'), (1, 'plus1'))[: 3 if pad else 1]:
            names.append(f'{case}/conv_{name}_pad')
            calls.append(partial(packed_conv2d, pad_value=pad_value, **options))
            operands.append((packed(x), packed(w, 2)))
    for name, y in zip(names, together(calls, operands), strict=True):
        assert_exact(y, EQ11[name].transpose(0, 2, 3, 1), name)


@every_backend
def test_conv2d_under_jit_and_vmap(backend):
    x, w = random_signs(3, 2, 4, 5, 40), random_signs(2, 2, 40, 6, seed=1)
    x_words, w_words = packed(x), packed(w, 2)
    conv = partial(packed_conv2d, channels=40, padding='SAME', backend=backend)
    expected = np.stack([convolved(images, w, (1, 1), 'SAME', 0) for images in x])
    assert_exact(jax.jit(jax.vmap(conv, in_axes=(0, None)))(x_words, w_words), expected)
    if backend in OWN:
        assert_exact(jax.jit(lambda: conv(x_words[0], w_words))(), expected[0])


def test_conv2d_takes_one_stride_and_lists():
    x, w = random_signs(1, 5, 5, 3), random_signs(3, 3, 3, 2, seed=1)
    y = packed_conv2d(packed(x), packed(w, 2), 3, strides=[2, 2], padding=[[1, 0], [0, 1]])
    chex.assert_trees_all_equal(y, packed_conv2d(packed(x), packed(w, 2), 3, strides=2, padding=((1, 0), (0, 1))))
    assert_exact(y, convolved(x, w, (2, 2), ((1, 0), (0, 1)), 0))


@every_backend
def test_results_are_int32_where_64_bits_are_enabled(backend):
    x, w = random_signs(1, 3, 3, 3), random_signs(3, 3, 3, 2, seed=1)
    with jax.enable_x64(True):
        y = packed_conv2d(packed(x), packed(w, 2), 3, padding='SAME', backend=backend)
        assert_exact(y, convolved(x, w, (1, 1), 'SAME', 0))
        if backend in OWN:
            assert_exact(packed_matmul(packed(x[0, 0]), packed(w[0, 0].T), 3, backend=backend), x[0, 0] @ w[0, 0])


# Errors

WORDS = jnp.zeros((2, 2), jnp.uint32)
IMAGE, KERNEL = jnp.zeros((1, 4, 4, 2), jnp.uint32), jnp.zeros((3, 3, 2, 5), jnp.uint32)

MATMUL_ERRORS = {
    'dtype of x': (WORDS.astype(jnp.int32), WORDS, 33, {}, TypeError, 'x_words: got dtype int32, expected uint32'),
    'dtype of w': (WORDS, jnp.ones((2, 2)), 33, {}, TypeError, 'w_words: got dtype float32, expected uint32'),
    'rank of x': (WORDS[0], WORDS, 33, {}, ValueError, r'x_words: got shape \(2,\), expected rank 2'),
    'rank of w': (WORDS, WORDS[None], 33, {}, ValueError, r'w_words: got shape \(1, 2, 2\), expected rank 2'),
    'too few words of x': (WORDS[:, :1], WORDS, 33, {}, ValueError, 'x_words: got 1 words for 33 signs, expected 2'),
    'too many words of w': (WORDS[:, :1], WORDS, 32, {}, ValueError, 'w_words: got 2 words for 32 signs, expected 1'),
    'k 0': (WORDS[:, :0], WORDS[:, :0], 0, {}, ValueError, 'got 0 for the number of signs, expected at least 1'),
    'fractional k': (WORDS, WORDS, 33.0, {}, TypeError, 'got 33.0 for the number of signs, expected an integer'),
    'negative k': (WORDS, WORDS, -5, {}, ValueError, 'x_words: got -5 for the number of signs'),
    'backend': (WORDS, WORDS, 33, {'backend': 'cuda'}, ValueError, "backend: got 'cuda', expected one of 'auto', 'ref"),
}


@pytest.mark.parametrize(('x', 'w', 'k', 'options', 'error', 'message'), MATMUL_ERRORS.values(), ids=MATMUL_ERRORS)
def test_matmul_errors(x, w, k, options, error, message):
    with pytest.raises(error, match=message):
        packed_matmul(x, w, k, **options)


@pytest.mark.parametrize(
    ('call', 'x_shape', 'w_shape'),
    [(packed_matmul, (1, 2**19 + 1), (1, 2**19 + 1)), (packed_conv2d, (1, 1, 1, 2**19 + 1), (1, 1, 2**19 + 1, 1))],
)
def test_dense_refuses_sums_that_float32_cannot_hold(call, x_shape, w_shape):
    x, w = (jax.ShapeDtypeStruct(shape, jnp.uint32) for shape in (x_shape, w_shape))
    with pytest.raises(ValueError, match="backend 'dense': got 16777217 products to be added, expected at most 2"):
        jax.eval_shape(lambda x, w: call(x, w, 2**24 + 1, backend='dense'), x, w)


CONV_ERRORS = {
    'dtype of x': (IMAGE.astype(jnp.int32), KERNEL, 33, {}, TypeError, 'x_words: got dtype int32, expected uint32'),
    'dtype of w': (IMAGE, jnp.ones((3, 3, 2, 5)), 33, {}, TypeError, 'w_words: got dtype float32, expected uint32'),
    'rank of x': (IMAGE[0], KERNEL, 33, {}, ValueError, r'x_words: got shape \(4, 4, 2\), expected rank 4'),
    'rank of w': (IMAGE, KERNEL[0], 33, {}, ValueError, r'w_words: got shape \(3, 2, 5\), expected rank 4'),
    'words of x': (IMAGE[..., :1], KERNEL, 33, {}, ValueError, 'x_words: got 1 words for 33 signs, expected 2'),
    'words of w': (IMAGE, KERNEL[:, :, :1], 33, {}, ValueError, 'w_words: got 1 words for 33 signs, expected 2'),
    'channels': (IMAGE, KERNEL, 32, {}, ValueError, 'x_words: got 2 words for 32 signs, expected 1'),
    'pad value': (IMAGE, KERNEL, 33, {'pad_value': 2}, ValueError, r'pad_value: got 2, expected 0, \+1 or -1'),
    'padding name': (IMAGE, KERNEL, 33, {'padding': 'same'}, ValueError, "padding: got 'same', expected 'SAME', 'VALI"),
    'padding number': (IMAGE, KERNEL, 33, {'padding': 1}, ValueError, 'padding: got 1, expected'),
    'padding pairs': (IMAGE, KERNEL, 33, {'padding': ((1, 1),)}, ValueError, r'padding: got .*, expected \(\(top, bot'),
    'padding negative': (IMAGE, KERNEL, 33, {'padding': ((0, 0), (1, -1))}, ValueError, 'padding: got'),
    'strides 0': (IMAGE, KERNEL, 33, {'strides': 0}, ValueError, 'strides: got 0, expected one or two integers >= 1'),
    'three strides': (IMAGE, KERNEL, 33, {'strides': (1, 1, 1)}, ValueError, r'strides: got \(1, 1, 1\)'),
    'strides 1.5': (IMAGE, KERNEL, 33, {'strides': 1.5}, ValueError, 'strides: got 1.5'),
    'dilation 0': (IMAGE, KERNEL, 33, {'dilation': 0}, ValueError, 'dilation: got 0, expected one or two'),
    'dilated height': (IMAGE, KERNEL, 33, {'dilation': (2, 1)}, ValueError, 'height 4 .* smaller than'),
    'height': (IMAGE[:, :2], KERNEL, 33, {}, ValueError, 'image height 2 .* smaller than the window'),
    'width': (IMAGE[:, :, :1], KERNEL, 33, {'padding': ((1, 1), (1, 0))}, ValueError, 'image width 1 .* smaller than'),
    'backend': (IMAGE, KERNEL, 33, {'backend': 'XLA'}, ValueError, "backend: got 'XLA', expected one of 'auto'"),
    'dtype of tap sums': (
        IMAGE,
        KERNEL,
        33,
        {'tap_sums': np.ones((3, 3, 5), np.float32)},
        TypeError,
        'tap_sums: got dtype float32, expected int32',
    ),
    'shape of tap sums': (
        IMAGE,
        KERNEL,
        33,
        {'tap_sums': np.ones((3, 3, 7), np.int32)},
        ValueError,
        r'tap_sums: got shape \(3, 3, 7\), expected \(3, 3, 5\)',
    ),
}


@pytest.mark.parametrize(('x', 'w', 'channels', 'options', 'error', 'message'), CONV_ERRORS.values(), ids=CONV_ERRORS)
def test_conv2d_errors(x, w, channels, options, error, message):
    with pytest.raises(error, match=message):
        packed_conv2d(x, w, channels, **options)


def test_auto_adds_more_products_than_float32_could():
    """2^24 + 40 equal signs: one more than the largest sum that XLA's own float product would have exactly."""
    k = 2**24 + 40
    words = np.zeros((1, words_for(k)), np.uint32)
    assert packed_matmul(words, words, k).item() == k
