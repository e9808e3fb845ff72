"""One walk over the layers of a model, which summaries, conversion, diagnostics and weight loading share."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.nn.layer import Layer
from bnn_jax.nn.slots import Container, Slot


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer in a model: its path, as tables print it, the slot that holds it, and the layer."""

    path: str
    slot: Slot
    layer: Any


def walk(model: Any, path: str = '') -> Iterator[Place]:
    """The layers of a model from first to last, those of a residual body before those of its shortcut.

    Args:
        model: a network of this library's containers, or any `nnx.Module`; a module that holds no others is a layer.
        path: what stands before every path.

    Yields:
        A `Place` for each layer, once where it stands in several places. Heads that only training sees are left out. The
        attributes of a user's module come in their own order, which is that of their names after `nnx.merge`.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(10, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=0.01, input_shape=(4, 4, 1))
        >>> [place.path for place in bnn.nn.walk(model) if isinstance(place.layer, bnn.nn.Product)]
        ['1', '3', '5', '7']
    """
    seen = set()
    for place in _places(model, path, {id(model)}):
        # A plain function has no arrays and no identity of its own; it stands wherever it stands.
        if not isinstance(place.layer, nnx.Module) or id(place.layer) not in seen:
            seen.add(id(place.layer))
            yield place


def _places(model: Any, path: str, seen: set[int]) -> Iterator[Place]:
    """As `walk`, but a layer that stands in several places comes once for each."""
    for slot in slots(model):
        layer, inner = slot.get(), joined(path, slot.name)
        if not is_container(layer):
            yield Place(inner, slot, layer)
        elif id(layer) not in seen:
            seen.add(id(layer))
            yield from _places(layer, inner, seen)


def arrays_beside(model: Any, path: str = '') -> Iterator[tuple[str, nnx.Variable | jax.Array]]:
    """The arrays that containers and users' modules hold themselves, beside their layers: (path, variable or array)."""
    yield from _arrays_beside(model, path, {id(model)})


def arrays_of(variable: nnx.Variable | jax.Array) -> list[jax.Array]:
    """The numbers in a variable: a user's may hold none, several, or random keys, which are none."""
    leaves = (leaf for leaf in jax.tree.leaves(variable) if hasattr(leaf, 'dtype'))
    return [leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]


def _arrays_beside(model: Any, path: str, seen: set[int]) -> Iterator[tuple[str, nnx.Variable | jax.Array]]:
    own = vars(model).items() if isinstance(model, nnx.Module) else ()
    for name, value in own:
        for inner, leaf in _arrays_in(name, value):
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield joined(path, inner), leaf
    for slot in slots(model):
        layer = slot.get()
        if is_container(layer) and id(layer) not in seen:
            seen.add(id(layer))
            yield from _arrays_beside(layer, joined(path, slot.name), seen)


def _arrays_in(path: str, value: Any) -> Iterator[tuple[str, nnx.Variable | jax.Array]]:
    if isinstance(value, nnx.Variable | jax.Array | np.ndarray | jax.ShapeDtypeStruct) and not isinstance(
        value, nnx.RngState
    ):
        yield path, value  # pyright: ignore[reportReturnType]
        return
    if isinstance(value, nnx.Dict | dict):
        items: Any = value.items()
    elif isinstance(value, nnx.List | list | tuple):
        items = enumerate(value)
    else:
        return
    for inner, item in items:
        yield from _arrays_in(f'{path}.{inner}', item)


def expect_module(caller: str, model: Any) -> None:
    """Raises TypeError, naming the caller, for anything but an `nnx.Module`."""
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f'{caller}: got {type(model).__name__}, expected a Network as bnn_jax.models make them, or any nnx.Module'
        )


def joined(path: str, name: str) -> str:
    """A path and a name as one path."""
    return '.'.join(part for part in (path, name) if part)


def is_container(layer: Any) -> bool:
    """Whether `walk` looks into it: a container of this library, or a user's module that holds layers."""
    return isinstance(layer, Container) or bool(slots(layer))


def slots(module: Any) -> list[Slot]:
    """The slots of a container; of any other module its attributes that are layers, and the items of lists of them."""
    if isinstance(module, Container):
        return module.slots()
    if isinstance(module, Layer) or not isinstance(module, nnx.Module):
        return []
    return [slot for name, value in vars(module).items() for slot in _slots_in(name, module, name, value)]


def _slots_in(path: str, holder: Any, key: Any, value: Any) -> list[Slot]:
    """The slot of a layer, or those of a list or dictionary of layers, however deep."""
    if _is_layer(value):
        return [Slot(path, holder, key)]
    if isinstance(value, nnx.Dict | dict):
        items: Any = value.items()
    elif isinstance(value, nnx.List | list | tuple):
        items = enumerate(value)
    else:
        return []
    return [slot for inner, item in items for slot in _slots_in(f'{path}.{inner}', value, inner, item)]


def _is_layer(value: Any) -> bool:
    return isinstance(value, Layer | nnx.Module) and not isinstance(
        value, nnx.List | nnx.Dict | nnx.Rngs | nnx.RngStream
    )


class Observed(nnx.Module):
    """A layer that hands its first input and its output of each call to a function."""

    def __init__(self, layer: Any, see: Callable[[Any, Any], None]):
        self.layer, self.see = layer, see

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.layer(*args, **kwargs)
        inputs = (*args, *kwargs.values())
        if inputs:
            self.see(inputs[0], y)
        return y

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_') or name in ('layer', 'see'):
            raise AttributeError(name)
        return getattr(self.layer, name)


def observe(model: Any, see: Callable[[Place, Any, Any], None]) -> None:
    """Changes the model so that every layer hands its input and output to see(place, input, output); use it on a copy.

    A layer that stands in several places names the first of them at each of its calls.
    """
    observed: dict[int, Observed] = {}
    for place in list(_places(model, '', {id(model)})):
        layer = place.layer
        if not isinstance(layer, nnx.Module) or id(layer) not in observed:
            observed[id(layer)] = Observed(layer, lambda x, y, place=place: see(place, x, y))
        place.slot.put(observed[id(layer)])


def output_shapes(model: nnx.Module, images: jax.ShapeDtypeStruct) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each layer gives for images of a shape, one for each of its calls, by path; nothing is computed.

    Layers that no call reaches are left out.
    """
    graphdef, state = nnx.split(model)
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def run(state, images):
        copy = nnx.merge(graphdef, state, copy=True)
        copy.eval()  # A shape asks nothing of a batch's statistics.
        observe(copy, lambda place, _, y: shapes.setdefault(place.path, []).append(getattr(y, 'shape', ())))
        return copy(images)  # pyright: ignore[reportCallIssue]

    jax.eval_shape(run, state, images)
    return shapes
