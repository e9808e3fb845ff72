"""Files that another program might write, and mutants of them with a right checksum: a refusal, or the right answer.

    python tests/inference/foreign.py --count 10000 --seed 0    # from a checkout; see docs/reliability.md

It shares no code with the library: files are written by docs/format.md, and the right answer is that of docs/read_packed.py.
"""

import argparse
import base64
import collections
import copy
import hashlib
import json
import resource
import runpy
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / 'docs' / 'read_packed.py'))
SHAPE = (6, 5, 3)

Network = tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str]]
"""A tree, its tensors, and metadata beside them."""


def images(seed: int = 0) -> np.ndarray:
    """Multiples of 1/8, so that a product with multiples of 1/64 is exact in any order of its sum."""
    return (np.random.default_rng(seed).integers(-20, 21, (2, *SHAPE)) / 8).astype(np.float32)


def written(network: Network) -> bytes:
    """The file by docs/format.md, checksum included."""
    tree, tensors, beside = network
    text = tree if isinstance(tree, bytes) else zlib.compress(json.dumps(tree).encode())
    metadata = {'format': 'bnn_jax', 'version': '1', 'network': base64.b64encode(text).decode(), **beside}
    digest, header, data = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()), {}, b''
    codes = {'<f4': 'F32', '<u4': 'U32', '<f8': 'F64', '<i4': 'I32', '<f2': 'F16', '|u1': 'U8'}
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name]).reshape(np.shape(tensors[name]))
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode() + array.tobytes())
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {'dtype': codes[array.dtype.str], 'shape': list(array.shape), 'data_offsets': offsets}
        data += array.tobytes()
    stated = json.dumps({'__metadata__': metadata | {'sha256': digest.hexdigest()}, **header}).encode()
    return len(stated).to_bytes(8, 'little') + stated + data


class Writer:
    """Makes random layers, as another program would write them."""

    def __init__(self, seed: int):
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def tensor(self, array: np.ndarray) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = array
        return name

    def numbers(self, *shape: int) -> str:
        return self.tensor(self.rng.normal(size=shape).astype(np.float32))

    def words(self, *shape: int, axis: int, signs: int) -> str:
        words = self.rng.integers(0, 2**32, shape, np.uint32)
        last = np.moveaxis(words, axis, -1)[..., -1:]
        last &= np.uint32(2 ** (signs - 32 * (shape[axis] - 1)) - 1)
        return self.tensor(words)

    def norm(self, channels: int) -> dict:
        return {'kind': 'PackedNorm', 'channels': channels, 'coefficients': self.numbers(2, channels)}

    def dense(self, into: int, out: int, **more: Any) -> dict:
        words = self.words(out, -(-into // 32), axis=1, signs=into)
        layer = {'kind': 'PackedProduct', 'product': {'kind': 'Dense'}, 'into': into, 'out': out, 'use_k': False}
        return layer | {'words': words, 'scale': self.numbers(out), 'bias': self.numbers(out)} | more

    def conv(self, into: int, out: int, size: int = 3, kind: str = 'PackedProduct', **more: Any) -> dict:
        pad = size // 2
        window = {'kind': 'Window', 'size': [size, size], 'padding': [[pad, pad], [pad, pad]], **more.pop('window', {})}
        product = {'kind': 'Convolution', 'window': window, **more.pop('product', {})}
        groups = product.get('groups', 1)
        layer = {'kind': kind, 'product': product, 'into': into, 'out': out, 'bias': self.numbers(out)}
        if kind == 'FloatProduct':
            kernel = self.rng.integers(-64, 65, (size, size, into, out)) / 64
            return layer | {'kernel': self.tensor(kernel.astype(np.float32))} | more
        if 'filters' in product:
            words = self.words(size, size, into // groups, -(-out // 32), axis=3, signs=out)
        else:
            words = self.words(size, size, -(-into // groups // 32), out, axis=2, signs=into // groups)
        return (
            layer | {'words': words, 'scale': self.numbers(out)} | ({} if kind[0] == 'U' else {'use_k': False}) | more
        )

    def network(self, *layers: dict, channels: int = SHAPE[2], classes: int = 4) -> Network:
        body = {'kind': 'Chain', 'layers': list(layers)}
        tree = {'kind': 'PackedNetwork', 'channels': channels, 'num_classes': classes, 'body': body}
        return tree, self.tensors, {}


def of(kind: str, **fields: Any) -> dict:
    """A layer without parameters."""
    return {'kind': 'Stateless', 'function': {'kind': kind, **fields}}


def window(size: int, **fields: Any) -> dict:
    """A square window."""
    return {'kind': 'Window', 'size': [size, size], **fields}


def chain(*layers: dict) -> dict:
    """Layers one after the other."""
    return {'kind': 'Chain', 'layers': list(layers)}


def dense_network(seed: int) -> Network:
    """Two products in bits."""
    w = Writer(seed)
    return w.network(of('Flatten'), w.dense(90, 33), w.norm(33), of('HardTanh'), w.dense(33, 4))


def convolutions(seed: int) -> Network:
    """A real stem, a product in bits whose signs are pooled, a product of real inputs at the end."""
    w, pad_value = Writer(seed), seed % 3 - 1
    stem, inner = w.conv(3, 5, kind='FloatProduct'), w.conv(5, 6, product={'pad_value': pad_value})
    pool = of('MaxPool', window=window(2, strides=[2, 2]))
    head = w.dense(36, 4)
    return w.network(stem, w.norm(5), inner, pool, of('LeakyRelu', slope=0.25), w.norm(6), of('Flatten'), head)


def branches(seed: int) -> Network:
    """A residual block with option A, two branches, both means, K."""
    w = Writer(seed)
    block = {
        'kind': 'Sum',
        'body': chain(w.conv(3, 6, use_k=True), w.norm(6)),
        'shortcut': chain(of('PadChannels', before=1, after=2)),
    }
    mean = of('AvgPool', window=window(3, padding='SAME'))
    two = {'kind': 'Concat', 'branches': [chain(w.conv(6, 2, 1)), chain(mean, of('Relu'))]}
    return w.network(block, two, w.norm(8), w.conv(8, 4, 2, window={'padding': 'VALID'}), of('GlobalAveragePool'))


def numbers_of_all_kinds(seed: int) -> Network:
    """Groups with words along the filters, weights with an offset, inputs with a shift and levels, a trained slope."""
    w = Writer(seed)
    grouped = w.conv(6, 6, product={'groups': 3, 'filters': 6})
    affine = w.conv(6, 5, shift=w.numbers(6), offset=w.numbers(5), levels=w.numbers(2))
    slope = {
        'kind': 'KeptModule',
        'name': 'PRelu',
        'fields': {'channels': 5},
        'arrays': {"['slope'].value": w.numbers(5)},
    }
    return w.network(w.conv(3, 6), grouped, affine, slope, of('Flatten'), w.dense(150, 4))


def any_windows(seed: int) -> Network:
    """Products and pooling with windows of any geometry, some of which lie partly outside or do not fit."""
    w = Writer(seed)

    def pair(least: int, most: int) -> list[int]:
        return w.rng.integers(least, most + 1, 2).tolist()

    def any_window(reach: int, dilated: bool) -> dict:
        size, dilation = pair(1, 2 + dilated), pair(1, 2) if dilated else [1, 1]
        ends = [d * (k - 1) + reach for d, k in zip(dilation, size, strict=True)]
        pads = [w.rng.integers(0, end + 1, 2).tolist() for end in ends]
        padding = [pads, 'SAME', 'VALID'][w.rng.integers(3)]
        return {'size': size, 'strides': pair(1, 2), 'padding': padding, 'dilation': dilation}

    def product(into: int, out: int, groups: int = 1, **more: Any) -> dict:
        of_product = {'pad_value': int(w.rng.integers(-1, 2)), 'groups': groups}
        layer = w.conv(into, out, 1, window=any_window(1, True), product=of_product, **more)
        kh, kw = layer['product']['window']['size']
        name = w.words(kh, kw, -(-into // groups // 32), out, axis=2, signs=into // groups)
        w.tensors[layer['words']] = w.tensors.pop(name)
        return layer

    groups = int(w.rng.choice([1, 2, 4]))
    more = {'use_k': w.rng.random() < 0.5, 'levels': w.numbers(2), 'offset': w.numbers(12)} if groups == 1 else {}
    inner = product(8, 12, groups, **more)
    pools = [of(kind, window={'kind': 'Window', **any_window(0, False)}) for kind in ('MaxPool', 'AvgPool')]
    head = w.dense(12, 4)
    return w.network(product(3, 8), pools[0], w.norm(8), inner, pools[w.rng.integers(2)], of('GlobalAveragePool'), head)


NETWORKS = (dense_network, convolutions, branches, numbers_of_all_kinds)

# What may stand where an integer, a number, a word or an object should.
VALUES = [
    0,
    1,
    2,
    3,
    5,
    32,
    33,
    -1,
    100,
    4096,
    4097,
    10**6,
    2**24 + 1,
    2**31,
    2**63,
    10**40,
    0.5,
    -0.0,
    1e39,
    float('nan'),
]
VALUES += [
    float('inf'),
    True,
    None,
    '',
    'SAME',
    '0',
    '1',
    'x',
    [],
    [1, 1],
    [0, 0],
    [[1, 1], [1, 1]],
    [[9, 9], [0, 0]],
    {},
]
VALUES += [
    {'kind': kind} for kind in ('Relu', 'Flatten', 'Dense', 'PackedNorm', 'Chain', 'Window', 'PRelu', 'no such kind')
]
NUMBERS = [0, -0.0, 1, -1, 1e-40, -1e-40, 1e-38, 1e30, -3e38, float('nan'), float('inf'), -float('inf')]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object or list, key or index) of a tree."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def mutant(network: Network, rng: np.random.Generator) -> tuple[str, Network]:
    """What was done, and a changed copy of the network; one or two changes."""
    network = copy.deepcopy(network)
    done = []
    for _ in range(rng.integers(1, 3)):
        kind = MUTATIONS[rng.integers(len(MUTATIONS))]
        done.append(kind.__name__)
        network = kind(*network, rng)
    return '+'.join(done), network


def a_value(tree, tensors, beside, rng) -> Network:
    """Something else at one place of the tree."""
    found = [place for place in places(tree) if not isinstance(place[0][place[1]], dict | list) or rng.random() < 0.1]
    holder, key = found[rng.integers(len(found))]
    value = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    if type(holder[key]) is int and rng.random() < 0.3:
        value = holder[key] + int(rng.choice([-1, 1]))
    holder[key] = value
    return tree, tensors, beside


def a_field(tree, tensors, beside, rng) -> Network:
    """A field gone, a field too many, or one that only the library computes."""
    nodes = [holder[key] for holder, key in places(tree) if isinstance(holder[key], dict)]
    node = nodes[rng.integers(len(nodes))] if nodes else tree
    if node and rng.random() < 0.5:
        del node[list(node)[rng.integers(len(node))]]
    else:
        extra = [
            'surprise',
            'tap_sums',
            'runs',
            'in_order',
            'filters',
            'groups',
            'dilation',
            'strides',
            'pad_value',
            'shift',
        ]
        node[extra[rng.integers(len(extra))]] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return tree, tensors, beside


def an_item(tree, tensors, beside, rng) -> Network:
    """A layer or a branch gone, twice, or elsewhere."""
    lists = [holder[key] for holder, key in places(tree) if isinstance(holder[key], list) and holder[key]]
    if lists:
        items = lists[rng.integers(len(lists))]
        i = int(rng.integers(len(items)))
        action = rng.integers(4)
        if action == 0:
            del items[i]
        elif action == 1:
            items.insert(i, copy.deepcopy(items[i]))
        elif action == 2:
            items.insert(int(rng.integers(len(items))), items.pop(i))
        else:
            items.insert(i, [of('Relu'), of('Flatten'), chain(), of('MaxPool', window=window(2))][rng.integers(4)])
    return tree, tensors, beside


def a_shape(tree, tensors, beside, rng) -> Network:
    """A tensor of another shape or dtype, gone, or one too many."""
    name = list(tensors)[rng.integers(len(tensors))] if tensors else '0'
    array = tensors.get(name, np.zeros(3, np.float32))
    action = rng.integers(6)
    if action == 0:
        tensors[name] = array.reshape(-1)
    elif action == 1:
        tensors[name] = np.moveaxis(array, 0, -1).copy() if array.ndim else array
    elif action == 2:
        tensors[name] = array[: len(array) // 2] if array.ndim else array
    elif action == 3:
        with np.errstate(over='ignore', invalid='ignore'):  # A large number is infinite in float16.
            tensors[name] = array.astype([np.float64, np.int32, np.float16, np.uint8, np.float32][rng.integers(5)])
    elif action == 4:
        tensors.pop(name, None)
    else:
        tensors['999'] = array
    return tree, tensors, beside


def a_number(tree, tensors, beside, rng) -> Network:
    """One number of a tensor, or a bit of a word."""
    names = [name for name, array in tensors.items() if array.size]
    if names:
        array = tensors[names[rng.integers(len(names))]]
        place = rng.integers(array.size)
        if array.dtype == np.uint32:
            array.reshape(-1)[place] ^= np.uint32(1 << int(rng.integers(32)))
        elif array.dtype == np.float32:
            array.reshape(-1)[place] = NUMBERS[rng.integers(len(NUMBERS))]
    return tree, tensors, beside


def a_name(tree, tensors, beside, rng) -> Network:
    """A tensor in the place of another."""
    named = [(holder, key) for holder, key in places(tree) if isinstance(holder[key], str) and holder[key] in tensors]
    if named:
        holder, key = named[rng.integers(len(named))]
        holder[key] = str(rng.integers(len(tensors) + 1))
    return tree, tensors, beside


def metadata(tree, tensors, beside, rng) -> Network:
    """Another version or format, a description that is none, images of another size."""
    sizes = [[6, 5, 3], [6, 5, 1], [1, 1, 3], [10**6, 10**6, 3], [6, 5], 'x', [2**63, 1, 3]]
    choices = [
        {'version': '2'},
        {'version': '9' * 5000},
        {'format': 'x'},
        {'network': 'no base64'},
        {'network': base64.b64encode(zlib.compress(b'[' * 10**5)).decode()},
        {'network': base64.b64encode(zlib.compress(b' ' * 10**7)).decode()},
        {'preprocessing': json.dumps({'input_shape': sizes[rng.integers(len(sizes))]})},
        {'preprocessing': '[' * 10**4},
        {'module': base64.b64encode(zlib.compress(b'{}')).decode()},
    ]
    return tree, tensors, beside | choices[rng.integers(len(choices))]


# The first ones more often: there are most places for them.
MUTATIONS: list[Callable[..., Network]] = [*3 * [a_value], a_field, an_item, a_shape, *2 * [a_number], a_name, metadata]


def judged(content: bytes, path: Path, load: Callable[[Path], Any]) -> str:
    """'refused', 'right', 'right, up to rounding' or 'beyond float32'. Raises AssertionError for anything else.

    load: `bnn_jax.load`, or `bnn_jax.runtime.load`.
    """
    path.write_bytes(content)
    x = images()
    try:
        found = np.asarray(load(path)(x))
    except ValueError as error:
        assert len(str(error)) < 2000, 'a refusal that nobody reads'
        return 'refused'
    tree, tensors = PROGRAM['read'](path)
    try:
        with np.errstate(over='raise', invalid='raise'):
            expected = PROGRAM['logits'](tree, tensors, x)
    except FloatingPointError:
        return 'beyond float32'
    assert found.shape == expected.shape == (len(x), tree['num_classes']), (
        f'shape {found.shape}, expected {expected.shape}'
    )
    if np.array_equal(found, expected):
        return 'right'
    kinds = [layer['kind'] for layer in tree['body']['layers']]
    real = [i for i, kind in enumerate(kinds) if kind in ('FloatProduct', 'UnpackedProduct')]
    # Sums of real numbers have no stated order; where signs follow one, they may turn.
    turned = bool(real) and 'PackedProduct' in kinds[real[0] :]
    if turned or real and np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()):
        return 'right, up to rounding'
    raise AssertionError(f'logits {found.tolist()}, expected {expected.tolist()}')


def mutants(seed: int, networks: tuple = NETWORKS) -> Iterator[tuple[str, bytes]]:
    """What was done to which network, and the file; without end."""
    rng = np.random.default_rng(seed)
    while True:
        make = networks[rng.integers(len(networks))]
        base_seed = int(rng.integers(3))
        done, network = mutant(make(base_seed), rng)
        yield f'{make.__name__} {base_seed}: {done}', written(network)


def main() -> None:
    """Judges networks of any geometry, then mutants; status 1 where one is neither refused nor right, or takes 5 seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--windows', type=int, default=40, help='networks with windows of any geometry, unchanged')
    parser.add_argument('--runtime', action='store_true', help='by bnn_jax.runtime')
    options = parser.parse_args()
    import bnn_jax

    load = bnn_jax.runtime.load if options.runtime else bnn_jax.load
    said, bad, slowest, began = collections.Counter(), 0, 0.0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'network.safetensors'
        for make in NETWORKS:
            for base_seed in range(3):
                # Warm: what is compiled for every network alike is not the mutant's.
                assert judged(written(make(base_seed)), path, load) in ('right', 'right, up to rounding'), make.__name__
        fit: collections.Counter = collections.Counter()
        for seed in range(options.windows):
            fit[judged(written(any_windows(1000 * options.seed + seed)), path, load)] += 1
        print(f'{options.windows} networks with windows of any geometry: {dict(fit)}', flush=True)
        peak = first_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for i, (done, content) in zip(range(options.count), mutants(options.seed), strict=False):
            start = time.perf_counter()
            try:
                verdict = judged(content, path, load)
            except Exception as error:
                verdict = f'WRONG: {done}: {type(error).__name__}: {str(error)[:300]}'
            seconds = time.perf_counter() - start
            slowest, grown = max(slowest, seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
            peak += grown
            if verdict.startswith('WRONG') or seconds > 5 or grown > 64 * 1024:
                bad += 1
                print(f'{i}: {verdict}, {done}, {seconds:.1f} s, {grown // 1024} MiB more', flush=True)
                Path(tempfile.gettempdir(), f'mutant-{options.seed}-{i}.safetensors').write_bytes(content)
            said[verdict.split(':')[0]] += 1
            if i % 1000 == 999:
                print(f'{i + 1:,}: {dict(said)}, {time.time() - began:.0f} s', flush=True)
    grown = (peak - first_peak) // 1024
    print(f'{options.count:,} mutants: {dict(said)}; slowest {slowest:.2f} s; memory grew by {grown} MiB; {bad} bad')
    sys.exit(bad > 0)


if __name__ == '__main__':
    main()
