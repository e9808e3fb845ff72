"""Arrays on a mesh whose axes JAX wants spelled out (`AxisType.Explicit`): computed as on one whose axes it finds itself."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec


def is_explicit(tree: Any) -> bool:
    """Whether an array of the tree lies on a mesh with explicit axes."""
    return any(jax.typeof(leaf).sharding.mesh.explicit_axes for leaf in jax.tree.leaves(tree) if hasattr(leaf, 'dtype'))


def along_batch(x: jax.Array) -> PartitionSpec:
    """How a result is spread that has the first axis of x."""
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*spec[:1])


def automatically(function: Callable, out: Any, *operands: Any) -> Any:
    """function(*operands), whose axes of the mesh are automatic inside; what comes out is spread as `out` says.

    Explicit axes want to be told of every operation how its result lies; here XLA finds that out, as on any other mesh.
    """
    return jax.jit(jax.sharding.auto_axes(function, out_sharding=out))(*operands)
