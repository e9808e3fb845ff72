"""The file of a packed network: round trip, size, and everything that is refused."""

import dataclasses
import errno
import io
import json
import os
import re

import jax
import numpy as np
import pytest
from networks import SCHEMES, SMALL, build, evaluated, images, randomize_norms
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

import bnn_jax as bnn
from bnn_jax.inference import container, serialization
from bnn_jax.nn.layer import Unchanged
from bnn_jax.nn.packed import PackedNetwork, PackedSequential
from bnn_jax.nn.stateless import GlobalAveragePool, PadChannels


@pytest.fixture(scope='module')
def packed():
    model = build('vgg_small', bnn.XNOR)
    randomize_norms(model)
    return bnn.convert(model)


@pytest.fixture
def saved(packed, tmp_path):
    return bnn.save(packed, tmp_path / 'network.safetensors')


# Every scheme, and every architecture.
NETWORKS = [('lenet5', name) for name in SCHEMES if name != 'FLOAT']
NETWORKS += [case for case in zip(SMALL, 4 * ('BWN', 'BNN'), strict=True) if case[0] != 'lenet5']


@pytest.mark.parametrize(('architecture', 'scheme'), NETWORKS)
def test_round_trip_and_the_bytes_promised(architecture, scheme, tmp_path):
    model = build(architecture, SCHEMES[scheme])
    randomize_norms(model)
    packed = bnn.convert(model)
    path = bnn.save(packed, tmp_path / 'network.safetensors')
    loaded = bnn.load(path)
    assert loaded.report == packed.report
    assert jax.tree.structure(loaded) == jax.tree.structure(packed)  # so one compiled function serves both
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(packed), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    if architecture == 'lenet5':
        x = images(architecture)
        np.testing.assert_array_equal(evaluated(loaded, x), evaluated(packed, x))
    with safe_open(path, framework='numpy') as file:
        stored = sum(file.get_tensor(name).nbytes for name in list(file.keys()))
    promised = bnn.summarize(model, SMALL[architecture][1]).packed_bytes
    assert stored == promised == packed.report.bytes
    assert promised < path.stat().st_size <= promised + 16 * 1024


def test_the_same_network_gives_the_same_bytes(packed):
    files = [io.BytesIO() for _ in range(4)]
    for file in files:
        bnn.save(packed, file, preprocessing={'classes': []})
    assert len({file.getvalue() for file in files}) == 1
    content = files[0].getvalue()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
    assert list(header['__metadata__']) == sorted(header['__metadata__'])


def test_preprocessing_of_numbers_that_are_not_finite_is_refused(packed):
    with pytest.raises(
        ValueError, match="preprocessing: got {'mean': nan} .*, expected a JSON value of finite numbers"
    ):
        bnn.save(packed, io.BytesIO(), preprocessing={'mean': float('nan')})


def test_header_of_the_deepest_network_stays_small(tmp_path):
    packed = bnn.convert(build('resnet18', bnn.XNOR, blocks=(3, 4, 6, 3), width=0.05))
    path = bnn.save(packed, tmp_path / 'network.safetensors')
    assert path.stat().st_size - packed.report.bytes <= 16 * 1024


def test_truncated_anywhere_is_refused(saved):
    content = saved.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(ValueError, match='truncated or not a safetensors file'):
            bnn.load(saved)


def test_altered_anywhere_is_refused(saved):
    content = saved.read_bytes()
    places = np.linspace(0, len(content) - 1, 97).astype(int)
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(
            ValueError, match=r'load: .* (altered|truncated|not a bnn_jax|format version|does not describe)'
        ):
            bnn.load(saved)
    saved.write_bytes(content)
    bnn.load(saved)


def rewritten(saved, **changes) -> None:
    """The file with other metadata and a checksum that fits them: what another program might write."""
    with safe_open(saved, framework='numpy') as file:
        metadata = {**file.metadata(), **changes}
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    metadata['sha256'] = container.digest(tensors, metadata)
    saved.write_bytes(safetensors_bytes(tensors, metadata))


def network_of(saved) -> dict:
    with safe_open(saved, framework='numpy') as file:
        return json.loads(container.decompressed(file.metadata()['network']))


def test_foreign_and_newer_files_are_refused(saved):
    rewritten(saved, version='2')
    with pytest.raises(ValueError, match="format version '2', this bnn_jax reads up to 1; upgrade"):
        bnn.load(saved)
    saved.write_bytes(safetensors_bytes({'weight': np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match='not a bnn_jax network'):
        bnn.load(saved)
    saved.write_text('PK: something else entirely, longer than a header')
    with pytest.raises(ValueError, match='not a safetensors file'):
        bnn.load(saved)
    with pytest.raises(FileNotFoundError, match='there is no file'):
        bnn.load(saved.parent / 'missing.safetensors')


@pytest.mark.parametrize(
    ('change', 'place'),
    [
        (lambda layer: layer.update(out=2**63), 'layers[0].out: got 9223372036854775808, expected an integer, 1 to'),
        (lambda layer: layer.update(out=True), 'layers[0].out: got True'),
        (lambda layer: layer.update(bias=layer['kernel']), 'layers[0].bias: tensor'),
        (lambda layer: layer.update(tap_sums='0'), "layers[0]: got ['tap_sums'], which is no field of FloatProduct"),
        (lambda layer: layer.pop('into'), 'layers[0]: lacks into'),
        (
            lambda layer: layer['product']['window'].update(padding=[[4, 0], [0, 0]]),
            'expected at most (3, 3), the extent',
        ),
        (
            lambda layer: layer['product']['window'].update(dilation=[4096, 1]),
            'pixels from the first tap to the last',
        ),
        (lambda layer: layer['product'].update(groups=2), 'convolution in 2 groups'),
    ],
)
def test_a_refusal_names_the_place(saved, change, place):
    tree = network_of(saved)
    change(tree['body']['layers'][0])
    rewritten(saved, network=container.compressed(json.dumps(tree)))
    with pytest.raises(ValueError, match=re.escape(place)):
        bnn.load(saved)


def test_images_that_a_file_states_must_fit(packed, saved):
    with pytest.raises(ValueError, match=r'layers\[\d+\]: dense layer: got input of shape \(N, \d+\), expected'):
        bnn.load(bnn.save(packed, saved, preprocessing={'input_shape': [99, 9, 3]}))


def test_a_map_larger_than_its_file_explains_is_refused(tmp_path):
    """A million channels of zeros, for an image of 64 numbers and no tensor."""
    layers = (Unchanged(PadChannels(0, 10**6)), Unchanged(GlobalAveragePool()))
    network = PackedNetwork(1, 10**6 + 1, PackedSequential(layers))
    with pytest.raises(ValueError, match=r'expected at most [\d,]+ in a map and [\d,]+ in all \(256 and 4096 times'):
        network(np.zeros((1, 8, 8, 1), np.float32))
    saved = bnn.save(network, tmp_path / 'network.safetensors', preprocessing={'input_shape': [8, 8, 1]})
    with pytest.raises(ValueError, match=r'expected at most [\d,]+ in a map'):
        bnn.load(saved)


def test_numbers_that_are_not_finite_are_not_saved(packed, tmp_path):
    layer = packed.body.layers[0]
    broken = dataclasses.replace(layer, kernel=layer.kernel.at[0].set(np.nan))
    body = dataclasses.replace(packed.body, layers=(broken, *packed.body.layers[1:]))
    with pytest.raises(ValueError, match='save: PackedNetwork: Chain: FloatProduct: tensor 0: .* NaN'):
        bnn.save(dataclasses.replace(packed, body=body), tmp_path / 'network.safetensors')


@pytest.mark.parametrize(
    'change',
    [
        lambda tree: tree.update(kind='os.system'),
        lambda tree: tree.update(kind='Dense'),
        lambda tree: tree.update(surprise=1),
        lambda tree: tree.pop('channels'),
        lambda tree: tree['body']['layers'][0].update(kernel='999'),
        lambda tree: tree['body']['layers'][0].update(into=7),
        lambda tree: tree.update(channels='3'),
        lambda tree: tree.update(num_classes=True),
        lambda tree: tree['body']['layers'].append(7),
        lambda tree: tree['body']['layers'].append({'kind': 'Dense'}),
        lambda tree: tree['body']['layers'].pop(0),
        lambda tree: tree['body']['layers'][0]['product'].update(pad_value=7),
        lambda tree: tree['body']['layers'][0]['product']['window'].update(strides=[0, 0]),
        lambda tree: tree['body']['layers'][0]['product']['window'].update(padding='EVIL'),
        lambda tree: tree['body']['layers'].append({'kind': 'Stateless', 'function': {'kind': 'Dense'}}),
        lambda tree: tree['body']['layers'].append({'kind': 'Stateless', 'function': {'kind': 'eval'}}),
    ],
)
def test_a_tree_that_is_not_a_network_is_refused(saved, change):
    tree = network_of(saved)
    change(tree)
    rewritten(saved, network=container.compressed(json.dumps(tree)))
    with pytest.raises(ValueError, match='does not describe a network|expected a PackedNetwork'):
        bnn.load(saved)


def test_a_tree_without_end_is_refused(saved):
    rewritten(saved, network=container.compressed('[' * 100_000))
    with pytest.raises(ValueError, match='does not describe a network'):
        bnn.load(saved)


@pytest.mark.parametrize('version', ['0', '-1', 'x', '\u00b2', ''])
def test_an_odd_version_is_refused(saved, version):
    rewritten(saved, version=version)
    with pytest.raises(ValueError, match='has format version'):
        bnn.load(saved)


def test_a_file_has_the_permissions_of_its_user(packed, tmp_path):
    mask = os.umask(0o077)
    try:
        path = bnn.save(packed, tmp_path / 'network.safetensors')
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o600


def test_bits_beyond_the_last_channel_are_refused(packed):
    layer = next(inner for inner in packed.body.layers if hasattr(inner, 'words') and inner.in_features % 32)
    words = np.asarray(layer.words) | np.uint32(1 << 31)
    fields = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.init}
    with pytest.raises(ValueError, match=f'bits beyond sign {layer.in_features} are set'):
        type(layer)(**{**fields, 'words': words})


def test_a_full_disk_leaves_the_old_file(packed, saved, monkeypatch):
    before = saved.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='the old file is unchanged') as caught:
        bnn.save(packed, saved)
    assert caught.value.errno == errno.ENOSPC
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_saving_anything_else_is_refused(tmp_path):
    with pytest.raises(TypeError, match='call bnn_jax.convert'):
        bnn.save(build('lenet5', bnn.XNOR), tmp_path / 'network.safetensors')
    with pytest.raises(OSError, match='could not write'):
        bnn.save(bnn.convert(build('lenet5', bnn.XNOR)), tmp_path / 'no' / 'such' / 'folder')


def test_paths_and_files_of_every_kind(packed, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert bnn.save(packed, '~/network.safetensors') == tmp_path / 'network.safetensors'
    content = (tmp_path / 'network.safetensors').read_bytes()
    buffer = io.BytesIO()
    assert bnn.save(packed, buffer) is buffer and len(buffer.getvalue()) == len(content)
    with open(tmp_path / 'other', 'wb') as file:
        bnn.save(packed, file)
    x = images('vgg_small')
    with open(tmp_path / 'other', 'rb') as file:
        for source in ('~/network.safetensors', tmp_path / 'other', io.BytesIO(content), file):
            np.testing.assert_array_equal(bnn.load(source)(x), packed(x))
    assert serialization.preprocessing_of(io.BytesIO(content)) is None


def test_what_is_no_file_says_so(packed, tmp_path):
    with pytest.raises(TypeError, match='save: got a StringIO, expected a path, or a file open in binary mode'):
        bnn.save(packed, io.StringIO())
    with pytest.raises(TypeError, match='StringIO gives str, expected bytes; open it in binary mode'):
        bnn.load(io.StringIO())
    (tmp_path / 'bytes').write_bytes(b'\xc0')
    with pytest.raises(TypeError, match='bytes gives str, expected bytes; open it'), open(tmp_path / 'bytes') as text:
        bnn.load(text)
    with pytest.raises(TypeError, match='load: got a int, expected a path'):
        bnn.load(3)
    with pytest.raises(ValueError, match='BytesIO is truncated or not a safetensors file'):
        bnn.load(io.BytesIO(b'no'))
    with pytest.raises(IsADirectoryError, match='cannot read the file'):
        bnn.load(tmp_path)
