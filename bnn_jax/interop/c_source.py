"""A packed network as C99: weights as arrays, plain loops, no allocation, no file, nothing but the standard headers."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

KERNELS = Path(__file__).with_name('c_kernels.c')


@dataclasses.dataclass(frozen=True)
class Library:
    """What `c_library` wrote, and the sizes of its parts in bytes."""

    header: Path
    source: Path
    weights: int
    scratch: int


def c_library(
    network: Any,
    folder: str | Path,
    input_shape: tuple[int, int, int],
    *,
    name: str = 'network',
    normalization: Any = None,
) -> Library:
    """Writes NAME.h and NAME.c into a folder: `void NAME(const float *image, float *logits, NAME_cell *scratch)`.

    The logits are those of `bnn_jax.runtime` to the bit, but in networks that multiply real inputs by binary weights alone
    (BC, BWN), where another order of sums makes a last-bit difference, and where a number is subnormal.

    Args:
        network: a `PackedNetwork`, as `convert` and `load` give it.
        folder: made where it is not there.
        input_shape: height, width and channels of an image.
        name: of the function and the files: a C identifier.
        normalization: uint8 (H, W, C) -> float32, of a `data.Preprocessing`; then there is a function NAME_bytes as well.

    Returns:
        The files and sizes.

    Raises:
        ValueError: for images that do not fit, a name that is no identifier, a layer of the user's own.
    """
    if not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]*', name):
        raise ValueError(f'name: got {name!r}, expected a C identifier')
    if not getattr(network, 'is_network', False):
        raise ValueError(
            f'c_library: got {type(network).__name__}, expected a PackedNetwork as convert or load gives it'
        )
    network.expect_fits(input_shape)
    writer = _Writer(name)
    height, width, channels = input_shape
    image = writer.new(input_shape)
    logits = writer.chain(network.body, image)
    (classes,) = logits.shape
    calls = [f'  {call}' for call in writer.calls]
    copy = [f'  for (i = 0; i < {classes}; ++i) logits[i] = {logits.place}[i].f;']
    writer.used |= {'load'} | ({'load_bytes'} if normalization is not None else set())
    if normalization is not None:
        values = normalization(np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, channels)))
        writer.array('float', np.asarray(values, np.float32).reshape(256, channels), 'bytes')
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    header, source = folder / f'{name}.h', folder / f'{name}.c'
    header.write_text(_header(name, input_shape, classes, writer.peak, normalization is not None))
    kernels = _kernels(writer.used)
    numbers = height * width * channels
    functions = [
        'static void run(float *logits, cell *scratch) {\n  int i;\n' + '\n'.join([*calls, *copy]) + '\n}',
        f'void {name}(const float *image, float *logits, {name}_cell *scratch) {{\n'
        f'  load(image, {numbers}, scratch);\n  run(logits, scratch);\n}}',
    ]
    if normalization is not None:
        functions.append(
            f'void {name}_bytes(const unsigned char *image, float *logits, {name}_cell *scratch) {{\n'
            f'  load_bytes(image, {numbers}, {channels}, bytes, scratch);\n  run(logits, scratch);\n}}'
        )
    top = (
        '/* Written by bnn_jax. Compile it as C99 (-std=c99): then a product and a sum are rounded each for itself. */\n'
        f'#include "{name}.h"\n\n#include <float.h>\n#include <math.h>\n#include <stddef.h>\n\n'
        '#if defined(__clang__)\n#pragma STDC FP_CONTRACT OFF\n#endif\n'
        '#if FLT_EVAL_METHOD != 0\n#error "floats are computed wider than they are stored here: other logits"\n#endif\n\n'
        f'typedef {name}_cell cell;\n'
    )
    source.write_text('\n'.join([top, kernels, *writer.arrays, '', '\n\n'.join(functions), '']))
    return Library(header, source, writer.bytes, 4 * writer.peak)


def _header(name: str, shape: tuple[int, int, int], classes: int, scratch: int, has_bytes: bool) -> str:
    upper, (height, width, channels) = name.upper(), shape
    lines = [
        f'/* {height} x {width} x {channels} numbers of an image, prepared as in training, to {classes} logits.',
        f' * scratch: room for {upper}_SCRATCH cells, whose content does not matter; each thread has its own. */',
        f'#ifndef {upper}_H\n#define {upper}_H\n\n#include <stdint.h>\n',
        f'#define {upper}_HEIGHT {height}\n#define {upper}_WIDTH {width}\n#define {upper}_CHANNELS {channels}',
        f'#define {upper}_CLASSES {classes}\n#define {upper}_SCRATCH {scratch}\n',
        f'typedef union {{\n  float f;\n  int32_t i;\n  uint32_t u;\n}} {name}_cell;\n',
        f'void {name}(const float *image, float *logits, {name}_cell *scratch);',
    ]
    if has_bytes:
        lines += ['/* The same of bytes, 0 to 255, normalized as in training. */']
        lines += [f'void {name}_bytes(const unsigned char *image, float *logits, {name}_cell *scratch);']
    return '\n'.join([*lines, '', '#endif', ''])


def _kernels(used: set[str]) -> str:
    """The functions of these names, and what they need, in the order of the file."""
    parts = {}
    for part in KERNELS.read_text().split('/// ')[1:]:
        title, _, text = part.partition('\n')
        name, _, needs = title.partition(':')
        parts[name] = (set(needs.split()), text)
    wanted, new = set(), set(used)
    while new:
        wanted |= new
        new = set().union(*(parts[name][0] for name in new)) - wanted
    return ''.join(text for name, (_, text) in parts.items() if name in wanted and name != 'types')


@dataclasses.dataclass(frozen=True)
class _Value:
    """A map, or its signs, in the scratch memory from cell `start` on; not `owned` where another still reads it."""

    shape: tuple[int, ...]
    start: int
    signs: bool = False
    owned: bool = True

    @property
    def place(self) -> str:
        return f'(scratch + {self.start})' if self.start else 'scratch'

    @property
    def pixels(self) -> int:
        return int(np.prod(self.shape[:-1]))

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def numbers(self) -> int:
        return int(np.prod(self.shape))

    @property
    def cells(self) -> int:
        return self.pixels * -(-self.channels // 32) if self.signs else self.numbers

    def borrowed(self) -> '_Value':
        return dataclasses.replace(self, owned=False)


class _Writer:
    """Calls and arrays of a network, and where in the scratch memory every map lies."""

    def __init__(self, name: str):
        self.calls, self.arrays, self.used = [], [], set()
        self.bytes = self.peak = 0
        # (start, end) of what is in use, in order.
        self._held: list[tuple[int, int]] = []

    def new(self, shape: tuple[int, ...], signs: bool = False) -> _Value:
        """Room for a map in the first gap that is large enough."""
        value, start = _Value(tuple(shape), 0, signs), 0
        for begin, end in self._held:
            if begin - start >= value.cells:
                break
            start = end
        self._held = sorted([*self._held, (start, start + value.cells)])
        self.peak = max(self.peak, start + value.cells)
        return dataclasses.replace(value, start=start)

    def room(self, cells: int) -> _Value:
        return self.new((1, cells))

    def free(self, *values: _Value) -> None:
        for value in values:
            if value.owned:
                self._held.remove((value.start, value.start + value.cells))

    def call(self, function: str, *arguments: Any) -> None:
        self.used.add(function)
        self.calls.append(f'{function}({", ".join(str(a.place if isinstance(a, _Value) else a) for a in arguments)});')

    def array(self, kind: str, values: Any, name: str = '') -> str:
        """The name of an array of constants; NULL for None."""
        if values is None:
            return 'NULL'
        values, name = np.asarray(values).reshape(-1), name or f'a{len(self.arrays)}'
        show = {'float': _float, 'uint32_t': lambda v: f'{v:#x}u', 'int32_t': str}[kind]
        rows = [', '.join(show(v.item()) for v in values[i : i + 12]) for i in range(0, len(values), 12)]
        self.arrays.append(f'static const {kind} {name}[{len(values)}] = {{\n  ' + ',\n  '.join(rows) + '};')
        self.bytes += 4 * len(values)
        return name

    def geometry(
        self, window: Any, x: _Value, out: int, pad_value: int = 0, groups: int = 1
    ) -> tuple[str, tuple[int, ...]]:
        """The name of a geometry, and the shape of what it gives."""
        self.used.add('geometry')
        if window is None:  # A dense product: each pixel for itself.
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

    # Layers: each takes a value and gives one, and frees what it took.

    def chain(self, chain: Any, x: _Value) -> _Value:
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

    def _through(self, layers: Any, start: int, stop: int, x: _Value) -> _Value:
        for i in range(start, stop):
            following = layers[i + 1] if i + 1 < len(layers) else None
            if following is not None and following.reads_only_signs() and layers[i].gives_signs():
                scale, shift = (self.array('float', row) for row in np.asarray(layers[i].coefficients))
                x = self._packed(x, scale, shift)
            else:
                x = self.layer(layers[i], x)
        return x

    def layer(self, layer: Any, x: _Value) -> _Value:
        kind = type(layer).__name__
        match kind:
            case 'PackedSequential':
                return self.chain(layer, x)
            case 'PackedResidual':
                a = self.chain(layer.body, x.borrowed())
                # Where the body hands x itself on, the shortcut must not change it.
                is_shared = not a.owned
                b = self.chain(layer.shortcut, x.borrowed() if is_shared else x)
                y = self._added(a, b)
                if is_shared:
                    self.free(x)
                return y
            case 'PackedBranches':
                return self._concatenated(layer, x)
            case 'PackedProduct':
                return self._bits(layer, x)
            case 'UnpackedProduct' | 'FloatProduct':
                return self._floats(layer, x)
            case 'PackedNorm':
                scale, shift = (self.array('float', row) for row in np.asarray(layer.coefficients))
                return self._pointwise('normalize', x, x.pixels, x.channels, scale, shift)
            case 'Unchanged':
                return self._function(layer.function, x)
            case 'KeptModule' if type(layer.module()).__name__ == 'PRelu':
                return self._pointwise(
                    'slopes', x, x.numbers, self.array('float', layer.module().slope[...]), x.channels
                )
        raise ValueError(f'c_library: no C is written for {kind} ({layer.label()}), a layer of your own')

    def _function(self, function: Any, x: _Value) -> _Value:
        match type(function).__name__:
            case 'Relu':
                return self._pointwise('relu', x, x.numbers)
            case 'HardTanh':
                return self._pointwise('hard_tanh', x, x.numbers)
            case 'LeakyRelu':
                return self._pointwise(
                    'slopes', x, x.numbers, self.array('float', np.asarray([function.slope], np.float32)), 1
                )
            case 'Flatten':
                return dataclasses.replace(x, shape=(x.numbers,))
            case 'MaxPool':
                geometry, shape = self.geometry(function.window, x, x.channels)
                y = self.new(shape)
                self.call('max_pool', geometry, x, y)
            case 'AvgPool':
                geometry, shape = self.geometry(function.window, x, x.channels)
                y, room = self.new(shape), self.room(int(np.prod(function.window.size)))
                self.call('avg_pool', geometry, x, room, y)
                self.free(room)
            case 'GlobalAveragePool':
                y, room = self.new((x.channels,)), self.room(x.pixels)
                self.call('global_average', x, x.pixels, x.channels, room, y)
                self.free(room)
            case 'PadChannels':
                y = self.new((*x.shape[:-1], function.before + x.channels + function.after))
                self.call('clear', y, y.numbers)
                self.call('place', x, x.pixels, x.channels, function.before, y.channels, y)
            case kind:
                raise ValueError(f'c_library: no C is written for {kind}, a function of your own')
        self.free(x)
        return y

    def _pointwise(self, name: str, x: _Value, *arguments: Any) -> _Value:
        y = x if x.owned else self.new(x.shape)
        self.call(name, x, *arguments, y)
        return y

    def _added(self, a: _Value, b: _Value) -> _Value:
        y = a if a.owned else b if b.owned else self.new(a.shape)
        self.call('add', a, b, a.numbers, y)
        self.free(*(value for value in (a, b) if value is not y))
        return y

    def _concatenated(self, layer: Any, x: _Value) -> _Value:
        parts = [self.chain(branch, x.borrowed()) for branch in layer.branches]
        y, first = self.new((*parts[0].shape[:-1], sum(part.channels for part in parts))), 0
        for part in parts:
            self.call('place', part, part.pixels, part.channels, first, y.channels, y)
            first += part.channels
        self.free(*parts, x)
        return y

    def _packed(self, x: _Value, scale: str = 'NULL', shift: str = 'NULL') -> _Value:
        y = self.new(x.shape, signs=True)
        self.call('pack', x, x.pixels, x.channels, scale, shift, y)
        self.free(x)
        return y

    def _operation(self, layer: Any, x: _Value) -> tuple[str, tuple[int, ...]]:
        operation = layer.operation
        if not hasattr(operation, 'window'):
            return self.geometry(None, x, layer.out_features)
        return self.geometry(operation.window, x, layer.out_features, operation.pad_value, operation.groups)

    def _words(self, layer: Any) -> str:
        """Words along the channels of a group: (taps, words, filters)."""
        signs = np.asarray(layer.operation.unpack_kernel(layer.words, layer.in_features))
        signs = signs.reshape(-1, *signs.shape[-2:])
        padded = np.pad(signs < 0, [(0, 0), (0, -signs.shape[1] % 32), (0, 0)])
        words = np.packbits(np.moveaxis(padded, 1, 2), axis=2, bitorder='little')
        words = np.ascontiguousarray(words).view('<u4')
        return self.array('uint32_t', np.moveaxis(words, 1, 2))

    def _signs(self, layer: Any, x: _Value) -> _Value:
        """The signs that a product reads."""
        if x.signs:
            return x
        if layer.shift is None:
            return self._packed(x)
        ones = self.array('float', np.ones(x.channels, np.float32))
        return self._packed(x, ones, self.array('float', layer.shift))

    def _bits(self, layer: Any, x: _Value) -> _Value:
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

    def _compared(self, layer: Any, x: _Value, run: Any) -> _Value:
        geometry, shape = self._operation(layer, x)
        signs = self._signs(layer, x)
        y, room = self.new(shape, signs=True), self.room(layer.out_features)
        thresholds, flip = self.array('int32_t', run.thresholds), self.array('uint32_t', run.flip)
        self.call('bits_to_signs', geometry, signs, self._words(layer), thresholds, flip, room, y)
        self.free(signs, room)
        return y

    def _moved(self, function: Any, x: _Value, highest: Any) -> _Value:
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

    def _floats(self, layer: Any, x: _Value) -> _Value:
        geometry, shape = self._operation(layer, x)
        y, bias = self.new(shape), self.array('float', layer.bias)
        if hasattr(layer, 'kernel'):
            self.call('floats', geometry, x, self.array('float', layer.kernel), bias, y)
        else:
            self.call('signed_floats', geometry, x, self._words(layer), self.array('float', layer.scale), bias, y)
        self.free(x)
        return y


def _float(value: float) -> str:
    """A float32 that every C99 compiler reads back to the bit."""
    return f'{value.hex()}f'
