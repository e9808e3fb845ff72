"""The runtime without JAX: every layer against NumPy, files that do not fit, threads, bytes, and its C interface from C."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from packed_files import (
    EVERY_IMAGE,
    GOLDEN,
    GOLDEN_IMAGE,
    along,
    altered,
    chain,
    function,
    numbers,
    of_every_kind,
    sign,
    window,
    written,
)

from bnn_jax import runtime
from bnn_jax.native import build

ROOT = Path(__file__).parents[2]
SETS = runtime.instruction_sets()


def of_layers(layers, x: np.ndarray, classes: int) -> dict:
    """The tree of a network of these layers; what they make of x, flattened, are the logits."""
    body = chain(*layers, function('Flatten'))
    return {'kind': 'PackedNetwork', 'channels': x.shape[3], 'num_classes': classes, 'body': body}


def made(layers, x, shape, tensors=None, **options) -> np.ndarray:
    """The output of the layers for x, in this shape."""
    file = written(of_layers(layers, x, int(np.prod(shape[1:]))), tensors)
    return runtime.load(io.BytesIO(file), **options)(x).reshape(shape)


def mean(x: np.ndarray) -> np.ndarray:
    """Over axis 0, by halves."""
    n, left = len(x), []
    share = np.float32(1 / n)
    while n > 1:
        if n % 2:
            left.append(x[n - 1])
        x, n = x[: n // 2] + x[n // 2 : 2 * (n // 2)], n // 2
    return sum(left, x[0]) * share


def taps(x, size, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), outside=0.0) -> np.ndarray:
    """(kh kw, N, H', W', C)."""
    x = np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=outside)
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(x, extent, (1, 2))
    seen = seen[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(seen.reshape(*seen.shape[:4], -1), 4, 0)


X = numbers(2, 6, 7, 5)
SAME = ((0, 1), (1, 1))  # Of 6 x 7 pixels, windows of 2 x 3 and strides of 1.
LAYERS = {
    'Relu': (function('Relu'), lambda x: np.maximum(x, 0)),
    'HardTanh': (function('HardTanh'), lambda x: np.clip(x, -1, 1)),
    'LeakyRelu': (function('LeakyRelu', slope=0.1), lambda x: np.where(x > 0, x, x * np.float32(0.1))),
    'PadChannels': (function('PadChannels', before=2, after=3), lambda x: np.pad(x, [(0, 0)] * 3 + [(2, 3)])),
    'MaxPool': (
        function('MaxPool', window=window([3, 2], strides=[2, 1], padding=[[1, 0], [0, 1]])),
        lambda x: taps(x, (3, 2), (2, 1), ((1, 0), (0, 1)), outside=-np.inf).max(0),
    ),
    'AvgPool': (
        function('AvgPool', window=window([2, 3], padding='SAME')),
        lambda x: mean(taps(x, (2, 3), padding=SAME)),
    ),
    'AvgPool, dilated': (
        function('AvgPool', window=window([3, 3], dilation=[2, 2], strides=[1, 2])),
        lambda x: mean(taps(x, (3, 3), (1, 2), dilation=(2, 2))),
    ),
    'GlobalAveragePool': (function('GlobalAveragePool'), lambda x: mean(np.moveaxis(x.reshape(2, 42, 5), 1, 0))),
    'a chain in a chain': (chain(function('Relu')), lambda x: np.maximum(x, 0)),
    'Sum': (
        {'kind': 'Sum', 'body': chain(function('Relu')), 'shortcut': chain()},
        lambda x: np.maximum(x, 0) + x,
    ),
    'Sum, the shortcut changed': (
        {'kind': 'Sum', 'body': chain(), 'shortcut': chain(function('Relu'))},
        lambda x: np.maximum(x, 0) + x,
    ),
    'Sum of itself': (
        {'kind': 'Sum', 'body': chain(), 'shortcut': chain()},
        lambda x: x + x,
    ),
    'Concat': (
        {'kind': 'Concat', 'branches': [chain(), chain(function('Relu'))]},
        lambda x: np.concatenate([x, np.maximum(x, 0)], -1),
    ),
}


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_to_the_bit(name):
    node, expected = LAYERS[name]
    expected = expected(X)
    np.testing.assert_array_equal(made([node], X, expected.shape), expected)


def test_normalization_and_trained_slopes():
    scale, shift, slopes = numbers(5, seed=1), numbers(5, seed=2), numbers(5, seed=3)
    scale[2] = 0
    norm = {'kind': 'PackedNorm', 'channels': 5, 'coefficients': '0'}
    kept = {'kind': 'KeptModule', 'name': 'PRelu', 'fields': {'channels': 5}, 'arrays': {"['slope'].value": '1'}}
    y = np.where(scale == 0, shift, (X + shift) * scale)
    expected = np.where(y > 0, y, y * slopes)
    tensors = {'0': np.stack([scale, shift]), '1': slopes}
    np.testing.assert_array_equal(made([norm, kept], X, X.shape, tensors), expected)


# Channels, filters, groups, window, pad value, K, shift, offset and levels.
PRODUCTS = [
    (5, 7, 1, {'size': [3, 3], 'padding': [[1, 1], [1, 1]]}, 0, False, False),
    (5, 7, 1, {'size': [3, 2], 'strides': [2, 1], 'padding': [[1, 0], [0, 1]]}, -1, True, True),
    (40, 33, 1, {'size': [2, 2], 'dilation': [2, 3], 'padding': [[1, 1], [0, 0]]}, 1, True, False),
    (6, 6, 6, {'size': [3, 3], 'padding': [[1, 1], [1, 1]]}, 0, False, False),
    (10, 70, 5, {'size': [2, 3], 'padding': [[1, 1], [1, 1]]}, -1, False, False),
    (66, 64, 2, {'size': [2, 2], 'padding': [[1, 0], [1, 0]]}, 0, False, True),
]


@pytest.mark.parametrize('instructions', SETS)
@pytest.mark.parametrize(
    ('case', 'affine'), [*((case, False) for case in PRODUCTS), *((case, True) for case in PRODUCTS if case[2] == 1)]
)
def test_a_product_of_bits(case, affine, instructions):
    channels, out, groups, fields, pad_value, use_k, shifted = case
    x, each = numbers(2, 6, 7, channels), channels // groups
    weights = sign(numbers(*fields['size'], each, out, seed=1))
    tensors = {'scale': numbers(out, seed=2), 'bias': numbers(out, seed=3)}
    narrow = groups > 1 and each < 32
    tensors['words'] = along(weights, 3 if narrow else 2)
    product = {'kind': 'Convolution', 'window': window(**fields), 'pad_value': pad_value, 'groups': groups}
    if narrow:
        product['filters'] = out
    node = {'kind': 'PackedProduct', 'product': product, 'into': channels, 'out': out, 'use_k': use_k}
    y = x
    if shifted:
        tensors['shift'] = numbers(channels, seed=4)
        y = x + tensors['shift']
    if affine:
        tensors |= {'offset': numbers(out, seed=5), 'levels': np.float32([1.5, -0.25])}
    node |= {name: name for name in tensors}
    geometry = (
        fields['size'],
        fields.get('strides', (1, 1)),
        fields.get('padding', ((0, 0), (0, 0))),
        fields.get('dilation', (1, 1)),
    )

    def summed(signs, kernel):
        seen = taps(signs, *geometry, outside=pad_value)
        if kernel.shape[3] != out:
            return np.einsum('tnhwc,tco->nhwo', seen, kernel.reshape(-1, channels, 1)).astype(np.float32)
        parts = np.split(seen, groups, -1), np.split(kernel.reshape(-1, each, out), groups, -1)
        return np.concatenate([np.einsum('tnhwc,tco->nhwo', *pair) for pair in zip(*parts, strict=True)], -1)

    expected = summed(sign(y), weights)
    if affine:
        ones, one = np.ones_like(x), np.ones_like(weights[..., :1])
        distance, center = tensors['levels']
        expected = (distance * expected + center * summed(ones, weights)) * tensors['scale']
        expected = expected + (distance * summed(sign(y), one) + center * summed(ones, one)) * tensors['offset']
    else:
        expected = expected * tensors['scale']
    if use_k:
        magnitude = mean(np.moveaxis(np.abs(x), -1, 0))[..., None]
        expected = expected * mean(taps(magnitude, *geometry))
    expected = expected + tensors['bias']
    actual = made([node], x, expected.shape, tensors, instructions=instructions)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('instructions', SETS)
@pytest.mark.parametrize('kind', ['FloatProduct', 'UnpackedProduct'])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('fields', [{}, {'dilation': [2, 1]}, {'strides': [1, 2], 'padding': [[1, 2], [0, 1]]}])
def test_a_product_of_real_numbers(fields, groups, kind, instructions):
    """The numbers have sums that are exact in any order."""
    x, out = np.round(4 * numbers(2, 6, 7, 6)), 10
    kernel = np.round(4 * numbers(3, 2, 6 // groups, out, seed=1))
    product = {'kind': 'Convolution', 'window': window([3, 2], **fields), 'pad_value': 1, 'groups': groups}
    node = {'kind': kind, 'product': product, 'into': 6, 'out': out, 'bias': None}
    if kind == 'UnpackedProduct':
        kernel = sign(kernel)
        node |= {'words': 'words', 'scale': None}
        tensors = {'words': along(kernel, 2)}
    else:
        node['kernel'], tensors = 'kernel', {'kernel': kernel}
    geometry = fields.get('strides', (1, 1)), fields.get('padding', ((0, 0), (0, 0))), fields.get('dilation', (1, 1))
    parts = (
        np.split(taps(x, (3, 2), *geometry, outside=1), groups, -1),
        np.split(kernel.reshape(6, -1, out), groups, -1),
    )
    expected = np.concatenate([np.einsum('tnhwc,tco->nhwo', *pair) for pair in zip(*parts, strict=True)], -1)
    np.testing.assert_array_equal(made([node], x, expected.shape, tensors, instructions=instructions), expected)


def test_from_one_product_of_bits_to_the_next():
    """Thresholds, pooled signs in both directions, signs packed anew by flattening, a dense product."""
    x, rng = numbers(3, 5, 6, 9), np.random.default_rng(1)
    first, second = sign(numbers(3, 3, 9, 37, seed=1)), sign(numbers(2 * 2 * 37, 8, seed=2))
    scale, bias = numbers(37, seed=3), numbers(37, seed=4)
    coefficients = np.stack([rng.choice(np.float32([-2, 0, 0.5]), 37), numbers(37, seed=5)])
    tensors = {'w': along(first, 2), 'v': along(second.T, 1), 's': scale, 'b': bias, 'c': coefficients}
    layers = [
        {'kind': 'PackedProduct', 'product': {'kind': 'Convolution', 'window': window([3, 3], padding='SAME')},
         'into': 9, 'out': 37, 'use_k': False, 'words': 'w', 'scale': 's', 'bias': 'b'},
        function('HardTanh'),
        function('MaxPool', window=window([2, 3], strides=[2, 2])),
        {'kind': 'PackedNorm', 'channels': 37, 'coefficients': 'c'},
        function('MaxPool', window=window([1, 1])),
        function('Flatten'),
        {'kind': 'PackedProduct', 'product': {'kind': 'Dense'}, 'into': 148, 'out': 8, 'use_k': False, 'words': 'v',
         'scale': None, 'bias': None},
    ]  # fmt: skip
    y = np.einsum('tnhwc,tco->nhwo', taps(sign(x), (3, 3), padding=((1, 1), (1, 1))), first.reshape(9, 9, 37))
    y = np.clip(y * scale + bias, -1, 1).astype(np.float32)
    y = taps(y, (2, 3), (2, 2)).max(0)
    y = np.where(coefficients[0] == 0, coefficients[1], (y + coefficients[1]) * coefficients[0])
    expected = sign(y).reshape(3, -1) @ second
    np.testing.assert_array_equal(made(layers, x, expected.shape, tensors), expected)


def golden():
    with np.load(GOLDEN.with_suffix('.npz')) as file:
        return file['images'], file['logits']


@pytest.mark.parametrize('instructions', SETS)
def test_a_golden_file_whatever_the_batch_and_the_threads(instructions):
    x, logits = golden()
    network = runtime.load(GOLDEN, instructions=instructions)
    actual = network(x)
    np.testing.assert_allclose(actual, logits, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([network(image[None], threads=2) for image in x]), actual)
    assert (network.num_classes, network.channels, network.instructions) == (logits.shape[1], x.shape[3], instructions)
    assert network.input_shape is None and network.preprocessing is None


def test_every_kind_whatever_the_batch_the_threads_and_the_instruction_set():
    x, content = numbers(5, *EVERY_IMAGE), of_every_kind()
    for instructions in SETS:
        network = runtime.load(io.BytesIO(content), instructions=instructions)
        expected = network(x)
        assert np.unique(expected).size > 15
        np.testing.assert_array_equal(np.concatenate([network(image[None], threads=2) for image in x]), expected)


def test_many_threads_call_one_network():
    x, _ = golden()
    network = runtime.load(GOLDEN)
    expected, same = network(x), []

    def call(threads):
        same.append(all(np.array_equal(network(x, threads=threads), expected) for _ in range(20)))

    callers = [threading.Thread(target=call, args=(1 + i % 3,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert same == [True] * 6


COPIED = """
import copy, sys, numpy as np
from bnn_jax import runtime
network, x = runtime.load(sys.argv[1]), np.ones((1, 9, 8, 3), np.float32)
expected = network(x)
other = copy.copy(network)
del network
sys.exit(not np.array_equal(other(x), expected))
"""


def test_a_copy_outlives_its_network():
    assert subprocess.run([sys.executable, '-c', COPIED, GOLDEN], cwd=ROOT, timeout=60).returncode == 0


FORKED = """
import os, sys, numpy as np
from bnn_jax import runtime
network, x = runtime.load(sys.argv[1]), np.ones((2, 9, 8, 3), np.float32)
expected = network(x, threads=3)
if (child := os.fork()) == 0:
    same = np.array_equal(network(x, threads=3), expected)
    del network
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_goes_on_with_a_network_and_closes_it():
    """Its threads run in the other process alone."""
    assert subprocess.run([sys.executable, '-c', FORKED, GOLDEN], cwd=ROOT, timeout=60).returncode == 0


PREPARED = {
    'Standardize': ({'mean': [0.4, 0.5, 0.6], 'std': [0.2, 0.25, 0.3]}, lambda x, m, s: (x / np.float32(255) - m) / s),
    'SubtractMean': ({'mean': [0.4, 0.5, 0.6]}, lambda x, m, s: x - m),
    'PlusMinusOne': ({}, lambda x, m, s: x / np.float32(127.5) - np.float32(1)),
}


@pytest.mark.parametrize('kind', PREPARED)
def test_bytes_are_normalized_as_the_file_states(kind):
    fields, normalized = PREPARED[kind]
    prepared = {
        'input_shape': [2, 64, 3],
        'steps': [],
        'normalisation': {'kind': kind, **fields},
        'classes': ['a', 'é'],
    }
    images = np.arange(2 * 64 * 3, dtype=np.uint8).reshape(1, 2, 64, 3)
    file = written(of_layers([], images, images.size), preprocessing=json.dumps(prepared))
    network = runtime.load(io.BytesIO(file))
    factor = 255 if kind == 'SubtractMean' else 1
    mean, std = np.float32([0.4 * factor, 0.5 * factor, 0.6 * factor]), np.float32([0.2, 0.25, 0.3])
    expected = normalized(images.astype(np.float32), mean, std)
    np.testing.assert_array_equal(network(images).reshape(images.shape), expected)
    assert network.input_shape == (2, 64, 3) and network.preprocessing == prepared


def test_images_that_do_not_fit_are_refused():
    network = runtime.load(io.BytesIO(written(of_layers([function('Relu')], X, 210))))
    with pytest.raises(ValueError, match=r'got shape \(2, 6, 7\), expected \(N, H, W, 5\)'):
        network(X[..., 0])
    with pytest.raises(ValueError, match=r'\(N, 205\) of images \(N, 41, 1, 5\), expected \(N, 210\)'):
        network(np.zeros((1, 41, 1, 5), np.float32))
    with pytest.raises(TypeError, match='got dtype int64'):
        network(X.astype(np.int64))
    with pytest.raises(ValueError, match='does not say how images are normalized'):
        network(X.astype(np.uint8))
    with pytest.raises(ValueError, match='expected at least one image'):
        network(X[:0])
    with pytest.raises(ValueError, match='threads: got -1'):
        network(X, threads=-1)
    with pytest.raises(ValueError, match='threads: got 4294967297'):
        network(X, threads=2**32 + 1)
    with pytest.raises(TypeError, match='threads: got 1.5, expected an integer from 0 to 1024'):
        network(X, threads=1.5)
    pool = function('MaxPool', window=window([9, 2]))
    with pytest.raises(ValueError, match='height 6 with its padding is smaller than a window'):
        made([pool], X, X.shape)


def test_an_image_that_is_not_finite_gets_nan():
    x = X.copy()
    x[1, 2, 3, 4] = np.inf
    y = made([function('HardTanh')], x, X.shape)
    assert np.isnan(y[1]).all() and np.array_equal(y[0], np.clip(X[0], -1, 1))


def test_what_is_no_network_is_refused(tmp_path):
    tree = of_layers([function('Relu')], X, 210)
    for file, reason in (
        (b'', 'shorter than 8 bytes'),
        (b'PK: something else entirely', 'no safetensors file'),
        ((17).to_bytes(8, 'little') + b'{"a": 1, "a": {}}', 'a key occurs twice'),
        (written(tree, version='2'), "format version '2'"),
        (written(tree, format='other'), 'not a bnn_jax network'),
        (written(tree, {'0': numbers(3)}), "tensor '0' belongs to no layer"),
        (written({**tree, 'channels': 0}), 'channels is 0, expected an integer from 1'),
        (written({**tree, 'more': 1}), 'more is unknown'),
        (written(of_layers([function('Softmax')], X, 210)), r"function \('Softmax'\).kind: this library knows no such"),
        (written(tree).replace(b'"sha256": "', b'"sha256": "0')[:-1], 'altered|data|tensors'),
    ):
        with pytest.raises(ValueError, match=reason):
            runtime.load(io.BytesIO(file))
    with pytest.raises(FileNotFoundError, match='there is no file'):
        runtime.load(tmp_path / 'missing.safetensors')
    with pytest.raises(OSError, match='cannot be read'):
        runtime.load(tmp_path)
    with pytest.raises(TypeError, match='got a bytes, expected a path, or a file'):
        runtime.load(written(tree))
    with pytest.raises(ValueError, match="got 'sse9', expected one of"):
        runtime.load(GOLDEN, instructions='sse9')


@pytest.mark.parametrize('content', [GOLDEN.read_bytes(), of_every_kind()], ids=['golden', 'every kind'])
def test_an_altered_file_is_refused_or_gives_the_same_answer(content):
    """tests/inference/test_foreign.py has altered files whose checksum fits."""
    x = numbers(1, *(GOLDEN_IMAGE if content == GOLDEN.read_bytes() else EVERY_IMAGE))
    expected, refused = runtime.load(io.BytesIO(content))(x), 0
    for mutant in altered(content, 1000, seed=0):
        try:
            logits = runtime.load(io.BytesIO(mutant))(x)
        except ValueError as error:
            refused += len(str(error)) > 30
            continue
        np.testing.assert_array_equal(logits, expected)
    assert refused > 900


def test_it_imports_no_jax():
    program = 'import sys, bnn_jax.runtime; print(sorted({"jax", "flax", "safetensors"} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == '[]\n'


C = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bnn_runtime.h"

int main(int argc, char **argv) {
  bnn_network *network;
  char error[BNN_ERROR];
  float images[9 * 8 * 3], logits[5];
  if (argc != 2 || bnn_open(argv[1], NULL, &network, error) != BNN_OK) { puts(error); return 1; }
  for (int i = 0; i < 9 * 8 * 3; ++i) images[i] = (float)(i % 7) - 3;
  if (bnn_run(network, images, 1, 9, 8, 1, logits, error) != BNN_OK) { puts(error); return 2; }
  for (int i = 0; i < 5; ++i) printf("%a ", logits[i]);
  bnn_close(network);
  if (bnn_open("nowhere", NULL, &network, error) != BNN_UNREADABLE || network != NULL) return 3;
  return bnn_open(NULL, NULL, &network, error) == BNN_REFUSED && strstr(error, "path: got NULL") != NULL ? 0 : 4;
}
"""


def test_from_c(tmp_path):
    (tmp_path / 'main.c').write_text(C)
    flags = ['-std=c99', '-Wall', '-Wextra', '-pedantic', '-Werror', f'-I{build.SOURCES}']
    library = [build.LIBRARY, f'-Wl,-rpath,{Path(build.LIBRARY).parent}']
    subprocess.run(['cc', *flags, 'main.c', *library, '-o', 'main'], cwd=tmp_path, check=True)
    file = GOLDEN
    done = subprocess.run(['./main', file], cwd=tmp_path, capture_output=True, text=True, check=True)
    x = np.float32([i % 7 - 3 for i in range(9 * 8 * 3)]).reshape(1, 9, 8, 3)
    assert [float.fromhex(number) for number in done.stdout.split()] == runtime.load(file)(x)[0].tolist()
