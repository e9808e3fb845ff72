"""docs/format.md against what is written: kinds and fields, the example to the byte, the checksum from its recipe."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import build

import bnn_jax as bnn
from bnn_jax.data.preprocessing import MOST_STEPS, SIDE
from bnn_jax.files.bounds import rule_of
from bnn_jax.inference import container, serialization
from bnn_jax.inference.container import LARGEST_TEXT
from bnn_jax.inference.description import DEEPEST, MOST_NODES, fields_in_files
from bnn_jax.nn.layer import Unchanged
from bnn_jax.nn.names import known_names, registered
from bnn_jax.nn.operations import Dense
from bnn_jax.nn.packed import PackedNetwork, PackedProduct, PackedSequential
from bnn_jax.nn.packed.budget import ALL_MAPS, LARGEST_MAP
from bnn_jax.nn.packed_layer import name_in_files, role
from bnn_jax.nn.stateless import Flatten
from bnn_jax.ops.windows import LARGEST

PAGE = (Path(__file__).parents[2] / 'docs' / 'format.md').read_text()


@pytest.fixture
def example(tmp_path):
    words, scale = jnp.asarray([[5], [2]], jnp.uint32), jnp.asarray([0.5, 0.25], jnp.float32)
    product = PackedProduct(Dense(), 3, 2, False, words, scale, None)
    network = PackedNetwork(3, 2, PackedSequential((Unchanged(Flatten()), product)))
    return network, bnn.save(network, tmp_path / 'example.safetensors', preprocessing={'classes': ['\u00e9']})


def parts(path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], 'little')
    return json.loads(content[8:start]), content[start:]


def test_every_kind_and_field_is_in_the_table():
    rows = {}
    for line in re.findall(r'^\| (`[^\n]*?) \|$', PAGE, re.M):
        kinds, *cells = line.split(' | ')
        for kind in re.findall(r'`(\w+)`', kinds):
            rows.setdefault(kind, set()).update(re.findall(r'`(\w+)`', cells[0]) if cells else ())
    kinds = {name: registered(name).layer for name in known_names()}
    for name, kind in kinds.items():
        if not kind.__module__.startswith('bnn_jax.'):
            continue  # Registered by an example or by another test.
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        stated = {name_in_files(field) for field in fields if role(field) not in ('derived', 'decided')}
        stated = {'name', 'fields', 'arrays'} if name == 'KeptModule' else stated
        assert stated <= rows[name], name


def test_every_bound_is_in_the_table():
    section = PAGE.partition('## Bounds\n')[2].partition('\n## ')[0]
    rows = {}
    for field, kinds, bound in re.findall(r'^\| `(\w+)` of (`.*?) \| (.*) \|$', section, re.M):
        rows |= {(kind, field): bound for kind in re.findall(r'`(\w+)`', kinds)}
    kinds = {name: registered(name).layer for name in known_names()}
    stated = {
        (name, name_in_files(field)): str(rule)
        for name, kind in kinds.items()
        if kind.__module__.startswith('bnn_jax.') and dataclasses.is_dataclass(kind)
        for field, hint in fields_in_files(kind)
        if (rule := rule_of(hint)) is not None
    }
    assert rows == stated
    for bound in (LARGEST_TEXT, MOST_NODES, DEEPEST, LARGEST, LARGEST_MAP, ALL_MAPS, SIDE.most, MOST_STEPS):
        assert re.search(rf'\b{bound:,}\b', section), bound


def test_the_example_is_what_is_written(example):
    network, path = example
    header, data = parts(path)
    tree = re.search(r'```json\n(.*?)\n```', PAGE, re.S)
    assert tree and container.decompressed(header['__metadata__']['network']) == tree[1]
    for name, dtype, shape, content in (
        ('0', 'U32', [2, 1], '05 00 00 00 02 00 00 00'),
        ('1', 'F32', [2], '00 00 00 3f 00 00 80 3e'),
    ):
        described = header[name]
        assert (described['dtype'], described['shape']) == (dtype, shape)
        assert data[slice(*described['data_offsets'])] == bytes.fromhex(content)
        assert re.search(rf'^{content} +tensor {name}, {dtype} {re.escape(str(shape))}: ', PAGE, re.M)
    logits = network(np.asarray([0.5, -2, 0], np.float32).reshape(1, 1, 1, 3))
    assert np.asarray(logits).tolist() == [[-1.5, 0.75]] and 'logits are -1.5 and 0.75' in PAGE


def test_the_order_of_the_examples_tensors(example):
    header, data = parts(example[1])
    lines = re.findall(r'^((?:[0-9a-f]{2} )+) +tensor', PAGE, re.M)
    assert data == b''.join(map(bytes.fromhex, lines))
    assert set(header) == {'__metadata__', '0', '1'}


class Scaled(nnx.Module):
    """A user's module with a scalar."""

    def __init__(self):
        self.scale = nnx.Param(jnp.float32(2))
        self.layer = bnn.nn.Linear(33, 4, scheme=bnn.BNN, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.scale[...] * self.layer(x)


@pytest.mark.parametrize('which', ['example', 'network', 'scalar'])
def test_the_checksum_by_its_recipe(which, example, tmp_path):
    path = example[1]
    if which == 'network':
        path = bnn.save(bnn.convert(build('lenet5', bnn.XNOR)), tmp_path / 'network.safetensors')
    if which == 'scalar':
        path = bnn.save(bnn.convert(Scaled()), tmp_path / 'scalar.safetensors')
    header, data = parts(path)
    metadata = header.pop('__metadata__')
    stated = metadata.pop('sha256')
    members = [f'{json.dumps(key)}: {json.dumps(metadata[key])}' for key in sorted(metadata)]
    content = ('{' + ', '.join(members) + '}').encode('ascii')
    for name in sorted(header):
        dtype, shape = {'F32': '<f4', 'U32': '<u4'}[header[name]['dtype']], header[name]['shape']
        text = f'({shape[0]},)' if len(shape) == 1 else '(' + ', '.join(map(str, shape)) + ')'
        content += f'{name} {dtype} {text}'.encode() + data[slice(*header[name]['data_offsets'])]
    assert hashlib.sha256(content).hexdigest() == stated


def test_the_preprocessing_of_a_file(example, tmp_path):
    network, path = example
    assert serialization.preprocessing_of(path) == {'classes': ['\u00e9']}
    assert serialization.preprocessing_of(bnn.save(network, tmp_path / 'without.safetensors')) is None
    content = path.read_bytes()
    path.write_bytes(content.replace(b'classes', b'glasses'))
    with pytest.raises(ValueError, match='has been altered'):
        serialization.preprocessing_of(path)
