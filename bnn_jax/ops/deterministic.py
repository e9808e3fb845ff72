"""Float arithmetic that gives the same bits in every compilation.

A compiler may contract `a * b + c` into one fused multiply-add. It may turn `a / sqrt(b)` into `a * rsqrt(b)`, and `a / c` into
`a * (1 / c)` for a constant c. It may join the constants of `a + b + c`, sum in any order, and flush subnormal numbers. Eager
code, a jitted function and a function with constant-folded weights then differ in the last bit. A binary network amplifies
that bit: one flipped sign near 0 can change the prediction. So every number whose sign is taken, in training arithmetic
(eval mode) and in packed arithmetic, is computed by the functions below, apart from convolutions and matrix products.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Real

from bnn_jax.native.library import varying_as

# From this many numbers on, a pass over an array costs more than a conditional.
LARGE = 2**18


def wide(dtype: DTypeLike) -> np.dtype:
    """The dtype to compute in: float64 for float64, float32 for every narrower dtype.

    Args:
        dtype: the dtype of the operand.

    Returns:
        A NumPy dtype.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.wide(jnp.bfloat16)
        dtype('float32')
    """
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@jax.custom_jvp
def rounded(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """x, rounded to its dtype before the next operation reads it.

    Forward: max(x, the most negative finite number), which is x for every x except -inf.
    Gradient: g.

    No compiler may remove the maximum, because it changes -inf, and none may move arithmetic across it. So
    `rounded(a * b) + c` is never contracted into a fused multiply-add, and the constants of `rounded(a + b) + c` are never
    joined. Write a division as `a * rounded(1 / b)`.

    Args:
        x: floating, any shape.

    Returns:
        x, with the most negative finite number in place of -inf.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda x: bnn.ops.rounded(x * x))(jnp.float32(3))
        Array(6., dtype=float32)
    """
    # `lax.optimization_barrier` prevents none of these rewrites on CPU (measured, jax 0.10).
    return jnp.maximum(x, jnp.finfo(x.dtype).min)


# The gradient of the maximum itself would cost a comparison and a selection in every layer.
@rounded.defjvp
def _rounded_jvp(primals, tangents):
    return rounded(*primals), tangents[0]


def apart(function: Callable, *operands: jax.Array) -> jax.Array:
    """function(*operands), with each operand and the result computed once and kept in memory.

    Gradient: that of `function`.

    XLA fuses a cheap operation into the operations that read it, and then computes it again for every element: for example, a
    mean for every weight that it scales. XLA does not fuse across a conditional.
    """
    shape = jax.eval_shape(function, *operands)
    # The predicate is constant, but a barrier hides this from XLA.
    certain = jax.lax.optimization_barrier(jnp.asarray(True))
    return jax.lax.cond(
        certain, function, lambda *given: varying_as(jnp.zeros(shape.shape, shape.dtype), *given), *operands
    )


def apart_on_cpu(function: Callable, *operands: jax.Array) -> jax.Array:
    """`apart(function, *operands)` on CPU; elsewhere plain `function(*operands)`.

    On CPU, fusing would compute the operation many times; elsewhere it saves memory traffic.
    """
    return jax.lax.platform_dependent(*operands, cpu=partial(apart, function), default=function)


def negative(x: Real[Array, '*shape']) -> Bool[Array, '*shape']:
    """True where the sign of x is -1, or x is NaN.

    Forward: not x > -tiny, where tiny is the smallest positive normal number of `wide(x.dtype)`; x < 0 for integers.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x < 0
    x = x.astype(wide(x.dtype))
    # Subnormal numbers count as 0, whose sign is +1, because some compilations flush them and others do not.
    return ~(x > -jnp.finfo(x.dtype).tiny)


def _itself(x: jax.Array) -> jax.Array:
    return x


@partial(jax.jit, static_argnames='term')
def ordered_sum(
    *operands: Float[Array, ' n *shape'], term: Callable[..., jax.Array] = _itself
) -> Float[Array, '*shape']:
    """Pairwise sum over axis 0 of term(*operands), in the same order in every compilation.

    Forward: the first half of the rows is added to the second half, again and again until one row is left. Before each halving
    of an odd number of rows, the last row is set aside. The rows set aside are added at the end, in that order. The rounding
    error grows as log n.
    Gradient: that of the sum.

    Args:
        operands: arrays of one shape, n >= 1.
        term: what is summed, computed from the operands element by element.

    Returns:
        The sum, without axis 0.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.ordered_sum(jnp.array([[1.0], [-2.0], [3.0]]), term=jnp.abs)
        Array([6.], dtype=float32)
    """
    left_over = []
    while (n := operands[0].shape[0]) > 1:
        # The odd row is set aside before halving, so that every compilation adds the same pairs.
        if n % 2:
            left_over.append(term(*(x[-1] for x in operands)))
            operands = tuple(x[:-1] for x in operands)
            continue
        halved = partial(_halved, term)
        operands = (apart_on_cpu(halved, *operands) if _is_large(operands[0].shape) else halved(*operands),)
        term = _itself
    return apart(_itself, sum(left_over, term(*(x[0] for x in operands))))


def _is_large(shape: tuple) -> bool:
    """Whether an array has at least LARGE numbers; a symbolic size (`jax.export.symbolic_shape`) counts as large."""
    known = [extent for extent in shape if isinstance(extent, int)]
    return len(known) < len(shape) or math.prod(known) >= LARGE


def _halved(term, *operands):
    """Reduces n rows (n even) to n / 2, n / 4 or n / 8. Reads each operand once and writes no partial sum to memory."""
    parts = [term(*part) for part in zip(*(jnp.split(x, math.gcd(len(x), 8)) for x in operands), strict=True)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [a + b for a, b in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


@partial(jax.jit, static_argnames='term')
def ordered_mean(
    *operands: Float[Array, ' n *shape'], term: Callable[..., jax.Array] = _itself
) -> Float[Array, '*shape']:
    """Mean over axis 0 of term(*operands), the same bits in every compilation.

    Forward: `ordered_sum` times the float nearest to 1/n.
    Gradient: that of the mean.

    Args:
        operands: arrays of one shape, n >= 1.
        term: what is averaged, computed from the operands element by element.

    Returns:
        The mean, without axis 0.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.ordered_mean(jnp.array([[1.0], [-2.0], [3.0], [4.0]]))
        Array([1.5], dtype=float32)
    """
    total = ordered_sum(*operands, term=term)
    # A multiplication, because a compiler may rewrite a division by a constant.
    return rounded(total * np.asarray(1.0 / operands[0].shape[0], total.dtype))


@jax.jit
def norm_coefficients(
    gamma: Float[Array, ' channels'],
    beta: Float[Array, ' channels'],
    mean: Float[Array, ' channels'],
    var: Float[Array, ' channels'],
    eps: float,
) -> Float[Array, '2 channels']:
    """Batch normalization with fixed statistics as two numbers for each channel.

    Forward: scale = gamma / sqrt(var + eps) and shift = beta / scale - mean, so that
    gamma (x - mean) / sqrt(var + eps) + beta = (x + shift) * scale.
    Subnormal gamma and scale count as 0, and so does a subnormal beta in the quotient. Where scale is 0 or beta / scale is
    infinite, the channel is the constant beta: scale is then exactly 0 and shift holds beta. A variance below -eps gives NaN.
    So does a NaN, except in the mean of a constant channel.

    Args:
        gamma: the factor of each channel.
        beta: the number added to each channel.
        mean: the running mean.
        var: the running variance.
        eps: what is added to the variance.

    Returns:
        The rows scale and shift.
    """
    # Each division is a multiplication by a rounded reciprocal: see `rounded`.
    deviation = rounded(jnp.sqrt(var + jnp.asarray(eps, var.dtype)))
    scale = _normal(_normal(gamma) * rounded(1 / deviation))
    ratio = _normal(beta) * rounded(1 / rounded(jnp.where(scale == 0, 1, scale)))
    constant = (scale == 0) | jnp.isinf(ratio)
    shift = rounded(ratio) - mean
    return jnp.stack([jnp.where(constant, 0, scale), jnp.where(constant, beta, shift)])


def _normal(x: jax.Array) -> jax.Array:
    """x, with subnormal numbers replaced by 0."""
    return jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).tiny, 0, x)


@jax.jit
def normalize(
    x: Float[Array, '*batch channels'], coefficients: Float[Array, '2 channels']
) -> Float[Array, '*batch channels']:
    """Batch normalization by two numbers for each channel.

    Forward: (x + shift) * scale, or the constant shift where scale is 0.
    Gradient: with respect to x, scale g; with respect to the coefficients, that of the formula.

    Args:
        x: channels last.
        coefficients: the rows scale and shift, as `ops.deterministic.norm_coefficients` returns them.

    Returns:
        The shape of x.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.normalize(jnp.array([[1.0, 1.0]]), jnp.array([[2.0, 0.0], [-3.0, 5.0]]))
        Array([[-4.,  5.]], dtype=float32)
    """
    scale, shift = coefficients
    scale, shift = (jnp.broadcast_to(c, x.shape) for c in (scale, shift))
    # The addition comes first: a compiler cannot contract (x + shift) * scale into a fused multiply-add.
    return jnp.where(scale == 0, shift, rounded((x + shift) * scale))
