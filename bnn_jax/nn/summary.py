"""The summary of a network, layer by layer: bits, shapes, parameters, bytes, multiply-adds."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax.nn.containers import Sequential
from bnn_jax.nn.layer import Cost, Layer, cost_of, label_of
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.nn.places import Place, arrays_beside, arrays_of, expect_module, output_shapes, walk
from bnn_jax.nn.report import Report
from bnn_jax.nn.tables import as_html, render


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSummary(Cost):
    """One layer and its cost."""

    # The path that `walk` gives the layer.
    path: str
    kind: str
    # The shape of the output in the last call, with the batch. For an array outside the layers: its own shape.
    output_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network and their totals. Print it for a table.

    Args:
        layers: one row for each layer, first to last, then one for each array outside the layers.

    Example:
        >>> import bnn_jax as bnn
        >>> summary = bnn.summarize(bnn.nn.Sequential([bnn.nn.PRelu(3)]), (1, 4, 4, 3))
        >>> summary.params, summary.bytes
        (3, 12)
    """

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
        """Latent weights, each of which becomes one bit."""
        return sum(layer.binary_params for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of the network before conversion (`Cost.bytes`); a normalization counts as two numbers for each channel."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the tensors that `bnn.save` writes for the converted network, if no layer occurs twice in it."""
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
        """bytes / packed_bytes; 1 for a network without arrays."""
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
    """Summarizes a network layer by layer. The network is traced, and no numbers are computed.

    Layers that no call reaches are left out, and so are auxiliary heads. If a layer is called several times, its parameters
    count once, its multiply-adds at each call. Arrays that a module holds beside its layers have rows of their own.

    Args:
        model: a network of this library, or any `nnx.Module` that is called with images.
        input_shape: the shape of a batch, (N, H, W, channels).

    Returns:
        The summary.

    Raises:
        TypeError: the model is not an `nnx.Module`, or it is converted.
        ValueError: the input shape does not fit the model. A module of your own may raise another error.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> summary = bnn.summarize(bnn.nn.Linear(3, 8, scheme=bnn.XNOR, rngs=nnx.Rngs(0)), (1, 3))
        >>> summary.binary_params, summary.macs_1bit
        (24, 24)
    """
    if isinstance(model, PackedLayer) or isinstance(getattr(model, 'report', None), Report):
        raise TypeError(
            f'summarize: got a converted {type(model).__name__}, expected the trained model; print its .report, which says '
            'what each layer became'
        )
    expect_module('summarize', model)
    # `walk` finds layers in containers, so a single layer is put into one.
    model = Sequential([model]) if isinstance(model, Layer) else model
    calls = output_shapes(model, jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32))
    rows = [_row(place, calls[place.path]) for place in walk(model) if place.path in calls]
    beside = [row for path, array in arrays_beside(model) for row in _own_rows(path, array)]
    return Summary((*rows, *beside))


def _row(place: Place, shapes: list[tuple[int, ...]]) -> LayerSummary:
    """The summary of a layer. shapes: the shape of its output in each call."""
    costs = [cost_of(place.layer, shape) for shape in shapes]
    # Multiply-adds add up over the calls; parameters do not.
    macs = {name: sum(getattr(cost, name) for cost in costs) for name in ('macs_1bit', 'macs_32bit')}
    cost = vars(costs[-1]) | macs
    return LayerSummary(path=place.path, kind=label_of(place.layer), output_shape=shapes[-1], **cost)


def _own_rows(path: str, array: nnx.Variable | jax.Array) -> Iterator[LayerSummary]:
    """The rows of a variable that a module holds beside its layers, one for each array."""
    for value in arrays_of(array):
        size, kind = value.size * value.dtype.itemsize, type(array).__name__
        # Other variables are state, not parameters, but they take bytes as well.
        params = value.size if isinstance(array, nnx.Param) else 0
        yield LayerSummary(path=path, kind=kind, output_shape=value.shape, params=params, bytes=size, packed_bytes=size)
