"""Initial weights: functions (key, shape, dtype) -> weights."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

# How many numbers are drawn at a time: CHUNK, or FEW if no more are needed. Each new shape would compile
# `jax.random.normal` again.
CHUNK, FEW = 2**17, 2**12


def ones(key: Key[Array, ''], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, '*shape']:
    """1 everywhere; the key is not used."""
    return jnp.ones(shape, dtype)


def unit_uniform(key: Key[Array, ''], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, '*shape']:
    """Uniform on [0, 1).

    Source: gamma of a batch normalization in Torch, and in PyTorch before 1.2.
    """
    return jax.random.uniform(key, shape, dtype)


def he_normal_fan_out(
    key: Key[Array, ''], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, '*shape']:
    """Normal with mean 0 and variance 2 / fan-out, where fan-out is the size of the window times the number of filters.

    Source: arXiv:1502.01852; VGG-small in the published code of IR-Net and of ReCU.
    """
    # `he_normal` has variance 2 / fan-in. The two fans differ in their channels only.
    return he_normal(key, shape, dtype) * jnp.asarray(math.sqrt(shape[-2] / shape[-1]), dtype)


def he_normal(key: Key[Array, ''], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, '*shape']:
    """Normal with mean 0 and variance 2 / fan-in, where fan-in is the product of all axes but the last.

    Source: arXiv:1502.01852.
    """
    size, fan_in = math.prod(shape), math.prod(shape[:-1])
    keys = jax.random.split(key, -(-size // CHUNK))
    # With JAX's partitionable keys, a short draw gives the first numbers of a long one.
    few = size <= FEW and jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    draw = partial(jax.random.normal, shape=(FEW if few else CHUNK,), dtype=dtype)
    if isinstance(key, Tracer):
        # Not `vmap`, which draws all chunks from the first key if the keys are of the kind `rbg`.
        numpy, numbers = jnp, jax.lax.map(draw, keys)
    else:
        # NumPy gives the same bits at once. JAX would compile five functions for each new shape.
        typed = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(key))
        numpy, numbers = np, np.stack([draw(typed(data)) for data in np.asarray(jax.random.key_data(keys))])
    weights = numbers.reshape(-1)[:size].reshape(shape) * numpy.asarray(math.sqrt(2 / fan_in), dtype)
    return jnp.asarray(weights, dtype)
