"""Containers of layers in training arithmetic, and the whole network."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.nn.images import check_images, nan_unless_finite
from bnn_jax.nn.meshes import called_automatically
from bnn_jax.nn.packed import PackedBranches, PackedNetwork, PackedResidual, PackedSequential
from bnn_jax.nn.slots import Container, Slot
from bnn_jax.ops.deterministic import rounded, wide
from bnn_jax.ops.meshes import is_explicit


class Sequential(Container, nnx.Module):
    """Layers that run one after the other.

    `training.init` may set `operands` to a narrower dtype. In training mode the numbers between two layers are then rounded
    to that dtype. Products, normalizations and means still compute in float32 or wider. The output of the last layer is
    not rounded.

    Args:
        layers: layers or functions of one array, first to last.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> model = bnn.nn.Sequential([bnn.nn.Relu(), bnn.nn.Flatten()])
        >>> jax.eval_shape(model, jax.ShapeDtypeStruct((1, 2, 2, 3), 'float32')).shape
        (1, 12)
    """

    def __init__(self, layers: Sequence):
        self.layers = nnx.List(layers)
        self.operands: DTypeLike | None = None
        self.deterministic = False

    def __call__(self, x: Float[Array, ' n *input']) -> Float[Array, ' n *output']:
        for i, layer in enumerate(self.layers):
            x = layer(self.between(x) if i else x)
        return x

    def between(self, x: Float[Array, '*shape']) -> Float[Array, '*shape']:
        """The output of a layer, in the dtype in which the next layer reads it."""
        return x if self.operands is None or self.deterministic else x.astype(self.operands)

    def slots(self) -> list[Slot]:
        """The places of the layers."""
        return [Slot(str(i), self.layers, i) for i in range(len(self.layers))]

    def packed(self, layers: Sequence[Any]) -> PackedSequential:
        """The packed chain of the converted layers."""
        return PackedSequential(tuple(layers))


class Residual(Container, nnx.Module):
    """A residual block: body(x) + shortcut(x).

    Args:
        body: the layers.
        shortcut: the layers of the shortcut. An empty chain is the identity.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> block = bnn.nn.Residual(bnn.nn.Sequential([bnn.nn.Relu()]), bnn.nn.Sequential([]))
        >>> block(jnp.array([[-1.0, 2.0]]))
        Array([[-1.,  4.]], dtype=float32)
    """

    def __init__(self, body: Sequential, shortcut: Sequential):
        self.body, self.shortcut = body, shortcut

    def __call__(self, x: Float[Array, ' n *input']) -> Float[Array, ' n *output']:
        # Rounded, so that no compiler contracts the addition with the last step of a branch.
        body, shortcut = (rounded(branch(x)) for branch in (self.body, self.shortcut))
        return body.astype(wide(body.dtype)) + shortcut.astype(wide(shortcut.dtype))

    def slots(self) -> list[Slot]:
        """The places of body and shortcut."""
        return [Slot(name, self, name) for name in ('body', 'shortcut')]

    def packed(self, layers: Sequence[Any]) -> PackedResidual:
        """The packed block of the converted body and shortcut."""
        return PackedResidual(*layers)


class Branches(Container, nnx.Module):
    """Several chains of layers on one input; their outputs are concatenated along the channels.

    Args:
        branches: the chains. Their outputs have the same height and width.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> model = bnn.nn.Branches([bnn.nn.Sequential([bnn.nn.Relu()]), bnn.nn.Sequential([])])
        >>> jax.eval_shape(model, jax.ShapeDtypeStruct((1, 2, 2, 3), 'float32')).shape
        (1, 2, 2, 6)
    """

    def __init__(self, branches: Sequence[Sequential]):
        self.branches = nnx.List(branches)

    def __call__(self, x: Float[Array, 'n *image channels']) -> Float[Array, 'n *output sum_of_channels']:
        # A branch without a product may keep a narrow dtype, but a concatenation needs one dtype.
        outputs = [branch(x) for branch in self.branches]
        return jnp.concatenate([y.astype(wide(y.dtype)) for y in outputs], axis=-1)

    def slots(self) -> list[Slot]:
        """The places of the branches."""
        return [Slot(f'branch{i}', self.branches, i) for i in range(len(self.branches))]

    def packed(self, layers: Sequence[Any]) -> PackedBranches:
        """The packed branches."""
        return PackedBranches(tuple(layers))


class Auxiliary(Container, nnx.Module):
    """The identity, with a head that only training uses. `Network.with_auxiliary` returns the logits of the head.

    `convert` and `summarize` leave the head out.

    Args:
        head: the layers, from the input of this layer to logits.
        weight: the factor of the head's loss, which training adds to the loss of the network.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> layer = bnn.nn.Auxiliary(bnn.nn.Sequential([bnn.nn.GlobalAveragePool()]), weight=0.3)
        >>> x = jnp.ones((1, 2, 2, 3))
        >>> layer(x) is x
        True
    """

    def __init__(self, head: Sequential, weight: float):
        self.head, self.weight = head, weight

    def __call__(self, x: Float[Array, '*shape']) -> Float[Array, '*shape']:
        return x

    def slots(self) -> list[Slot]:
        """No places: evaluation does not run the head."""
        return []

    def packed(self, layers: Sequence[Any]) -> PackedSequential:
        """The identity."""
        return PackedSequential(())


class Network(Container, nnx.Module):
    """A whole network, from images to logits.

    Images are (N, H, W, channels), floating; logits are (N, num_classes) float32, or float64 for float64 images. The logits of
    an image that is not finite are NaN.

    Args:
        layers: the layers, first to last.
        channels: the number of channels of the images.
        num_classes: the number of logits.

    Raises:
        TypeError: in a call, the images are not floating, or are a masked array.
        ValueError: in a call, the images have another rank or number of channels, or an axis of length 0.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> model = bnn.nn.Network([bnn.nn.GlobalAveragePool()], channels=3, num_classes=3)
        >>> jax.eval_shape(model, jax.ShapeDtypeStruct((2, 4, 4, 3), 'float32')).shape
        (2, 3)
    """

    # Paths of the layers whose weights are new, in a network that `nn.with_classes` made from a trained one.
    new_layers: tuple[str, ...] = ()

    def __init__(self, layers: Sequence, *, channels: int, num_classes: int):
        self.body = Sequential(layers)
        self.channels, self.num_classes = channels, num_classes

    def __call__(self, images: Float[ArrayLike, 'n height width channels']) -> Float[Array, 'n num_classes']:
        images = check_images(images, self.channels)
        if is_explicit(images):
            # A subclass that calls super().__call__ must not be entered again.
            return called_automatically(Network.__call__, self, images)
        return _logits(self.body(images), images)

    def slots(self) -> list[Slot]:
        """The place of the chain of layers."""
        return [Slot('', self, 'body')]

    def packed(self, layers: Sequence[Any]) -> PackedNetwork:
        """The packed network of the converted chain."""
        return PackedNetwork(self.channels, self.num_classes, *layers)

    def with_auxiliary(
        self, images: Float[ArrayLike, 'n height width channels']
    ) -> tuple[Float[Array, 'n num_classes'], tuple[tuple[float, Float[Array, 'n num_classes']], ...]]:
        """The logits, and the weight and logits of every `Auxiliary` on the main path.

        Training adds weight times the loss of each head to the loss of the logits. For a subclass with a `__call__` of its
        own, the logits are the result of that call.

        Args:
            images: as in a call.

        Returns:
            The logits, and a pair (weight, logits) for each head.

        Raises:
            TypeError: as in a call; or the subclass has a `__call__` of its own and auxiliary heads, but no `with_auxiliary`.
            ValueError: as in a call.
        """
        # A subclass's own `__call__` may do anything, so the layers cannot be run one by one here.
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
    """Raises TypeError, with the caller's name, if the model is not a `Network`."""
    if not isinstance(model, Network):
        raise TypeError(f'{caller}: got {type(model).__name__}, expected a Network, such as those of bnn_jax.models')
