"""Float arithmetic that means the same in every compilation.

A compiler may contract `a * b + c` into one fused multiply-add, turn `a / sqrt(b)` into `a * rsqrt(b)` and `a / c` into
`a * (1 / c)` for a constant c, join the constants of `a + b + c`, sum in any order, and flush subnormal numbers or not;
eager code, a jitted function and a function with constant-folded weights then differ in the last bit. A binary
network amplifies that bit: one flipped sign near 0 grows to a changed prediction. So whatever feeds a sign, in training
arithmetic (eval mode) and in packed arithmetic alike, is made of the functions below.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.native.library import varying_as

LARGE = 2**18  # Numbers beyond which a pass over an array costs more than a conditional does.


def wide(dtype) -> np.dtype:
    """The dtype to compute in: float64 for float64, float32 for all narrower ones.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.wide(jnp.bfloat16)
        dtype('float32')
    """
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@jax.custom_jvp
def rounded(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """x itself, rounded to its dtype before anything follows.

    Forward: max(x, the most negative finite number), which is x for every finite x and NaN. No compiler may remove it, as it
    changes -inf, and none can look through it: `rounded(a * b) + c` is never contracted into a fused multiply-add, and the
    constants of `rounded(a + b) + c` are never joined. Write a division as `a * rounded(1 / b)`.
    `lax.optimization_barrier` does none of this on CPU (measured, jax 0.10).
    Gradient: that of the identity. The maximum's own would compare and select once more in every layer.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda x: bnn.ops.rounded(x * x))(jnp.float32(3))
        Array(6., dtype=float32)
    """
    return jnp.maximum(x, jnp.finfo(x.dtype).min)


@rounded.defjvp
def _rounded_jvp(primals, tangents):
    return rounded(*primals), tangents[0]


def apart(function: Callable, *operands: jax.Array) -> jax.Array:
    """function(*operands), its operands and its result computed once each and kept in memory. Gradient: function's.

    XLA fuses cheap operations into what reads them, and so computes them anew for every element that is read: a mean for
    every weight that it scales. It does not do so across a conditional; the predicate of this one is
    constant but hidden from XLA by a barrier.
    """
    shape = jax.eval_shape(function, *operands)
    certain = jax.lax.optimization_barrier(jnp.asarray(True))
    return jax.lax.cond(
        certain, function, lambda *given: varying_as(jnp.zeros(shape.shape, shape.dtype), *given), *operands
    )


def apart_on_cpu(function: Callable, *operands: jax.Array) -> jax.Array:
    """function(*operands), lowered for CPU `apart`: there an array is read faster than it is written and read again."""
    return jax.lax.platform_dependent(*operands, cpu=partial(apart, function), default=function)


def negative(x: jax.Array) -> jax.Array:
    """Where the sign of x is -1, or x is NaN: not x > -tiny, tiny being the smallest normal number.

    Subnormal numbers count as 0, whose sign is +1: whether they are flushed depends on the compilation.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x < 0
    x = x.astype(wide(x.dtype))
    return ~(x > -jnp.finfo(x.dtype).tiny)


def _itself(x: jax.Array) -> jax.Array:
    return x


@partial(jax.jit, static_argnames='term')
def ordered_sum(*operands: jax.Array, term: Callable[..., jax.Array] = _itself) -> jax.Array:
    """Sum over axis 0 of term(*operands), pairwise, in the same order in every compilation. Its error grows as log n, not as n.

    The first half is added to the second half, again and again. Rows left over where the number is odd are added at the end,
    the first left over first. Differentiable.

    Args:
        operands: (n, ...) each, n >= 1.
        term: what is added up, made of the operands number by number.

    Returns:
        (...).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.ordered_sum(jnp.array([[1.0], [-2.0], [3.0]]), term=jnp.abs)
        Array([6.], dtype=float32)
    """
    left_over = []
    while (n := operands[0].shape[0]) > 1:
        # Put aside before halving, so that every compilation adds the same pairs.
        if n % 2:
            left_over.append(term(*(x[-1] for x in operands)))
            operands = tuple(x[:-1] for x in operands)
            continue
        halved = partial(_halved, term)
        operands = (apart_on_cpu(halved, *operands) if _is_large(operands[0].shape) else halved(*operands),)
        term = _itself
    return apart(_itself, sum(left_over, term(*(x[0] for x in operands))))


def _is_large(shape: tuple) -> bool:
    """Whether an array has LARGE numbers; one whose batch is left open (`jax.export.symbolic_shape`) counts as large."""
    known = [extent for extent in shape if isinstance(extent, int)]
    return len(known) < len(shape) or math.prod(known) >= LARGE


def _halved(term, *operands):
    """(n, ...), n even, to n / 2 rows, n / 4 or n / 8: every operand is read once, and no sum between is written."""
    parts = [term(*part) for part in zip(*(jnp.split(x, math.gcd(len(x), 8)) for x in operands), strict=True)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [a + b for a, b in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


@partial(jax.jit, static_argnames='term')
def ordered_mean(*operands: jax.Array, term: Callable[..., jax.Array] = _itself) -> jax.Array:
    """Mean over axis 0: `ordered_sum` times the nearest number to 1/n (a compiler may rewrite a division by a constant).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.ordered_mean(jnp.array([[1.0], [-2.0], [3.0], [4.0]]))
        Array([1.5], dtype=float32)
    """
    total = ordered_sum(*operands, term=term)
    return rounded(total * np.asarray(1.0 / operands[0].shape[0], total.dtype))


@jax.jit
def norm_coefficients(
    gamma: Float[Array, ' channels'],
    beta: Float[Array, ' channels'],
    mean: Float[Array, ' channels'],
    var: Float[Array, ' channels'],
    eps: float,
) -> Float[Array, '2 channels']:
    """Batch normalization with fixed statistics as two numbers a channel: (2, C), rows `scale` and `shift`.

    scale = gamma / sqrt(var + eps), shift = beta / scale - mean, so that gamma (x - mean) / sqrt(var + eps) + beta is
    (x + shift) * scale: first the addition, then the multiplication, which cannot be contracted.
    Where gamma is 0, or so small that beta / scale is infinite, the channel is the constant beta: scale is exactly 0
    and shift holds beta. A NaN, or a variance below -eps, gives NaN. Divisions are by multiplying with a rounded reciprocal.
    """
    deviation = rounded(jnp.sqrt(var + jnp.asarray(eps, var.dtype)))
    scale = _normal(_normal(gamma) * rounded(1 / deviation))
    ratio = _normal(beta) * rounded(1 / rounded(jnp.where(scale == 0, 1, scale)))
    constant = (scale == 0) | jnp.isinf(ratio)
    shift = rounded(ratio) - mean
    return jnp.stack([jnp.where(constant, 0, scale), jnp.where(constant, beta, shift)])


def _normal(x: jax.Array) -> jax.Array:
    """x, subnormal numbers as 0."""
    return jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).tiny, 0, x)


@jax.jit
def normalize(
    x: Float[Array, '*batch channels'], coefficients: Float[Array, '2 channels']
) -> Float[Array, '*batch channels']:
    """(x + shift) * scale per channel, or the constant `shift` where scale is 0.

    Args:
        x: channels last.
        coefficients: the rows scale and shift, as `norm_coefficients` makes them.

    Returns:
        The shape of x.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.ops.normalize(jnp.array([[1.0, 1.0]]), jnp.array([[2.0, 0.0], [-3.0, 5.0]]))
        Array([[-4.,  5.]], dtype=float32)
    """
    scale, shift = coefficients
    scale, shift = (jnp.broadcast_to(c, x.shape) for c in (scale, shift))
    # The addition comes first: a product of a sum has nothing that could be contracted.
    return jnp.where(scale == 0, shift, rounded((x + shift) * scale))
