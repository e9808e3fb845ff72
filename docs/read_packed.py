"""The logits of a packed network, without the library that wrote it: NumPy and docs/format.md.

    python docs/read_packed.py NETWORK.safetensors IMAGES.npy    # IMAGES: float32 (N, H, W, C), normalized as in training

All layers that conversion makes are covered; a layer that a user registered is refused with its name. Products of signs, means,
scales and normalization give the library's very numbers; a product with real operands is summed in another order, so it may
differ in the last bits. The file must be trusted: unlike `bnn_jax.load`, this program checks neither the bounds of
docs/format.md nor checksum nor version.
"""

import base64
import json
import sys
import zlib
from pathlib import Path

import numpy as np

F32, TINY = np.float32, np.finfo(np.float32).tiny


def rounded(x):  # What every operation gives: float32, in which subnormal numbers count as 0.
    x = np.asarray(x, F32)
    return np.where(np.abs(x) < TINY, F32(0), x)


def read(path):
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], 'little')
    header, dtypes = json.loads(data[8:start]), {'F32': '<f4', 'U32': '<u4'}
    tree = json.loads(zlib.decompress(base64.b64decode(header.pop('__metadata__')['network'])))
    parts = {name: (data[start:][slice(*t['data_offsets'])], t) for name, t in header.items()}
    tensors = {name: np.frombuffer(part, dtypes[t['dtype']]).reshape(t['shape']) for name, (part, t) in parts.items()}
    return tree, {name: rounded(t) if t.dtype == F32 else t for name, t in tensors.items()}


def signs(x):
    return np.where(x > -TINY, F32(1), F32(-1))


def unpacked(words, axis, count):
    bits = np.moveaxis(words, axis, -1)[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return np.moveaxis(1 - 2 * bits.astype(F32).reshape(*bits.shape[:-2], -1)[..., :count], -1, axis)


def mean(x):  # Over the first axis, by halves.
    n, aside = len(x), []
    while len(x) > 1:
        if len(x) % 2:
            aside, x = [*aside, x[-1]], x[:-1]
        half = len(x) // 2
        x = rounded(x[:half] + x[half:])
    total = x[0]
    for left_over in aside:
        total = rounded(total + left_over)
    return rounded(total * F32(1 / n))


def windows(x, window, outside):  # (N, H, W, C) -> (N, H', W', C, kh, kw)
    strides, dilation = window.get('strides', [1, 1]), window.get('dilation', [1, 1])
    extent = [d * (size - 1) + 1 for d, size in zip(dilation, window['size'], strict=True)]
    padding = window.get('padding', 'VALID')
    if padding == 'VALID':
        padding = [(0, 0), (0, 0)]
    if padding == 'SAME':
        total = [max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(x.shape[1:3], strides, extent, strict=True)]
        padding = [(p // 2, p - p // 2) for p in total]
    x = np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=outside)
    seen = np.lib.stride_tricks.sliding_window_view(x, extent, (1, 2))
    return seen[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]


def window_mean(x, window):
    return mean(np.moveaxis(windows(x, window, 0), (4, 5), (0, 1)).reshape(-1, *windows(x, window, 0).shape[:4]))


def kernel_of(layer, tensors):  # Real numbers, or signs: (kh, kw, in / groups, out) or (in, out)
    if 'kernel' in layer:
        return tensors[layer['kernel']]
    words, product = tensors[layer['words']], layer['product']
    if product['kind'] == 'Dense':
        return unpacked(words, 1, layer['into']).T
    if product.get('filters') is not None:
        return unpacked(words, 3, layer['out'])
    return unpacked(words, 2, layer['into'] // product.get('groups', 1))


def multiplied(x, kernel, product):
    if product['kind'] == 'Dense':
        return rounded(x @ kernel)
    groups = product.get('groups', 1)
    seen = windows(x, product['window'], product.get('pad_value', 0))
    each = kernel.shape[3] // groups
    parts = [
        np.tensordot(part, kernel[..., g * each : (g + 1) * each], ((4, 5, 3), (0, 1, 2)))
        for g, part in enumerate(np.split(seen, groups, 3))
    ]
    return rounded(np.concatenate(parts, -1))


def affine(
    x, kernel, layer, numbers
):  # The product of (scale s + offset) with (distance t + center), from sums of signs
    product, (scale, offset, levels) = layer['product'], numbers
    all_ones, one_filter = np.ones_like(x[:1]), np.ones((*kernel.shape[:-1], 1), F32)

    def level(of_signs, of_ones):
        if levels is None:
            return of_signs
        return rounded(rounded(levels[0] * of_signs) + rounded(levels[1] * of_ones))

    y = level(multiplied(x, kernel, product), multiplied(all_ones, kernel, product))
    y = y if scale is None else rounded(y * scale)
    if offset is None:
        return y
    sums = level(multiplied(x, one_filter, product), multiplied(all_ones, one_filter, product))
    return rounded(y + rounded(sums * offset))


def input_scale(x, product):  # K
    if product['kind'] == 'Dense':
        return mean(np.moveaxis(np.abs(x), -1, 0))[..., None]
    return window_mean(mean(np.moveaxis(np.abs(x), -1, 0))[..., None], product['window'])


def product_of(x, layer, tensors):
    kernel, k = kernel_of(layer, tensors), None
    names = ('scale', 'bias', 'shift', 'offset', 'levels')
    scale, bias, shift, offset, levels = (None if layer.get(name) is None else tensors[layer[name]] for name in names)
    if layer['kind'] == 'PackedProduct':
        k = input_scale(x, layer['product']) if layer['use_k'] else None
        x = signs(x if shift is None else rounded(x + shift))
    y = affine(x, kernel, layer, (scale, offset, levels))
    y = y if k is None else rounded(y * k)
    return y if bias is None else rounded(y + bias)


def applied(layer, tensors, x):
    match layer.get('function', layer):
        case {'kind': 'Chain', 'layers': layers}:
            for inner in layers:
                x = applied(inner, tensors, x)
            return x
        case {'kind': 'Sum', 'body': body, 'shortcut': shortcut}:
            return rounded(applied(body, tensors, x) + applied(shortcut, tensors, x))
        case {'kind': 'Concat', 'branches': branches}:
            return np.concatenate([applied(branch, tensors, x) for branch in branches], -1)
        case {'kind': 'PackedNorm', 'coefficients': name}:
            scale, shift = tensors[name]
            return np.where(scale == 0, shift, rounded(rounded(x + shift) * scale))
        case {'kind': 'FloatProduct'} | {'kind': 'UnpackedProduct'} | {'kind': 'PackedProduct'}:
            return product_of(x, layer, tensors)
        case {'kind': 'MaxPool', 'window': window}:
            return windows(x, window, -np.inf).max((4, 5))
        case {'kind': 'AvgPool', 'window': window}:
            return window_mean(x, window)
        case {'kind': 'GlobalAveragePool'}:
            return mean(np.moveaxis(x.reshape(len(x), -1, x.shape[-1]), 1, 0))
        case {'kind': 'Relu'}:
            return np.maximum(x, F32(0))
        case {'kind': 'HardTanh'}:
            return np.clip(x, F32(-1), F32(1))
        case {'kind': 'LeakyRelu', 'slope': slope}:
            return np.where(x > 0, x, rounded(x * rounded(slope)))
        case {'kind': 'KeptModule', 'name': 'PRelu', 'arrays': arrays}:
            return np.where(x > 0, x, rounded(x * tensors[arrays["['slope'].value"]]))
        case {'kind': 'PadChannels', 'before': before, 'after': after}:
            return np.pad(x, [*[(0, 0)] * (x.ndim - 1), (before, after)])
        case {'kind': 'Flatten'}:
            return x.reshape(len(x), -1)
        case other:
            raise SystemExit(f'{other["kind"]} {other} is not covered by this program')


def logits(network, tensors, x):
    y = applied(network['body'], tensors, np.asarray(x, F32))
    return np.where(np.isfinite(x).all((1, 2, 3))[:, None], y, F32(np.nan))


if __name__ == '__main__':
    print(logits(*read(sys.argv[1]), np.load(sys.argv[2])))
