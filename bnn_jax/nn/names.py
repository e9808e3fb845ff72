"""Names of layers in files: public names of their own, so that moving or renaming a class breaks no saved network."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

_NAMES: dict[Any, str] = {}
_MAKERS: dict[str, Callable[..., Any]] = {}
_FIELDS: dict[str, tuple[str, ...]] = {}


def register(name: str, fields: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Gives a layer its name in files.

    Args:
        name: the name; a name that another layer has is refused.
        fields: the constructor's arguments that a file keeps, each an attribute of the layer. A dataclass needs none: its
            fields are kept. Arrays are kept too, from the state of an `nnx.Module`.

    Returns:
        A decorator for a class, or for a plain function such as `nnx.relu`.

    Raises:
        ValueError: if another layer has this name.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> _ = bnn.nn.register('nnx.Linear', fields=('in_features', 'out_features'))(nnx.Linear)
    """

    def named(layer: Any) -> Any:
        if _MAKERS.get(name, layer) is not layer:
            raise ValueError(f'register: the name {name!r} is taken by {_MAKERS[name]!r}; choose another one')
        is_record = isinstance(layer, type) and dataclasses.is_dataclass(layer)
        _NAMES[layer], _MAKERS[name] = name, layer
        _FIELDS[name] = tuple(f.name for f in dataclasses.fields(layer)) if is_record else tuple(fields)
        return layer

    return named


def name_of(layer: Any) -> str | None:
    """The registered name of a layer's class, or of the layer itself if it is a function; None if it has none."""
    name = _NAMES.get(type(layer))
    return _NAMES.get(layer) if name is None and isinstance(layer, Hashable) else name


def maker_of(name: str) -> Callable[..., Any]:
    """What makes the layer of this name (a function is the layer itself). Raises ValueError for an unknown name."""
    if name not in _MAKERS:
        raise ValueError(
            f'unknown kind {name!r}; a layer of your own must be registered before loading: bnn_jax.nn.register({name!r})'
        )
    return _MAKERS[name]


def known_names() -> tuple[str, ...]:
    """All registered names."""
    return tuple(_MAKERS)


def fields_of(name: str) -> tuple[str, ...]:
    """The fields that a file gives for the layer of this name."""
    return _FIELDS[name]
