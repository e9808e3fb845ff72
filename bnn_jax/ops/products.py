"""Matrix products, and into how many equal parts they are cut."""

import jax
from jax import lax

from bnn_jax.ops.deterministic import wide


def dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """sum over axis_a of a and axis_b of b of a b, in float32 or wider; the other axes of a come first, then those of b."""
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=wide(a.dtype))


def divisor(n: int, largest: int) -> int:
    """The largest divisor of n that is at most `largest`; 1 if there is none."""
    return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(largest, 1))
