"""The C++ kernels: every instruction set of this processor, fused signs, packing, threads, and what is said without them."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels import convolved, packed, random_signs, together

from bnn_jax.kernels import native, packed_conv2d, packed_conv2d_signs, packed_matmul, packed_signs
from bnn_jax.kernels.native import Native
from bnn_jax.native import build
from bnn_jax.ops.windows import Window

ROOT = Path(__file__).parents[2]
TINY = np.finfo(np.float32).tiny
SETS = native.instruction_sets()
every_set = pytest.mark.parametrize('instructions', SETS)


def test_the_library_is_that_of_these_sources():
    library = ctypes.CDLL(build.LIBRARY)
    library.bnn_sources.restype = ctypes.c_char_p
    assert library.bnn_sources().decode() == build.digest(), 'run `python -m bnn_jax.kernels`'
    assert native.missing() is None


def test_instruction_sets_are_those_of_the_processor():
    assert SETS[-1] == 'portable'
    if platform.machine() == 'x86_64' and Path('/proc/cpuinfo').exists():
        flags = set(Path('/proc/cpuinfo').read_text().split())
        wanted = {'avx512': {'avx512f', 'avx512bw', 'avx512_vpopcntdq'}, 'avx2': {'avx2'}}
        assert list(SETS[:-1]) == [name for name, needs in wanted.items() if needs <= flags]


# Sizes, strides, padding, dilation, (N, H, W), channels, filters: blocks of 32 filters, two together and one by itself, and
# tiles of 1 to 6 pixels, with and without a remainder; more words than a byte's counts, or 16 bits, can take; lines that are
# laid out in strips; windows partly and wholly outside, the image between two taps.
GEOMETRIES = [
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (2, 6, 7), 64, 48),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 7, 9), 70, 33),
    ((5, 4), (1, 3), ((2, 2), (0, 3)), (1, 1), (1, 5, 8), 33, 17),
    ((3, 3), (1, 1), 'SAME', (1, 1), (1, 4, 5), 513, 16),
    ((2, 2), (1, 1), ((3, 0), (0, 4)), (1, 1), (1, 2, 3), 1, 5),
    ((1, 1), (2, 1), 'VALID', (1, 1), (3, 3, 11), 100, 31),
    ((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), (2, 6, 9), 70, 33),
    ((3, 3), (1, 1), ((4, 4), (1, 1)), (4, 1), (1, 7, 8), 64, 48),
    ((3, 4), (2, 1), 'SAME', (1, 3), (1, 5, 12), 1100, 16),
    ((4, 3), (1, 2), ((7, 0), (0, 7)), (3, 5), (2, 3, 4), 33, 5),
    ((3, 2), (1, 3), ((4, 3), (3, 4)), (2, 4), (1, 1, 2), 40, 4),
    ((3, 3), (1, 1), 'SAME', (1, 1), (2, 3, 13), 64, 130),
    ((2, 3), (1, 2), ((0, 1), (3, 3)), (1, 1), (1, 2, 600), 128, 97),
    ((1, 3), (1, 1), ((0, 0), (5, 5)), (1, 2), (1, 1, 300), 160, 64),
    ((3, 3), (1, 1), 'SAME', (1, 1), (1, 3, 2), 9001, 5),
]


def thresholds_of(expected):
    """Thresholds among these integers, the signs by which they are flipped, and the words of the signs against them."""
    out = expected.shape[-1]
    thresholds, flips = np.int32(np.random.default_rng(2).integers(-9, 10, out)), random_signs(out, seed=3)
    thresholds[:2] = expected[..., 0].max() + 1, expected[..., 1].min()  # One that is never reached, and a tie.
    return thresholds, packed(flips), packed(np.where((expected < thresholds) ^ (flips < 0), -1, 1))


@pytest.mark.parametrize('pad_value', [0, 1, -1])
def test_convolutions_and_their_signs(pad_value):
    """The inputs are signs, and integers as floats, whose float32 sums are exact in any order."""
    calls, operands, wanted = [], [], []
    for size, strides, padding, dilation, images, channels, out in GEOMETRIES:
        x, w = random_signs(*images, channels), random_signs(*size, channels, out, seed=1)
        real = np.random.default_rng(0).integers(-99, 100, x.shape)
        expected = convolved(x, w, strides, padding, pad_value, dilation)
        thresholds, flip, words = thresholds_of(expected)
        window, x_words, w_words = Window.of(size, strides, padding, dilation), packed(x), packed(w, 2)
        static = (channels, window, pad_value, 1)
        for instructions in SETS:
            kernel, where = Native(instructions), f'{instructions}: {window}, {channels} channels'
            calls.append(lambda x, w, kernel=kernel, static=static: kernel.conv2d(x, w, None, *static))
            calls.append(
                lambda x, w, at, flip, kernel=kernel, static=static: kernel.conv2d_signs(x, w, None, at, flip, *static)
            )
            calls.append(lambda x, w, kernel=kernel, window=window: kernel.signed_conv2d(x, w, window, pad_value, 1))
            operands += [(x_words, w_words), (x_words, w_words, thresholds, flip), (np.float32(real), w_words)]
            wanted += [(where, expected), (where, words)]
            wanted.append((where, np.float32(convolved(real, w, strides, padding, pad_value, dilation))))
    for (where, expected), found in zip(wanted, together(calls, operands), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=where)


# Groups, channels, filters, size, strides, padding, dilation, (N, H, W): vectors that hold many pixels and pixels that hold
# many vectors, with and without a remainder; strided lines, sorted and not; more products than each number of planes holds.
NARROW = [
    (32, 32, 32, (3, 3), (1, 1), 'SAME', (1, 1), (2, 5, 40)),
    (96, 96, 96, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 9, 41)),
    (600, 600, 600, (3, 3), (1, 1), 'SAME', (1, 1), (1, 4, 7)),
    (1056, 1056, 1056, (3, 3), (2, 3), 'SAME', (1, 1), (1, 5, 8)),
    (70, 70, 70, (7, 7), (3, 3), ((5, 5), (6, 6)), (1, 1), (1, 13, 30)),
    (16, 64, 64, (3, 3), (1, 2), 'SAME', (2, 3), (1, 6, 33)),
    (5, 150, 55, (5, 5), (1, 1), 'SAME', (1, 1), (1, 4, 9)),
    (64, 64, 64, (23, 23), (1, 1), 'SAME', (1, 1), (1, 3, 30)),
]


@pytest.mark.parametrize('pad_value', [0, 1, -1])
def test_narrow_groups_and_their_signs(pad_value):
    calls, operands, wanted = [], [], []
    for groups, channels, filters, size, strides, padding, dilation, images in NARROW:
        x, w = random_signs(*images, channels), random_signs(*size, channels // groups, filters, seed=1)
        expected = convolved(x, w, strides, padding, pad_value, dilation, groups)
        thresholds, flip, words = thresholds_of(expected)
        x_words, w_words = packed(x), packed(w, 3)
        static = (channels, Window.of(size, strides, padding, dilation), pad_value, groups, filters)
        for instructions in SETS:
            kernel, where = Native(instructions), f'{instructions}: {static}'
            calls.append(lambda x, w, kernel=kernel, static=static: kernel.narrow_conv2d(x, w, None, *static))
            calls.append(
                lambda x, w, at, flip, kernel=kernel, static=static: kernel.narrow_conv2d_signs(
                    x, w, None, at, flip, *static
                )
            )
            operands += [(x_words, w_words), (x_words, w_words, thresholds, flip)]
            wanted += [(where, expected), (where, words)]
    for (where, expected), found in zip(wanted, together(calls, operands), strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=where)


@every_set
@pytest.mark.parametrize(
    ('m', 'k', 'n'),
    [(1, 33, 5), (4, 2240, 37), (12, 2240, 37), (13, 2240, 37), (5, 1100, 130), (33, 40, 16), (301, 2240, 70)],
)
def test_products(instructions, m, k, n):
    """Few rows along the words, many in tiles, very many in parts."""
    x, w = random_signs(m, k), random_signs(n, k, seed=1)
    np.testing.assert_array_equal(Native(instructions).matmul(packed(x), packed(w), k), x @ w.T)


@every_set
def test_products_beyond_16_bits(instructions):
    """Sums of more than 65536 terms in tiles, both extremes among them."""
    k = 70_001
    x, w = random_signs(20, k), random_signs(70, k, seed=1)
    x[3], x[11], w[0], w[69] = 1, -1, 1, -1
    expected = x @ w.T
    assert {k, -k} <= set(expected.ravel())
    np.testing.assert_array_equal(Native(instructions).matmul(packed(x), packed(w), k), expected)


def test_every_set_adds_up_in_the_same_order():
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 9, 9, 100)))
    w = packed(random_signs(3, 3, 100, 40), 2)
    first, *others = (Native(name).signed_conv2d(x, w, Window.of(3, 1, 'SAME'), 0, 1) for name in SETS)
    for other in others:
        np.testing.assert_array_equal(other, first)


@every_set
@pytest.mark.parametrize(('m', 'k', 'n'), [(1, 33, 5), (4, 2240, 37), (5, 1100, 130), (200, 40, 16), (301, 1100, 33)])
def test_products_of_floats_with_signs(instructions, m, k, n):
    x, w = np.random.default_rng(0).integers(-99, 100, (m, k)), random_signs(n, k, seed=1)
    np.testing.assert_array_equal(Native(instructions).signed_matmul(jnp.float32(x), packed(w)), x @ w.T)


@every_set
@pytest.mark.parametrize('shape', [(3, 5, 70), (40, 64), (1, 31), (2, 33)])
def test_packing(instructions, shape):
    """Zeros and subnormal numbers are +1, a NaN is -1 as everywhere; the tail is 0."""
    x = np.float32(np.random.default_rng(0).normal(size=shape))
    x.ravel()[:9] = [0, -0.0, np.nan, -TINY, TINY, -TINY / 2, np.inf, -np.inf, np.nextafter(-TINY, 0, dtype=np.float32)]
    negative = np.where(~(x > -TINY), -1, 1)
    np.testing.assert_array_equal(Native(instructions).pack(x, None), packed(negative))


@every_set
@pytest.mark.parametrize('channels', [64, 45])
def test_packing_what_is_normalized(instructions, channels):
    """The bits of `deterministic.normalize`, gamma of both signs and 0, and x on the threshold itself."""
    rng = np.random.default_rng(0)
    scale, shift = np.float32(rng.normal(size=(2, channels)))
    scale[::7] = 0
    x = np.float32(rng.normal(size=(9, channels)))
    x[0], x[1] = -shift, np.nextafter(-shift, -np.inf, dtype=np.float32)
    normalized = np.where(scale == 0, shift, np.float32(np.float32(x + shift) * scale))
    expected = packed(np.where(~(normalized > -TINY), -1, 1))
    coefficients = jnp.stack([scale, shift])
    np.testing.assert_array_equal(Native(instructions).pack(x, coefficients), expected)
    for backend in ('native', 'xla', 'auto'):
        np.testing.assert_array_equal(packed_signs(jnp.asarray(x), coefficients, backend=backend), expected)


def test_every_backend_gives_the_same_signs():
    x, w = random_signs(2, 5, 4, 40), random_signs(3, 3, 40, 20, seed=1)
    thresholds, flip = np.int32(np.arange(20) - 10), packed(random_signs(20, seed=2))
    operands = (packed(x), packed(w, 2), thresholds, flip)
    words = [
        np.asarray(packed_conv2d_signs(*operands, 40, padding='SAME', backend=backend))
        for backend in ('reference', 'xla', 'dense', 'native', 'auto')
    ]
    for other in words[1:]:
        np.testing.assert_array_equal(other, words[0])


def test_under_vmap_over_images_and_over_weights():
    x, w = random_signs(3, 2, 5, 4, 40), random_signs(3, 3, 3, 40, 20, seed=1)
    convolve = lambda x, w: packed_conv2d(x, w, 40, padding='SAME', backend='native')
    expected = np.stack([convolved(a, b, (1, 1), 'SAME', 0) for a, b in zip(x, w, strict=True)])
    np.testing.assert_array_equal(jax.vmap(convolve)(packed(x), packed(w, 3)), expected)


def test_many_calls_at_once_on_few_threads():
    """Large enough to be shared out: the tasks of one call never wait for those of another."""
    x, w = random_signs(8, 40, 2048), random_signs(600, 2048, seed=1)
    x_words, w_words = packed(x), packed(w)

    @jax.jit
    def all_of_them(x_words, w_words):
        return [packed_matmul(x_words[i], w_words, 2048, backend='native') for i in range(8)]

    for _ in range(20):
        found = all_of_them(x_words, w_words)
    for i in range(8):
        np.testing.assert_array_equal(found[i], x[i] @ w.T)


# Without them


def said(code: str, **environment) -> str:
    line = [sys.executable, '-c', code]
    done = subprocess.run(
        line, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITHOUT = """
from bnn_jax.kernels import native, packed_matmul
import jax.numpy as jnp
print(native.missing())
words = jnp.zeros((2, 1), jnp.uint32)
print(packed_matmul(words, words, 32).tolist())
try:
    packed_matmul(words, words, 32, backend='native')
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ('library', 'reason'), [('nowhere.so', 'they are not built'), ('cut.so', 'not as it was built')]
)
def test_auto_goes_on_and_native_says_why_not(library, reason, tmp_path):
    whole = Path(build.LIBRARY).read_bytes()
    (tmp_path / 'cut.so').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'cut.so.sha256').write_text(Path(build.record(build.LIBRARY)).read_text())
    missing, answer, refused = said(WITHOUT, BNN_LIBRARY=str(tmp_path / library)).splitlines()
    assert reason in missing and answer == '[[32, 32], [32, 32]]'
    assert "backend 'native'" in refused and reason in refused and "use backend 'xla'" in refused


def test_why_a_library_is_not_taken(tmp_path):
    """Nothing that XLA would refuse is ever registered: the CPU backend stays whole."""
    text = tmp_path / 'text.so'
    text.write_text('no library')
    Path(build.record(text)).write_text(build.sha256(text))
    newest = 2**16 - 1
    assert native.why_not(build.LIBRARY, build.digest(), newest) is None
    assert 'not built' in native.why_not(Path('/nowhere.so'), build.digest(), newest)
    assert 'cannot be compared' in native.why_not(Path(build.__file__), build.digest(), newest)
    assert 'cannot be loaded' in native.why_not(text, build.digest(), newest)
    assert 'from other sources' in native.why_not(build.LIBRARY, 'other', newest)
    for interface in (None, 0, 2**16):
        assert 'another interface of XLA' in native.why_not(build.LIBRARY, build.digest(), interface)


def test_shapes_that_do_not_fit_are_refused_before_anything_is_read():
    x, w = packed(random_signs(1, 4, 4, 40)), packed(random_signs(3, 3, 40, 20), 2)
    with pytest.raises(ValueError, match=r'thresholds: got shape \(1,\), expected \(20,\)'):
        packed_conv2d_signs(x, w, np.zeros(1, np.int32), np.zeros(1, np.uint32), 40)
    with pytest.raises(ValueError, match=r'flip: got shape \(2,\), expected \(1,\)'):
        packed_conv2d_signs(x, w, np.zeros(20, np.int32), np.zeros(2, np.uint32), 40)
    with pytest.raises(ValueError, match=r'coefficients: got shape \(2, 1\), expected \(2, 64\)'):
        packed_signs(jnp.zeros((1, 64)), jnp.zeros((2, 1)))
    with pytest.raises(jax.errors.JaxRuntimeError, match='packing: shapes that do not fit'):
        Native().pack(jnp.zeros((1, 64)), jnp.zeros((2, 1))).block_until_ready()
    nothing = jnp.zeros((20, 0), jnp.uint32)
    with pytest.raises(jax.errors.JaxRuntimeError, match='product: shapes that do not fit'):
        Native().matmul(nothing, nothing, 0).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match='convolution: shapes that do not fit'):
        window = Window.of((1, 1), (1, 1), 'VALID', (1, 1))
        Native().conv2d(
            nothing[None, None], nothing[None, None].swapaxes(2, 3), None, 0, window, 0, 1
        ).block_until_ready()


def test_thresholds_at_the_ends_of_int32():
    """Never below the least integer, always below the largest: no difference overflows."""
    x, w = packed(random_signs(1, 4, 4, 40)), packed(random_signs(3, 3, 40, 2), 2)
    for backend in ('native', 'xla'):
        thresholds = np.int32([np.iinfo(np.int32).min, np.iinfo(np.int32).max])
        words = packed_conv2d_signs(x, w, thresholds, np.zeros(1, np.uint32), 40, backend=backend)
        assert (np.asarray(words) == 2).all()


def test_an_instruction_set_that_is_not_there_is_refused():
    words = packed(random_signs(2, 32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="instruction set: got 'sse9', which this processor lacks"):
        Native('sse9').matmul(words, words, 32).block_until_ready()


def test_no_compiler_and_one_that_fails(monkeypatch):
    before = Path(build.LIBRARY).read_bytes()
    monkeypatch.setenv('CXX', '/nowhere/c++')
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler: \\$CXX is '/nowhere/c\\+\\+', which is not installed"):
        build.build(Path('/nowhere'))
    with monkeypatch.context() as without:
        without.delenv('CXX')
        without.setenv('PATH', '')
        with pytest.raises(RuntimeError, match='no C\\+\\+ compiler: found none of'):
            build.build(Path('/nowhere'))
    monkeypatch.setenv('CXX', f'{sys.executable} -c "raise SystemExit(1)"')
    with pytest.raises(RuntimeError, match='failed'):
        build.build(Path('/nowhere'))
    assert Path(build.LIBRARY).read_bytes() == before


def test_what_is_compiled_into_an_installed_package_is_uninstalled_with_it(tmp_path):
    (tmp_path / 'bnn_jax-1.0.dist-info').mkdir()
    record = tmp_path / 'bnn_jax-1.0.dist-info' / 'RECORD'
    record.write_text('bnn_jax/__init__.py,,\n')
    for library in ('bnn_jax/native/library.so', 'bnn_jax/native/library.so', '../elsewhere.so'):
        build.uninstalled_with(tmp_path / library, tmp_path)
    lines = ['bnn_jax/__init__.py,,', 'bnn_jax/native/library.so,,', 'bnn_jax/native/library.so.sha256,,']
    assert record.read_text().splitlines() == lines
