"""A backend that is another one on each platform, decided where a function is lowered, not where it is traced."""

import dataclasses
from functools import partial
from typing import Any

import jax
from jax import lax

from bnn_jax.windows import Window


@dataclasses.dataclass(frozen=True)
class ByPlatform:
    """On CPU `cpu`, anywhere else `default`; both have `matmul` and `conv2d`. `cpu` as well for more products than `largest`,
    which `default` could not add up exactly."""

    cpu: Any
    default: Any
    largest: int

    @partial(jax.jit, static_argnums=(0, 3))
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        backends = self._backends(k)
        cpu, default = (lambda x, w, of=of: of.matmul(x, w, k) for of in backends)
        return lax.platform_dependent(x_words, w_words, cpu=cpu, default=default)

    @partial(jax.jit, static_argnums=(0, 3, 4, 5))
    def conv2d(self, x_words, w_words, channels: int, window: Window, pad_value: int) -> jax.Array:
        backends = self._backends(window.size[0] * window.size[1] * channels)
        cpu, default = (lambda x, w, of=of: of.conv2d(x, w, channels, window, pad_value) for of in backends)
        return lax.platform_dependent(x_words, w_words, cpu=cpu, default=default)

    def _backends(self, k: int) -> tuple[Any, Any]:
        return self.cpu, self.default if k <= self.largest else self.cpu
