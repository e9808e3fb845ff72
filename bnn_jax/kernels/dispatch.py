"""A backend that is another one on each platform, decided where a function is lowered, not where it is traced."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax

from bnn_jax.kernels import fallbacks
from bnn_jax.ops.windows import Window


@dataclasses.dataclass(frozen=True)
class ByPlatform:
    """On CPU what `cpu()` says, anywhere else `default`, or `beyond` for more products than `largest`, which `default` could
    not add up exactly; what any of them lacks is `composed`."""

    cpu: Callable[[], Any]
    default: Any
    largest: int
    beyond: Any

    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        return self._run('matmul', k, (k,), x_words, w_words)

    def conv2d(self, x_words, w_words, sums, channels: int, window: Window, pad_value: int) -> jax.Array:
        k = window.size[0] * window.size[1] * channels
        return self._run('conv2d', k, (channels, window, pad_value), x_words, w_words, sums)

    def conv2d_signs(self, x_words, w_words, sums, thresholds, flip, channels: int, window: Window, pad_value: int):
        k = window.size[0] * window.size[1] * channels
        return self._run('conv2d_signs', k, (channels, window, pad_value), x_words, w_words, sums, thresholds, flip)

    def signed_matmul(self, x: jax.Array, w_words: jax.Array) -> jax.Array:
        return self._run('signed_matmul', 0, (), x, w_words)

    def signed_conv2d(self, x: jax.Array, w_words: jax.Array, window: Window, pad_value: int) -> jax.Array:
        return self._run('signed_conv2d', 0, (window, pad_value), x, w_words)

    def pack(self, x: jax.Array, coefficients: jax.Array | None) -> jax.Array:
        return self._run('pack', 0, (), x, coefficients)

    @partial(jax.jit, static_argnums=(0, 1, 2, 3))
    def _run(self, name: str, k: int, static: tuple, *operands) -> jax.Array:
        cpu = self.cpu()
        default = self.default if k <= self.largest else self.beyond
        branches = {
            'cpu': lambda *arrays: fallbacks.method(cpu, name)(*arrays, *static),
            'default': lambda *arrays: fallbacks.method(default, name)(*arrays, *static),
        }
        return lax.platform_dependent(*operands, **branches)
