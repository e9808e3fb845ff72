"""A backend that calls another backend, chosen for the platform when a function is lowered, not when it is traced."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
from jax import lax

from bnn_jax.kernels.backend import Backend
from bnn_jax.ops.windows import Window


@dataclasses.dataclass(frozen=True)
class ByPlatform(Backend):
    """Calls one backend on CPU, and `default` or `beyond` on all other platforms."""

    # Returns the backend on CPU. It is called when a function is traced.
    cpu: Callable[[], Backend]
    # The backend on other platforms: `beyond` for sums of more than `largest` products of signs, `default` for all else.
    default: Backend
    largest: int
    beyond: Backend

    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        return self._run('matmul', k, (k,), x_words, w_words)

    def conv2d(self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int):
        static = (channels, window, pad_value, groups)
        return self._run('conv2d', _terms(*static), static, x_words, w_words, tap_sums)

    def conv2d_signs(
        self, x_words, w_words, tap_sums, thresholds, flip, channels: int, window: Window, pad_value: int, groups: int
    ):
        static, operands = (channels, window, pad_value, groups), (x_words, w_words, tap_sums, thresholds, flip)
        return self._run('conv2d_signs', _terms(*static), static, *operands)

    def narrow_conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int, filters: int
    ):
        static = (channels, window, pad_value, groups)
        return self._run('narrow_conv2d', _terms(*static), (*static, filters), x_words, w_words, tap_sums)

    def narrow_conv2d_signs(
        self,
        x_words,
        w_words,
        tap_sums,
        thresholds,
        flip,
        channels: int,
        window: Window,
        pad_value: int,
        groups: int,
        filters: int,
    ):
        static, operands = (channels, window, pad_value, groups), (x_words, w_words, tap_sums, thresholds, flip)
        return self._run('narrow_conv2d_signs', _terms(*static), (*static, filters), *operands)

    def signed_matmul(self, x: jax.Array, w_words: jax.Array) -> jax.Array:
        return self._run('signed_matmul', 0, (), x, w_words)

    def signed_conv2d(self, x: jax.Array, w_words: jax.Array, window: Window, pad_value: int, groups: int) -> jax.Array:
        return self._run('signed_conv2d', 0, (window, pad_value, groups), x, w_words)

    def pack(self, x: jax.Array, coefficients: jax.Array | None) -> jax.Array:
        return self._run('pack', 0, (), x, coefficients)

    @partial(jax.jit, static_argnums=(0, 1, 2, 3))
    def _run(self, name: str, k: int, static: tuple, *operands) -> jax.Array:
        # Called here, not at import, because it may load and register the C++ library.
        cpu = self.cpu()
        default = self.default if k <= self.largest else self.beyond
        branches = {
            'cpu': lambda *arrays: getattr(cpu, name)(*arrays, *static),
            'default': lambda *arrays: getattr(default, name)(*arrays, *static),
        }
        return lax.platform_dependent(*operands, **branches)


def _terms(channels: int, window: Window, pad_value: int, groups: int) -> int:
    """The largest number of products that a convolution adds up for one output."""
    return window.size[0] * window.size[1] * (channels // groups)
