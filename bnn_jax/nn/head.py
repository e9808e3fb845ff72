"""Another number of classes: a trained network with a new last layer."""

from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from bnn_jax.nn.containers import Auxiliary, Network, Sequential
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.product import Product


def with_classes(model: Network, num_classes: int, *, rngs: nnx.Rngs) -> Network:
    """A copy of a trained network for another number of classes: a new last product, all else as it is.

    A normalization of the logits is new as well, and so are the last products of heads that only training sees.

    Args:
        model: the trained network, which is not changed.
        num_classes: of the new one.
        rngs: random keys for the new weights.

    Returns:
        The network, in the model's mode. Its `new_layers` names what is new; `training.inside(*network.new_layers)` is the kind
        of those parameters, for an optimizer that trains them alone (`training.by_kind`).

    Raises:
        TypeError: for a model that is no `Network`; in a module of your own, assign a new layer to its attribute.
        ValueError: for a network that does not end with a product of its classes.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> trained = bnn.models.mlp(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), hidden=(8,), input_shape=(2, 2, 1))
        >>> bnn.nn.with_classes(trained, 3, rngs=nnx.Rngs(1)).new_layers
        ('body.layers.6',)
    """
    if not isinstance(model, Network):
        raise TypeError(
            f'with_classes: got {type(model).__name__}, expected a Network as bnn_jax.models make them; in a module of your '
            'own assign a new layer to its attribute'
        )
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise ValueError(f'num_classes: got {num_classes!r}, expected a positive integer')
    network = nnx.merge(*nnx.split(model), copy=True)
    network.new_layers = tuple(_renewed(network.body, 'body', model.num_classes, num_classes, rngs))
    network.num_classes = num_classes
    return network


def _renewed(chain: Sequential, path: str, old: int, new: int, rngs: nnx.Rngs) -> Iterator[str]:
    """Replaces the last product of a chain, and what normalizes its output; the paths of what is new."""
    layers = chain.layers
    for i, layer in enumerate(layers):
        if isinstance(layer, Auxiliary):
            yield from _renewed(layer.head, f'{path}.layers.{i}.head', old, new, rngs)
    last = max((i for i, layer in enumerate(layers) if isinstance(layer, Product)), default=None)
    if last is None or layers[last].out_features != old:
        raise ValueError(
            f'with_classes: {path} does not end with a product of {old} classes, expected one on its main path'
        )
    product = layers[last]
    for i in range(last, len(layers)):
        layer = layers[i]
        if layer is product:
            made = Product(
                product.operation,
                product.in_features,
                new,
                scheme=product.scheme,
                use_bias=product.bias is not None,
                rngs=rngs,
                dropout=product.dropout,
                drop=product.drop,
            )
            made.deterministic, made.operands = product.deterministic, product.operands
        elif isinstance(layer, Norm):
            made = Norm(new, scheme=product.scheme, rngs=rngs)
            made.use_running_average = layer.use_running_average
        elif isinstance(layer, nnx.Module) and jax.tree.leaves(nnx.state(layer)):
            raise ValueError(
                f'with_classes: {path}.layers.{i} is a {type(layer).__name__} behind the last product, expected nothing with '
                'arrays there but a Norm; build a new network and copy what it shares'
            )
        else:
            continue
        layers[i] = nnx.data(made)
        yield f'{path}.layers.{i}'
