"""The logits of a packed network, without the library that wrote it: NumPy and docs/format.md.

    python docs/read_packed.py NETWORK.safetensors IMAGES.npy    # IMAGES: float32 (N, H, W, C), normalized as in training

Covered are chains of FloatProduct, PackedProduct (without K), UnpackedProduct, PackedNorm, MaxPool, Relu and Flatten with
explicit or VALID padding: mlp, lenet5, vgg_small, nin's convolutions, alexnet, under BC, BWN, BNN or XNOR. A network with a
layer of another kind is refused with its name. Products of signs, scales and normalization give the library's very numbers;
a product with real operands is summed in another order, so it may differ in the last bits.
"""

import base64
import json
import sys
import zlib
from pathlib import Path

import numpy as np


def read(path):
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], 'little')
    header, dtypes = json.loads(data[8:start]), {'F32': '<f4', 'U32': '<u4'}
    tree = json.loads(zlib.decompress(base64.b64decode(header.pop('__metadata__')['network'])))
    parts = {name: (data[start:][slice(*t['data_offsets'])], t) for name, t in header.items()}
    return tree, {
        name: np.frombuffer(part, dtypes[t['dtype']]).reshape(t['shape']) for name, (part, t) in parts.items()
    }


def windows(x, window, outside):  # (N, H, W, C) -> (N, H', W', C, kh, kw)
    down, right = window.get('strides', [1, 1])
    x = np.pad(x, [(0, 0), *window.get('padding', [(0, 0), (0, 0)]), (0, 0)], constant_values=outside)
    rows, columns = window.get('dilation', [1, 1])
    extent = [rows * (window['size'][0] - 1) + 1, columns * (window['size'][1] - 1) + 1]
    seen = np.lib.stride_tricks.sliding_window_view(x, extent, (1, 2))
    return seen[:, ::down, ::right, :, ::rows, ::columns]


def product(x, layer, tensors):
    dense, kernel = layer['product']['kind'] == 'Dense', tensors[layer.get('kernel', layer.get('words'))]
    if 'words' in layer:  # Unpacked along the input channels, which are put last: (..., out, in)
        bits = (kernel if dense else kernel.swapaxes(2, 3))[..., None] >> np.arange(32, dtype=np.uint32) & 1
        kernel = (1 - 2 * bits.astype(np.float32)).reshape(*bits.shape[:-2], -1)[..., : layer['into']].swapaxes(-1, -2)
    if layer['kind'] == 'PackedProduct':
        x = np.where(x > -np.finfo(np.float32).tiny, np.float32(1), np.float32(-1))
    if dense:
        return x @ kernel
    if layer['product'].get('groups', 1) != 1:
        raise SystemExit(f'{layer} in groups is not covered by this program')
    x = windows(x, layer['product']['window'], layer['product'].get('pad_value', 0))
    return np.tensordot(x, kernel, ((4, 5, 3), (0, 1, 2)))


def logits(network, tensors, x):
    for layer in network['body']['layers']:
        match layer.get('function', layer):
            case {'kind': 'PackedNorm', 'coefficients': name}:
                scale, shift = tensors[name]
                x = np.where(scale == 0, shift, (x + shift) * scale)
            case {'kind': 'FloatProduct'} | {'kind': 'UnpackedProduct'} | {'kind': 'PackedProduct', 'use_k': False}:
                x = product(x, layer, tensors)
                x = x * (tensors[layer['scale']] if layer.get('scale') else np.float32(1))
                x = x + (tensors[layer['bias']] if layer['bias'] else np.float32(0))
            case {'kind': 'MaxPool', 'window': window}:
                x = windows(x, window, -np.inf).max((4, 5))
            case {'kind': 'Relu'}:
                x = np.maximum(x, np.float32(0))
            case {'kind': 'Flatten'}:
                x = x.reshape(len(x), -1)
            case other:
                raise SystemExit(f'{other["kind"]} {other} is not covered by this program')
    return x


if __name__ == '__main__':
    print(logits(*read(sys.argv[1]), np.load(sys.argv[2])))
