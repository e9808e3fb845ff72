"""Data: sources, augmentation and batches against plain NumPy; preparing data sets and every error on the way there.

With BNN_JAX_DATA_DIR, a folder with raw/fashion_mnist (the four IDX files) and tfds/cifar10 (prepared by TFDS), the real
data sets are read too; without it digits in the same formats take their place.
"""

import collections
import gzip
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from bnn_jax.data import (
    ArraySource,
    PlusMinusOne,
    Splits,
    Standardize,
    Unchanged,
    check_labels,
    crop,
    data_set,
    digits,
    evaluation_batches,
    flip,
    in_memory,
    pipeline,
    prepare,
    tfds_source,
    training_batches,
)
from bnn_jax.data.tfds_source import TfdsSource

REAL = os.environ.get('BNN_JAX_DATA_DIR')
ROOT = Path(__file__).parents[2]
EPS = np.finfo(np.float32).eps
CLASSES = {
    'fashion_mnist': [
        'T-shirt/top',
        'Trouser',
        'Pullover',
        'Dress',
        'Coat',
        'Sandal',
        'Shirt',
        'Sneaker',
        'Bag',
        'Ankle boot',
    ],
    'cifar10': ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'],
}


def as_float(image):
    return image.astype(np.float32)


def numbered(n: int) -> ArraySource:
    """n images; image i is filled with i, its label is i."""
    return ArraySource(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), np.arange(n))


def counted(images, labels) -> collections.Counter:
    """The examples as a multiset: how often which bytes with which label."""
    return collections.Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def same_batches(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a[key], b[key]) and a[key].dtype == b[key].dtype
        for a, b in zip(ours, theirs, strict=True)
        for key in ('image', 'label')
    )


# Digits.


def test_digits_are_all_there_split_in_two():
    bunch, train, test = load_digits(), digits('train'), digits('test')
    assert (len(train), len(test)) == (1437, 360)
    for source in (train, test):
        example = source[0]
        assert example['image'].shape == (8, 8, 1) and example['image'].dtype == np.uint8
        assert type(example['label']) is int
        assert {source[i]['label'] for i in range(len(source))} == set(range(10))
    whole = counted(np.round(bunch.images * 15.9375).astype(np.uint8), bunch.target)
    ours, theirs = counted(train.images, train.labels), counted(test.images, test.labels)
    assert ours + theirs == whole
    assert not ours & theirs
    assert counted(digits('train').images, digits('train').labels) == ours


def test_digits_refuse_another_split():
    with pytest.raises(ValueError, match="'validation'.*'train' or 'test'"):
        digits('validation')


IMAGES = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)


@pytest.mark.parametrize(
    ('images', 'labels', 'message'),
    [
        (IMAGES, np.zeros(2, int), r'labels: got shape \[2\] for 3 images'),
        (IMAGES[0, 0], np.zeros(2, int), r'images: got uint8\[2, 1\], expected uint8 or floating \(n, H, W, C\)'),
        (IMAGES.astype(np.uint16), np.zeros(3, int), r'images: got uint16\[3, 2, 2, 1\]'),
        (IMAGES, np.asarray(['a', 'b', 'a']), r'labels: got dtype <U1, expected integers'),
        (IMAGES, 0, r'labels: got shape \[\] for 3 images'),
        (
            IMAGES,
            np.asarray([0, 1, 2**40]),
            r'got values from 0 to 1099511627776, expected classes from 0 to 2147483647$',
        ),
    ],
    ids=['lengths', 'rank', 'dtype', 'strings', 'one number', 'no class'],
)
def test_array_source_refuses(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(images, labels)


@pytest.mark.parametrize('labels', [[0, 1, 2], np.arange(3)[:, None], np.arange(3, dtype=np.uint8)])
@pytest.mark.parametrize('images', [IMAGES, IMAGES[..., 0], IMAGES.astype(np.float64), np.tile(IMAGES, 5)])
def test_array_source_takes_what_people_have(images, labels):
    source = ArraySource(images, labels)
    batches, _ = training_batches(source, batch_size=3, seed=0, standardize=lambda image: image.astype(np.float32))
    batch = batches[0]
    assert batch['label'].dtype == np.int32 and sorted(batch['label']) == [0, 1, 2]
    expected = np.reshape(images, (3, 2, 2, -1))[batch['label']]
    np.testing.assert_array_equal(batch['image'], expected.astype(np.float32))


@pytest.mark.parametrize('labels', [np.asarray([0.5, 1, 2]), np.eye(3), np.eye(3, dtype=bool)])
def test_labels_for_a_loss_of_ones_own_stay_as_they_are(labels):
    batch = next(evaluation_batches(ArraySource(IMAGES, labels), batch_size=3, standardize=PlusMinusOne()))
    assert batch['label'].dtype == np.float32
    np.testing.assert_array_equal(batch['label'], labels)


def test_an_example_without_a_label():
    with pytest.raises(ValueError, match=r"label: got None in an example with the keys \['image'\], expected the num"):
        training_batches([{'image': IMAGES[0]}] * 2, batch_size=2, seed=0, standardize=PlusMinusOne())[0][0]


def test_a_generator_becomes_a_source():
    pairs = [(image, i) for i, image in enumerate(IMAGES)]
    for examples in (iter(pairs), ({'image': image, 'label': i} for image, i in pairs)):
        source = in_memory(examples, count=2)
        np.testing.assert_array_equal(source.images, IMAGES[:2])
        assert source[1]['label'] == 1
    with pytest.raises(ValueError, match='got no examples'):
        in_memory(iter(()))
    with pytest.raises(ValueError, match=r'shapes \(2, 2, 1\) and \(1, 2, 1\), expected one size'):
        in_memory([pairs[0], (IMAGES[0, :1], 0)])


def test_a_source_is_held_out_in_part_and_told_from_another():
    source = ArraySource(np.zeros((10, 2, 2), np.uint8), np.arange(10), classes=map(str, range(10)))
    splits = Splits.held_out(source, share=0.3)
    train, test = (splits(split) for split in ('train', 'test'))
    labels = [{part[i]['label'] for i in range(len(part))} for part in (train, test)]
    assert [len(part) for part in labels] == [7, 3] and labels[0] | labels[1] == set(range(10))
    assert test.classes == source.classes
    for share in (0.01, 1.0):
        with pytest.raises(ValueError, match='expected at least one image in each part'):
            Splits.held_out(source, share=share)

    class Inverted(ArraySource):
        def __getitem__(self, index):
            return super().__getitem__(index) | {'image': 255 - self.images[index]}

    inverted = Splits.held_out(Inverted(source.images, source.labels)).test[0]['image']
    assert (inverted == 255).all()
    other = ArraySource(np.ones((10, 2, 2), np.uint8), np.arange(10))
    assert source.described() == ArraySource(source.images, source.labels).described() != other.described()


def test_images_of_several_sizes_are_refused_with_the_remedy():
    source = [{'image': np.zeros((2 + i, 3, 1), np.uint8), 'label': 0} for i in range(2)]
    for read in (
        lambda: training_batches(source, batch_size=2, seed=0, standardize=PlusMinusOne())[0][0],
        lambda: next(evaluation_batches(source, batch_size=2, standardize=PlusMinusOne())),
    ):
        with pytest.raises(ValueError, match=r'got images of .x3x1 and of .x3x1, expected one size; .*resize_to'):
            read()


# Augmentation and normalization.

IMAGE = np.arange(3 * 4 * 2, dtype=np.uint8).reshape(3, 4, 2) + 1


def test_flip_mirrors_half_of_the_images():
    flipped = np.empty_like(IMAGE)
    for column in range(4):
        flipped[:, column] = IMAGE[:, 3 - column]
    rng = np.random.default_rng(0)
    results = collections.Counter(flip(IMAGE, rng).tobytes() for _ in range(1000))
    assert set(results) == {IMAGE.tobytes(), flipped.tobytes()}
    assert 400 < results[flipped.tobytes()] < 600


@pytest.mark.parametrize('padding', [0, 1, 2])
def test_crop_cuts_every_window_of_the_padded_image(padding):
    height, width, channels = IMAGE.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[padding : padding + height, padding : padding + width] = IMAGE
    shifts = range(2 * padding + 1)
    windows = {padded[top : top + height, left : left + width].tobytes() for top in shifts for left in shifts}
    rng = np.random.default_rng(0)
    results = [crop(padding)(IMAGE, rng) for _ in range(1000)]
    assert {result.shape for result in results} == {IMAGE.shape}
    assert {result.tobytes() for result in results} == windows


def test_crop_pads_by_four_unless_told():
    assert crop() == crop(4)


@settings(deadline=None)
@given(data=st.data())
def test_standardize_is_its_formula_per_channel(data):
    channels = data.draw(st.sampled_from([1, 3]))
    image = data.draw(arrays(np.uint8, (2, 3, channels)))
    mean = data.draw(arrays(np.float32, channels, elements=st.floats(0, 1, width=32)))
    std = data.draw(arrays(np.float32, channels, elements=st.floats(0.125, 1, width=32)))
    result = Standardize(tuple(mean.tolist()), tuple(std.tolist()))(image)
    assert result.dtype == np.float32
    expected = (image.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(result, expected, rtol=0, atol=2 * EPS / std.min())  # Both terms are at most 1.


@pytest.mark.parametrize(
    'image',
    [np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)],
    ids=['dtype', 'rank', 'channels'],
)
def test_standardize_refuses(image):
    with pytest.raises(ValueError, match=r'image: got .* expected uint8 \(H, W, 3\)'):
        Standardize((0.5,) * 3, (0.25,) * 3)(image)


def test_standardize_makes_no_color_of_gray():
    with pytest.raises(ValueError, match=r'expected uint8 \(H, W, 3\)'):
        Standardize((0.5,) * 3, (0.25,) * 3)(np.zeros((2, 2, 1), np.uint8))


# Batches.


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 40), size=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
def test_every_epoch_sees_each_image_once_but_for_the_remainder(n, size, seed):
    size = min(size, n)
    batches, epoch_steps = training_batches(numbered(n), batch_size=size, seed=seed, standardize=as_float)
    assert epoch_steps == n // size
    for epoch in range(3):
        seen = [batches[step] for step in range(epoch * epoch_steps, (epoch + 1) * epoch_steps)]
        assert {batch['image'].shape for batch in seen} == {(size, 1, 1, 1)}
        labels = np.concatenate([batch['label'] for batch in seen])
        assert len(set(labels.tolist())) == len(labels) == epoch_steps * size
        assert np.array_equal(np.concatenate([batch['image'] for batch in seen]).ravel(), labels)


def order(seed: int, epoch: int) -> list[int]:
    batches, epoch_steps = training_batches(numbered(100), batch_size=16, seed=seed, standardize=as_float)
    steps = range(epoch * epoch_steps, (epoch + 1) * epoch_steps)
    return np.concatenate([batches[step]['label'] for step in steps]).tolist()


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(labels) for labels in orders}) == len(orders)
    assert list(range(96)) not in orders
    left_out = {frozenset(range(100)) - frozenset(labels) for labels in orders}
    assert len(left_out) > 1


def test_every_epoch_is_augmented_anew():
    source = ArraySource(np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1), np.zeros(1))
    batches, _ = training_batches(source, batch_size=1, seed=0, standardize=as_float, augmentations=[crop(2)])
    assert len({batches[epoch]['image'].tobytes() for epoch in range(10)}) > 5


def augmented(seed: int = 0):
    return training_batches(
        digits('test'),
        batch_size=100,
        seed=seed,
        standardize=Standardize((0.3,), (0.4,)),
        augmentations=[flip, crop(1)],
    )[0]


def test_a_batch_depends_on_seed_and_step_only():
    forwards = [augmented()[step] for step in range(7)]
    again = augmented()
    backwards = [again[step] for step in reversed(range(7))]
    assert same_batches(forwards, backwards[::-1])
    assert forwards[0]['image'].dtype == np.float32 and forwards[0]['image'].shape == (100, 8, 8, 1)
    assert forwards[0]['label'].dtype == np.int32 and forwards[0]['label'].shape == (100,)
    assert not same_batches(forwards[:1], [augmented(1)[0]])


@pytest.mark.parametrize('first', [0, 1, 3, 5, 8, 9])
def test_resumed_batches_are_the_rest_of_the_uninterrupted_ones(first):
    whole = [augmented()[step] for step in range(9)]
    assert same_batches(list(pipeline.steps_from(augmented(), first, 9)), whole[first:])


@pytest.mark.parametrize('size', [0, -1, 11])
def test_batch_size_out_of_range(size):
    with pytest.raises(ValueError, match=rf'batch_size: got {size}, expected 1 to 10'):
        training_batches(numbered(10), batch_size=size, seed=0, standardize=as_float)


def test_no_images():
    with pytest.raises(ValueError, match='got no images.*data_dir'):
        training_batches(numbered(0), batch_size=1, seed=0, standardize=as_float)
    with pytest.raises(ValueError, match='got no images.*data_dir'):
        next(evaluation_batches(numbered(0), batch_size=1, standardize=as_float))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), size=st.integers(1, 50))
def test_evaluation_sees_every_image_once_in_order(n, size):
    seen = list(evaluation_batches(numbered(n), batch_size=size, standardize=as_float))
    assert [len(batch['label']) for batch in seen] == [size] * (n // size) + [n % size] * (n % size > 0)
    assert np.array_equal(np.concatenate([batch['label'] for batch in seen]), np.arange(n))
    assert np.array_equal(np.concatenate([batch['image'] for batch in seen]).ravel(), np.arange(n))
    assert seen[0]['image'].dtype == np.float32 and seen[0]['label'].dtype == np.int32


# Preparing data sets from the publishers' files.


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


class Downloads(NamedTuple):
    """A data set as its publisher has it: a folder of files, and what they hold."""

    name: str
    folder: Path
    splits: dict[str, tuple[np.ndarray, np.ndarray]]


def fashion_mnist_downloads(folder: Path) -> Downloads:
    """The real files if there are any, else digits."""
    if not REAL:
        return write_digits_as_idx(folder)
    folder, splits = Path(REAL) / 'raw' / 'fashion_mnist', {}
    for split, stem in (('train', 'train'), ('test', 't10k')):
        images, labels = (
            gzip.decompress((folder / f'{stem}-{kind}-ubyte.gz').read_bytes())
            for kind in ('images-idx3', 'labels-idx1')
        )
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
        splits[split] = (pixels, np.frombuffer(labels, np.uint8, offset=8))
    return Downloads('fashion_mnist', folder, splits)


def write_digits_as_idx(folder: Path) -> Downloads:
    """Digits in the middle of 28x28 pixels; the training half with gzip, the test half without."""
    splits = {}
    for split in ('train', 'test'):
        source = digits(split)
        splits[split] = (np.pad(source.images, ((0, 0), (10, 10), (10, 10), (0, 0))), source.labels)
    for stem, split, suffix, write in (('train', 'train', '.gz', gzip.compress), ('t10k', 'test', '', bytes)):
        images, labels = splits[split]
        (folder / f'{stem}-images-idx3-ubyte{suffix}').write_bytes(write(idx(images[..., 0])))
        (folder / f'{stem}-labels-idx1-ubyte{suffix}').write_bytes(write(idx(labels)))
    return Downloads('fashion_mnist', folder, splits)


def cifar10_downloads(folder: Path) -> Downloads:
    """Random images: 3 in each of the five training files, 4 in the test file."""
    rng, splits = np.random.default_rng(0), {}
    for split, names, each in (
        ('train', [f'data_batch_{i}.bin' for i in range(1, 6)], 3),
        ('test', ['test_batch.bin'], 4),
    ):
        images = rng.integers(0, 256, (len(names) * each, 32, 32, 3), dtype=np.uint8)
        labels = rng.integers(0, 10, len(images), dtype=np.uint8)
        splits[split] = (images, labels)
        for i, name in enumerate(names):
            content = b''
            for image, label in zip(*(part[i * each : (i + 1) * each] for part in (images, labels)), strict=True):
                content += bytes([label]) + b''.join(image[:, :, channel].tobytes() for channel in range(3))
            (folder / name).write_bytes(content)
    return Downloads('cifar10', folder, splits)


@pytest.fixture(scope='module', params=[fashion_mnist_downloads, cifar10_downloads], ids=['fashion_mnist', 'cifar10'])
def downloads(request, tmp_path_factory) -> Downloads:
    return request.param(tmp_path_factory.mktemp('downloads'))


@pytest.fixture(scope='module')
def data_dir(downloads, tmp_path_factory) -> Path:
    """`downloads`, prepared."""
    folder = tmp_path_factory.mktemp('tfds')
    written = prepare.prepare(downloads.name, downloads.folder, folder)
    assert written.is_relative_to(folder / downloads.name)
    return folder


def test_prepared_data_reads_back_bit_for_bit(downloads, data_dir):
    for split, (images, labels) in downloads.splits.items():
        source = tfds_source(downloads.name, split, data_dir)
        assert len(source) == len(labels)
        loaded = source.in_memory()
        assert loaded.images.dtype == np.uint8
        assert counted(loaded.images, loaded.labels) == counted(images, labels)
        for i in (0, 1, len(source) // 2, len(source) - 1):
            one, other = source[i], loaded[i]
            assert one['image'].dtype == np.uint8 and type(one['label']) is type(other['label']) is int
            assert np.array_equal(one['image'], other['image']) and one['label'] == other['label']


def test_prepared_data_has_the_names_of_its_classes(downloads, data_dir):
    features = tfds_source(downloads.name, 'train', data_dir).records.dataset_info.features
    assert features['label'].names == CLASSES[downloads.name]
    assert features['image'].shape == downloads.splits['train'][0].shape[1:]


def test_splits_are_tfds_expressions(downloads, data_dir):
    some = tfds_source(downloads.name, 'train[2:5]', data_dir)
    whole = tfds_source(downloads.name, 'train', data_dir)
    assert len(some) == 3
    assert np.array_equal(some[0]['image'], whole[2]['image'])


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob('*') if path.is_file()}


def test_preparing_twice_does_nothing(downloads, data_dir):
    before = files(data_dir)
    assert prepare.prepare(downloads.name, downloads.folder, data_dir).is_relative_to(data_dir)
    assert files(data_dir) == before


def test_preparing_without_tfds_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
    with pytest.raises(ModuleNotFoundError, match='expected the extra `train`'):
        prepare.prepare('mnist', '.', tmp_path)
    with pytest.raises(ModuleNotFoundError, match='expected the extra `train`'):
        prepare.write('x', '1.0.0', {}, {}, tmp_path)


# Reading what TFDS prepared.


def png(image: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, 'PNG')
    return io.BytesIO(buffer.getvalue())


def build(folder: Path, examples: list[dict], **features) -> Path:
    """Data set `made_here`, its one split `test`, prepared by TFDS alone; returns folder."""
    import tensorflow_datasets as tfds

    methods = {
        'VERSION': tfds.core.Version('1.0.0'),
        '_info': lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
        '_split_generators': lambda self, manager: {'test': iter(enumerate(examples))},
        '_generate_examples': lambda self: iter(()),
    }
    with tfds.core.registered.skip_registration():
        builder = type('MadeHere', (tfds.core.GeneratorBasedBuilder,), methods)(data_dir=folder)
        builder.download_and_prepare(file_format='array_record')
    return folder


def features() -> dict:
    import tensorflow_datasets as tfds

    return {'image': tfds.features.Image(shape=(None, None, 1)), 'label': tfds.features.ClassLabel(num_classes=10)}


@pytest.fixture(scope='module')
def stock(tmp_path_factory) -> tuple[str, Path, int]:
    """A data set that is not `prepare`'s work, with a feature more: the real CIFAR-10 if there is one, else digits."""
    if REAL:
        return 'cifar10', Path(REAL) / 'tfds', 10_000
    import tensorflow_datasets as tfds

    source = digits('test')
    examples = [{'id': str(i), 'image': png(source[i]['image']), 'label': source[i]['label']} for i in range(360)]
    return 'made_here', build(tmp_path_factory.mktemp('stock'), examples, id=tfds.features.Text(), **features()), 360


def test_data_sets_that_tfds_prepared(stock):
    name, folder, count = stock
    source = tfds_source(name, 'test', folder)
    loaded = source.in_memory()
    assert len(source) == len(loaded) == count
    assert set(loaded.labels.tolist()) == set(range(10))
    assert set(source[0]) == {'image', 'label'}
    assert all(np.array_equal(source[i]['image'], loaded[i]['image']) for i in range(0, count, 37))
    assert all(source[i]['label'] == loaded[i]['label'] for i in range(0, count, 37))
    batches = list(evaluation_batches(source, batch_size=100, standardize=as_float))
    assert np.array_equal(np.concatenate([batch['image'] for batch in batches]), loaded.images)


def test_images_of_many_sizes_stay_on_disk(tmp_path):
    examples = [{'image': png(np.zeros((i, 2, 1), np.uint8)), 'label': i} for i in (1, 2, 3)]
    source = tfds_source('made_here', 'test', build(tmp_path, examples, **features()))
    assert sorted(source[i]['image'].shape[0] for i in range(3)) == [1, 2, 3]
    with pytest.raises(ValueError, match='made_here/test: images differ in size'):
        source.in_memory()


def test_a_data_set_without_labels(tmp_path):
    image = features()['image']
    folder = build(tmp_path, [{'image': png(np.zeros((2, 2, 1), np.uint8))}], image=image)
    with pytest.raises(ValueError, match=r"'made_here' has features \['image'\], expected image and label"):
        tfds_source('made_here', 'test', folder)


def test_labels_that_are_no_integers(tmp_path):
    import tensorflow_datasets as tfds

    image, pixels = features()['image'], png(np.zeros((2, 2, 1), np.uint8))
    for number, (kind, label) in enumerate(
        (
            (tfds.features.Scalar(np.float32), 0.5),
            (tfds.features.Sequence(np.int64), [1, 2]),
            (tfds.features.Text(), 'cat'),
        )
    ):
        folder = build(tmp_path / str(number), [{'image': pixels, 'label': label}], image=image, label=kind)
        with pytest.raises(ValueError, match="'made_here' has labels .*, expected one integer for each image"):
            tfds_source('made_here', 'test', folder)


def test_a_missing_data_set_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        tfds_source('fashion_mnist', 'train', tmp_path)
    for part in (
        str(tmp_path / 'fashion_mnist'),
        f'tfds build fashion_mnist --file_format=array_record --data_dir={tmp_path}',
        f'python -m bnn_jax.data.prepare fashion_mnist --source=DOWNLOADS --data_dir={tmp_path}',
        '--data_dir=FOLDER',
    ):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match='tfds build imagenet_256') as error:
        tfds_source('imagenet_256', 'train', tmp_path)
    assert 'bnn_jax.data.prepare ' not in str(error.value)  # It reads only the sets in READERS.


def test_an_unknown_split(downloads, data_dir):
    with pytest.raises(ValueError, match=f"'{downloads.name}', split 'validation' in .*'train', 'test'"):
        tfds_source(downloads.name, 'validation', data_dir)


@pytest.fixture
def copy(downloads, data_dir, tmp_path) -> Path:
    """`data_dir` again, to be spoilt."""
    return shutil.copytree(data_dir, tmp_path / 'copy')


def test_another_file_format(downloads, copy):
    (info,) = copy.rglob('dataset_info.json')
    info.write_text(json.dumps(json.loads(info.read_text()) | {'fileFormat': 'tfrecord'}))
    with pytest.raises(ValueError, match=f"'{downloads.name}'.*(?s:.*)expected .* --file_format=array_record"):
        tfds_source(downloads.name, 'train', copy)


def test_missing_records(downloads, copy):
    for path in copy.rglob('*train.array_record*'):
        path.unlink()
    with pytest.raises(ValueError, match=f'{downloads.name}.*train.*prepare it again'):
        tfds_source(downloads.name, 'train', copy).in_memory()


def test_damaged_records_are_named(downloads, copy):
    (path,) = copy.rglob('*test.array_record*')
    content = bytearray(path.read_bytes())
    start = content.rfind(b'IHDR') + 20
    content[start : start + 8] = bytes(byte ^ 255 for byte in content[start : start + 8])
    path.write_bytes(content)
    source, damaged = tfds_source(downloads.name, 'test', copy), []
    for i in range(len(source)):
        try:
            source[i]
        except ValueError as error:
            damaged.append(f'{downloads.name}/test[{i}]')
            assert damaged[-1] in str(error) and 'prepare it again' in str(error)
    assert 1 <= len(damaged) < len(source)
    with pytest.raises(ValueError) as error:
        source.in_memory()
    assert damaged[0] in str(error.value)


class Records:
    """Records as TFDS gives them, number 5 with an image that is cut short."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        content = png(np.full((8, 8, 1), index, np.uint8)).getvalue()
        with Image.open(io.BytesIO(content[:50] if index == 5 else content)) as image:
            return {'image': np.asarray(image)[..., None], 'label': np.int64(index)}

    def __getitems__(self, indices: list[int]) -> list[dict]:
        return [self[i] for i in indices]


def test_an_image_that_cannot_be_decoded_is_named_wherever_it_is_read():
    source = TfdsSource(Records(), 'photos/train')
    assert source[4]['label'] == 4
    batches, steps = training_batches(source, batch_size=2, seed=0, standardize=as_float)
    for read in (
        lambda: source[5],
        source.in_memory,
        lambda: list(evaluation_batches(source, batch_size=2, standardize=as_float)),
        lambda: list(pipeline.steps_from(batches, 0, steps)),
    ):
        with pytest.raises(ValueError, match=r'photos/train\[5\]: this record cannot be read.*prepare it again'):
            read()


def test_an_index_out_of_range_is_not_called_damage(downloads, data_dir):
    source = tfds_source(downloads.name, 'test', data_dir)
    with pytest.raises(IndexError):
        source[len(source)]


# Downloads that are not as they should be.

PIXELS = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


@pytest.fixture(scope='module')
def idx_path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('idx') / 'train-images-idx3-ubyte'


@pytest.mark.parametrize('write', [bytes, gzip.compress], ids=['raw', 'gzip'])
def test_idx_files_read_whole_or_not_at_all(idx_path, write):
    content = write(idx(PIXELS))
    idx_path.write_bytes(content)
    assert np.array_equal(prepare.read_idx(idx_path), PIXELS)
    for end in range(len(content)):
        idx_path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=f'{idx_path}.*download it again'):
            prepare.read_idx(idx_path)
    idx_path.write_bytes(write(idx(PIXELS) + b'\0'))
    with pytest.raises(ValueError, match=r'got 61 bytes for shape \(3, 4, 5\), expected 60'):
        prepare.read_idx(idx_path)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_gzip_never_gives_other_pixels(idx_path, data):
    content = bytearray(gzip.compress(idx(PIXELS), mtime=0))
    content[data.draw(st.integers(2, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    idx_path.write_bytes(content)
    try:
        pixels = prepare.read_idx(idx_path)
    except ValueError as error:
        assert str(idx_path) in str(error) and 'download it again' in str(error)
    else:
        assert np.array_equal(pixels, PIXELS)


@pytest.mark.parametrize('start', [b'\0\0\x0d\x03', b'\0\1\x08\x03', b'<htm', b'\x89PNG'])
def test_idx_with_another_magic_number(idx_path, start):
    idx_path.write_bytes(start + idx(PIXELS)[4:])
    with pytest.raises(ValueError, match=f'{idx_path}: not an IDX file of unsigned bytes'):
        prepare.read_idx(idx_path)


def spoilt_idx(folder: Path) -> str:
    (folder / 't10k-labels-idx1-ubyte').write_bytes(idx(np.arange(4)))
    return r'test has images \(360, 28, 28\) and labels \(4,\)'


def spoilt_label(folder: Path) -> str:
    labels = digits('test').labels.copy()
    labels[7] = 10
    (folder / 't10k-labels-idx1-ubyte').write_bytes(idx(labels))
    return 'test has labels from 0 to 10, expected 0 to 9'


def spoilt_magic(folder: Path) -> str:
    (folder / 't10k-images-idx3-ubyte').write_bytes(b'not found')
    return 't10k-images-idx3-ubyte: not an IDX file'


def without_images(folder: Path) -> str:
    (folder / 't10k-images-idx3-ubyte').write_bytes(idx(np.zeros((0, 8, 8))))
    (folder / 't10k-labels-idx1-ubyte').write_bytes(idx(np.zeros(0)))
    return 'test.*no images'


def missing_idx(folder: Path) -> str:
    (folder / 'train-labels-idx1-ubyte.gz').unlink()
    return 'has no file train-labels-idx1-ubyte or train-labels.idx1-ubyte, with or without .gz.*--source'


def short_batch(folder: Path) -> str:
    path = folder / 'data_batch_3.bin'
    path.write_bytes(path.read_bytes()[:-1])
    return f'{path}: got 9218 bytes, expected a multiple of 3073; download it again'


def empty_batch(folder: Path) -> str:
    (folder / 'test_batch.bin').write_bytes(b'')
    return 'test_batch.bin: got 0 bytes'


def spoilt_cifar_label(folder: Path) -> str:
    content = bytearray((folder / 'data_batch_5.bin').read_bytes())
    content[2 * 3073] = 255
    (folder / 'data_batch_5.bin').write_bytes(content)
    return 'train has labels from 0 to 255, expected 0 to 9'


def missing_batch(folder: Path) -> str:
    (folder / 'data_batch_2.bin').unlink()
    return 'has no file data_batch_2.bin or data_batch_2,'


BAD_DOWNLOADS = [
    ('fashion_mnist', spoilt_idx, ValueError),
    ('fashion_mnist', spoilt_label, ValueError),
    ('fashion_mnist', spoilt_magic, ValueError),
    ('fashion_mnist', without_images, ValueError),
    ('fashion_mnist', missing_idx, FileNotFoundError),
    ('cifar10', short_batch, ValueError),
    ('cifar10', empty_batch, ValueError),
    ('cifar10', spoilt_cifar_label, ValueError),
    ('cifar10', missing_batch, FileNotFoundError),
]


@pytest.mark.parametrize(
    ('name', 'spoil', 'kind'), BAD_DOWNLOADS, ids=[spoil.__name__ for _, spoil, _ in BAD_DOWNLOADS]
)
def test_bad_downloads_are_refused_and_leave_nothing(name, spoil, kind, tmp_path):
    folder, data_dir = tmp_path / 'downloads', tmp_path / 'tfds'
    folder.mkdir()
    {'fashion_mnist': write_digits_as_idx, 'cifar10': cifar10_downloads}[name](folder)
    message = spoil(folder)
    with pytest.raises(kind, match=message) as error:
        prepare.prepare(name, folder, data_dir)
    assert str(folder) in str(error.value)
    assert not list(tmp_path.rglob('*array_record*'))


def test_an_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="got 'stl10', expected one of mnist, fashion_mnist, cifar10, cifar100"):
        prepare.prepare('stl10', tmp_path, tmp_path)


# The files of the authors as they are, in every layout.


def planes(images: np.ndarray) -> np.ndarray:
    """CIFAR's order: for each image red, green and blue, row by row."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def python_batch(path: Path, images: np.ndarray, key: bytes, labels: np.ndarray, protocol: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({b'data': planes(images), key: labels.tolist(), b'filenames': [b'a']}, protocol))


def mnist_files(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (folder / 'MNIST' / 'raw').mkdir(parents=True)
    for stem in ('train', 't10k'):
        (folder / f'MNIST/raw/{stem}-images.idx3-ubyte').write_bytes(idx(images[..., 0]))
        (folder / f'MNIST/raw/{stem}-labels.idx1-ubyte').write_bytes(idx(labels))


def cifar10_python(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for i in range(5):
        part = slice(i, i + 1)
        python_batch(folder / f'cifar-10-batches-py/data_batch_{i + 1}', images[part], b'labels', labels[part], i)
    python_batch(folder / 'cifar-10-batches-py/test_batch', images, b'labels', labels, 5)


def cifar100_python(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for name in ('train', 'test'):
        python_batch(folder / name, images, b'fine_labels', labels, 2)


def cifar100_compressed(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    cifar100_python(folder, images, labels)
    for name in ('train', 'test'):
        (folder / f'{name}.gz').write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


def cifar100_binary(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    records = np.column_stack([np.full(len(labels), 99, np.uint8), labels, planes(images)]).astype(np.uint8)
    for name in ('train', 'test'):
        (folder / f'{name}.bin').write_bytes(records.tobytes())


def svhn_files(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    content = {'X': images.transpose(1, 2, 3, 0), 'y': np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
    for name in ('train', 'test', 'extra'):
        savemat(folder / f'{name}_32x32.mat', content)


LAYOUTS = [
    ('mnist', mnist_files),
    ('cifar10', cifar10_python),
    ('cifar100', cifar100_python),
    ('cifar100', cifar100_compressed),
    ('cifar100', cifar100_binary),
    ('svhn_cropped', svhn_files),
]


@pytest.mark.parametrize(('name', 'layout'), LAYOUTS, ids=[layout.__name__ for _, layout in LAYOUTS])
def test_the_authors_files_are_read_as_they_are(name, layout, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 28, 28, 1) if name == 'mnist' else (5, 32, 32, 3), dtype=np.uint8)
    labels = np.asarray([3, 0, 9, 1, 99 if name == 'cifar100' else 7])
    layout(tmp_path, images, labels)
    for split in ('train', 'test'):
        source = data_set(name, split, tmp_path)
        np.testing.assert_array_equal(source.images, images)
        np.testing.assert_array_equal(source.labels, labels)
    assert len(source.classes) == (100 if name == 'cifar100' else 10)
    with pytest.raises(ValueError, match=r"got split 'all', expected one of train, test"):
        data_set(name, 'all', tmp_path)


def test_what_tfds_prepared_comes_first(downloads, data_dir):
    source = data_set(downloads.name, 'test[:2]', data_dir)
    assert len(source) == 2 and source.classes == tuple(CLASSES[downloads.name])


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    cifar10_python(tmp_path, np.zeros((5, 32, 32, 3), np.uint8), np.zeros(5, int))
    path = tmp_path / 'cifar-10-batches-py' / 'data_batch_2'
    for data, message in (
        (pickle.dumps(print), r'names builtins.print, expected arrays\); download it again'),
        (pickle.dumps([1]), 'got a pickled list, expected a dict'),
        (pickle.dumps({b'data': [1]}), r'got data int64\[1\] and labels \[\], expected uint8'),
        (path.read_bytes()[:-9], 'not a pickled batch'),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f'{path}: .*{message}'):
            data_set('cifar10', 'train', tmp_path)


def test_files_that_are_not_there_or_there_twice(tmp_path):
    (tmp_path / 'cifar-100-python.tar.gz').write_bytes(b'')
    missing = r"no file train.bin or train, .*unpack cifar-100-python.tar.gz; or prepare 'cifar100' with TFDS:\n  tfds"
    with pytest.raises(FileNotFoundError, match=missing):
        data_set('cifar100', 'train', tmp_path)
    for name in ('MNIST', 'FashionMNIST'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'train-images-idx3-ubyte').write_bytes(b'')
    with pytest.raises(ValueError, match='expected one of them; name the folder'):
        data_set('mnist', 'train', tmp_path)
    (tmp_path / 'train_32x32.mat').write_bytes(b'no file of Matlab')
    with pytest.raises(ValueError, match='train_32x32.mat: no images X and labels y .*download it again'):
        data_set('svhn_cropped', 'train', tmp_path)


def test_the_lines_of_the_guide_run():
    (block,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'data.md').read_text(), re.S)
    exec(compile(block, 'docs/data.md', 'exec'), {})


# The command line.


def command(*arguments) -> subprocess.CompletedProcess:
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    line = [sys.executable, '-W', 'error', '-m', 'bnn_jax.data.prepare', *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_command_prepares(tmp_path):
    cifar10_downloads(tmp_path)
    done = command('cifar10', f'--source={tmp_path}', f'--data_dir={tmp_path / "tfds"}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / 'tfds' / 'cifar10' / '3.0.2')
    assert len(tfds_source('cifar10', 'train', tmp_path / 'tfds')) == 15


def test_the_command_refuses_an_unknown_name(tmp_path):
    done = command('stl10', f'--source={tmp_path}', f'--data_dir={tmp_path}')
    assert done.returncode != 0
    assert 'fashion_mnist' in done.stderr and 'cifar10' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(('name', 'message'), [('cifar10', 'data_batch_1.bin'), ('fashion_mnist', 'train-images')])
def test_the_command_ends_with_the_message_of_an_error(name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['prepare', name, f'--source={tmp_path}', f'--data_dir={tmp_path / "tfds"}'])
    with pytest.raises(SystemExit, match=f'^error: {tmp_path} has no file {message}'):
        prepare.main()


@pytest.mark.parametrize('arguments', [[], ['cifar10'], ['cifar10', '--source=x', '--data_dir=x', '--fast']])
def test_the_command_refuses_other_arguments(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['prepare', *arguments])
    with pytest.raises(SystemExit) as error:
        prepare.main()
    assert error.value.code == 2


# Arrays of every kind.


SQUARES = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6, 1)


@pytest.mark.parametrize(
    'images',
    [SQUARES.astype('>f4'), SQUARES.astype('>f8'), np.asfortranarray(SQUARES).astype(np.float64)[:, ::-1][:, ::-1]],
    ids=['>f4', '>f8', 'strided'],
)
def test_bytes_in_any_order(images):
    images.flags.writeable = False
    source = ArraySource(images, np.arange(4).astype('>i8') % 2)
    batches, _ = training_batches(source, batch_size=4, seed=0, standardize=Unchanged())
    batch = batches[0]
    assert batch['image'].dtype.isnative and batch['label'].dtype == np.int32
    np.testing.assert_array_equal(np.sort(batch['image'].ravel()), np.sort(SQUARES.ravel()))


def test_masked_arrays_are_refused():
    """The masked numbers would be used in training."""
    masked, labels = np.ma.masked_array(SQUARES, SQUARES > 3), np.zeros(4, int)
    for make in (
        lambda: ArraySource(masked, labels),
        lambda: ArraySource(SQUARES, np.ma.masked_array(labels, labels == 0)),
        lambda: in_memory(zip(masked, labels, strict=True)),
    ):
        with pytest.raises(
            ValueError, match=r'got a masked array, expected numbers everywhere; give (images|labels)\.filled'
        ):
            make()
    example = {'image': masked[0], 'label': 0, 'name': 'cat.png'}
    batches, _ = training_batches([example], batch_size=1, seed=0, standardize=PlusMinusOne())
    with pytest.raises(ValueError, match='cat.png: image: got a masked array'):
        batches[0]


@pytest.mark.parametrize(
    'source',
    [
        ArraySource(SQUARES, np.full(4, 1.7)),
        ArraySource(SQUARES, np.eye(3)[[0, 1, 2, 0]]),
        [{'image': SQUARES[0], 'label': 1.7}],
        [{'image': SQUARES[0], 'label': 'cat'}],
        [{'image': SQUARES[0]}],
        [(SQUARES[0], 1)],
        [{'image': SQUARES[0], 'label': 2}],
    ],
    ids=['1.7', 'three shares', 'a 1.7', 'a name', 'none', 'a pair', 'too large'],
)
def test_labels_that_are_no_classes(source):
    with pytest.raises(ValueError, match='labels: got |got a tuple as example'):
        check_labels(source, 2)


@pytest.mark.parametrize(
    'source', [ArraySource(SQUARES, np.eye(2)[[0, 1, 1, 0]]), [{'image': SQUARES[0], 'label': np.int64(1)}]]
)
def test_labels_that_are_classes_or_shares_of_them(source):
    check_labels(source, 2)


def test_labels_for_a_loss_of_ones_own():
    check_labels(ArraySource(SQUARES, np.full(4, 1.7)), 2, classes=False)


@pytest.mark.parametrize('key', ['pythonClassName', 'type'])
def test_a_data_set_that_names_a_module_imports_nothing(tmp_path, monkeypatch, key):
    """Neither at once nor inside of a string."""
    folder = tmp_path / 'set' / '1.0.0'
    folder.mkdir(parents=True)
    (tmp_path / 'lies_beside.py').write_text('raise SystemExit("it runs")')
    monkeypatch.syspath_prepend(tmp_path)
    (folder / 'dataset_info.json').write_text('{}')
    dictionary = {'pythonClassName': 'tensorflow_datasets.core.features.features_dict.FeaturesDict'}
    inner = {key: 'lies_beside.X', 'content': {}}
    for described in (
        inner,
        dictionary | {'featuresDict': {'features': {'image': inner}}},
        dictionary | {'jsonFeature': {'json': json.dumps({'feature': [inner]})}},
        {key: 'tensorflow_datasets.core.features.x/../../lies_beside.X'},
    ):
        (folder / 'features.json').write_text(json.dumps(described))
        with pytest.raises(
            ValueError,
            match='expected one in tensorflow_datasets.core.features.*, because opening the data set imports',
        ):
            tfds_source('set', 'train', tmp_path)


def test_more_workers_than_a_machine_can_start():
    source = ArraySource(SQUARES, np.zeros(4, int))
    with pytest.raises(ValueError, match='workers: got 100000, expected 0'):
        next(evaluation_batches(source, batch_size=1, standardize=PlusMinusOne(), workers=100_000))
