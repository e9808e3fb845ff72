"""A trained network with a new last layer, for another number of classes."""

from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from bnn_jax.nn.containers import Auxiliary, Network, Sequential
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.product import Product


def with_classes(model: Network, num_classes: int, *, rngs: nnx.Rngs) -> Network:
    """A copy of a trained network for another number of classes, with a new last product.

    A normalization of the logits is new too. In each auxiliary head, the same layers are replaced. All other layers keep their
    parameters.

    Args:
        model: the trained network. It is not changed.
        num_classes: the number of classes of the copy.
        rngs: random keys for the new weights.

    Returns:
        The copy, in the mode of the model (training or evaluation). Its `new_layers` has the paths of the new layers.
        `optim.by_kind` trains these alone with rules for `optim.inside(*network.new_layers)` and `optim.outside(...)`.

    Raises:
        TypeError: the model is not a `Network`. In a module of your own, assign a new layer to its attribute.
        ValueError: num_classes is not a positive integer, the network does not end with a product that has one output
            for each class, or a layer with arrays that is not a `Norm` follows that product.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> last = bnn.nn.Linear(3, 8, scheme=bnn.FLOAT, rngs=nnx.Rngs(0))
        >>> trained = bnn.nn.Network([bnn.nn.GlobalAveragePool(), last], channels=3, num_classes=8)
        >>> bnn.nn.with_classes(trained, 10, rngs=nnx.Rngs(1)).new_layers
        ('body.layers.1',)
    """
    if not isinstance(model, Network):
        raise TypeError(
            f'with_classes: got {type(model).__name__}, expected a trained Network, such as those of bnn_jax.models, before it '
            'is converted; in a module of your own assign a new layer to its attribute'
        )
    # True is an int in Python.
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise ValueError(f'num_classes: got {num_classes!r}, expected a positive integer')
    # The trained model and its parameters stay as they are.
    network = nnx.merge(*nnx.split(model), copy=True)
    network.new_layers = tuple(_renewed(network.body, 'body', model.num_classes, num_classes, rngs))
    network.num_classes = num_classes
    return network


def _renewed(chain: Sequential, path: str, old: int, new: int, rngs: nnx.Rngs) -> Iterator[str]:
    """Replaces the last product of a chain and the normalizations after it, and yields the paths of the new layers."""
    layers = chain.layers
    for i, layer in enumerate(layers):
        if isinstance(layer, Auxiliary):
            yield from _renewed(layer.head, f'{path}.layers.{i}.head', old, new, rngs)
    # The last product on the main path, whether or not normalization or pooling follows it.
    last = max((i for i, layer in enumerate(layers) if isinstance(layer, Product)), default=None)
    if last is None or layers[last].out_features != old:
        raise ValueError(
            f'with_classes: {path} does not end with a product of {old} outputs, expected one with an output for each class'
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
            # The new layer is in the mode of the old one, and rounds its operands to the same dtype.
            made.deterministic, made.operands = product.deterministic, product.operands
        elif isinstance(layer, Norm):
            made = Norm(new, scheme=product.scheme, rngs=rngs)
            made.use_running_average = layer.use_running_average
        elif isinstance(layer, nnx.Module) and jax.tree.leaves(nnx.state(layer)):
            raise ValueError(
                f'with_classes: {path}.layers.{i} is a {type(layer).__name__} after the last product, expected a Norm or '
                'layers without arrays; build a new network and copy the parameters that it shares'
            )
        else:
            continue
        # Flax needs to know that the new item holds arrays.
        layers[i] = nnx.data(made)
        yield f'{path}.layers.{i}'
