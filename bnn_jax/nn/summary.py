"""What a network is made of, layer by layer: bits, shapes, parameters, bytes, multiply-adds."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential
from bnn_jax.nn.layers import Norm, Product
from bnn_jax.tables import render


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer. Bits are of what is multiplied (32 or 1; None for a layer that multiplies nothing); shapes with batch.

    weights: kernel weights; params: all trainable parameters; binary_params: latent ones. bytes: in float32, packed_bytes:
    as `save` stores it; in both a normalisation counts two numbers a channel. MACs: for one image, 1-bit where weights and
    input are both binary.
    """

    path: str
    kind: str
    input_bits: int | None
    weight_bits: int | None
    output_shape: tuple[int, ...]
    weights: int
    params: int
    binary_params: int
    bytes: int
    packed_bytes: int
    macs_1bit: int
    macs_32bit: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A network's layers and their totals; print it for a table."""

    layers: tuple[Layer, ...]

    @property
    def weights(self) -> int:
        """Kernel weights, without biases and normalisation."""
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
        """bytes / packed_bytes."""
        return self.bytes / self.packed_bytes

    def __str__(self) -> str:
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
        return render(title, columns, [*rows, ['total', '', '', '', *(f'{number:,}' for number in totals)]])


def summarize(model: Network, input_shape: Sequence[int]) -> Summary:
    """Summary of a network for images of shape (N, H, W, channels); nothing is computed, only shapes.

    Heads that only training sees (`network.Auxiliary`) are left out, as `convert` leaves them out.
    Raises TypeError for a model that is not one of this library's networks, ValueError for a shape that does not fit.
    """
    if not isinstance(model, Network):
        raise TypeError(f'summarize: got {type(model).__name__}, expected a Network as bnn_jax.models make them')
    shape = tuple(input_shape)
    if len(shape) != 4 or shape[-1] != model.channels:
        raise ValueError(f'summarize: got input shape {shape}, expected (N, H, W, {model.channels})')
    layers: list[Layer] = []
    _visit(model.body, jax.ShapeDtypeStruct(shape, jnp.float32), '', layers)
    return Summary(tuple(layers))


def _visit(layer, x: jax.ShapeDtypeStruct, path: str, layers: list[Layer]) -> jax.ShapeDtypeStruct:
    if isinstance(layer, Sequential):
        for i, inner in enumerate(layer.layers):
            x = _visit(inner, x, f'{path}{i}', layers)
        return x
    if isinstance(layer, Residual):
        y = _visit(layer.body, x, f'{path}.body.', layers)
        _visit(layer.shortcut, x, f'{path}.shortcut.', layers)
        return y
    if isinstance(layer, Branches):
        outputs = [_visit(b, x, f'{path}.branch{i}.', layers) for i, b in enumerate(layer.branches)]
        return jax.eval_shape(lambda *ys: jnp.concatenate(ys, axis=-1), *outputs)
    if isinstance(layer, Auxiliary):
        return x
    y = _output(layer, x)
    layers.append(_row(layer, path, y.shape))
    return y


def _output(layer, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if not isinstance(layer, nnx.Module):
        return jax.eval_shape(layer, x)
    graphdef, state = nnx.split(layer)

    def output(state, x):
        evaluating = nnx.merge(graphdef, state, copy=True)
        evaluating.eval()  # a shape asks nothing of a batch's statistics
        return evaluating(x)

    return jax.eval_shape(output, state, x)


def _row(layer, path: str, shape: tuple[int, ...]) -> Layer:
    kind = type(layer).__name__
    if isinstance(layer, Product):
        return _product_row(layer, path, shape)
    if isinstance(layer, Norm):
        numbers = 2 * layer.num_features
        trained = numbers if isinstance(layer.scale, nnx.Param) else 0
        return Layer(path, kind, None, None, shape, 0, trained, 0, 4 * numbers, 4 * numbers, 0, 0)
    return Layer(path, kind, None, None, shape, 0, 0, 0, 0, 0, 0, 0)


def _product_row(layer: Product, path: str, shape: tuple[int, ...]) -> Layer:
    product, scheme = layer.product, layer.scheme
    kernel = product.kernel_shape(layer.into, layer.out)
    weights, biases = math.prod(kernel), 0 if layer.bias is None else layer.out
    binary_weight, binary_input = scheme.weight is not None, scheme.activation is not None
    stored = weights
    if binary_weight:
        words = product.stored(layer.into, layer.out).words_shape(layer.into, layer.out)
        stored = math.prod(words) + (0 if scheme.scale is None else layer.out)
    macs, one_bit = product.macs(layer.into, layer.out, shape), binary_weight and binary_input
    return Layer(
        path=path,
        kind=f'{type(product).__name__} {"x".join(map(str, kernel))}',
        input_bits=1 if binary_input else 32,
        weight_bits=1 if binary_weight else 32,
        output_shape=shape,
        weights=weights,
        params=weights + biases,
        binary_params=weights if binary_weight else 0,
        bytes=4 * (weights + biases),
        packed_bytes=4 * (stored + biases),
        macs_1bit=macs if one_bit else 0,
        macs_32bit=0 if one_bit else macs,
    )
