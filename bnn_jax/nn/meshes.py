"""Layers on a mesh with explicit axes: see `ops.meshes`."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from bnn_jax.ops.meshes import along_batch, automatically


def called_automatically(call: Callable, module: nnx.Module, x: jax.Array) -> jax.Array:
    """call(module, x) for x on a mesh with explicit axes, spread as x is along its first axis; the module's state moves on."""
    graphdef, state = nnx.split(module)

    def run(state, x):
        copy = nnx.merge(graphdef, state, copy=True)
        return call(copy, x), nnx.state(copy, nnx.Not(nnx.Param))

    y, rest = automatically(run, (along_batch(x), PartitionSpec()), state, x)
    nnx.update(module, rest)
    return y
