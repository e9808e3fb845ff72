"""Packed layers with several chains on one input."""

from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.files.bounds import at
from bnn_jax.nn.packed.network import PackedSequential
from bnn_jax.nn.packed_layer import PackedLayer, child, packed_layer
from bnn_jax.nn.report import Row
from bnn_jax.ops.deterministic import rounded
from bnn_jax.ops.shapes import Shape, merged


@packed_layer('Sum')
class PackedResidual(PackedLayer):
    """A packed residual block: body(x) + shortcut(x).

    Args:
        body: the layers.
        shortcut: the layers of the shortcut. An empty chain is the identity.
    """

    body: PackedSequential = child()
    shortcut: PackedSequential = child()

    def __call__(self, x: Float[Array, ' n *input']) -> Float[Array, ' n *output']:
        # The same rounding as in `nn.Residual`.
        return rounded(self.body(x)) + rounded(self.shortcut(x))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        ends = []
        for name, branch in (('body', self.body), ('shortcut', self.shortcut)):
            with at(name):
                *before, end = branch.maps(shape)
            yield from before
            ends.append(end)
        yield merged('body and shortcut', *ends)

    def rows(self, path: str) -> Iterator[Row]:
        yield from self.body.rows(f'{path}.body')
        yield from self.shortcut.rows(f'{path}.shortcut')


@packed_layer('Concat')
class PackedBranches(PackedLayer):
    """Several packed chains on one input; their outputs are concatenated along the channels.

    Args:
        branches: the chains.
    """

    branches: tuple[PackedSequential, ...] = child()

    def __call__(self, x: Float[Array, 'n *image channels']) -> Float[Array, 'n *output sum_of_channels']:
        return jnp.concatenate([branch(x) for branch in self.branches], axis=-1)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        if not self.branches:
            raise ValueError('branches: got no branch, expected at least one')
        pixels, channels = None, []
        for i, branch in enumerate(self.branches):
            with at(f'branches[{i}]'):
                *before, end = branch.maps(shape)
            yield from before
            if end is None:  # The output shape of a user's layer may be unknown.
                yield None
                return
            pixels = merged('branches', pixels, end[:-1])
            channels.append(end[-1])
        assert pixels is not None
        yield (*pixels, None if None in channels else sum(channels))

    def rows(self, path: str) -> Iterator[Row]:
        for i, branch in enumerate(self.branches):
            yield from branch.rows(f'{path}.branch{i}')
