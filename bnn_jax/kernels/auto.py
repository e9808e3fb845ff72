"""A backend that is another one on each platform, decided where a function is lowered, not where it is traced."""

import dataclasses
from functools import partial
from typing import Any

import jax
from jax import lax

from bnn_jax.windows import Window


@dataclasses.dataclass(frozen=True)
class ByPlatform:
    """On CPU `cpu`, anywhere else `default`; both have `matmul` and `conv2d`."""

    cpu: Any
    default: Any

    @partial(jax.jit, static_argnums=(0, 3))
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        cpu, default = (lambda x, w, of=of: of.matmul(x, w, k) for of in (self.cpu, self.default))
        return lax.platform_dependent(x_words, w_words, cpu=cpu, default=default)

    @partial(jax.jit, static_argnums=(0, 3, 4, 5))
    def conv2d(self, x_words, w_words, channels: int, window: Window, pad_value: int) -> jax.Array:
        cpu, default = (
            lambda x, w, of=of: of.conv2d(x, w, channels, window, pad_value) for of in (self.cpu, self.default)
        )
        return lax.platform_dependent(x_words, w_words, cpu=cpu, default=default)
