"""DoReFa-Net's quantizers: signs with one scale for each layer, and numbers of several bits (arXiv:1606.06160)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.ops.deterministic import wide
from bnn_jax.quantizers.scaled import alpha
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import floating, over_filters, with_gradient


def _bits(bits: int) -> int:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 16:
        raise ValueError(f'bits: got {bits!r}, expected an integer from 1 to 16')
    return 2 ** int(bits) - 1


def layer_alpha(w: Float[ArrayLike, '*window out']) -> Float[Array, ' out']:
    """One scale for the whole layer: the mean of |W| over all axes, repeated for every filter.

    Args:
        w: kernel with the filters last.

    Returns:
        The same number for every filter.

    Raises:
        TypeError: w is not floating.
        ValueError: w is a scalar.

    Source: DoReFa-Net (arXiv:1606.06160) eq. 8.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.layer_alpha(jnp.array([[1.0, -4.0], [-3.0, 0.0]]))
        Array([2., 2.], dtype=float32)
    """
    w = floating(w, 'layer_alpha')
    if w.ndim == 0:
        raise ValueError('layer_alpha: got a scalar, expected rank >= 1 with the output filter as last axis')
    return jnp.broadcast_to(alpha(w.reshape(-1, 1)), w.shape[-1:])


@with_gradient(lambda w, g: g)
def layer_scaled_sign(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """One scale for the whole layer times the signs, with the identity as gradient.

    Forward: `layer_alpha`(W) sign(W).
    Gradient: g.

    Args:
        w: kernel with the filters last.

    Returns:
        Numbers of one magnitude, of the shape and dtype of w.

    Raises:
        TypeError: w is not floating.
        ValueError: w is a scalar.

    Source: DoReFa-Net (arXiv:1606.06160) eq. 8, its 1-bit weights.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.layer_scaled_sign(jnp.array([[1.0], [-3.0]]))[:, 0]
        Array([ 2., -2.], dtype=float32)
    """
    return over_filters(layer_alpha(w), w) * sign(w)


def dorefa_weights(x: Float[ArrayLike, '*shape'], bits: int) -> Float[Array, '*shape']:
    """DoReFa's weights of several bits, from -1 to 1.

    For one bit this is `layer_scaled_sign`. For more bits, n = 2^bits - 1 and M = max |tanh(x)|, or 1 if all x are 0.
    Forward: 2 round(n (tanh(x) / (2 M) + 1/2)) / n - 1, halves to even.
    Gradient: g (1 - tanh(x)^2) / M, where M counts as a constant.

    Args:
        x: any shape; for one bit, not a scalar.
        bits: from 1 to 16.

    Returns:
        Numbers of 2^bits levels, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.
        ValueError: bits is not an integer from 1 to 16, or x is a scalar and bits is 1.

    Source: DoReFa-Net (arXiv:1606.06160) eq. 9, and eq. 8 for one bit.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.dorefa_weights(jnp.array([-9.0, 0.1, 9.0]), bits=2).round(3)
        Array([-1.   ,  0.333,  1.   ], dtype=float32)
    """
    _bits(bits)
    return layer_scaled_sign(x) if bits == 1 else _dorefa_weights(x, int(bits))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dorefa_weights(x, bits):
    x, n = floating(x, 'dorefa_weights'), _bits(bits)
    t, largest = _tanh_and_largest(x)
    return (2 * jnp.round(n * (t / (2 * largest) + 0.5)) / n - 1).astype(x.dtype)


def _tanh_and_largest(x):
    t = jnp.tanh(x.astype(wide(x.dtype)))
    largest = jnp.max(jnp.abs(t), initial=0)
    return t, jnp.where(largest == 0, 1, largest)


def _dorefa_weights_fwd(x, bits):
    return _dorefa_weights(x, bits), x


def _dorefa_weights_bwd(bits, x, g):
    t, largest = _tanh_and_largest(x)
    return ((g.astype(t.dtype) * (1 - t**2) / largest).astype(x.dtype),)


_dorefa_weights.defvjp(_dorefa_weights_fwd, _dorefa_weights_bwd)


def dorefa_activations(x: Float[ArrayLike, '*shape'], bits: int) -> Float[Array, '*shape']:
    """DoReFa's activations of several bits: from 0 to 1, not +1 and -1.

    Forward, n = 2^bits - 1: round(n clip(x, 0, 1)) / n, halves to even.
    Gradient: g where 0 <= x <= 1, the edges included, else 0.

    Args:
        x: any shape.
        bits: from 1 to 16.

    Returns:
        Numbers of 2^bits levels, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.
        ValueError: bits is not an integer from 1 to 16.

    Source: DoReFa-Net (arXiv:1606.06160) eq. 11.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.dorefa_activations(jnp.array([-1.0, 0.4, 2.0]), bits=1)
        Array([0., 0., 1.], dtype=float32)
    """
    _bits(bits)
    return _dorefa_activations(x, int(bits))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dorefa_activations(x, bits):
    x, n = floating(x, 'dorefa_activations'), _bits(bits)
    clipped = jnp.clip(x.astype(wide(x.dtype)), 0, 1)
    return (jnp.round(clipped * n) / n).astype(x.dtype)


def _dorefa_activations_fwd(x, bits):
    return _dorefa_activations(x, bits), x


def _dorefa_activations_bwd(bits, x, g):
    return (jnp.where((x >= 0) & (x <= 1), g, 0).astype(x.dtype),)


_dorefa_activations.defvjp(_dorefa_activations_fwd, _dorefa_activations_bwd)
