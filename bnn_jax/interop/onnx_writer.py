"""Writes a packed network as ONNX nodes, with standard operators or QONNX's. Importing this module imports onnx."""

import dataclasses
import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnn_jax.interop.layer_writer import LayerWriter, signs_of
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed import (
    FloatProduct,
    PackedBranches,
    PackedProduct,
    PackedResidual,
    PackedSequential,
    UnpackedProduct,
)
from bnn_jax.ops.geometry import Pads
from bnn_jax.ops.windows import Window

OPSET, IR = 19, 9
"""AveragePool has dilations since opset 19, which came with IR 9 (onnx 1.14, ONNX Runtime 1.15)."""
QONNX = 'qonnx.custom_op.general'
TINY = np.finfo(np.float32).tiny
NO_PADS = ((0, 0), (0, 0))


@dataclasses.dataclass(frozen=True)
class Map:
    """A tensor of the graph, (N, C, H, W) or (N, C). `shape` is (H, W, C) or (C,), without N, as in this library."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[-1]


class OnnxWriter(LayerWriter[Map]):
    """Writes the nodes and constants of a network. Each product of signs is rounded to an integer.

    Rounding does not change an exact sum, and it corrects a sum that Winograd's algorithm or a narrower dtype made
    inexact. It also keeps engines from moving the scale that follows into the weights. Sums would then not be integers,
    and signs near 0 could flip.
    """

    language = 'ONNX'
    domains = {'': OPSET}

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        # (dtype, shape, bytes) -> tensor: equal arrays become one constant.
        self._constants: dict[tuple, onnx.TensorProto] = {}
        self._count = 0

    def network(self, network: Any, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
        """The model: images (N, H, W, C), float32, to logits (N, num_classes)."""
        rows, columns, channels = input_shape
        first = self.node('Transpose', 'images', perm=[0, 3, 1, 2])
        logits = self.finish(self.chain(network.body, Map(first, input_shape)))
        # The last node gives the logits.
        self.nodes[-1].output[0] = 'logits'
        assert logits.shape == (network.num_classes,)
        real = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            'network',
            [helper.make_tensor_value_info('images', real, ['N', rows, columns, channels])],
            [helper.make_tensor_value_info('logits', real, ['N', network.num_classes])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name='bnn_jax')

    def finish(self, logits: Map) -> Map:
        """The logits; NaN for an image with a number that is not finite, as in the packed network."""
        # NaN is not less than infinity either.
        finite = self.node('Less', self.node('Abs', 'images'), self.constant(np.float32(np.inf)))
        lowest = self.node(
            'ReduceMin', self.node('Cast', finite, to=onnx.TensorProto.FLOAT), self._axes(1, 2, 3), keepdims=0
        )
        kept = self.node('Unsqueeze', self.node('Greater', lowest, self.constant(np.float32(0.5))), self._axes(1))
        return self._map('Where', logits.shape, kept, logits.name, self.constant(np.float32(np.nan)))

    # Nodes and constants.

    def node(self, operator: str, *inputs: str, domain: str = '', **attributes: Any) -> str:
        """Add a node. Returns the name of its output."""
        output = self._new()
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def _new(self) -> str:
        self._count += 1
        return f't{self._count}'

    def constant(self, array: Any) -> str:
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, self._new())
        return self._constants[key].name

    def _axes(self, *axes: int) -> str:
        return self.constant(np.asarray(axes, np.int64))

    def signs(self, signs: np.ndarray) -> str:
        """Signs as floats. Where bits are smaller, signs are stored as bits, and the graph unpacks them."""
        bits = np.packbits(signs.reshape(-1) < 0, bitorder='little')
        unpacking = 290 if signs.size % 8 else 170  # About how many bytes the nodes below take.
        if 4 * signs.size < bits.size + unpacking:
            return self.constant(signs.astype(np.float32))
        one, minus_one = self.constant(np.float32(1)), self.constant(np.float32(-1))
        places = self.constant(np.uint8(1) << np.arange(8, dtype=np.uint8))
        taken = self.node('BitwiseAnd', self.constant(bits[:, None]), places)
        unpacked = self.node('Where', self.node('Cast', taken, to=onnx.TensorProto.BOOL), minus_one, one)
        if signs.size % 8:
            flat = self.node('Reshape', unpacked, self._axes(-1))
            unpacked = self.node('Slice', flat, self._axes(0), self._axes(signs.size))
        return self.node('Reshape', unpacked, self._axes(*signs.shape))

    def _map(self, operator: str, shape: tuple[int, ...], *inputs: str, **attributes: Any) -> Map:
        return Map(self.node(operator, *inputs, **attributes), shape)

    def _channels(self, numbers: Any, x: Map) -> str:
        """One number per channel, in a shape that broadcasts over a map."""
        return self.constant(np.asarray(numbers, np.float32).reshape(-1, *[1] * (len(x.shape) - 1)))

    def _by_channel(self, operator: str, x: Map, numbers: Any) -> Map:
        """The map plus or times one number per channel; the map itself if numbers is None."""
        return x if numbers is None else self._map(operator, x.shape, x.name, self._channels(numbers, x))

    # Layers.

    def chain(self, chain: PackedSequential, x: Map) -> Map:
        for layer in chain.layers:
            x = self.layer(layer, x)
        return x

    def residual(self, layer: PackedResidual, x: Map) -> Map:
        body, shortcut = self.chain(layer.body, x), self.chain(layer.shortcut, x)
        return self._map('Add', body.shape, body.name, shortcut.name)

    def branches(self, layer: PackedBranches, x: Map) -> Map:
        parts = [self.chain(branch, x) for branch in layer.branches]
        shape = (*parts[0].shape[:-1], sum(part.channels for part in parts))
        return self._map('Concat', shape, *(part.name for part in parts), axis=1)

    def norm(self, coefficients: np.ndarray, x: Map) -> Map:
        scale, shift = coefficients
        is_constant = scale == 0
        y = self._by_channel('Add', x, np.where(is_constant, 0, shift))
        y = self._by_channel('Mul', y, scale)
        return self._by_channel('Add', y, np.where(is_constant, shift, 0)) if is_constant.any() else y

    def slopes(self, slopes: np.ndarray, x: Map) -> Map:
        if slopes.size == 1:
            return self._map('LeakyRelu', x.shape, x.name, alpha=slopes.item())
        return self._map('PRelu', x.shape, x.name, self._channels(slopes, x))

    def relu(self, x: Map) -> Map:
        return self._map('Relu', x.shape, x.name)

    def hard_tanh(self, x: Map) -> Map:
        return self._map('Clip', x.shape, x.name, self.constant(np.float32(-1)), self.constant(np.float32(1)))

    def max_pool(self, window: Window, x: Map) -> Map:
        pads, shape = window.pads(*x.shape[:2]), (*window.output_size(*x.shape[:2]), x.channels)
        return self._map(
            'MaxPool', shape, x.name, kernel_shape=window.size, strides=window.strides, pads=_begins_and_ends(pads)
        )

    def avg_pool(self, window: Window, x: Map) -> Map:
        shape = (*window.output_size(*x.shape[:2]), x.channels)
        # Padding is a node of its own, because ONNX Runtime's pooling refuses a padding that is as large as the window.
        padded = self._padded(x, window.pads(*x.shape[:2]), 0)
        dilation = {} if window.dilation == (1, 1) else {'dilations': window.dilation}
        return self._map(
            'AveragePool', shape, padded.name, kernel_shape=window.size, strides=window.strides, **dilation
        )

    def global_average_pool(self, x: Map) -> Map:
        return self._map('ReduceMean', (x.channels,), x.name, self._axes(2, 3), keepdims=0)

    def flatten(self, x: Map) -> Map:
        if len(x.shape) == 1:
            return x
        last = self.node('Transpose', x.name, perm=[0, 2, 3, 1])
        return self._map('Flatten', (math.prod(x.shape),), last)

    def pad_channels(self, before: int, after: int, x: Map) -> Map:
        beside = [0] * (len(x.shape) - 1)
        pads = self._axes(0, before, *beside, 0, after, *beside)
        return self._map('Pad', (*x.shape[:-1], before + x.channels + after), x.name, pads)

    def _padded(self, x: Map, pads: Pads, value: float) -> Map:
        if pads == NO_PADS:
            return x
        (top, bottom), (left, right) = pads
        axes = self._axes(0, 0, top, left, 0, 0, bottom, right)
        shape = (x.shape[0] + top + bottom, x.shape[1] + left + right, x.channels)
        return self._map('Pad', shape, x.name, axes, self.constant(np.float32(value)))

    # Products.

    def float_product(self, layer: FloatProduct, x: Map) -> Map:
        kernel = self.constant(_arranged(np.asarray(layer.kernel), x))
        return self._by_channel('Add', self._product(layer, x, kernel), layer.bias)

    def unpacked_product(self, layer: UnpackedProduct, x: Map) -> Map:
        y = self._by_channel('Mul', self._product(layer, x, self.signs(_arranged(signs_of(layer), x))), layer.scale)
        return self._by_channel('Add', y, layer.bias)

    def packed_product(self, layer: PackedProduct, x: Map) -> Map:
        y = self.bits(layer, self._by_channel('Add', x, layer.shift))
        if layer.use_k:
            y = self._map('Mul', y.shape, y.name, self._input_scale(layer, x).name)
        return self._by_channel('Add', y, layer.bias)

    def bits(self, layer: PackedProduct, x: Map) -> Map:
        """The product of the signs of x and those of the weights, scaled as in `SignProduct`."""
        above = self.node('Greater', x.name, self.constant(-TINY))
        signs = self._map('Where', x.shape, above, self.constant(np.float32(1)), self.constant(np.float32(-1)))
        weights = _arranged(signs_of(layer), x)
        filters = self.signs(weights)
        y = self._sum(layer, signs, filters)
        if not layer.is_affine():
            return self._by_channel('Mul', y, layer.scale)
        one = self.constant(np.float32(1))
        ones = self._map('Expand', x.shape, one, self._axes(1, x.channels, *x.shape[:-1]))
        one_filter = (1, *weights.shape[1:]) if weights.ndim == 4 else (weights.shape[0], 1)
        filter = self.node('Expand', one, self._axes(*one_filter))
        y = self._level(layer, y, self._sum(layer, ones, filters))
        y = self._by_channel('Mul', y, layer.scale)
        if layer.offset is None:
            return y
        inputs = self._level(layer, self._sum(layer, signs, filter, 1), self._sum(layer, ones, filter, 1))
        return self._map('Add', y.shape, y.name, self._by_channel('Mul', inputs, layer.offset).name)

    def _level(self, layer: PackedProduct, signs: Map, constant: Map) -> Map:
        """The product with the levels d and c: d times the sum of signs plus c times the sum of ones."""
        if layer.levels is None:
            return signs
        one, other = (self.constant(number) for number in np.asarray(layer.levels))
        return self._map('Add', signs.shape, self.node('Mul', signs.name, one), self.node('Mul', constant.name, other))

    def _sum(self, layer: PackedProduct, x: Map, weights: str, filters: int = 0) -> Map:
        """A product of signs, rounded to integers."""
        y = self._product(layer, x, weights, filters)
        return self._map('Round', y.shape, y.name)

    def _product(self, layer: Any, x: Map, weights: str, filters: int = 0, outside: float | None = None) -> Map:
        """The operation of a layer.

        Args:
            layer: the layer.
            x: its input.
            weights: the name of its weights.
            filters: the number of filters; 0: as the layer has.
            outside: the value outside the image; None: the layer's pad value.
        """
        operation: Convolution | Dense = layer.operation
        filters = filters or layer.out_features
        if not isinstance(operation, Convolution):
            # On a map, a dense layer is a 1x1 convolution.
            return self._map('MatMul' if len(x.shape) == 1 else 'Conv', (*x.shape[:-1], filters), x.name, weights)
        window = operation.window
        value = operation.pad_value if outside is None else outside
        pads, size = window.pads(*x.shape[:2]), window.output_size(*x.shape[:2])
        if value != 0:
            x, pads = self._padded(x, pads, value), NO_PADS
        geometry = {'strides': window.strides, 'dilations': window.dilation, 'group': operation.groups}
        return self._map('Conv', (*size, filters), x.name, weights, pads=_begins_and_ends(pads), **geometry)

    def _input_scale(self, layer: PackedProduct, x: Map) -> Map:
        """K, the scale of the input."""
        magnitude = self.node('ReduceMean', self.node('Abs', x.name), self._axes(1), keepdims=1)
        mean = Map(magnitude, (*x.shape[:-1], 1))
        return self.avg_pool(layer.operation.window, mean) if isinstance(layer.operation, Convolution) else mean


class QonnxWriter(OnnxWriter):
    """Writes signs and binary weights as BipolarQuant nodes, which turn x >= 0 into the scale, all else into -scale.

    Weights are float constants, as QONNX's tools expect them.
    """

    language = 'QONNX'
    domains = {'': OPSET, QONNX: 1}

    def finish(self, logits: Map) -> Map:
        # Images are not tested for infinity and NaN: hardware has no such test.
        return self._map('Identity', logits.shape, logits.name)

    def signs(self, signs: np.ndarray) -> str:
        return self.constant(signs.astype(np.float32))

    def unpacked_product(self, layer: UnpackedProduct, x: Map) -> Map:
        return self._by_channel('Add', self._product(layer, x, self._quantized(layer, x)), layer.bias)

    def bits(self, layer: PackedProduct, x: Map) -> Map:
        distance, center = (1, 0) if layer.levels is None else np.asarray(layer.levels).tolist()
        inputs = self._bipolar(x.name, np.float32(distance))
        if center:
            inputs = self.node('Add', inputs, self.constant(np.float32(center)))
        weights = self._quantized(layer, x)
        if layer.offset is not None:
            weights = self.node('Add', weights, self.constant(_of_filters(layer.offset, layer, x)))
        outside = getattr(layer.operation, 'pad_value', 0) * (distance + center)
        return self._product(layer, Map(inputs, x.shape), weights, outside=outside)

    def _quantized(self, layer: Any, x: Map) -> str:
        """Scaled signs of the weights."""
        scale = np.float32(1) if layer.scale is None else _of_filters(layer.scale, layer, x)
        return self._bipolar(self.signs(_arranged(signs_of(layer), x)), scale)

    def _bipolar(self, name: str, scale: Any) -> str:
        return self.node('BipolarQuant', name, self.constant(scale), domain=QONNX)


def _arranged(kernel: np.ndarray, x: Map) -> np.ndarray:
    """(out, in, kh, kw) for a convolution and for a dense product of each pixel of a map; (in, out) for a vector."""
    if len(x.shape) == 1:
        return kernel
    return np.ascontiguousarray((kernel if kernel.ndim == 4 else kernel[None, None]).transpose(3, 2, 0, 1))


def _of_filters(numbers: Any, layer: Any, x: Map) -> np.ndarray:
    """One number per filter, in a shape that broadcasts over the weights."""
    is_matrix = not isinstance(layer.operation, Convolution) and len(x.shape) == 1
    return np.asarray(numbers, np.float32).reshape((1, -1) if is_matrix else (-1, 1, 1, 1))


def _begins_and_ends(pads: Pads) -> list[int]:
    (top, bottom), (left, right) = pads
    return [top, left, bottom, right]
