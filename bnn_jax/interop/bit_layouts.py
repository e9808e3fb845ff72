"""Convert packed words to the bit layouts of other engines and back: the Larq Compute Engine and BinaryNet.

This library: words are uint32, least significant bit first along the input channels. A set bit is -1, tail bits are 0. Words
of a convolution have the shape (kh, kw, n_words, out), those of a dense layer (out, n_words), where
n_words = ceil(channels / 32). A convolution in several groups of fewer than 32 channels has words along the filters
(docs/format.md); these functions do not convert them.

Larq Compute Engine: the same bits as int32. Filters are OHWI, packed along I. There is no binary dense layer, so a dense layer
becomes a 1x1 convolution. Source: larq/compute-engine.

- core/bitpacking/bitpack.h: bit i of a word is in[i] < 0; the tail bits of a row are 0.
- core/bconv2d/reference.h: axis 0 of the filters is the output channel; a sum of products comes from the popcount of an
  exclusive or; the bits of a pixel outside the image are 0.

BinaryNet: words are uint32, least significant bit first, without tail bits. A set bit is +1. There is no binary convolution,
so a convolution becomes signs in Theano's layout, (out, in, kh, kw). They are rotated by 180 degrees, because Theano convolves
and this library correlates. A flattened image is (C, H, W) there, (H, W, C) here. Source: MatthieuCourbariaux/BinaryNet.

- Run-time/binary_kernels.cu: concatenate is sign << i with sign = a >= 0; xnor_gemm is 2 popcount(xnor) - 32 n_words.
- binary_ops.py: A (m, n) is packed by rows, B (n, k) by columns; n is a multiple of 32 * 16.

Each `from_...` function is the inverse of its `to_...` function. All of them take and return NumPy arrays.
"""

import numpy as np
from jaxtyping import ArrayLike, Float32, Int32, UInt32

from bnn_jax.ops.bits import WORD_BITS, words_for

BINARYNET_MULTIPLE = 32 * 16
"""BinaryNet's kernel needs a multiple of this many inputs: words of 32 in tiles of 16."""


def to_larq_activations(words: UInt32[ArrayLike, '*batch n_words']) -> Int32[np.ndarray, '*batch n_words']:
    """Words of activations for Larq: the same bits as int32.

    Args:
        words: as `bits.pack` returns them.

    Raises:
        TypeError: words are not uint32.

    Example:
        >>> to_larq_activations(np.array([1, 2**31], np.uint32)).tolist()
        [1, -2147483648]
    """
    return _words(words).view(np.int32)


def from_larq_activations(words: Int32[ArrayLike, '*batch n_words']) -> UInt32[np.ndarray, '*batch n_words']:
    """The inverse of `to_larq_activations`.

    Args:
        words: Larq's words.

    Raises:
        TypeError: words are not int32.

    Example:
        >>> from_larq_activations(np.array([-1], np.int32)).tolist()
        [4294967295]
    """
    return _words(words, np.int32).view(np.uint32)


def to_larq_convolution(words: UInt32[ArrayLike, 'kh kw n_words out']) -> Int32[np.ndarray, 'out kh kw n_words']:
    """Words of a convolution for Larq.

    Args:
        words: as a packed convolution holds them.

    Raises:
        TypeError: words are not uint32.
        ValueError: words have another rank.

    Example:
        >>> to_larq_convolution(np.zeros((3, 3, 2, 8), np.uint32)).shape
        (8, 3, 3, 2)
    """
    return _contiguous(_rank(to_larq_activations(words), 4).transpose(3, 0, 1, 2))


def from_larq_convolution(words: Int32[ArrayLike, 'out kh kw n_words']) -> UInt32[np.ndarray, 'kh kw n_words out']:
    """The inverse of `to_larq_convolution`.

    Args:
        words: Larq's words.

    Raises:
        TypeError: words are not int32.
        ValueError: words have another rank.

    Example:
        >>> from_larq_convolution(np.zeros((8, 3, 3, 2), np.int32)).shape
        (3, 3, 2, 8)
    """
    return _contiguous(_rank(from_larq_activations(words), 4).transpose(1, 2, 3, 0))


def to_larq_dense(words: UInt32[ArrayLike, 'out n_words']) -> Int32[np.ndarray, 'out 1 1 n_words']:
    """Words of a dense layer as the filters of a 1x1 convolution of Larq.

    Args:
        words: as a packed dense layer holds them.

    Raises:
        TypeError: words are not uint32.
        ValueError: words have another rank.

    Example:
        >>> to_larq_dense(np.zeros((8, 2), np.uint32)).shape
        (8, 1, 1, 2)
    """
    return _rank(to_larq_activations(words), 2)[:, None, None, :]


def from_larq_dense(words: Int32[ArrayLike, 'out 1 1 n_words']) -> UInt32[np.ndarray, 'out n_words']:
    """The inverse of `to_larq_dense`.

    Args:
        words: filters of a 1x1 convolution of Larq.

    Raises:
        TypeError: words are not int32.
        ValueError: words have another rank, or the filters are not 1x1.

    Example:
        >>> from_larq_dense(np.zeros((8, 1, 1, 2), np.int32)).shape
        (8, 2)
    """
    words = _rank(from_larq_activations(words), 4)
    if words.shape[1:3] != (1, 1):
        raise ValueError(f'from_larq_dense: got filters of shape {words.shape}, expected (out, 1, 1, n_words)')
    return words[:, 0, 0, :]


def to_binarynet_activations(words: UInt32[ArrayLike, 'm n_words'], k: int) -> UInt32[np.ndarray, 'm n_words']:
    """Words of activations for BinaryNet: a set bit for +1.

    Args:
        words: as `bits.pack` returns them, with k signs in a row.
        k: a multiple of `BINARYNET_MULTIPLE`.

    Raises:
        TypeError: words are not uint32.
        ValueError: words have another shape, or k is not a multiple of `BINARYNET_MULTIPLE`.

    Example:
        >>> int(to_binarynet_activations(np.zeros((1, 16), np.uint32), 512)[0, 0])
        4294967295
    """
    return ~_for_binarynet(words, k)


def from_binarynet_activations(words: UInt32[ArrayLike, 'm n_words'], k: int) -> UInt32[np.ndarray, 'm n_words']:
    """The inverse of `to_binarynet_activations`, which is the same function.

    Args:
        words: BinaryNet's words.
        k: the number of signs in a row.

    Raises:
        TypeError, ValueError: as `to_binarynet_activations`.

    Example:
        >>> int(from_binarynet_activations(np.zeros((1, 16), np.uint32), 512)[0, 0])
        4294967295
    """
    return ~_for_binarynet(words, k)


def to_binarynet_dense(
    words: UInt32[ArrayLike, 'out n_words'], k: int, image: tuple[int, int, int] | None = None
) -> UInt32[np.ndarray, 'n_words out']:
    """Words of a dense layer for BinaryNet: the columns of its matrix B, a set bit for +1.

    Args:
        words: as a packed dense layer holds them.
        k: the number of inputs of the layer, a multiple of `BINARYNET_MULTIPLE`.
        image: (H, W, C) if the input is a flattened image; the weights are then put into the order (C, H, W).

    Raises:
        TypeError: words are not uint32.
        ValueError: words have another shape, k is not a multiple of `BINARYNET_MULTIPLE`, or H W C is not k.

    Example:
        >>> to_binarynet_dense(np.zeros((8, 16), np.uint32), 512).shape
        (16, 8)
    """
    words = _for_binarynet(words, k)
    if image is not None:
        _check_image(image, k)
        order = np.arange(k).reshape(image).transpose(2, 0, 1).reshape(-1)
        words = _packed(_set_bits(words, k)[:, order])
    return _contiguous((~words).T)


def from_binarynet_dense(
    words: UInt32[ArrayLike, 'n_words out'], k: int, image: tuple[int, int, int] | None = None
) -> UInt32[np.ndarray, 'out n_words']:
    """The inverse of `to_binarynet_dense`.

    Args:
        words: BinaryNet's words.
        k: the number of inputs of the layer.
        image: (H, W, C) if the input is a flattened image.

    Raises:
        TypeError, ValueError: as `to_binarynet_dense`.

    Example:
        >>> from_binarynet_dense(np.zeros((16, 8), np.uint32), 512).shape
        (8, 16)
    """
    ours = ~_for_binarynet(_rank(_words(words), 2).T, k)
    if image is None:
        return ours
    _check_image(image, k)
    height, width, channels = image
    order = np.arange(k).reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)
    return _packed(_set_bits(ours, k)[:, order])


def to_binarynet_convolution(
    words: UInt32[ArrayLike, 'kh kw n_words out'], channels: int
) -> Float32[np.ndarray, 'out channels kh kw']:
    """Words of a convolution as signs in Theano's layout, rotated by 180 degrees.

    Args:
        words: as a packed convolution holds them.
        channels: the number of channels of its input.

    Returns:
        +1 and -1.

    Raises:
        TypeError: words are not uint32.
        ValueError: words have another rank, or there are not ceil(channels / 32) of them.

    Example:
        >>> to_binarynet_convolution(np.zeros((3, 3, 1, 8), np.uint32), 4).shape
        (8, 4, 3, 3)
    """
    words = _rank(_words(words), 4).transpose(3, 0, 1, 2)
    _check_count(words, channels)
    signs = 1 - 2 * _set_bits(words, channels).astype(np.float32)
    return _contiguous(signs.transpose(0, 3, 1, 2)[:, :, ::-1, ::-1])


def from_binarynet_convolution(
    signs: Float32[ArrayLike, 'out channels kh kw'],
) -> UInt32[np.ndarray, 'kh kw n_words out']:
    """The inverse of `to_binarynet_convolution`.

    Args:
        signs: +1 and -1.

    Raises:
        ValueError: signs have another rank or other values.

    Example:
        >>> from_binarynet_convolution(np.ones((8, 4, 3, 3), np.float32)).shape
        (3, 3, 1, 8)
    """
    signs = _rank(np.asarray(signs), 4, 'signs')
    if not np.all(np.abs(signs) == 1):
        raise ValueError('from_binarynet_convolution: got values other than -1 and +1, expected binarized filters')
    ours = signs[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    return _contiguous(_packed(ours < 0).swapaxes(2, 3))


def _words(words, dtype: type = np.uint32) -> np.ndarray:
    words = np.asarray(words)
    if words.dtype != dtype:
        raise TypeError(f'words: got dtype {words.dtype}, expected {np.dtype(dtype)}')
    return _contiguous(words)


def _rank(array: np.ndarray, rank: int, name: str = 'words') -> np.ndarray:
    if array.ndim != rank:
        raise ValueError(f'{name}: got shape {array.shape}, expected rank {rank}')
    return array


def _check_count(words: np.ndarray, k: int) -> None:
    if k < 1:
        raise ValueError(f'words: got {k} for the number of signs, expected at least 1')
    if words.shape[-1] != words_for(k):
        raise ValueError(f'words: got {words.shape[-1]} words for {k} signs, expected {words_for(k)}')


def _for_binarynet(words, k: int) -> np.ndarray:
    words = _rank(_words(words), 2)
    _check_count(words, k)
    if k % BINARYNET_MULTIPLE:
        raise ValueError(
            f'words: got {k} signs, expected a multiple of {BINARYNET_MULTIPLE}, because BinaryNet counts whole tiles of '
            'words; build the network with widths that are such multiples'
        )
    return words


def _check_image(image: tuple[int, int, int], k: int) -> None:
    if len(image) != 3 or np.prod(image) != k:
        raise ValueError(f'image: got {image}, expected (H, W, C) with H W C = {k}')


def _set_bits(words: np.ndarray, k: int) -> np.ndarray:
    """(..., n_words) -> (..., k) bool."""
    bits = (words[..., None] >> np.arange(WORD_BITS, dtype=np.uint32)) & np.uint32(1)
    return bits.reshape(*words.shape[:-1], -1)[..., :k].astype(bool)


def _packed(set_bits: np.ndarray) -> np.ndarray:
    """(..., k) bool -> (..., n_words) uint32."""
    k = set_bits.shape[-1]
    tail = [(0, 0)] * (set_bits.ndim - 1) + [(0, WORD_BITS * words_for(k) - k)]
    bits = np.pad(set_bits, tail).reshape(*set_bits.shape[:-1], words_for(k), WORD_BITS)
    return (bits.astype(np.uint32) << np.arange(WORD_BITS, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)
