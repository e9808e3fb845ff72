"""What all packed layers are: frozen dataclasses and pytrees that say what they became and where thresholds may stand."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, dataclass_transform

import jax
import numpy as np

from bnn_jax.nn.names import register
from bnn_jax.nn.report import Report, Row
from bnn_jax.ops.shapes import Shape, traced
from bnn_jax.ops.signs import Signs


@jax.custom_vjp
def without_gradient(x: jax.Array) -> jax.Array:
    """x. Raises TypeError where a gradient is asked for: packed arithmetic has none."""
    return x


def _refused(x: jax.Array):
    raise TypeError(
        'gradient: asked for through a packed layer, which has none; differentiate the trained model, before convert'
    )


without_gradient.defvjp(_refused, lambda _, g: (g,))


def tensor(*, default: Any = dataclasses.MISSING) -> Any:
    """A field that a file stores as a tensor."""
    return dataclasses.field(default=default, metadata={'role': 'tensor'})


def derived(*, init: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field computed from the others when a layer is made, or once the network is complete; no file stores it."""
    return dataclasses.field(init=init, default=default, metadata={'role': 'derived'})


def decided(*, default: Any) -> Any:
    """A static field that is decided once the network is complete; no file stores it."""
    return dataclasses.field(default=default, metadata={'role': 'decided'})


def named_in_files(name: str) -> Any:
    """A static field that a file gives under another name."""
    return dataclasses.field(metadata={'file': name})


def name_in_files(field: dataclasses.Field) -> str:
    """The name of a field in files."""
    return field.metadata.get('file', field.name)


def child() -> Any:
    """A field that holds a packed layer, or a tuple of packed layers."""
    return dataclasses.field(metadata={'role': 'child'})


def role(field: dataclasses.Field) -> str:
    """'tensor', 'derived', 'decided', 'child' or 'static'."""
    return field.metadata.get('role', 'static')


@dataclasses.dataclass(frozen=True)
class IntegerForm:
    """What a product of bits makes of its integers: `epilogue(scaled(integers, scale), None, bias)`, and nothing else."""

    # The integers lie between -largest and largest.
    largest: int
    channels: int
    # (channels,), finite; None: 1 and 0.
    scale: jax.Array | None
    bias: jax.Array | None


class PackedLayer:
    """The defaults of a packed layer: float arithmetic, no place in bits. Override what differs."""

    # Whether it is a whole network, from images to logits: what `save` and `float_twin` take, and no layer inside another.
    is_network: bool = False

    def __call__(self, x: Any) -> Any:
        """The layer's output for a batch."""
        raise NotImplementedError

    def row(self, path: str) -> Row:
        """What a report says of this layer."""
        raise NotImplementedError

    def rows(self, path: str) -> Iterator[Row]:
        """The rows of a report: one, or those of the layers inside."""
        yield self.row(path)

    @property
    def report(self) -> Report:
        """What each layer became, in how many bytes, and why the others stayed float."""
        return Report(tuple(self.rows('')))

    def holds_bits(self) -> bool:
        """Whether weights are stored as bits, here or in a layer inside."""
        return any(layer.holds_bits() for layer in self._inside())

    def multiplies_bits(self) -> bool:
        """Whether binary inputs meet binary weights, here or in a layer inside."""
        return any(layer.multiplies_bits() for layer in self._inside())

    def _inside(self) -> Iterator['PackedLayer']:
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            if role(field) == 'child':
                held = getattr(self, field.name)
                yield from held if isinstance(held, tuple) else (held,)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """As `Layer.maps`: the shapes of what the layer makes of one image, its output last. By default it is traced."""
        yield traced(self, shape)

    def acts_on_rows(self) -> bool:
        """Whether each vector along the last axis is an input of its own; else each image is."""
        return False

    def float_twin(self) -> Any:
        """The same layer with every sign as a float32 number."""
        return self

    def summed(self, in_order: bool) -> Any:
        """The layer with its real sums in the order of training, or in the fastest one."""
        return self

    def with_runs(self, find: Callable[[tuple], tuple]) -> Any:
        """The layer, where it calls layers one after the other with find(these layers) done in bits instead."""
        return self

    def integer_form(self) -> IntegerForm | None:
        """How the output follows from integers that `compared` can compare; None where it does not."""
        return None

    def compared(self, x: Any, thresholds: jax.Array, flip: jax.Array) -> Signs:
        """Where the integers lie: -1 below their channel's threshold, the other way round where flip has a set bit."""
        raise NotImplementedError(f'{type(self).__name__} has an integer_form, but no method compared')

    def reads_only_signs(self) -> bool:
        """Whether nothing but the signs of the input matters, so that they may come as `Signs`."""
        return False

    def gives_signs(self) -> bool:
        """Whether the method `signs` gives the signs of the output directly."""
        return False

    def signs(self, x: jax.Array) -> Signs:
        """The signs of the output, where `gives_signs` says so."""
        raise NotImplementedError

    def direction(self, channels: int) -> np.ndarray | None:
        """As `Layer.direction`: whether the layer keeps order, and how; None if it does not."""
        return None

    def moves_signs(self) -> bool:
        """As `Layer.moves_signs`."""
        return False

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        """As `Layer.on_signs`."""
        raise NotImplementedError

    # As `Layer.keeps_channels` and `Layer.in_bits`.
    keeps_channels: bool = True
    in_bits: str = 'in the thresholds'

    def label(self) -> str:
        """How a report names the layer."""
        return type(self).__name__

    def stored_bytes(self) -> int:
        """Bytes of the tensors that a file stores, those of layers inside among them."""
        stored = (getattr(self, f.name) for f in dataclasses.fields(self) if role(f) == 'tensor')  # pyright: ignore
        own = sum(array.size * array.dtype.itemsize for array in stored if array is not None)
        return own + sum(layer.stored_bytes() for layer in self._inside())

    def __repr__(self) -> str:
        static = [f for f in dataclasses.fields(self) if role(f) == 'static']  # pyright: ignore[reportArgumentType]
        shown = ', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in static)
        return f'{type(self).__name__}({shown})'


def with_children(layer: Any, change: Callable[[Any], Any]) -> Any:
    """The packed layer with change(child) in place of every layer that it holds."""
    changed = {}
    for field in dataclasses.fields(layer):
        if role(field) == 'child':
            held = getattr(layer, field.name)
            changed[field.name] = tuple(map(change, held)) if isinstance(held, tuple) else change(held)
    return dataclasses.replace(layer, **changed) if changed else layer


@dataclass_transform(frozen_default=True, field_specifiers=(tensor, derived, decided, named_in_files, child))
def packed_layer(name: str | None) -> Callable[[type], type]:
    """Class decorator: a frozen dataclass, compared by identity, a pytree, with this name in files; None: no file holds it."""

    def decorate(cls: type) -> type:
        cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        static = [f.name for f in dataclasses.fields(cls) if role(f) in ('static', 'decided')]
        arrays = [f.name for f in dataclasses.fields(cls) if f.name not in static]

        def flatten(layer):
            children = [(jax.tree_util.GetAttrKey(name), getattr(layer, name)) for name in arrays]
            return children, tuple(getattr(layer, name) for name in static)

        def unflatten(values, children):
            layer = object.__new__(cls)  # Without __init__: nothing is checked or computed again inside a trace.
            for name, value in zip([*static, *arrays], [*values, *children], strict=True):
                object.__setattr__(layer, name, value)
            return layer

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
        return cls if name is None else register(name)(cls)

    return decorate
