"""Walks over the layers of a model, for summaries, conversion, diagnostics and weight loading."""

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
    """A layer in a model, as `walk` yields it.

    Args:
        path: the layer's path, as tables print it.
        slot: the slot that holds the layer.
        layer: the layer.

    Example:
        >>> import bnn_jax as bnn
        >>> (place,) = bnn.nn.walk(bnn.nn.Sequential([bnn.nn.Relu()]))
        >>> place.path, place.layer
        ('0', Relu())
    """

    path: str
    slot: Slot
    layer: Any


def walk(model: Any, path: str = '') -> Iterator[Place]:
    """The layers of a model, first to last; in a residual block, the body's before the shortcut's.

    Args:
        model: a network of this library's containers, or any `nnx.Module`. A module that holds no modules is a layer.
        path: a prefix for every path.

    Yields:
        A `Place` for each layer. An `nnx.Module` that is used in several places comes once; any other layer comes once
        for each place. Auxiliary heads are left out. The attributes of your own module come in the order in which they
        were set; `nnx.merge` sorts them by name.

    Example:
        >>> import bnn_jax as bnn
        >>> block = bnn.nn.Residual(bnn.nn.Sequential([bnn.nn.HardTanh()]), bnn.nn.Sequential([]))
        >>> [place.path for place in bnn.nn.walk(bnn.nn.Sequential([block, bnn.nn.Flatten()]))]
        ['0.body.0', '1']
    """
    seen = set()
    # Identities are compared: two layers with equal parameters are different layers.
    for place in _places(model, path, {id(model)}):
        # A layer that is no module has no state, so the same layer in two places counts as two.
        if not isinstance(place.layer, nnx.Module) or id(place.layer) not in seen:
            seen.add(id(place.layer))
            yield place


def _places(model: Any, path: str, seen: set[int]) -> Iterator[Place]:
    """As `walk`, but a layer that is used in several places comes once for each place."""
    for slot in slots(model):
        layer, inner = slot.get(), joined(path, slot.name)
        if not is_container(layer):
            yield Place(inner, slot, layer)
        elif id(layer) not in seen:
            seen.add(id(layer))
            yield from _places(layer, inner, seen)


def arrays_beside(model: Any, path: str = '') -> Iterator[tuple[str, nnx.Variable | jax.Array]]:
    """The arrays that containers and users' modules hold beside their layers, as pairs (path, variable or array)."""
    yield from _arrays_beside(model, path, {id(model)})


def arrays_of(variable: nnx.Variable | jax.Array) -> list[jax.Array]:
    """The arrays of numbers in a variable: none, one or several. Random keys are not numbers."""
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
    """The arrays in an attribute: the attribute itself, or the arrays in a list or dictionary, at any depth."""
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
    """Raises TypeError, with the caller's name, if the model is not an `nnx.Module`."""
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f'{caller}: got {type(model).__name__}, expected a Network, such as those of bnn_jax.models, or any nnx.Module'
        )


def joined(path: str, name: str) -> str:
    """A path and a name as one path."""
    return '.'.join(part for part in (path, name) if part)


def is_container(layer: Any) -> bool:
    """Whether `walk` goes into this module: a container of this library, or a user's module that holds layers."""
    return isinstance(layer, Container) or bool(slots(layer))


def slots(module: Any) -> list[Slot]:
    """The slots of a container; for a user's module, one for each layer in its attributes, lists and dictionaries."""
    if isinstance(module, Container):
        return module.slots()
    # `walk` does not go into a `Layer`, whose methods describe its parts too.
    if isinstance(module, Layer) or not isinstance(module, nnx.Module):
        return []
    return [slot for name, value in vars(module).items() for slot in _slots_in(name, module, name, value)]


def _slots_in(path: str, holder: Any, key: Any, value: Any) -> list[Slot]:
    """The slot of a layer, or the slots in a list or dictionary of layers, at any depth."""
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
    """A layer that passes its first input and its output to a function at each call.

    Args:
        layer: the layer that is called.
        see: (input, output) -> None.
    """

    def __init__(self, layer: Any, see: Callable[[Any, Any], None]):
        self.layer, self.see = layer, see

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.layer(*args, **kwargs)
        inputs = (*args, *kwargs.values())
        if inputs:
            self.see(inputs[0], y)
        return y

    # All other public attributes are those of the layer, so the model may still read them.
    def __getattr__(self, name: str) -> Any:
        if name.startswith('_') or name in ('layer', 'see'):
            raise AttributeError(name)
        return getattr(self.layer, name)


def observe(model: Any, see: Callable[[Place, Any, Any], None]) -> None:
    """Changes the model in place so that every layer passes its input and output to `see` at each call. Pass in a copy.

    Args:
        model: the network.
        see: (place, input, output) -> None. For an `nnx.Module` that is used in several places, the place is always the
            first.

    Raises:
        ValueError: the model holds layers in a tuple, where they cannot be replaced.

    Example:
        >>> import numpy as np, bnn_jax as bnn
        >>> model = bnn.nn.Sequential([bnn.nn.Flatten()])
        >>> bnn.nn.observe(model, lambda place, x, y: print(place.path, x.shape, y.shape))
        >>> y = model(np.zeros((1, 2, 2, 3)))
        0 (1, 2, 2, 3) (1, 12)
    """
    observed: dict[int, Observed] = {}
    for place in list(_places(model, '', {id(model)})):
        layer = place.layer
        # A shared layer is wrapped once, so that it stays shared.
        if not isinstance(layer, nnx.Module) or id(layer) not in observed:
            observed[id(layer)] = Observed(layer, lambda x, y, place=place: see(place, x, y))
        place.slot.put(observed[id(layer)])


def output_shapes(model: nnx.Module, images: jax.ShapeDtypeStruct) -> dict[str, list[tuple[int, ...]]]:
    """The output shapes of each layer, one for each call. The model is traced, and no numbers are computed.

    Args:
        model: the network.
        images: shape and dtype of a batch.

    Returns:
        Path -> shapes. Layers that no call reaches are left out.
    """
    graphdef, state = nnx.split(model)
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def run(state, images):
        copy = nnx.merge(graphdef, state, copy=True)
        copy.eval()  # Training mode would need a batch with more than one value in a channel.
        observe(copy, lambda place, _, y: shapes.setdefault(place.path, []).append(getattr(y, 'shape', ())))
        return copy(images)  # pyright: ignore[reportCallIssue]

    jax.eval_shape(run, state, images)
    return shapes
