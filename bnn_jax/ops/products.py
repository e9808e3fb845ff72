"""A matrix product, and the block size that divides a number of rows into equal parts."""

from jax import lax
from jaxtyping import Array, Float

from bnn_jax.ops.deterministic import wide


def dot(a: Float[Array, '*a'], b: Float[Array, '*b'], axis_a: int, axis_b: int) -> Float[Array, '*product']:
    """The sum of a b over axis_a of a and axis_b of b, in float32 or wider.

    The result has the other axes of a, then the other axes of b.
    """
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=wide(a.dtype))


def divisor(n: int, largest: int) -> int:
    """The largest divisor of n that is at most `largest`; 1 if `largest` is below 1."""
    return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(largest, 1))
