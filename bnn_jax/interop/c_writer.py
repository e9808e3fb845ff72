"""Writes a packed network as calls of C functions, and its weights as arrays."""

import dataclasses
from typing import Any

import numpy as np

from bnn_jax.interop.c_scratch import Scratch, Value
from bnn_jax.interop.layer_writer import LayerWriter, signs_of
from bnn_jax.nn.packed import FloatProduct, PackedBranches, PackedProduct, PackedResidual, UnpackedProduct
from bnn_jax.ops.windows import Window


class Writer(LayerWriter[Value], Scratch):
    """Collects the calls, the arrays and the scratch memory of a network in C."""

    language = 'C'

    def __init__(self):
        super().__init__()
        self.calls, self.arrays, self.used = [], [], set()
        self.bytes = 0

    def call(self, function: str, *arguments: Any) -> None:
        self.used.add(function)
        self.calls.append(f'{function}({", ".join(str(a.place if isinstance(a, Value) else a) for a in arguments)});')

    def array(self, kind: str, values: Any, name: str = '') -> str:
        """Write an array of constants. Returns its name, or NULL for None."""
        if values is None:
            return 'NULL'
        values, name = np.asarray(values).reshape(-1), name or f'a{len(self.arrays)}'
        show = {'float': _float, 'uint32_t': lambda v: f'{v:#x}u', 'int32_t': str}[kind]
        rows = [', '.join(show(v.item()) for v in values[i : i + 12]) for i in range(0, len(values), 12)]
        self.arrays.append(f'static const {kind} {name}[{len(values)}] = {{\n  ' + ',\n  '.join(rows) + '};')
        self.bytes += 4 * len(values)
        return name

    def geometry(
        self, window: Any, x: Value, out: int, pad_value: int = 0, groups: int = 1
    ) -> tuple[str, tuple[int, ...]]:
        """Write the geometry of a window. Returns a pointer to it, as a C expression, and the shape of the result."""
        self.used.add('geometry')
        if window is None:  # A dense product: each pixel by itself.
            shape, numbers = (*x.shape[:-1], out), [1, x.pixels, x.channels, 1, x.pixels, out, 1, 1, 1, 1, 0, 0, 1, 1]
        else:
            height, width, channels = x.shape
            (top, _), (left, _) = window.pads(height, width)
            rows, columns = window.output_size(height, width)
            shape = (rows, columns, out)
            numbers = [
                height,
                width,
                channels,
                rows,
                columns,
                out,
                *window.size,
                *window.strides,
                top,
                left,
                *window.dilation,
            ]
        name = f'g{len(self.arrays)}'
        values = ', '.join(map(str, [*numbers, pad_value, groups]))
        self.arrays.append(f'static const geometry {name} = {{{values}}};')
        return f'&{name}', shape

    # Layers: each method takes a value and returns one. The memory of the taken value, if owned, is freed or reused.

    def chain(self, chain: Any, x: Value) -> Value:
        done = 0
        for run in chain.runs:
            x = self._through(chain.layers, done, run.start, x)
            x = self._compared(chain.layers[run.start], x, run)
            moving = iter(run.highest)
            for layer in chain.layers[run.start + 1 : run.stop]:
                if layer.moves_signs():
                    x = self._moved(layer.function, x, next(moving))
            done = run.stop
        return self._through(chain.layers, done, len(chain.layers), x)

    def _through(self, layers: Any, start: int, stop: int, x: Value) -> Value:
        for i in range(start, stop):
            following = layers[i + 1] if i + 1 < len(layers) else None
            if following is not None and following.reads_only_signs() and layers[i].gives_signs():
                scale, shift = (self.array('float', row) for row in np.asarray(layers[i].coefficients))
                x = self._packed(x, scale, shift)
            else:
                x = self.layer(layers[i], x)
        return x

    def residual(self, layer: PackedResidual, x: Value) -> Value:
        a = self.chain(layer.body, x.borrowed())
        # If the body returns x itself, the shortcut must not change x.
        is_shared = not a.owned
        b = self.chain(layer.shortcut, x.borrowed() if is_shared else x)
        y = a if a.owned else b if b.owned else self.new(a.shape)
        self.call('add', a, b, a.numbers, y)
        self.free(*(value for value in (a, b) if value is not y), *([x] if is_shared else []))
        return y

    def branches(self, layer: PackedBranches, x: Value) -> Value:
        parts = [self.chain(branch, x.borrowed()) for branch in layer.branches]
        y, first = self.new((*parts[0].shape[:-1], sum(part.channels for part in parts))), 0
        for part in parts:
            self.call('place', part, part.pixels, part.channels, first, y.channels, y)
            first += part.channels
        self.free(*parts, x)
        return y

    def norm(self, coefficients: np.ndarray, x: Value) -> Value:
        scale, shift = (self.array('float', row) for row in coefficients)
        return self._pointwise('normalize', x, x.pixels, x.channels, scale, shift)

    def slopes(self, slopes: np.ndarray, x: Value) -> Value:
        return self._pointwise('slopes', x, x.numbers, self.array('float', slopes), slopes.size)

    def relu(self, x: Value) -> Value:
        return self._pointwise('relu', x, x.numbers)

    def hard_tanh(self, x: Value) -> Value:
        return self._pointwise('hard_tanh', x, x.numbers)

    def flatten(self, x: Value) -> Value:
        return dataclasses.replace(x, shape=(x.numbers,))

    def max_pool(self, window: Window, x: Value) -> Value:
        geometry, shape = self.geometry(window, x, x.channels)
        y = self.new(shape)
        self.call('max_pool', geometry, x, y)
        self.free(x)
        return y

    def avg_pool(self, window: Window, x: Value) -> Value:
        geometry, shape = self.geometry(window, x, x.channels)
        y, room = self.new(shape), self.room(int(np.prod(window.size)))
        self.call('avg_pool', geometry, x, room, y)
        self.free(room, x)
        return y

    def global_average_pool(self, x: Value) -> Value:
        y, room = self.new((x.channels,)), self.room(x.pixels)
        self.call('global_average', x, x.pixels, x.channels, room, y)
        self.free(room, x)
        return y

    def pad_channels(self, before: int, after: int, x: Value) -> Value:
        y = self.new((*x.shape[:-1], before + x.channels + after))
        self.call('clear', y, y.numbers)
        self.call('place', x, x.pixels, x.channels, before, y.channels, y)
        self.free(x)
        return y

    def _pointwise(self, name: str, x: Value, *arguments: Any) -> Value:
        y = x if x.owned else self.new(x.shape)
        self.call(name, x, *arguments, y)
        return y

    def _packed(self, x: Value, scale: str = 'NULL', shift: str = 'NULL') -> Value:
        y = self.new(x.shape, signs=True)
        self.call('pack', x, x.pixels, x.channels, scale, shift, y)
        self.free(x)
        return y

    def _operation(self, layer: Any, x: Value) -> tuple[str, tuple[int, ...]]:
        operation = layer.operation
        if not hasattr(operation, 'window'):
            return self.geometry(None, x, layer.out_features)
        return self.geometry(operation.window, x, layer.out_features, operation.pad_value, operation.groups)

    def _words(self, layer: Any) -> str:
        """Write the words of a layer, along the channels of a group: (taps, words, filters). Returns the array's name."""
        signs = signs_of(layer)
        signs = signs.reshape(-1, *signs.shape[-2:])
        padded = np.pad(signs < 0, [(0, 0), (0, -signs.shape[1] % 32), (0, 0)])
        words = np.packbits(np.moveaxis(padded, 1, 2), axis=2, bitorder='little')
        words = np.ascontiguousarray(words).view('<u4')
        return self.array('uint32_t', np.moveaxis(words, 1, 2))

    def _signs(self, layer: Any, x: Value) -> Value:
        """The signs that a product reads."""
        if x.signs:
            return x
        if layer.shift is None:
            return self._packed(x)
        ones = self.array('float', np.ones(x.channels, np.float32))
        return self._packed(x, ones, self.array('float', layer.shift))

    def packed_product(self, layer: PackedProduct, x: Value) -> Value:
        scale, bias = self.array('float', layer.scale), self.array('float', layer.bias)
        geometry, shape = self._operation(layer, x)
        k: Any = 'NULL'
        if layer.use_k:
            window = getattr(layer.operation, 'window', None)
            taps = 1 if window is None else int(np.prod(window.size))
            k, magnitudes = self.room(int(np.prod(shape[:-1]))), self.room(x.pixels)
            room = self.room(max(x.channels, taps))
            self.call('input_scale', geometry, x, magnitudes, room, k)
            self.free(magnitudes, room)
        signs = self._signs(layer, x)
        y = self.new(shape)
        if layer.is_affine():
            offset, levels = self.array('float', layer.offset), self.array('float', layer.levels)
            self.call('affine', geometry, signs, self._words(layer), scale, offset, levels, k, bias, y)
        else:
            self.call('bits_to_floats', geometry, signs, self._words(layer), scale, k, bias, y)
        self.free(signs, *([k] if layer.use_k else []))
        return y

    def _compared(self, layer: Any, x: Value, run: Any) -> Value:
        geometry, shape = self._operation(layer, x)
        signs = self._signs(layer, x)
        y, room = self.new(shape, signs=True), self.room(layer.out_features)
        thresholds, flip = self.array('int32_t', run.thresholds), self.array('uint32_t', run.flip)
        self.call('bits_to_signs', geometry, signs, self._words(layer), thresholds, flip, room, y)
        self.free(signs, room)
        return y

    def _moved(self, function: Any, x: Value, highest: Any) -> Value:
        if hasattr(function, 'window'):
            geometry, shape = self.geometry(function.window, x, x.channels)
            y = self.new(shape, signs=True)
            self.call('pool_signs', geometry, x, self.array('uint32_t', highest), y)
        elif x.channels % 32 == 0 or x.pixels == 1:
            return dataclasses.replace(x, shape=(x.numbers,))
        else:
            y = self.new((x.numbers,), signs=True)
            self.call('flatten_signs', x, x.pixels, x.channels, y)
        self.free(x)
        return y

    def unpacked_product(self, layer: UnpackedProduct, x: Value) -> Value:
        return self._floats('signed_floats', layer, x, self._words(layer), self.array('float', layer.scale))

    def float_product(self, layer: FloatProduct, x: Value) -> Value:
        return self._floats('floats', layer, x, self.array('float', layer.kernel))

    def _floats(self, name: str, layer: Any, x: Value, *weights: str) -> Value:
        geometry, shape = self._operation(layer, x)
        y = self.new(shape)
        self.call(name, geometry, x, *weights, self.array('float', layer.bias), y)
        self.free(x)
        return y


def _float(value: float) -> str:
    """A float32 in a form that every C99 compiler reads back to the bit."""
    return f'{value.hex()}f'
