"""Take packed layers and the arrays beside them from a user's converted module, and put both back."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from bnn_jax.inference.converter import NoBinaryWeights, Packed, convert
from bnn_jax.nn.packed_layer import role
from bnn_jax.nn.places import Place, expect_module, walk


def packed_layers(module: Any) -> list[Place]:
    """The places of packed layers in a module.

    Args:
        module: a module that `convert` returned, or a copy of one; any other module has no such places.
    """
    return [place for place in walk(module) if isinstance(place.layer, Packed)]


def arrays_beside(module: nnx.Module) -> dict[str, Shaped[Array, '...']]:
    """The arrays of a converted module outside its packed layers, without random keys and their counts.

    Args:
        module: what `convert` returned.

    Returns:
        Path -> array.
    """
    return {name: leaf for name, leaf in _leaves(module, nnx.state(module, nnx.Not(nnx.RngState))) if name is not None}


def put_into(module: nnx.Module, packed: dict[str, Any], arrays: dict[str, Shaped[Array, '...']]) -> Any:
    """Copy a module and put the packed layers and arrays of a file into the copy.

    Args:
        module: a model to convert, or a converted one, with the structure that the file has.
        packed: path -> packed layer.
        arrays: path -> array beside the packed layers.

    Returns:
        The copy.

    Raises:
        TypeError: module is not an `nnx.Module`.
        ValueError: the structure of the module differs from that of the file (the message says where), or the module
            cannot be converted.
    """
    expect_module('load: into', module)
    module = nnx.merge(*nnx.split(module), copy=True) if packed_layers(module) else _converted(module, packed)
    places = {place.path: place for place in packed_layers(module)}
    _expect_same('packed layers', set(packed), set(places))
    for path, place in places.items():
        ours, theirs = _layout(place.layer.layer), _layout(packed[path])
        if ours != theirs:
            raise ValueError(f'load: layer {path} of the file is {theirs}, expected {ours} as in the module')
    # All is compared before anything is changed.
    expected = arrays_beside(module)
    _expect_same('arrays', set(arrays), set(expected))
    for name, array in arrays.items():
        got, wanted = (f'{a.dtype}{list(np.shape(a))}' for a in (array, expected[name]))
        if got != wanted:
            raise ValueError(f'load: {name} of the file is {got}, expected {wanted} as in the module')
    graphdef, state = nnx.split(module)
    leaves = [arrays.get(name or '', leaf) for name, leaf in _leaves(module, state)]
    loaded = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), leaves), copy=True)
    for place in packed_layers(loaded):
        place.slot.put(Packed(packed[place.path]))
    return loaded


def _leaves(module: nnx.Module, state: nnx.State) -> list[tuple[str | None, jax.Array]]:
    """Each array of a state with its path; the path is None inside a packed layer."""
    # The file holds the arrays of a packed layer as fields of that layer.
    inside = [tuple(map(str, path)) for path, node in nnx.iter_modules(module) if isinstance(node, Packed)]
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        parts = tuple(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path)
        is_packed = any(parts[: len(start)] == start for start in inside)
        found.append((None if is_packed else '.'.join(parts), leaf))
    return found


def _layout(layer: Any) -> str:
    """A packed layer's static fields and the shapes of its tensors, as text that can be compared and shown."""
    if isinstance(layer, tuple):
        return f'({", ".join(map(_layout, layer))})'
    parts = []
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if role(field) == 'tensor':
            parts.append(f'{field.name}={None if value is None else f"{value.dtype}{list(value.shape)}"}')
        elif role(field) == 'child':
            parts.append(_layout(value))
        elif role(field) == 'static':
            parts.append(f'{field.name}={value!r}')
    return f'{type(layer).__name__}({", ".join(parts)})'


def _expect_same(what: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        raise ValueError(
            f'load: the {what} of the file and of the module differ: only in the file {sorted(got - expected)}, only in the '
            f'module {sorted(expected - got)}; give a module of the same class and sizes'
        )


def _converted(module: nnx.Module, packed: dict[str, Any]) -> Any:
    try:
        return convert(module)
    except NoBinaryWeights as error:
        raise ValueError(
            f'load: into is a {type(module).__name__} without binary weights, expected one with binary layers at '
            f'{", ".join(sorted(packed))}, as in the file; build it with the scheme of the network in the file'
        ) from error
