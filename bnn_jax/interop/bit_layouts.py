"""Packed words in the conventions of other engines, and back: the Larq Compute Engine's and BinaryNet's.

Here: uint32, least significant bit first along the input channels, a set bit is -1, tail bits 0; a convolution's words are
(kh, kw, n_words, out), a dense layer's (out, n_words), n_words = ceil(channels / 32).

Larq Compute Engine: the same bits in int32, also a set bit for -1 and tail bits 0; filters are OHWI, packed along I. Source:
larq/compute-engine, core/bitpacking/bitpack.h (bit i of a word is in[i] < 0, the rest of a row is packed as 0) and
core/bconv2d/reference.h (filter dimension 0 is the output channel, popcount of the exclusive or; a pixel outside is bit 0).
It has no binary dense layer: a dense layer is a 1x1 convolution.

BinaryNet: uint32, least significant bit first, a set bit is +1, no tail. Source: MatthieuCourbariaux/BinaryNet, Run-time/
binary_kernels.cu (concatenate: sign << i with sign = a >= 0; xnor_gemm: 2 popcount(xnor) - 32 n_words) and binary_ops.py
(A (m, n) packed by rows, B (n, k) by columns; n a multiple of 32 * 16). Its engine has no binary convolution: a convolution
is given as signs in Theano's layout, (out, in, kh, kw), turned by 180 degrees, since Theano convolves and Larq and this
library correlate; and a flattened image is (C, H, W) there, (H, W, C) here.

Each pair of functions is a bijection; all take and return NumPy arrays.
"""

import numpy as np

from bnn_jax.ops.bits import WORD_BITS, words_for

BINARYNET_MULTIPLE = 32 * 16
"""What BinaryNet's kernel wants the number of products to be a multiple of: words of 32 by tiles of 16."""


def to_larq_activations(words) -> np.ndarray:
    """(..., n_words) uint32 -> the same bits as int32. Raises TypeError for another dtype."""
    return _words(words).view(np.int32)


def from_larq_activations(words) -> np.ndarray:
    """The inverse of `to_larq_activations`. Raises TypeError unless int32."""
    return _words(words, np.int32).view(np.uint32)


def to_larq_convolution(words) -> np.ndarray:
    """(kh, kw, n_words, out) uint32 -> (out, kh, kw, n_words) int32. Raises TypeError, or ValueError for another rank."""
    return _contiguous(_rank(to_larq_activations(words), 4).transpose(3, 0, 1, 2))


def from_larq_convolution(words) -> np.ndarray:
    """(out, kh, kw, n_words) int32 -> (kh, kw, n_words, out) uint32. Raises as `to_larq_convolution`."""
    return _contiguous(_rank(from_larq_activations(words), 4).transpose(1, 2, 3, 0))


def to_larq_dense(words) -> np.ndarray:
    """(out, n_words) uint32 -> the filters of a 1x1 convolution, (out, 1, 1, n_words) int32. Raises as above."""
    return _rank(to_larq_activations(words), 2)[:, None, None, :]


def from_larq_dense(words) -> np.ndarray:
    """The inverse of `to_larq_dense`. Raises ValueError where the filters are not 1x1."""
    words = _rank(from_larq_activations(words), 4)
    if words.shape[1:3] != (1, 1):
        raise ValueError(f'from_larq_dense: got filters of shape {words.shape}, expected (out, 1, 1, n_words)')
    return words[:, 0, 0, :]


def to_binarynet_activations(words, k: int) -> np.ndarray:
    """Rows of k signs, (m, n_words) uint32 -> the same with a set bit for +1.

    Raises TypeError for another dtype, ValueError for another shape and for k that is no multiple of BINARYNET_MULTIPLE.
    """
    return ~_for_binarynet(words, k)


def from_binarynet_activations(words, k: int) -> np.ndarray:
    """The inverse of `to_binarynet_activations`: the same function."""
    return ~_for_binarynet(words, k)


def to_binarynet_dense(words, k: int, image: tuple[int, int, int] | None = None) -> np.ndarray:
    """(out, n_words) uint32 -> the columns of B: (n_words, out), a set bit for +1.

    image: (H, W, C) where the layer's input is a flattened image: its k inputs are put into the order (C, H, W).
    Raises as `to_binarynet_activations`, and ValueError for an image that has not k numbers.
    """
    words = _for_binarynet(words, k)
    if image is not None:
        _check_image(image, k)
        order = np.arange(k).reshape(image).transpose(2, 0, 1).reshape(-1)
        words = _packed(_set_bits(words, k)[:, order])
    return _contiguous((~words).T)


def from_binarynet_dense(words, k: int, image: tuple[int, int, int] | None = None) -> np.ndarray:
    """(n_words, out) -> (out, n_words): the inverse of `to_binarynet_dense`. Raises as it does."""
    ours = ~_for_binarynet(_rank(_words(words), 2).T, k)
    if image is None:
        return ours
    _check_image(image, k)
    height, width, channels = image
    order = np.arange(k).reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)
    return _packed(_set_bits(ours, k)[:, order])


def to_binarynet_convolution(words, channels: int) -> np.ndarray:
    """(kh, kw, n_words, out) uint32 -> signs (out, channels, kh, kw) float32, turned by 180 degrees.

    Raises TypeError for another dtype, ValueError for another rank or number of words.
    """
    words = _rank(_words(words), 4).transpose(3, 0, 1, 2)
    _check_count(words, channels)
    signs = 1 - 2 * _set_bits(words, channels).astype(np.float32)
    return _contiguous(signs.transpose(0, 3, 1, 2)[:, :, ::-1, ::-1])


def from_binarynet_convolution(signs) -> np.ndarray:
    """The inverse of `to_binarynet_convolution`. Raises ValueError for another rank or values other than -1 and +1."""
    signs = _rank(np.asarray(signs), 4)
    if not np.all(np.abs(signs) == 1):
        raise ValueError('from_binarynet_convolution: got values other than -1 and +1, expected binarized filters')
    ours = signs[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    return _contiguous(_packed(ours < 0).swapaxes(2, 3))


def _words(words, dtype: type = np.uint32) -> np.ndarray:
    words = np.asarray(words)
    if words.dtype != dtype:
        raise TypeError(f'words: got dtype {words.dtype}, expected {np.dtype(dtype)}')
    return _contiguous(words)


def _rank(words: np.ndarray, rank: int) -> np.ndarray:
    if words.ndim != rank:
        raise ValueError(f'words: got shape {words.shape}, expected rank {rank}')
    return words


def _check_count(words: np.ndarray, k: int) -> None:
    if k < 1 or words.shape[-1] != words_for(k):
        raise ValueError(f'words: got {words.shape[-1]} words for {k} signs, expected {words_for(max(k, 0))}')


def _for_binarynet(words, k: int) -> np.ndarray:
    words = _rank(_words(words), 2)
    _check_count(words, k)
    if k % BINARYNET_MULTIPLE:
        raise ValueError(
            f'words: got {k} signs, expected a multiple of {BINARYNET_MULTIPLE}: BinaryNet counts whole tiles of words and '
            'has no tail; build the network with such widths'
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
