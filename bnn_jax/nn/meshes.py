"""Layers on a mesh with explicit axes. See `ops.meshes`."""

from collections.abc import Callable

from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

from bnn_jax.ops.meshes import along_batch, automatically


def called_automatically(
    call: Callable, module: nnx.Module, x: Shaped[Array, ' n *input']
) -> Shaped[Array, ' n *output']:
    """call(module, x) for x on a mesh with explicit axes. The call may change the state of the module.

    Args:
        call: (module, x) -> y.
        module: the layer or network.
        x: the input.

    Returns:
        y, partitioned along its first axis as x is.
    """
    graphdef, state = nnx.split(module)

    def run(state, x):
        # Inside the jitted function a copy changes; its state is returned, and the module gets it below.
        copy = nnx.merge(graphdef, state, copy=True)
        return call(copy, x), nnx.state(copy, nnx.Not(nnx.Param))

    y, rest = automatically(run, (along_batch(x), PartitionSpec()), state, x)
    nnx.update(module, rest)
    return y
