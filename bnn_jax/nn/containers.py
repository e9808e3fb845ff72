"""Containers of layers, and the whole network of them, in training arithmetic."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax.nn.images import check_images, nan_unless_finite
from bnn_jax.nn.meshes import called_automatically
from bnn_jax.nn.packed import PackedBranches, PackedNetwork, PackedResidual, PackedSequential
from bnn_jax.nn.slots import Container, Slot
from bnn_jax.ops.deterministic import rounded, wide
from bnn_jax.ops.meshes import is_explicit


class Sequential(Container, nnx.Module):
    """Layers one after the other.

    In training mode what lies between two of them is rounded to the dtype `operands`, where that is set (`training.init`); each
    layer computes in float32, or wider, all the same, and what the last one gives is not rounded.
    """

    def __init__(self, layers: Sequence):
        self.layers = nnx.List(layers)
        self.operands: DTypeLike | None = None
        self.deterministic = False

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(self.layers):
            x = layer(self.between(x) if i else x)
        return x

    def between(self, x: jax.Array) -> jax.Array:
        """What a layer gives, as the next one reads it."""
        return x if self.operands is None or self.deterministic else x.astype(self.operands)

    def slots(self) -> list[Slot]:
        return [Slot(str(i), self.layers, i) for i in range(len(self.layers))]

    def packed(self, layers: Sequence[Any]) -> PackedSequential:
        return PackedSequential(tuple(layers))


class Residual(Container, nnx.Module):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    def __init__(self, body: Sequential, shortcut: Sequential):
        self.body, self.shortcut = body, shortcut

    def __call__(self, x: jax.Array) -> jax.Array:
        body, shortcut = (rounded(branch(x)) for branch in (self.body, self.shortcut))
        return body.astype(wide(body.dtype)) + shortcut.astype(wide(shortcut.dtype))

    def slots(self) -> list[Slot]:
        return [Slot(name, self, name) for name in ('body', 'shortcut')]

    def packed(self, layers: Sequence[Any]) -> PackedResidual:
        return PackedResidual(*layers)


class Branches(Container, nnx.Module):
    """What several chains of layers make of one input, side by side: their channels concatenated, (N, H, W, sum of C)."""

    def __init__(self, branches: Sequence[Sequential]):
        self.branches = nnx.List(branches)

    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = [branch(x) for branch in self.branches]
        return jnp.concatenate([y.astype(wide(y.dtype)) for y in outputs], axis=-1)

    def slots(self) -> list[Slot]:
        return [Slot(f'branch{i}', self.branches, i) for i in range(len(self.branches))]

    def packed(self, layers: Sequence[Any]) -> PackedBranches:
        return PackedBranches(tuple(layers))


class Auxiliary(Container, nnx.Module):
    """The identity, with a head beside it that only training sees: `Network.with_auxiliary` gives its logits.

    weight: of the head's loss, added to that of the network's own logits. Neither `convert` nor `summarize` counts it.
    """

    def __init__(self, head: Sequential, weight: float):
        self.head, self.weight = head, weight

    def __call__(self, x: jax.Array) -> jax.Array:
        return x

    def slots(self) -> list[Slot]:
        return []  # Only training sees the head.

    def packed(self, layers: Sequence[Any]) -> PackedSequential:
        return PackedSequential(())


class Network(Container, nnx.Module):
    """A whole network: images (N, H, W, channels), floating, to logits (N, num_classes), float32 (float64 for float64).

    An image that is not finite gives logits NaN.
    Raises TypeError for images of a dtype that is not floating, ValueError for another rank or number of channels.
    """

    # Paths of the layers that were not taken over from another network and have initial weights (`nn.with_classes`).
    new_layers: tuple[str, ...] = ()

    def __init__(self, layers: Sequence, *, channels: int, num_classes: int):
        self.body = Sequential(layers)
        self.channels, self.num_classes = channels, num_classes

    def __call__(self, images) -> jax.Array:
        images = check_images(images, self.channels)
        if is_explicit(images):
            return called_automatically(Network.__call__, self, images)
        return _logits(self.body(images), images)

    def slots(self) -> list[Slot]:
        return [Slot('', self, 'body')]

    def packed(self, layers: Sequence[Any]) -> PackedNetwork:
        return PackedNetwork(self.channels, self.num_classes, *layers)

    def with_auxiliary(self, images) -> tuple[jax.Array, tuple[tuple[float, jax.Array], ...]]:
        """The logits, and of every `Auxiliary` on the main path the weight of its loss and its own logits; raises as a call.

        The loss of training is that of the logits plus the sum of weight times that of the auxiliary logits. Of a subclass with
        a `__call__` of its own the logits are what it returns; raises TypeError if it has auxiliary heads as well, which
        only a `with_auxiliary` of its own can reach.
        """
        if type(self).__call__ is not Network.__call__:
            if any(isinstance(layer, Auxiliary) for layer in self.body.layers):
                raise TypeError(
                    f'with_auxiliary: {type(self).__name__} has a __call__ of its own and auxiliary heads, expected a '
                    'with_auxiliary of its own as well'
                )
            return self(images), ()
        images = x = check_images(images, self.channels)
        heads = []
        for i, layer in enumerate(self.body.layers):
            x = self.body.between(x) if i else x
            if isinstance(layer, Auxiliary):
                heads.append((layer.weight, _logits(layer.head(x), images)))
            x = layer(x)
        return _logits(x, images), tuple(heads)


def _logits(x: jax.Array, images: jax.Array) -> jax.Array:
    return nan_unless_finite(x.astype(wide(x.dtype)), images)


def expect_network(caller: str, model: Any) -> None:
    """Raises TypeError, naming the caller, for anything but a `Network`."""
    if not isinstance(model, Network):
        raise TypeError(f'{caller}: got {type(model).__name__}, expected a Network as bnn_jax.models make them')
