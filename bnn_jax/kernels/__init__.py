"""Packed products: signs in words in, exact integers out. One definition (reference.py), interchangeable backends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.bits import words_for
from bnn_jax.kernels import dense, pallas_gpu, pallas_tpu, reference, xla
from bnn_jax.kernels.auto import ByPlatform
from bnn_jax.kernels.on_words import OnWords
from bnn_jax.windows import Padding, Window

BACKENDS = {
    'reference': reference,
    'xla': xla,
    'dense': dense,
    'pallas_tpu': OnWords(partial(pallas_tpu.matrix, operand=jnp.int8)),
    'pallas_tpu_bfloat16': OnWords(partial(pallas_tpu.matrix, operand=jnp.bfloat16)),
    'pallas_tpu_popcount': OnWords(pallas_tpu.popcount),
    'pallas_gpu': OnWords(pallas_gpu.matrix),
    'pallas_gpu_popcount': OnWords(pallas_gpu.popcount),
}
"""Every backend has `matmul` and `conv2d` with reference.py's contract, on every platform: a Pallas backend runs interpreted,
slowly, where its device is not. `pallas_tpu` needs a TPU with 8-bit integer products (v5 or later)."""

AUTO = ByPlatform(cpu=BACKENDS['xla'], default=BACKENDS['dense'], largest=dense.EXACT)
"""What 'auto' means on the platform that a function is compiled for. CPU, measured on one core (AVX2): `xla` is 5.6 to 9.6
times as fast as XLA's float32 on ResNet-18's 3x3 convolutions (pads of +1), 1.4 (1 x 4096 x 10) to 30 times
(1 x 9216 x 4096) on dense layers and 1x1 convolutions; `dense` is slower at all of them. Elsewhere nothing has been
measured: XLA's own product, whose lowering is the least in doubt."""


def packed_matmul(x_words, w_words, k: int, *, backend: str = 'auto') -> jax.Array:
    """Product of two packed sign matrices: out[i, j] = k - 2 popcount(x[i] xor w[j]).

    x_words: (m, n_words), w_words: (n, n_words), uint32 as made by `bits.pack` over the last axis of (m, k) and (n, k).
    k: the true number of products. Returns (m, n) int32, exact. backend: a key of BACKENDS, or 'auto'.
    Raises TypeError for a dtype other than uint32, ValueError for shapes that do not fit, an unknown backend, or k beyond
    2^24 where 'dense' multiplies.
    """
    x_words, w_words = _words('x_words', x_words, 2), _words('w_words', w_words, 2)
    for name, words in (('x_words', x_words), ('w_words', w_words)):
        _expect_words(name, words.shape[1], k)
    return _backend(backend).matmul(x_words, w_words, k)


def packed_conv2d(
    x_words,
    w_words,
    channels: int,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    pad_value: int = 0,
    backend: str = 'auto',
) -> jax.Array:
    """Convolution of packed signs: out[n, i, j, f] = sum over taps and channels of x * w.

    x_words: (N, H, W, n_words), packed over channels; w_words: (kh, kw, n_words, out), packed over input channels.
    channels: the true number of input channels. padding: 'VALID', 'SAME' or ((top, bottom), (left, right)).
    pad_value: what lies outside the image: 0 (contributes nothing), +1 or -1. Returns (N, H', W', out) int32, exact.
    Raises TypeError for a dtype other than uint32, ValueError for shapes that do not fit, another pad value, an unknown
    padding or backend.
    """
    x_words, w_words = _words('x_words', x_words, 4), _words('w_words', w_words, 4)
    _expect_words('x_words', x_words.shape[3], channels)
    _expect_words('w_words', w_words.shape[2], channels)
    if pad_value not in (0, 1, -1):
        raise ValueError(f'pad_value: got {pad_value!r}, expected 0, +1 or -1')
    window = Window.of(w_words.shape[:2], strides, padding)
    window.pads(x_words.shape[1], x_words.shape[2])
    return _backend(backend).conv2d(x_words, w_words, channels, window, int(pad_value))


def _words(name: str, words, rank: int) -> jax.Array:
    words = jnp.asarray(words)
    if words.dtype != jnp.uint32:
        raise TypeError(f'{name}: got dtype {words.dtype}, expected uint32 words as made by bits.pack')
    if words.ndim != rank:
        raise ValueError(f'{name}: got shape {words.shape}, expected rank {rank}')
    return words


def _expect_words(name: str, n_words: int, k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(
            f'{name}: got {k!r} for the number of signs, expected an integer known when the function is traced'
        )
    if k < 1 or n_words != words_for(k):
        raise ValueError(f'{name}: got {n_words} words for {k} signs, expected {words_for(max(k, 0))}')


def _backend(name: str):
    if name == 'auto':
        return AUTO
    if name not in BACKENDS:
        raise ValueError(f'backend: got {name!r}, expected one of {", ".join(map(repr, ["auto", *BACKENDS]))}')
    return BACKENDS[name]
