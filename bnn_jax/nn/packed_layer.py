"""The base class of packed layers, which are frozen dataclasses and pytrees, and the roles of their fields in files."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, dataclass_transform

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt32

from bnn_jax.nn.names import register
from bnn_jax.nn.report import Report, Row
from bnn_jax.ops.shapes import Shape, traced
from bnn_jax.ops.signs import Signs


@jax.custom_vjp
def without_gradient(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Returns x. Its derivative raises TypeError, because packed arithmetic has no gradient."""
    return x


def _refused(x: jax.Array):
    raise TypeError(
        'gradient: got a packed layer, which has no gradient, expected the trained model; differentiate the model '
        'that convert was given'
    )


without_gradient.defvjp(_refused, lambda _, g: (g,))


def tensor(*, default: Any = dataclasses.MISSING) -> Any:
    """A field that a file stores as a tensor."""
    return dataclasses.field(default=default, metadata={'role': 'tensor'})


def derived(*, init: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field that no file stores as it is.

    It is computed when the layer is made or when the network is complete, or `to_file` stores it in another form.
    """
    return dataclasses.field(init=init, default=default, metadata={'role': 'derived'})


def decided(*, default: Any) -> Any:
    """A static field that is decided when the network is complete. No file stores it."""
    return dataclasses.field(default=default, metadata={'role': 'decided'})


def named_in_files(name: str) -> Any:
    """A static field that has another name in files."""
    return dataclasses.field(metadata={'file': name})


def name_in_files(field: dataclasses.Field) -> str:
    """The name of a field in files."""
    return field.metadata.get('file', field.name)


def child() -> Any:
    """A field that holds a packed layer, or a tuple of packed layers."""
    return dataclasses.field(metadata={'role': 'child'})


def role(field: dataclasses.Field) -> str:
    """The role of a field: 'tensor', 'derived', 'decided', 'child' or 'static'."""
    return field.metadata.get('role', 'static')


@dataclasses.dataclass(frozen=True)
class IntegerForm:
    """The output of a product of bits as a function of its integers: `epilogue(scaled(integers, scale), None, bias)`.

    Args:
        largest: the integers lie between -largest and largest.
        channels: the number of channels of the output.
        scale: finite; None: 1.
        bias: finite; None: 0.
    """

    largest: int
    channels: int
    scale: Float[Array, ' channels'] | None
    bias: Float[Array, ' channels'] | None


class PackedLayer:
    """The base class of packed layers, with defaults for float arithmetic. Decorate subclasses with `packed_layer`.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from bnn_jax.nn import packed
        >>> @packed.packed_layer(None)
        ... class Doubled(bnn.nn.PackedLayer):
        ...     factor: object = packed.tensor()
        ...     def __call__(self, x):
        ...         return self.factor * x
        ...     def row(self, path):
        ...         return bnn.nn.Row(path, 'float32', self.stored_bytes(), 'one factor')
        >>> Doubled(np.full(2, 2, np.float32)).report.bytes
        8
    """

    # Whether this is a whole network, from images to logits. Of packed layers, `save` and `float_twin` take only
    # networks. No layer holds a network.
    is_network: bool = False

    def __call__(self, x: Any) -> Any:
        """The layer's output for a batch."""
        raise NotImplementedError

    def row(self, path: str) -> Row:
        """The row of this layer in a report. path: where the layer is."""
        raise NotImplementedError

    def rows(self, path: str) -> Iterator[Row]:
        """The rows of this layer in a report: one, or those of the layers inside."""
        yield self.row(path)

    @property
    def report(self) -> Report:
        """What each layer became, its bytes, and the reason."""
        return Report(tuple(self.rows('')))

    def holds_bits(self) -> bool:
        """Whether weights are stored as bits, here or in a layer inside."""
        return any(layer.holds_bits() for layer in self._inside())

    def multiplies_bits(self) -> bool:
        """Whether binary inputs are multiplied by binary weights, here or in a layer inside."""
        return any(layer.multiplies_bits() for layer in self._inside())

    def _inside(self) -> Iterator['PackedLayer']:
        """The layers that this layer holds."""
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            if role(field) == 'child':
                held = getattr(self, field.name)
                yield from held if isinstance(held, tuple) else (held,)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shapes of all maps that the layer computes from one image, the output last: see `Layer.maps`."""
        yield traced(self, shape)

    def acts_on_rows(self) -> bool:
        """Whether the layer acts on each vector along the last axis by itself. False, the default, is always safe."""
        return False

    def float_twin(self) -> Any:
        """The layer with every sign as a float32 number."""
        return self

    def summed(self, in_order: bool) -> Any:
        """The layer with its sums of real numbers in the order of training if `in_order`, else in the fastest order."""
        return self

    def with_runs(self, find: Callable[[tuple], tuple]) -> Any:
        """The layer itself; for a chain, a copy with `runs` = find(layers), the ranges of layers that it computes in bits."""
        return self

    def integer_form(self) -> IntegerForm | None:
        """How the output follows from the integers that `compared` compares; None if integers are not enough."""
        return None

    def compared(self, x: Any, thresholds: Int32[Array, ' channels'], flip: UInt32[Array, ' n_words']) -> Signs:
        """Compares the integers with thresholds, and returns signs.

        Args:
            x: the input, an array or `Signs`.
            thresholds: one for each channel. An integer below it gives -1, any other +1.
            flip: words with a bit set for each channel whose sign is then negated.
        """
        raise NotImplementedError(f'{type(self).__name__} has an integer_form, but no method compared')

    def reads_only_signs(self) -> bool:
        """Whether the output depends only on the signs of the input, so that the input may be `Signs`."""
        return False

    def gives_signs(self) -> bool:
        """Whether the layer has a method `signs`, which gives the signs of the output directly."""
        return False

    def signs(self, x: Float[Array, '*batch channels']) -> Signs:
        """The signs of the output, if `gives_signs` is true."""
        raise NotImplementedError

    def direction(self, channels: int) -> np.ndarray | None:
        """Whether the output rises or falls with the input in each channel, or None: see `Layer.direction`."""
        return None

    def moves_signs(self) -> bool:
        """Whether the layer only moves or picks numbers: see `Layer.moves_signs`."""
        return False

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        """The output of the layer for a map of signs: see `Layer.on_signs`."""
        raise NotImplementedError

    # As `Layer.keeps_channels` and `Layer.in_bits`.
    keeps_channels: bool = True
    in_bits: str = 'in the thresholds'

    def label(self) -> str:
        """The name of the layer in a report."""
        return type(self).__name__

    def stored_bytes(self) -> int:
        """The bytes of the tensors that a file stores, including those of the layers inside."""
        stored = (getattr(self, f.name) for f in dataclasses.fields(self) if role(f) == 'tensor')  # pyright: ignore
        own = sum(array.size * array.dtype.itemsize for array in stored if array is not None)
        return own + sum(layer.stored_bytes() for layer in self._inside())

    def __repr__(self) -> str:
        static = [f for f in dataclasses.fields(self) if role(f) == 'static']  # pyright: ignore[reportArgumentType]
        shown = ', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in static)
        return f'{type(self).__name__}({shown})'


def with_children(layer: Any, change: Callable[[Any], Any]) -> Any:
    """The packed layer with change(child) in place of each layer that it holds."""
    changed = {}
    for field in dataclasses.fields(layer):
        if role(field) == 'child':
            held = getattr(layer, field.name)
            changed[field.name] = tuple(map(change, held)) if isinstance(held, tuple) else change(held)
    return dataclasses.replace(layer, **changed) if changed else layer


@dataclass_transform(frozen_default=True, field_specifiers=(tensor, derived, decided, named_in_files, child))
def packed_layer(name: str | None) -> Callable[[type], type]:
    """Makes a class a packed layer: a frozen dataclass that is compared by identity, and a pytree.

    Args:
        name: the name of the layer in files; None: no file holds it.

    Returns:
        The class decorator.
    """

    def decorate(cls: type) -> type:
        # Arrays have no truth value, so layers are compared by identity.
        cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        # Static fields belong to the structure of the pytree: another value means another compilation.
        static = [f.name for f in dataclasses.fields(cls) if role(f) in ('static', 'decided')]
        arrays = [f.name for f in dataclasses.fields(cls) if f.name not in static]

        def flatten(layer):
            # Named keys, so that paths in the tree read as attributes.
            children = [(jax.tree_util.GetAttrKey(name), getattr(layer, name)) for name in arrays]
            return children, tuple(getattr(layer, name) for name in static)

        def unflatten(values, children):
            # Without __init__, so that nothing is checked or computed again inside a trace.
            layer = object.__new__(cls)
            for name, value in zip([*static, *arrays], [*values, *children], strict=True):
                object.__setattr__(layer, name, value)
            return layer

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
        return cls if name is None else register(name)(cls)

    return decorate
