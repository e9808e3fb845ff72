"""Initial weights."""

import math

import jax
import jax.numpy as jnp

CHUNK = 2**17


def ones(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """1 everywhere."""
    return jnp.ones(shape, dtype)


def unit_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Uniform on [0, 1). Source: gamma of a batch normalization in Torch, and in PyTorch before 1.2."""
    return jax.random.uniform(key, shape, dtype)


def he_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Normal with mean 0 and variance 2 / fan-out, fan-out being the window times the filters (drawn as `he_normal`).

    Source: arXiv:1502.01852; VGG-small in the codes of IR-Net and ReCU.
    """
    return he_normal(key, shape, dtype) * jnp.asarray(math.sqrt(shape[-2] / shape[-1]), dtype)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Normal with mean 0 and variance 2 / fan-in, fan-in being all axes but the last. Source: arXiv:1502.01852.

    Drawn in chunks of one size, so that a network's many shapes share one compilation (jax.random.normal compiles for two
    seconds a shape on CPU).
    """
    size, fan_in = math.prod(shape), math.prod(shape[:-1])
    keys = jax.random.split(key, -(-size // CHUNK))
    chunks = [jax.random.normal(chunk_key, (CHUNK,), dtype) for chunk_key in keys]
    return jnp.concatenate(chunks)[:size].reshape(shape) * jnp.asarray(math.sqrt(2 / fan_in), dtype)
