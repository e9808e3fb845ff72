"""Words in other engines' conventions: against loops that pack and multiply as those engines' sources say."""

import numpy as np
import pytest

from bnn_jax.interop import bit_layouts
from bnn_jax.ops.bits import pack

RNG = np.random.default_rng(0)


def signs(*shape) -> np.ndarray:
    return RNG.choice(np.asarray([-1, 1], np.float32), shape)


def larq_pack(row) -> list[int]:
    """bitpack.h: bit i of a word is in[i] < 0; a row is filled up with zeros, which are not below zero."""
    filled = [*row, *[0.0] * (-len(row) % 32)]
    words = [sum((filled[32 * w + i] < 0) << i for i in range(32)) for w in range(len(filled) // 32)]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def binarynet_pack(row) -> list[int]:
    """binary_kernels.cu, concatenate: bit i is a[i] >= 0."""
    return [sum(int(row[32 * w + i] >= 0) << i for i in range(32)) for w in range(len(row) // 32)]


@pytest.mark.parametrize('channels', [3, 32, 45])
def test_larq_convolution(channels):
    kernel = signs(3, 2, channels, 5)
    ours = np.asarray(pack(kernel, axis=2))
    theirs = bit_layouts.to_larq_convolution(ours)
    assert theirs.dtype == np.int32 and theirs.shape == (5, 3, 2, -(-channels // 32))
    for o in range(5):
        for i in range(3):
            for j in range(2):
                assert theirs[o, i, j].tolist() == larq_pack(kernel[i, j, :, o])
    np.testing.assert_array_equal(bit_layouts.from_larq_convolution(theirs), ours, strict=True)


def test_larq_dense_is_a_1x1_convolution():
    kernel = signs(70, 4)
    ours = np.asarray(pack(kernel.T))
    theirs = bit_layouts.to_larq_dense(ours)
    assert theirs.shape == (4, 1, 1, 3)
    assert [row.tolist() for row in theirs[:, 0, 0]] == [larq_pack(kernel[:, o]) for o in range(4)]
    np.testing.assert_array_equal(bit_layouts.from_larq_dense(theirs), ours, strict=True)


def test_larq_activations():
    x = RNG.normal(size=(2, 3, 37)).astype(np.float32)
    x[0, 0, 0] = -0.0
    ours = np.asarray(pack(x))
    theirs = bit_layouts.to_larq_activations(ours)
    assert [[row.tolist() for row in image] for image in theirs] == [[larq_pack(row) for row in image] for image in x]
    np.testing.assert_array_equal(bit_layouts.from_larq_activations(theirs), ours, strict=True)


def test_binarynet_product_is_the_float_product():
    """Both operands as xnor_gemm takes them, multiplied as it does."""
    x, kernel = signs(3, 512), signs(512, 4)
    a = bit_layouts.to_binarynet_activations(np.asarray(pack(x)), 512)
    b = bit_layouts.to_binarynet_dense(np.asarray(pack(kernel.T)), 512)
    assert [row.tolist() for row in a] == [binarynet_pack(row) for row in x]
    assert [column.tolist() for column in b.T] == [binarynet_pack(kernel[:, o]) for o in range(4)]
    product = np.zeros((3, 4))
    for i in range(3):
        for j in range(4):
            matches = sum((~(int(p) ^ int(q)) & 0xFFFFFFFF).bit_count() for p, q in zip(a[i], b[:, j], strict=True))
            product[i, j] = 2 * matches - 32 * len(a[i])
    np.testing.assert_array_equal(product, x @ kernel)
    np.testing.assert_array_equal(bit_layouts.from_binarynet_activations(a, 512), np.asarray(pack(x)), strict=True)
    np.testing.assert_array_equal(bit_layouts.from_binarynet_dense(b, 512), np.asarray(pack(kernel.T)), strict=True)


def test_binarynet_dense_after_an_image():
    height, width, channels = image = (4, 2, 64)
    kernel = signs(512, 3)
    ours = np.asarray(pack(kernel.T))
    theirs = bit_layouts.to_binarynet_dense(ours, 512, image)
    for o in range(3):
        expected = [
            kernel[(h * width + w) * channels + c, o]
            for c in range(channels)
            for h in range(height)
            for w in range(width)
        ]
        assert theirs[:, o].tolist() == binarynet_pack(expected)
    np.testing.assert_array_equal(bit_layouts.from_binarynet_dense(theirs, 512, image), ours, strict=True)


def test_binarynet_convolution_is_turned():
    kernel = signs(3, 2, 45, 4)
    ours = np.asarray(pack(kernel, axis=2))
    theirs = bit_layouts.to_binarynet_convolution(ours, 45)
    assert theirs.shape == (4, 45, 3, 2) and theirs.dtype == np.float32
    for o in range(4):
        for c in range(45):
            for i in range(3):
                for j in range(2):
                    assert theirs[o, c, i, j] == kernel[2 - i, 1 - j, c, o]
    np.testing.assert_array_equal(bit_layouts.from_binarynet_convolution(theirs), ours, strict=True)


WORDS = np.zeros((4, 16), np.uint32)


@pytest.mark.parametrize(
    ('call', 'error', 'message'),
    [
        (lambda: bit_layouts.to_larq_activations(WORDS.view(np.int32)), TypeError, 'got dtype int32, expected uint32'),
        (lambda: bit_layouts.from_larq_activations(WORDS), TypeError, 'got dtype uint32, expected int32'),
        (lambda: bit_layouts.to_larq_convolution(WORDS), ValueError, 'expected rank 4'),
        (lambda: bit_layouts.from_larq_dense(np.zeros((4, 3, 1, 2), np.int32)), ValueError, 'expected .out, 1, 1'),
        (lambda: bit_layouts.to_binarynet_dense(WORDS, 500), ValueError, 'expected a multiple of 512'),
        (lambda: bit_layouts.to_binarynet_activations(WORDS, 1024), ValueError, 'got 16 words for 1024 signs'),
        (lambda: bit_layouts.to_binarynet_activations(WORDS, 0), ValueError, 'got 0 for the number of signs'),
        (lambda: bit_layouts.to_binarynet_dense(WORDS, 512, (3, 3, 3)), ValueError, 'H W C = 512'),
        (lambda: bit_layouts.to_binarynet_convolution(WORDS, 5), ValueError, 'expected rank 4'),
        (lambda: bit_layouts.from_binarynet_convolution(np.zeros((1, 1, 1, 1))), ValueError, 'other than -1 and'),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
