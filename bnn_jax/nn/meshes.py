"""Layers on a mesh with explicit axes. See `ops.meshes`."""

from collections.abc import Callable

from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

from bnn_jax.ops.meshes import along_batch, automatically


def called_automatically(
    call: Callable, module: nnx.Module, x: Shaped[Array, ' n *input']
) -> Shaped[Array, ' n *output']:
    """call(module, x) for x on a mesh with explicit axes. Changes that the call makes to the module's state are kept.

    Args:
        call: (module, x) -> y.
        module: the layer or network.
        x: the input.

    Returns:
        y, partitioned along its first axis as x is.
    """
    graphdef, state = nnx.split(module)

    def run(state, x):
        # Inside the jitted function, the call changes a copy. The changed state is returned, and the module is updated below.
        copy = nnx.merge(graphdef, state, copy=True)
        y, given = call(copy, x), dict(nnx.to_flat_state(state))
        after = nnx.to_flat_state(nnx.state(copy))
        return y, nnx.from_flat_state([(path, new) for path, new in after if new[...] is not given[path][...]])

    y, changed = automatically(run, (along_batch(x), PartitionSpec()), state, x)
    nnx.update(module, changed)
    return y
