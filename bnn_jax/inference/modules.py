"""A user's own module whose binary layers are packed: its packed layers, the arrays beside them, and how both are put back."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from bnn_jax.inference.converter import Packed, convert
from bnn_jax.nn.walk import Place, walk


def packed_layers(module: Any) -> list[Place]:
    """The packed layers in a module that `convert` returned; none in any other."""
    return [place for place in walk(module) if isinstance(place.layer, Packed)]


def arrays_beside(module: nnx.Module) -> dict[str, jax.Array]:
    """All arrays of a converted module but those of its packed layers, and random keys; by path."""
    return {name: variable[...] for name, variable in _variables(module).items()}


def put_into(module: nnx.Module, packed: dict[str, Any], arrays: dict[str, jax.Array]) -> Any:
    """A packed copy of the module with these packed layers and arrays. Raises ValueError where its structure differs."""
    module = convert(module) if not packed_layers(module) else nnx.merge(*nnx.split(module), copy=True)
    places = {place.path: place for place in packed_layers(module)}
    _expect_same('packed layers', set(packed), set(places))
    for path, place in places.items():
        ours, theirs = _shapes(place.layer.layer), _shapes(packed[path])
        if ours != theirs:
            raise ValueError(
                f'load: layer {path} of the file is {packed[path]!r} with {theirs}, expected {ours} as in the module'
            )
        place.slot.put(Packed(packed[path]))
    variables = _variables(module)
    _expect_same('arrays', set(arrays), set(variables))
    for name, variable in variables.items():
        got, expected = (f'{a.dtype}{list(np.shape(a))}' for a in (arrays[name], variable[...]))
        if got != expected:
            raise ValueError(f'load: {name} of the file is {got}, expected {expected} as in the module')
        variable[...] = arrays[name]
    return module


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """The variables of a converted module, shared with it, but those of packed layers and random keys; by path."""
    inside = tuple(f'{place.path}.' for place in packed_layers(module))
    found = {}
    for path, node in nnx.iter_modules(module):
        prefix = ''.join(f'{part}.' for part in path)
        if not f'{prefix}'.startswith(inside):
            own = {name: value for name, value in vars(node).items() if isinstance(value, nnx.Variable)}
            found |= {f'{prefix}{name}': v for name, v in own.items() if not isinstance(v, nnx.RngState)}
    return found


def _shapes(layer: Any) -> list[str]:
    return [repr(layer), *(f'{leaf.dtype}{list(leaf.shape)}' for leaf in jax.tree.leaves(layer))]


def _expect_same(what: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        raise ValueError(
            f'load: the {what} of the file and of the module differ: only in the file {sorted(got - expected)}, only in the '
            f'module {sorted(expected - got)}; give a module of the same class and sizes'
        )
