"""Modules that hold layers, and the places of the layers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx


class Container:
    """A module that holds layers. Subclass it together with `nnx.Module`, and define `slots` and `packed`.

    `walk` goes through the slots. `convert` converts the layers and gives them to `packed`.

    Example:
        >>> import bnn_jax as bnn
        >>> from bnn_jax.nn import packed
        >>> from flax import nnx
        >>> class Twice(bnn.nn.Container, nnx.Module):
        ...     def __init__(self, layer):
        ...         self.layer = layer
        ...     def __call__(self, x):
        ...         return self.layer(self.layer(x))
        ...     def slots(self):
        ...         return [bnn.nn.Slot('layer', self, 'layer')]
        ...     def packed(self, layers):
        ...         return packed.PackedSequential((layers[0], layers[0]))
        >>> [place.path for place in bnn.nn.walk(Twice(bnn.nn.Relu()))]
        ['layer']
    """

    def slots(self) -> list['Slot']:
        """The places of the layers, in the order in which they run."""
        raise NotImplementedError

    def packed(self, layers: Sequence[Any]) -> Any:
        """The container in packed arithmetic. layers: the converted layers, one for each slot."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place that holds a layer: an attribute of a module, or an item of a list, tuple or dictionary.

    Args:
        name: the name of the place in paths.
        holder: the module, list, tuple or dictionary.
        key: the name of the attribute, the index or the key.

    Example:
        >>> import bnn_jax as bnn
        >>> model = bnn.nn.Sequential([bnn.nn.Flatten(), bnn.nn.Relu()])
        >>> slot = bnn.nn.Slot('1', model.layers, 1)
        >>> slot.put(bnn.nn.HardTanh())
        >>> slot.get()
        HardTanh()
    """

    name: str
    holder: Any
    key: Any

    def get(self) -> Any:
        """The layer in this place."""
        return self.holder[self.key] if self._is_item() else getattr(self.holder, self.key)

    def put(self, layer: Any) -> None:
        """Puts another layer in this place. Raises ValueError if the holder is a tuple."""
        holder: Any = self.holder
        if isinstance(holder, tuple):
            raise ValueError(f'{self.name}: got layers in a tuple, which cannot be replaced; expected nnx.List')
        # Flax needs to know whether the new layer is a module or a function, because the old one may be of the other kind.
        if isinstance(self.holder, nnx.Module):
            layer = nnx.data(layer) if isinstance(layer, nnx.Module) else nnx.static(layer)
        if self._is_item():
            holder[self.key] = layer
        else:
            setattr(holder, self.key, layer)

    def _is_item(self) -> bool:
        # nnx.List and nnx.Dict are modules too, but hold their layers as items.
        return isinstance(self.holder, tuple) or hasattr(type(self.holder), '__setitem__')
