"""Modules made of layers, and the places in them where layers stand."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx


class Container:
    """A module made of layers: `walk` goes through its slots, `convert` puts the converted layers together again."""

    def slots(self) -> list['Slot']:
        """Where its layers stand, in the order in which they run."""
        raise NotImplementedError

    def packed(self, layers: Sequence[Any]) -> Any:
        """The container in packed arithmetic, made of its converted layers, one for each slot."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place that holds a layer: an attribute of a module, or an item of a list or dictionary."""

    name: str
    holder: Any
    key: Any

    def get(self) -> Any:
        """The layer that stands there."""
        return self.holder[self.key] if self._is_item() else getattr(self.holder, self.key)

    def put(self, layer: Any) -> None:
        """Put another layer there."""
        holder: Any = self.holder
        if isinstance(holder, tuple):
            raise ValueError(f'{self.name}: layers in a tuple cannot be replaced, expected nnx.List')
        # Flax asks to be told where a module takes the place of a function, or the other way round.
        if isinstance(self.holder, nnx.Module):
            layer = nnx.data(layer) if isinstance(layer, nnx.Module) else nnx.static(layer)
        if self._is_item():
            holder[self.key] = layer
        else:
            setattr(holder, self.key, layer)

    def _is_item(self) -> bool:
        return isinstance(self.holder, tuple) or hasattr(type(self.holder), '__setitem__')
