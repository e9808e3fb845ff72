"""Files of packed networks made by hand, as docs/format.md has them, and altered ones."""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / 'golden' / 'groups_0.1.0.safetensors'
GOLDEN_IMAGE = (9, 8, 3)


def written(tree: Any, tensors: dict[str, np.ndarray] | None = None, **metadata: str) -> bytes:
    """A file of this tree."""
    tensors = tensors or {}
    network = base64.b64encode(zlib.compress(json.dumps(tree).encode())).decode()
    stated = {'format': 'bnn_jax', 'version': '1', 'network': network, **metadata}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    header: dict[str, Any] = {'__metadata__': stated}
    begin, codes = 0, {'<f4': 'F32', '<u4': 'U32'}
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode() + array.tobytes())
    for name, array in tensors.items():
        offsets = [begin, begin := begin + array.nbytes]
        header[name] = {'dtype': codes[array.dtype.str], 'shape': list(array.shape), 'data_offsets': offsets}
    stated['sha256'] = digest.hexdigest()
    described = json.dumps(header).encode()
    described += b' ' * (-len(described) % 8)
    return len(described).to_bytes(8, 'little') + described + b''.join(array.tobytes() for array in tensors.values())


def along(signs: np.ndarray, axis: int) -> np.ndarray:
    """Words of signs along an axis."""
    signs = np.moveaxis(signs, axis, -1)
    bits = np.pad(signs < 0, [(0, 0)] * (signs.ndim - 1) + [(0, -signs.shape[-1] % 32)])
    words = np.ascontiguousarray(np.packbits(bits, -1, 'little')).view('<u4')
    return np.ascontiguousarray(np.moveaxis(words, -1, axis))


def sign(x: np.ndarray) -> np.ndarray:
    return np.where(x > -np.finfo(np.float32).tiny, np.float32(1), np.float32(-1))


def numbers(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def function(kind: str, **fields) -> dict[str, Any]:
    return {'kind': 'Stateless', 'function': {'kind': kind, **fields}}


def window(size, **fields) -> dict[str, Any]:
    return {'kind': 'Window', 'size': size, **fields}


def chain(*layers) -> dict[str, Any]:
    return {'kind': 'Chain', 'layers': list(layers)}


EVERY_IMAGE = (11, 9, 3)


def of_every_kind() -> bytes:
    """A network with a layer of every kind, of images EVERY_IMAGE."""
    tensors: dict[str, np.ndarray] = {}

    def tensor(array):
        tensors[str(len(tensors))] = array
        return str(len(tensors) - 1)

    def product(kind, into, out, size=None, scale=True, **fields):
        dense, groups, seed = size is None, fields.get('groups', 1), len(tensors)
        node = {'kind': kind, 'into': into, 'out': out, 'bias': tensor(numbers(out, seed=seed))}
        options = {name: fields.pop(name) for name in ('use_k', 'shift', 'offset', 'levels') if name in fields}
        shape = (into, out) if dense else (*size, into // groups, out)
        weights = numbers(*shape, seed=seed)
        operation = {name: fields.pop(name) for name in ('pad_value', 'groups') if name in fields}
        node['product'] = (
            {'kind': 'Dense'} if dense else {'kind': 'Convolution', 'window': window(size, **fields), **operation}
        )
        if kind == 'FloatProduct':
            return node | {'kernel': tensor(weights / np.float32(3))}
        narrow = groups > 1 and into // groups < 32
        if narrow:
            node['product']['filters'] = out
        words = along(sign(weights).T, 1) if dense else along(sign(weights), 3 if narrow else 2)
        node |= {'words': tensor(words), 'scale': tensor(numbers(out, seed=seed + 1) / 4) if scale else None}
        if kind == 'PackedProduct':
            node['use_k'] = options.pop('use_k', False)
            node |= {name: tensor(array) for name, array in options.items()}
        return node

    def norm(channels):
        return {
            'kind': 'PackedNorm',
            'channels': channels,
            'coefficients': tensor(numbers(2, channels, seed=len(tensors))),
        }

    def prelu(channels):
        arrays = {"['slope'].value": tensor(np.abs(numbers(channels, seed=len(tensors))))}
        return {'kind': 'KeptModule', 'name': 'PRelu', 'fields': {'channels': channels}, 'arrays': arrays}

    same = {'padding': [[1, 1], [1, 1]]}
    affine = {'shift': numbers(36), 'offset': numbers(40), 'levels': np.float32([1.5, -0.25])}
    layers = (
        product('FloatProduct', 3, 36, [3, 3], padding='SAME', strides=[1, 1]),
        norm(36),
        product('PackedProduct', 36, 36, [3, 3], **same),
        function('HardTanh'),
        function('MaxPool', window=window([2, 2], strides=[2, 1])),
        norm(36),
        {
            'kind': 'Sum',
            'body': chain(
                product('PackedProduct', 36, 40, [3, 3], strides=[2, 2], pad_value=-1, **same, **affine),
                prelu(40),
                norm(40),
            ),
            'shortcut': chain(
                function('AvgPool', window=window([2, 2], strides=[2, 2], padding='SAME')),
                function('PadChannels', before=1, after=3),
            ),
        },
        {
            'kind': 'Concat',
            'branches': [
                chain(product('PackedProduct', 40, 33, [1, 1], use_k=True), function('LeakyRelu', slope=0.1)),
                chain(),
                chain(product('UnpackedProduct', 40, 9, [2, 2], padding='SAME', dilation=[1, 2])),
                chain(product('PackedProduct', 40, 20, [3, 3], groups=10, pad_value=1, **same), norm(20)),
            ],
        },
        product('PackedProduct', 102, 64, [1, 1], scale=False),
        product('PackedProduct', 64, 66, [2, 2], groups=2),
        function('Relu'),
        product('FloatProduct', 66, 6, [1, 1], groups=3),
        {'kind': 'Concat', 'branches': [chain(function('GlobalAveragePool')), chain(function('Flatten'))]},
        norm(42),
        product('PackedProduct', 42, 37),
        product('FloatProduct', 37, 5),
    )
    return written({'kind': 'PackedNetwork', 'channels': 3, 'num_classes': 5, 'body': chain(*layers)}, tensors)


def altered(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The file with some bytes changed, most of them in its header, or cut short."""
    rng, start = np.random.default_rng(seed), 8 + int.from_bytes(content[:8], 'little')
    for i in range(count):
        mutant = bytearray(content)
        for place in rng.integers(0, [start, len(mutant)][i % 2], 1 + i % 3):
            mutant[place] = rng.integers(256)
        yield bytes(mutant[: rng.integers(len(mutant))] if i % 16 == 1 else mutant)
