"""Computes with arrays on a mesh with explicit axes (`AxisType.Explicit`) as on a mesh with automatic axes."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from bnn_jax.native.library import varying_as


def is_explicit(tree: Any) -> bool:
    """Whether an array in the tree lies on a mesh with explicit axes."""
    return _mesh(tree) is not None


def along_batch(x: jax.Array) -> PartitionSpec:
    """The partition of a result that shares only its first axis with x: that of x along this axis, none along the others."""
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*spec[:1])


def automatically(function: Callable, out: Any, *operands: Any) -> Any:
    """function(*operands), with the axes of the mesh automatic inside.

    Args:
        function: a function of arrays.
        out: the partition of the result, a tree of `PartitionSpec`.
        operands: arrays on a mesh with explicit axes.

    Returns:
        The result, partitioned as `out`.
    """
    # With explicit axes JAX raises an error if the partition of a result is ambiguous; with automatic axes XLA decides.
    # The arrays' own mesh, because they may lie on a mesh that was not set with `jax.set_mesh`.
    with jax.sharding.use_abstract_mesh(_mesh(operands) or jax.sharding.get_abstract_mesh()):
        return jax.jit(jax.sharding.auto_axes(function, out_sharding=out))(*operands)


def _mesh(tree: Any) -> Any:
    """The mesh with explicit axes on which arrays of the tree lie; None if there is none."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if hasattr(leaf, 'dtype'))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def alike(*operands: jax.Array) -> tuple[jax.Array, ...]:
    """The operands, each marked as varying over every mesh axis over which one of them varies (in `jax.shard_map`).

    A custom gradient must have the types of its operands, and in `shard_map` a type includes these axes. Without the mark, JAX
    would refuse the gradient of weights that all devices share; with it, JAX sums this gradient over the devices.
    """
    return tuple(varying_as(operand, *operands) for operand in operands)
