"""One walk over the layers of a model, which summaries, conversion, diagnostics and weight loading share."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from bnn_jax.nn.layer import Container, Layer, Slot


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
        A `Place` for each layer. Heads that only training sees are left out.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(10, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=0.01, input_shape=(4, 4, 1))
        >>> [place.path for place in bnn.nn.walk(model) if isinstance(place.layer, bnn.nn.Product)]
        ['1', '3', '5', '7']
    """
    for slot in slots(model):
        layer, inner = slot.get(), '.'.join(part for part in (path, slot.name) if part)
        if is_container(layer):
            yield from walk(layer, inner)
        else:
            yield Place(inner, slot, layer)


def is_container(layer: Any) -> bool:
    """Whether `walk` looks into it: a container of this library, or a user's module that holds layers."""
    return isinstance(layer, Container) or bool(slots(layer))


def slots(module: Any) -> list[Slot]:
    """The slots of a container; of any other module its attributes that are layers, and the items of lists of them."""
    if isinstance(module, Container):
        return module.slots()
    if isinstance(module, Layer) or not isinstance(module, nnx.Module):
        return []
    found = []
    for name, value in vars(module).items():
        if _is_layer(value):
            found.append(Slot(name, module, name))
        elif isinstance(value, nnx.List | nnx.Dict | list | dict):
            items: Any = value.items() if isinstance(value, nnx.Dict | dict) else enumerate(value)
            found += [Slot(f'{name}.{key}', value, key) for key, item in items if _is_layer(item)]
    return found


def _is_layer(value: Any) -> bool:
    return isinstance(value, Layer | nnx.Module) and not isinstance(
        value, nnx.List | nnx.Dict | nnx.Rngs | nnx.RngStream
    )


class Observed(nnx.Module):
    """A layer that hands each of its inputs and outputs to a function."""

    def __init__(self, layer: Any, see: Callable[[Any, Any], None]):
        self.layer, self.see = layer, see

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        y = self.layer(x, *args, **kwargs)
        self.see(x, y)
        return y


def observe(model: Any, see: Callable[[Place, Any, Any], None]) -> None:
    """Changes the model so that every layer hands its input and output to see(place, input, output); use it on a copy."""
    for place in list(walk(model)):
        place.slot.put(Observed(place.layer, lambda x, y, place=place: see(place, x, y)))


def output_shapes(model: nnx.Module, images: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """The shape that each layer gives for images of a shape, by path; nothing is computed. Layers that no call reaches are
    left out."""
    graphdef, state = nnx.split(model)
    shapes: dict[str, tuple[int, ...]] = {}

    def run(state, images):
        copy = nnx.merge(graphdef, state, copy=True)
        copy.eval()  # A shape asks nothing of a batch's statistics.
        observe(copy, lambda place, _, y: shapes.__setitem__(place.path, y.shape))
        return copy(images)  # pyright: ignore[reportCallIssue]

    jax.eval_shape(run, state, images)
    return shapes
