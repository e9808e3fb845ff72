"""What a network is made of, layer by layer: bits, shapes, parameters, bytes, multiply-adds."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax.nn.containers import Sequential
from bnn_jax.nn.layer import Cost, Layer, cost_of, label_of
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.nn.report import Report
from bnn_jax.nn.tables import as_html, render
from bnn_jax.nn.walk import Place, arrays_beside, arrays_of, expect_module, output_shapes, walk


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSummary(Cost):
    """One layer and its cost."""

    # As `walk` names it.
    path: str
    kind: str
    # Batch included; of the last call, where there are several. Of an array beside layers its own shape.
    output_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A network's layers and their totals; print it for a table."""

    layers: tuple[LayerSummary, ...]

    @property
    def weights(self) -> int:
        """Kernel weights, without biases and normalization."""
        return sum(layer.weights for layer in self.layers)

    @property
    def params(self) -> int:
        """All trainable parameters."""
        return sum(layer.params for layer in self.layers)

    @property
    def binary_params(self) -> int:
        """Weights that become one bit."""
        return sum(layer.binary_params for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of the network in float32."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the tensors that `save` writes for the converted network."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def macs_1bit(self) -> int:
        """Multiply-adds of one image with binary weights and binary input."""
        return sum(layer.macs_1bit for layer in self.layers)

    @property
    def macs_32bit(self) -> int:
        """All other multiply-adds of one image."""
        return sum(layer.macs_32bit for layer in self.layers)

    @property
    def compression(self) -> float:
        """bytes / packed_bytes; 1 for a network without any numbers."""
        return self.bytes / self.packed_bytes if self.packed_bytes else 1.0

    def __str__(self) -> str:
        return render(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        columns = [
            'layer',
            'kind',
            'bits in/w',
            'output',
            'params',
            '1-bit',
            'bytes',
            'packed',
            '1-bit MACs',
            '32-bit MACs',
        ]
        rows = [
            [
                layer.path,
                layer.kind,
                '' if layer.weight_bits is None else f'{layer.input_bits}/{layer.weight_bits}',
                'x'.join(map(str, layer.output_shape)),
                *(
                    f'{number:,}' if number else ''
                    for number in (
                        layer.params,
                        layer.binary_params,
                        layer.bytes,
                        layer.packed_bytes,
                        layer.macs_1bit,
                        layer.macs_32bit,
                    )
                ),
            ]
            for layer in self.layers
        ]
        totals = (self.params, self.binary_params, self.bytes, self.packed_bytes, self.macs_1bit, self.macs_32bit)
        title = f'{self.bytes / 2**20:.2f} MiB in float32, {self.packed_bytes / 2**20:.2f} MiB packed: {self.compression:.1f}x'
        return title, columns, [*rows, ['total', '', '', '', *(f'{number:,}' for number in totals)]]


def summarize(model: nnx.Module, input_shape: Sequence[int]) -> Summary:
    """Summary of a network for images of shape (N, H, W, channels); nothing is computed, only shapes.

    Heads that only training sees are left out, as `convert` leaves them out, and so are layers that no call reaches. A layer
    that is called several times has its parameters counted once, its multiply-adds at each call. Parameters that a module
    holds itself, beside its layers, have a line of their own.

    Args:
        model: a network of this library, or any `nnx.Module` that is called with images.
        input_shape: of a batch, (N, H, W, channels).

    Raises:
        TypeError: for a model that is no `nnx.Module`, and for one that is converted already.
        ValueError: for a shape that does not fit.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(10, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=0.01, input_shape=(4, 4, 1))
        >>> bnn.summarize(model, (1, 4, 4, 1)).binary_params
        4428
    """
    if isinstance(model, PackedLayer) or isinstance(getattr(model, 'report', None), Report):
        raise TypeError(
            f'summarize: got a converted {type(model).__name__}, expected the trained model; print its .report for what each '
            'layer became, in how many bytes'
        )
    expect_module('summarize', model)
    # A layer alone is seen where it stands: as the only one of a container.
    model = Sequential([model]) if isinstance(model, Layer) else model
    calls = output_shapes(model, jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32))
    rows = [_row(place, calls[place.path]) for place in walk(model) if place.path in calls]
    beside = [row for path, array in arrays_beside(model) for row in _own_rows(path, array)]
    return Summary((*rows, *beside))


def _row(place: Place, shapes: list[tuple[int, ...]]) -> LayerSummary:
    """A layer that gives these shapes, one at each call."""
    costs = [cost_of(place.layer, shape) for shape in shapes]
    macs = {name: sum(getattr(cost, name) for cost in costs) for name in ('macs_1bit', 'macs_32bit')}
    cost = vars(costs[-1]) | macs
    return LayerSummary(path=place.path, kind=label_of(place.layer), output_shape=shapes[-1], **cost)


def _own_rows(path: str, array: nnx.Variable | jax.Array) -> Iterator[LayerSummary]:
    """The arrays of a variable that a module holds itself."""
    for value in arrays_of(array):
        size, kind = value.size * value.dtype.itemsize, type(array).__name__
        params = value.size if isinstance(array, nnx.Param) else 0
        yield LayerSummary(path=path, kind=kind, output_shape=value.shape, params=params, bytes=size, packed_bytes=size)
