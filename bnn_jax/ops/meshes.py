"""Arrays on a mesh with explicit axes (`AxisType.Explicit`), computed as on a mesh with automatic axes."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec


def is_explicit(tree: Any) -> bool:
    """Whether an array in the tree lies on a mesh with explicit axes."""
    return any(jax.typeof(leaf).sharding.mesh.explicit_axes for leaf in jax.tree.leaves(tree) if hasattr(leaf, 'dtype'))


def along_batch(x: jax.Array) -> PartitionSpec:
    """The partition of a result that shares its first axis with x: as x along that axis, whole along the others."""
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*spec[:1])


def automatically(function: Callable, out: Any, *operands: Any) -> Any:
    """function(*operands), with the axes of the mesh automatic inside.

    Args:
        function: of arrays.
        out: the partition of the result, a tree of `PartitionSpec`.
        operands: arrays on a mesh with explicit axes.

    Returns:
        The result, partitioned as `out`.
    """
    # With explicit axes each operation must be told how its result is partitioned; with automatic axes XLA decides.
    return jax.jit(jax.sharding.auto_axes(function, out_sharding=out))(*operands)
