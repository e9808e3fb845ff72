"""Names of layers in files. They do not depend on Python paths, so moving or renaming a class breaks no saved network."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from typing import Any


@dataclasses.dataclass(frozen=True)
class Registered:
    """What a name in files stands for."""

    # A class, or a plain function.
    layer: Any
    # For a class: the arguments of its constructor that a file keeps.
    fields: tuple[str, ...]
    # Makes a layer from these arguments; None: the class itself.
    make: Callable[..., Any] | None


# Name -> a module that is imported only when a file has the name, because Flax takes as long to import as JAX.
_PLACES = {'PRelu': 'bnn_jax.nn.prelu'}

_NAMES: dict[Any, str] = {}
_REGISTERED: dict[str, Registered] = {}


def register(name: str, fields: Sequence[str] = (), make: Callable[..., Any] | None = None) -> Callable[[Any], Any]:
    """Give a layer its name in files.

    Args:
        name: the name, which no other layer has.
        fields: the arguments of the constructor that a file keeps; each is an attribute of the layer. A dataclass needs none,
            because a file keeps all its fields. A file also keeps the arrays in the state of an `nnx.Module`.
        make: a function that makes a layer from these arguments and checks them; None: the class itself.

    Returns:
        A decorator for a class, or for a plain function such as `nnx.relu`.

    Raises:
        ValueError: another layer has this name.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> _ = bnn.nn.register('nnx.Linear', fields=('in_features', 'out_features'))(nnx.Linear)
    """

    def decorate(layer: Any) -> Any:
        taken = _REGISTERED.get(name)
        if taken is not None and taken.layer is not layer:
            raise ValueError(f'register: the name {name!r} is taken by {taken.layer!r}; choose another one')
        is_record = isinstance(layer, type) and dataclasses.is_dataclass(layer)
        kept = tuple(f.name for f in dataclasses.fields(layer)) if is_record else tuple(fields)
        _NAMES[layer], _REGISTERED[name] = name, Registered(layer, kept, make)
        return layer

    return decorate


def registered_name(layer: Any) -> str | None:
    """The name in files of a layer's class or of a function; None if it is not registered."""
    name = _NAMES.get(type(layer))
    return _NAMES.get(layer) if name is None and isinstance(layer, Hashable) else name


def registered(name: str) -> Registered:
    """What this name stands for. Raises ValueError for an unknown name."""
    if name not in _REGISTERED and name in _PLACES:
        import_module(_PLACES[name])
    if name not in _REGISTERED:
        raise ValueError(
            f'unknown kind {name!r}; a layer of your own must be registered before loading: bnn_jax.nn.register({name!r})'
        )
    return _REGISTERED[name]


def known_names() -> tuple[str, ...]:
    """All registered names."""
    return (*_REGISTERED, *(name for name in _PLACES if name not in _REGISTERED))
