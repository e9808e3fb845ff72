"""Photographs: files of every kind, folder trees, augmentations, worker processes, shards, pre-resized sets.

The oracles are pixels known beforehand, the color formulas, and filters computed in NumPy.
"""

import io
import pickle
import re
import signal
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import input as bench_input
from bnn_jax.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ArraySource,
    CorruptImage,
    PlusMinusOne,
    Standardize,
    SubtractMean,
    center_crop,
    evaluation_batches,
    flip,
    folder_source,
    images,
    inception_crop,
    lighting,
    random_crop,
    resize_short,
    resize_short_between,
    resize_to,
    skip_corrupt,
    tfds_source,
    training_batches,
)
from bnn_jax.data.augmentations import RGB_AXES, RGB_DEVIATIONS, bilinear
from bnn_jax.data.images import decode, skipped_message
from bnn_jax.data.pipeline import steps_from
from bnn_jax.data.prepare import write
from bnn_jax.data.prepare_folder import main, prepare_folder
from bnn_jax.data.threads import in_threads
from experiments import picture_augmentations

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels), 'PNG')


# Decoding.


def test_lossless_files_give_their_pixels():
    gray, alpha = PHOTO[..., 0], PHOTO[..., 1]
    three = np.stack([gray] * 3, axis=-1)
    opaque = Image.fromarray(np.dstack([PHOTO, alpha]))
    palette = Image.fromarray(gray // 64)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 1])
    looked_up = np.asarray([(10, 20, 30), (40, 50, 60), (70, 80, 90), (255, 0, 1)], np.uint8)[gray // 64]
    bits = gray > 127
    for data, expected in (
        (png(PHOTO), PHOTO),
        (encoded(Image.fromarray(PHOTO), 'BMP'), PHOTO),
        (encoded(Image.fromarray(PHOTO), 'PPM'), PHOTO),
        (encoded(Image.fromarray(PHOTO), 'TIFF', compression='tiff_lzw'), PHOTO),
        (encoded(Image.fromarray(gray.astype(np.uint16) * 256 + alpha), 'TIFF'), three),
        (encoded(Image.fromarray(PHOTO), 'WEBP', lossless=True), PHOTO),
        (png(gray), three),
        (png(np.dstack([gray, alpha])), three),
        (encoded(opaque, 'PNG'), PHOTO),
        (encoded(palette, 'PNG'), looked_up),
        (encoded(palette, 'PNG', transparency=bytes([0, 100, 200, 255])), looked_up),
        (encoded(palette, 'PNG', transparency=1), looked_up),
        (encoded(palette, 'GIF'), looked_up),
        (encoded(Image.fromarray(bits), 'PNG'), np.stack([bits * np.uint8(255)] * 3, axis=-1)),
        (png(gray.astype(np.uint16) * 256 + alpha), three),
    ):
        image = decode(data, 'photo.JPEG')
        assert image.dtype == np.uint8 and image.shape == (5, 7, 3)
        np.testing.assert_array_equal(image, expected)


def test_one_channel_is_gray():
    image = decode(png(PHOTO[..., 0]), 'gray', channels=1)
    np.testing.assert_array_equal(image, PHOTO[..., :1])
    luma = PHOTO @ np.asarray([0.299, 0.587, 0.114])
    assert np.abs(decode(png(PHOTO), 'color', channels=1)[..., 0] - luma).max() <= 1
    with pytest.raises(ValueError, match='channels: got 4, expected 1'):
        decode(png(PHOTO), 'photo', channels=4)


def flat_jpeg(mode: str, color) -> bytes:
    return encoded(Image.new(mode, (16, 8), color), 'JPEG', quality=100)


def of_one_color(data: bytes) -> np.ndarray:
    image = decode(data, 'flat.JPEG')
    assert image.dtype == np.uint8 and image.shape == (8, 16, 3)
    assert np.ptp(image.reshape(-1, 3), axis=0).max() == 0
    return image[0, 0].astype(float)


def test_gray_and_color_jpegs():
    np.testing.assert_allclose(of_one_color(flat_jpeg('L', 77)), 77, atol=1)
    np.testing.assert_allclose(of_one_color(flat_jpeg('RGB', (200, 30, 90))), (200, 30, 90), atol=2)


def test_cmyk_jpegs_with_and_without_adobes_marker():
    ink = np.asarray([30, 200, 90, 60])
    adobe = flat_jpeg('CMYK', tuple(ink.tolist()))  # Written as Adobe does: the marker APP14, and 255 - ink.
    start = adobe.index(b'\xff\xee')
    length = struct.unpack('>H', adobe[start + 2 : start + 4])[0]
    assert adobe[start + 4 : start + 9] == b'Adobe' and adobe[start + 2 + length - 1] == 0
    np.testing.assert_allclose(of_one_color(adobe), (255 - ink[:3]) * (255 - ink[3]) / 255, atol=2)

    plain = adobe[:start] + adobe[start + 2 + length :]  # Now the numbers in the file are the ink.
    np.testing.assert_allclose(of_one_color(plain), ink[:3] * ink[3] / 255, atol=2)

    ycck = bytearray(adobe)
    ycck[start + 2 + length - 1] = 2  # Now they are Y, Cb, Cr of 255 - CMY inverted, and 255 - K.
    y, cb, cr = 255.0 - ink[:3]
    rgb = np.asarray(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    )
    expected = (255 - rgb.clip(0, 255)) * (255 - ink[3]) / 255
    np.testing.assert_allclose(of_one_color(bytes(ycck)), expected, atol=2)


def damaged_check_sum() -> bytes:
    data = bytearray(png(PHOTO))
    data[data.index(b'IDAT') + 6] ^= 255
    return bytes(data)


def png_of_size(width: int, height: int) -> bytes:
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header))


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'<html>not found</html>',
        flat_jpeg('RGB', 0)[:200],
        flat_jpeg('RGB', (1, 2, 3))[:-20],
        png(PHOTO)[:40],
        png(PHOTO)[:-30],
        damaged_check_sum(),
        png_of_size(60_000, 60_000),
        encoded(Image.fromarray(np.ones((2, 2), np.float32)), 'TIFF'),
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n',
    ],
    ids=['empty', 'text', 'head', 'cut', 'png-head', 'png-cut', 'check-sum', 'bomb', 'floats', 'program'],
)
def test_damaged_files_are_named(data):
    with pytest.raises(
        CorruptImage, match=r'^some/where\.JPEG: \d+ bytes that cannot be decoded.*skip_corrupt'
    ) as info:
        decode(data, 'some/where.JPEG')
    assert str(pickle.loads(pickle.dumps(info.value))) == str(info.value)
    assert isinstance(info.value, ValueError)


# Folder trees.


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def numbered_tree(root: Path, split: str = 'train', count: int = 12, classes: int = 3) -> Path:
    """PNGs called JPEG, image i filled with i, sorted as they are numbered, in equal classes."""
    files = {}
    for i in range(count):
        pixels = np.full((2 + i % 3, 3, 3), i, np.uint8)
        files[f'{split}/n{i * classes // count:08d}/image_{i:03d}.JPEG'] = png(pixels)
    return tree(root, files)


def test_a_tree_in_sorted_order(tmp_path):
    names = {'n02': ['b.JPEG', 'a.jpg', 'images/c/e.tif'], 'n10': ['c.PNG'], 'N99': ['d.JpEg']}
    names |= {'n01': ['z.JPEG', 'é.JPEG', 'y.webp']}
    files, expected = {}, []
    for label, name in enumerate(sorted(names)):
        for file in sorted(names[name]):
            expected.append((label, f'train/{name}/{file}', len(expected)))
            files[f'train/{name}/{file}'] = png(np.full((2, 3, 3), len(expected) - 1, np.uint8))
    files |= {
        'train/n02/.hidden.JPEG': b'',
        'train/n02/._a.jpg': b'',
        'train/n02/list.txt': b'',
        'train/.git/x.jpg': b'',
    }
    files |= {'train/README.jpg': b''}
    source = folder_source(tree(tmp_path, files), 'train')
    assert source.classes == ('N99', 'n01', 'n02', 'n10')
    assert len(source) == len(expected) == 8
    for i, (label, path, value) in enumerate(expected):
        example = source[i]
        assert set(example) == {'image', 'label', 'name'} and example['name'] == str(tmp_path / path)
        assert type(example['label']) is int and example['label'] == label
        assert source.path(i) == tmp_path / path
        np.testing.assert_array_equal(example['image'], np.full((2, 3, 3), value))
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7]['label'] == 3 and copy.path(7) == source.path(7)
    for index in (-1, 8):
        with pytest.raises(IndexError, match='expected an index from 0 to 7'):
            source[index]


def test_all_splits_have_the_classes_of_train(tmp_path):
    numbered_tree(tmp_path)
    tree(tmp_path, {'val/n00000002/x.JPEG': png(PHOTO)})
    (tmp_path / 'val/n00000001').mkdir()
    source = folder_source(str(tmp_path), 'val')
    assert source.classes == folder_source(tmp_path, 'train').classes
    assert len(source) == 1 and source[0]['label'] == 2
    (tmp_path / 'val/n77').mkdir()
    with pytest.raises(ValueError, match=r"val: got class 'n77', which .*train lacks"):
        folder_source(tmp_path, 'val')


def test_without_train_a_split_has_its_own_classes(tmp_path):
    numbered_tree(tmp_path, 'val', 4, 2)
    assert folder_source(tmp_path, 'val').classes == ('n00000000', 'n00000001')


def test_trees_that_are_not_as_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf'no folder {tmp_path}/train; expected .*/train/<class>/<image>.JPEG'):
        folder_source(tmp_path, 'train')
    tree(tmp_path, {'val/ILSVRC2012_val_00000001.JPEG': png(PHOTO)})
    with pytest.raises(ValueError, match=r'val: got no class folders; .*sort them into a folder for each class'):
        folder_source(tmp_path, 'val')
    numbered_tree(tmp_path)
    (tmp_path / 'train/n5').mkdir()
    with pytest.raises(ValueError, match=r'train/n5: got no images, expected at least one'):
        folder_source(tmp_path, 'train')
    tree(tmp_path, {'train/n5/a/b.heic': b''})
    with pytest.raises(ValueError, match=r'train/n5: got no images but files .heic, expected at least one file .jpeg'):
        folder_source(tmp_path, 'train')
    (tmp_path / 'test/n00000001').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'test: got no images in 1 class folders'):
        folder_source(tmp_path, 'test')


# Damaged files.


def damage(root: Path, *indices: int) -> list[Path]:
    paths = [folder_source(root, 'train').path(i) for i in indices]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-30])
    return paths


def test_a_damaged_file_stops_or_is_skipped_and_counted(tmp_path):
    source = folder_source(numbered_tree(tmp_path), 'train')
    bad = damage(tmp_path, 3, 8)
    for index, path in zip((3, 8), bad, strict=True):
        with pytest.raises(CorruptImage, match=f'^{path}: '):
            source[index]
    with pytest.warns(UserWarning, match=f'skipped 2 of 12 images .*{bad[0]}.*{bad[1]}'):
        rest = skip_corrupt(source)
    assert len(rest) == 10 and len(rest.skipped) == 2
    assert [int(rest[i]['image'][0, 0, 0]) for i in range(10)] == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    assert [rest[i]['label'] for i in range(10)] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]


def test_nothing_to_skip_and_nothing_left(tmp_path):
    source = folder_source(numbered_tree(tmp_path, count=3), 'train')
    whole = skip_corrupt(source)
    assert len(whole) == 3 and whole.skipped == ()
    first = damage(tmp_path, 0, 1, 2)[0]
    with pytest.raises(ValueError, match=f'all 3 images are damaged, the first one: {first}'):
        skip_corrupt(source)


def test_a_missing_file_is_not_called_damaged(tmp_path):
    source = folder_source(numbered_tree(tmp_path), 'train')
    source.path(4).unlink()
    with pytest.raises(FileNotFoundError, match='image_004'):
        skip_corrupt(source)


def test_the_message_names_the_first_few():
    text = skipped_message(tuple(f'file{i}: bad; do this' for i in range(7)), 2000)
    assert text.startswith('skipped 7 of 2,000 images') and 'file4' in text and 'file5' not in text
    assert text.endswith(' ...') and 'do this' not in text


def test_threads_keep_the_order():
    assert list(in_threads(lambda x: -x, range(1000))) == [-x for x in range(1000)]


def test_skip_corrupt_of_any_source():
    source = ArraySource(np.zeros((2, 1, 1, 3), np.uint8), np.arange(2))
    assert skip_corrupt(source)[1]['label'] == 1


# Augmentations.


def triangle(rows: np.ndarray, size: int) -> np.ndarray:
    """The first axis at another size: each output averages the inputs under a triangle centered on it."""
    length, factor = len(rows), len(rows) / size
    result = np.zeros((size, *rows.shape[1:]))
    for i in range(size):
        center, total = (i + 0.5) * factor, 0.0
        for j in range(length):
            weight = max(0.0, 1 - abs(j + 0.5 - center) / max(factor, 1.0))
            result[i] += weight * rows[j]
            total += weight
        result[i] /= total
    return result


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The resized image in real numbers, rows first, without rounding."""
    return triangle(triangle(image.astype(float), height).swapaxes(0, 1), width).swapaxes(0, 1)


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('size', [(3, 4), (9, 5), (13, 17), (26, 7), (1, 1), (9, 17)])
def test_bilinear_is_its_filter(size, channels):
    image = np.random.default_rng(1).integers(0, 256, (13, 17, channels), dtype=np.uint8)
    result = bilinear(image, *size)
    assert result.dtype == np.uint8 and result.shape == (*size, channels)
    # Two roundings to whole levels, the first averaged by the second pass: less than 1/2 + 1/2, and fixed-point weights.
    assert np.abs(result - resized(image, *size)).max() <= 1.01
    assert bilinear(image, 13, 17) is image
    if channels == 4:  # No channel is the opacity of the others.
        image[..., 3] = 0
        np.testing.assert_array_equal(bilinear(image, *size)[..., :3], result[..., :3])


def test_bilinear_of_floats_rounds_nothing():
    image = np.random.default_rng(1).normal(size=(13, 17, 2))
    result = bilinear(image, 5, 8)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, resized(image, 5, 8), atol=1e-6)
    with pytest.raises(ValueError, match='got pixels of dtype uint16, expected uint8'):
        bilinear(image.astype(np.uint16), 5, 8)


def test_a_strip_is_refused_before_it_fills_the_memory(tmp_path):
    tree(tmp_path, {'train/a/strip.png': png(np.zeros((1, 2000, 3), np.uint8))})
    source = folder_source(tmp_path, 'train')
    with pytest.raises(ValueError, match=r'a/strip.png: image: 1 x 2000 pixels .* would be 256 x 512,000'):
        next(evaluation_batches(source, batch_size=1, standardize=PlusMinusOne(), augmentations=(resize_short(256),)))
    with pytest.raises(ValueError, match=r'a/strip.png: image: 1 x 2000'):
        prepare_folder('strips', tmp_path, tmp_path / 'data', splits=('train',))


@pytest.mark.parametrize(
    ('height', 'width', 'size', 'expected'),
    [
        (6, 9, 4, (4, 6)),
        (9, 6, 4, (6, 4)),
        (7, 11, 4, (4, 6)),
        (11, 7, 20, (31, 20)),
        (5, 5, 3, (3, 3)),
        (4, 9, 4, (4, 9)),
    ],
)
def test_resize_short_keeps_the_aspect_ratio(height, width, size, expected):
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = resize_short(size)(image, RNG)
    assert result.shape == (*expected, 3)
    assert np.abs(result - resized(image, *expected)).max() <= 1.01


def test_resize_short_between_draws_every_size_alike():
    image, rng = np.zeros((8, 12, 3), np.uint8), np.random.default_rng(0)
    shapes = [resize_short_between(4, 7)(image, rng).shape for _ in range(2000)]
    counts = {size: shapes.count((size, 12 * size // 8, 3)) for size in (4, 5, 6, 7)}
    assert sum(counts.values()) == 2000 and min(counts.values()) > 400
    assert resize_short_between() == resize_short_between(256, 480)


def test_resize_to_does_not_keep_the_aspect_ratio():
    result = resize_to(4, 6)(PHOTO, RNG)
    assert result.shape == (4, 6, 3) and np.abs(result - resized(PHOTO, 4, 6)).max() <= 1.01
    assert resize_to() == resize_to(256, 256)


LARGE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def windows(image: np.ndarray, size: int) -> dict[bytes, tuple[int, int]]:
    height, width = image.shape[:2]
    return {
        image[top : top + size, left : left + size].tobytes(): (top, left)
        for top in range(height - size + 1)
        for left in range(width - size + 1)
    }


@pytest.mark.parametrize('size', [1, 3, 5])
def test_random_crop_cuts_every_window_alike(size):
    rng, expected = np.random.default_rng(0), windows(LARGE, size)
    results = [random_crop(size)(LARGE, rng) for _ in range(60 * len(expected))]
    assert {result.shape for result in results} == {(size, size, 3)}
    places = [expected[result.tobytes()] for result in results]
    assert min(places.count(place) for place in expected.values()) > 20


@pytest.mark.parametrize(('size', 'place'), [(5, (0, 1)), (4, (0, 1)), (3, (1, 2)), (2, (1, 2)), (1, (2, 3))])
def test_center_crop(size, place):
    assert windows(LARGE, size)[center_crop(size)(LARGE, RNG).tobytes()] == place


@pytest.mark.parametrize('crop', [random_crop(6), center_crop(6)])
def test_crops_refuse_smaller_images(crop):
    with pytest.raises(ValueError, match=r'got 5 x 7 pixels, expected at least 6 x 6 .*resize_short\(6\)'):
        crop(LARGE, RNG)


def test_the_sizes_of_imagenet_are_the_defaults():
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    short = resize_short()(photo, RNG)
    assert short.shape == (256, 341, 3)
    for size in (224, 227):
        assert np.array_equal(
            center_crop(size)(short, RNG), short[(256 - size) // 2 :][:size, (341 - size) // 2 :][:, :size]
        )
        assert random_crop(size)(short, RNG).shape == (size, size, 3)
    assert random_crop() == random_crop(224) and center_crop() == center_crop(224)
    assert inception_crop() == inception_crop(224, (0.08, 1), (3 / 4, 4 / 3))


def test_inception_windows_have_the_distribution_they_say():
    rng, height, width = np.random.default_rng(0), 400, 400
    areas, ratios, tops, lefts = [], [], [], []
    for _ in range(4000):
        top, left, h, w = inception_crop(8).window(height, width, rng)
        assert 0 <= top <= height - h and 0 <= left <= width - w
        areas.append(h * w / (height * width))
        ratios.append(w / h)
        if h < height and w < width:
            tops.append(top / (height - h))
            lefts.append(left / (width - w))
    assert 0.079 < min(areas) < 0.1 and max(areas) > 0.9
    assert 0.74 < min(ratios) < 0.77 and 1.3 < max(ratios) < 1.35
    small = [a for a in areas if a < 0.7]  # Those always fit, so their distribution is the one that is drawn from.
    assert abs(np.mean(small) - 0.39) < 0.02 and abs(np.std(small) - 0.62 / 12**0.5) < 0.01
    assert abs(np.mean(np.log(ratios))) < 0.02
    assert abs(np.mean(tops) - 0.5) < 0.02 and abs(np.mean(lefts) - 0.5) < 0.02


@pytest.mark.parametrize(
    ('height', 'width', 'expected'), [(90, 3, (43, 0, 4, 3)), (3, 90, (0, 43, 3, 4)), (1, 1, (0, 0, 1, 1))]
)
def test_inception_windows_of_extreme_images(height, width, expected):
    crop = inception_crop(8, area=(0.9, 1.0))
    assert crop.window(height, width, np.random.default_rng(0)) == expected


def test_inception_crop_scales_its_window():
    image = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for seed in range(10):
        result = inception_crop(6)(image, np.random.default_rng(seed))
        top, left, h, w = inception_crop(6).window(20, 30, np.random.default_rng(seed))
        assert np.abs(result - resized(image[top : top + h, left : left + w], 6, 6)).max() <= 1.01


# Normalizations.


def test_lighting_adds_one_color():
    """Pixel by pixel in plain Python, in 0..1 as the source has it; another generator of the same seed gives the draws."""
    axes = {'r': (-0.5675, 0.7192, 0.4009), 'g': (-0.5808, -0.0045, -0.8140), 'b': (-0.5836, -0.6948, 0.4203)}
    clipped = set()
    for seed in range(20):
        draws = np.random.default_rng(seed).normal(scale=2.0, size=3)
        shift = [
            sum(v * e * a for v, e, a in zip(axes[c], (0.2175, 0.0188, 0.0045), draws, strict=True)) for c in 'rgb'
        ]
        actual = lighting(2.0)(PHOTO, np.random.default_rng(seed))
        assert actual.dtype == np.uint8 and actual.shape == PHOTO.shape
        for place in np.ndindex(PHOTO.shape):
            exact = 255 * (PHOTO[place] / 255 + shift[place[2]])
            clipped |= {exact < 0, exact > 255}
            assert abs(int(actual[place]) - min(max(exact, 0), 255)) <= 0.5 + 1e-6
    assert clipped == {False, True}
    np.testing.assert_array_equal(lighting(0)(PHOTO, np.random.default_rng(0)), PHOTO)


def test_the_covariance_of_lighting():
    """On a gray image: std^2 times the sum over axes of their outer products times the squared deviations."""
    gray, rng = np.full((1, 1, 3), 128, np.uint8), np.random.default_rng(0)
    drawn = np.array([lighting(0.5)(gray, rng)[0, 0] for _ in range(4000)]) - 128.0
    axes, deviations = np.array(RGB_AXES), np.array(RGB_DEVIATIONS)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=2e-4)
    expected = (0.5 * 255) ** 2 * axes @ np.diag(deviations**2) @ axes.T
    # A variance of 4,000 draws has a relative standard error of sqrt(2 / 4000) = 2.2 %; rounding adds 1 / 12.
    np.testing.assert_allclose(np.cov(drawn.T), expected, rtol=0.1)
    assert (np.abs(drawn.mean(0)) < 4 * np.sqrt(np.diag(expected) / 4000)).all()


def test_lighting_refuses():
    with pytest.raises(ValueError, match=r'image: got uint8\[5, 7, 1\], expected uint8 \(H, W, 3\)'):
        lighting()(PHOTO[..., :1], np.random.default_rng(0))
    with pytest.raises(ValueError, match=r'expected uint8 \(H, W, 3\)$'):
        lighting()(PHOTO.astype(np.float32), np.random.default_rng(0))
    with pytest.raises(ValueError, match='lighting: got std -1, expected a standard deviation of at least 0'):
        lighting(-1)


COLORS = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)


def test_normalizations_are_their_formulas():
    x, eps = COLORS.astype(np.float64), float(np.finfo(np.float32).eps)
    mean, std = np.asarray(IMAGENET_MEAN), np.asarray(IMAGENET_STD)
    for normalize, expected, largest in (
        (Standardize(IMAGENET_MEAN, IMAGENET_STD), (x / 255 - mean) / std, 2 / std.min()),
        (SubtractMean(), x - 255 * mean, 255),
        (SubtractMean((0.0, 0.5, 1.0)), x - np.asarray([0, 127.5, 255]), 255),
        (PlusMinusOne(), 2 * x / 255 - 1, 2),
    ):
        result = normalize(COLORS)
        assert result.dtype == np.float32 and result.shape == COLORS.shape
        np.testing.assert_allclose(result, expected, rtol=0, atol=2 * eps * largest)
    assert PlusMinusOne()(COLORS).min() == -1 and PlusMinusOne()(COLORS).max() == 1
    assert PlusMinusOne()(COLORS[..., :1]).shape == (16, 16, 1)


@pytest.mark.parametrize('normalize', [SubtractMean(), PlusMinusOne()])
@pytest.mark.parametrize('image', [COLORS.astype(np.float32), COLORS[0]], ids=['dtype', 'rank'])
def test_normalizations_refuse(normalize, image):
    with pytest.raises(ValueError, match=r'image: got .* expected uint8 \(H, W, [3C]\)'):
        normalize(image)


# Batches: workers and hosts.


def photos(count: int = 26, size: int = 12) -> ArraySource:
    pixels = np.random.default_rng(5).integers(0, 256, (count, size, size + 3, 3), dtype=np.uint8)
    return ArraySource(pixels, np.arange(count))


AUGMENTATIONS = (resize_short_between(9, 14), random_crop(8), flip)


def training(batch_size: int = 8, seed: int = 0, **options):
    return training_batches(
        photos(), batch_size=batch_size, seed=seed, standardize=PlusMinusOne(), augmentations=AUGMENTATIONS, **options
    )


def same(ours: list[dict], theirs: list[dict]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a[key], b[key]) and a[key].dtype == b[key].dtype
        for a, b in zip(ours, theirs, strict=True)
        for key in ('image', 'label')
    )


def test_every_augmentation_composes_in_batches():
    lists = (
        (resize_short(10), random_crop(8), flip),
        (resize_short_between(9, 14), random_crop(8), flip),
        (resize_to(9, 9), random_crop(8), flip),
        (inception_crop(8), lighting(0.1), flip),
    )
    for augmentations in lists:
        for normalize in (Standardize(IMAGENET_MEAN, IMAGENET_STD), SubtractMean(), PlusMinusOne()):
            batches, _ = training_batches(
                photos(), batch_size=4, seed=0, standardize=normalize, augmentations=augmentations
            )
            assert batches[0]['image'].shape == (4, 8, 8, 3) and batches[0]['image'].dtype == np.float32


def test_workers_give_the_batches_of_threads_from_any_step():
    batches, epoch_steps = training()
    assert epoch_steps == 3
    whole = [batches[step] for step in range(8)]
    assert same(list(steps_from(batches, 0, 8)), whole)
    assert same(list(steps_from(batches, 2, 8, workers=2)), whole[2:])  # Into two more epochs.
    assert list(steps_from(batches, 8, 8, workers=2)) == []


def test_evaluation_applies_its_augmentations():
    options = {'batch_size': 8, 'standardize': PlusMinusOne(), 'augmentations': (resize_short(9), center_crop(8))}
    batches = list(evaluation_batches(photos(), **options))
    assert [len(batch['label']) for batch in batches] == [8, 8, 8, 2]
    for batch in batches:
        for image, label in zip(batch['image'], batch['label'], strict=True):
            expected = center_crop(8)(resize_short(9)(photos().images[label], RNG), RNG)
            np.testing.assert_array_equal(image, PlusMinusOne()(expected))


class Process:
    """Labels tell about the process that reads: how many JAX backends it holds, and whether Ctrl-C ends it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        from jax._src import xla_bridge

        facts = (len(xla_bridge._backends), int(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN))
        return {'image': np.zeros((1, 1, 3), np.uint8), 'label': facts[index]}


def test_workers_evaluate_too_take_no_device_and_outlive_an_interrupt():
    (batch,) = evaluation_batches(Process(), batch_size=2, standardize=PlusMinusOne(), workers=1)
    assert batch['label'].tolist() == [0, 0]


def test_a_damaged_file_is_named_from_a_worker_too(tmp_path):
    source = folder_source(numbered_tree(tmp_path, count=4, classes=2), 'train')
    (path,) = damage(tmp_path, 2)
    options = {'batch_size': 4, 'standardize': PlusMinusOne(), 'augmentations': (resize_to(4, 4),)}
    for workers in (0, 1):
        with pytest.raises(CorruptImage, match=str(path)):
            list(evaluation_batches(source, **options, workers=workers))


@pytest.mark.parametrize('count', [1, 2, 4, 8])
def test_the_parts_of_all_hosts_are_the_batch_of_one(count):
    whole, epoch_steps = training()
    hosts = [training(shard=(index, count)) for index in range(count)]
    assert all(steps == epoch_steps for _, steps in hosts)
    for step in (0, 1, 2, 3, 7, 100):
        parts = [batches[step] for batches, _ in hosts]
        assert {len(part['label']) for part in parts} == {8 // count}
        joined = {key: np.concatenate([part[key] for part in parts]) for key in ('image', 'label')}
        assert same([joined], [whole[step]])


class Recorded(ArraySource):
    """Notes which images were asked for."""

    def __getitem__(self, index: int) -> dict:
        self.asked = getattr(self, 'asked', []) + [index]
        return super().__getitem__(index)


def test_a_host_decodes_its_own_images_only():
    source = Recorded(photos().images, photos().labels)
    batches, epoch_steps = training_batches(source, batch_size=8, seed=0, standardize=PlusMinusOne(), shard=(1, 2))
    labels = [label for step in range(epoch_steps) for label in batches[step]['label'].tolist()]
    assert source.asked == labels and len(labels) == 12


@pytest.mark.parametrize('total', [1, 3, 4, 5, 7, 8, 9, 12, 13, 26])
@pytest.mark.parametrize('count', [1, 2, 4])
def test_hosts_evaluate_every_image_once_in_as_many_batches(total, count):
    source = photos(total)
    options = {'batch_size': 4, 'standardize': PlusMinusOne()}
    whole = list(evaluation_batches(source, **options))
    hosts = [list(evaluation_batches(source, **options, shard=(index, count))) for index in range(count)]
    assert {len(batches) for batches in hosts} == {-(-total // 4)}
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in ('image', 'label')}
        for parts in zip(*hosts, strict=True)
    ]
    assert same(joined, whole)
    assert np.array_equal(np.concatenate([batch['label'] for batch in joined]), np.arange(total))
    assert all(len(part['label']) <= 4 // count for batches in hosts for part in batches)


@pytest.mark.parametrize('shard', [(2, 2), (-1, 2), (0, 0)])
def test_shards_that_are_none(shard):
    with pytest.raises(ValueError, match=r'shard: got .* expected \(index, count\)'):
        training(shard=shard)


def test_batches_that_hosts_cannot_share():
    with pytest.raises(ValueError, match='batch_size: got 8 for 3 hosts, expected a positive multiple of 3'):
        training(shard=(0, 3))
    with pytest.raises(ValueError, match='batch_size: got 5 for 2 hosts'):
        next(evaluation_batches(photos(), batch_size=5, standardize=PlusMinusOne(), shard=(1, 2)))
    with pytest.raises(ValueError, match='workers: got -1, expected 0'):
        next(steps_from(training()[0], 0, 1, workers=-1))


@pytest.mark.parametrize(
    'augmentation', [flip, random_crop(8), resize_short_between(9, 14), inception_crop(8), lighting(0.1)]
)
def test_evaluation_refuses_chance(augmentation):
    with pytest.raises(ValueError, match=r'evaluation: an augmentation draws random numbers .*center_crop'):
        next(evaluation_batches(photos(), batch_size=2, standardize=PlusMinusOne(), augmentations=[augmentation]))


# TFDS: sets that hold files of every kind, and sets of pre-resized photographs.


def test_tfds_sets_decode_as_folders_do(tmp_path):
    import tensorflow_datasets as tfds

    files = [
        flat_jpeg('L', 77),
        flat_jpeg('RGB', (200, 30, 90)),
        flat_jpeg('CMYK', (30, 200, 90, 60)),
        png(PHOTO),
        png(np.dstack([PHOTO, PHOTO[..., 0]])),
        flat_jpeg('RGB', 0)[:200],
    ]
    features = {
        'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
        'label': tfds.features.ClassLabel(num_classes=len(files)),
    }
    examples = ((i, {'image': io.BytesIO(data), 'label': i}) for i, data in enumerate(files))
    write('all_kinds', '1.0.0', features, {'train': examples}, tmp_path)
    source = tfds_source('all_kinds', 'train', tmp_path)
    with pytest.warns(UserWarning, match=r'skipped 1 of 6 images .*all_kinds/train\[\d\]'):
        whole = skip_corrupt(source)
    assert sorted(whole[i]['label'] for i in range(len(whole))) == [0, 1, 2, 3, 4]
    for i in range(len(whole)):
        np.testing.assert_array_equal(whole[i]['image'], decode(files[whole[i]['label']], ''))
    again = pickle.loads(pickle.dumps(whole))
    np.testing.assert_array_equal(again[2]['image'], whole[2]['image'])
    with pytest.raises(CorruptImage, match=r'all_kinds/train\[\d\].*prepare it again'):
        source.in_memory()


def smooth(i: int, height: int = 40, width: int = 60) -> np.ndarray:
    """A picture without edges, which JPEG keeps almost unchanged; every i another one."""
    y, x = np.mgrid[:height, :width] / 60
    return np.stack([40 * i + 60 * x, 200 - 60 * y, 100 + 50 * x * y], axis=-1).astype(np.uint8)


@pytest.fixture
def photo_tree(tmp_path) -> Path:
    files = {f'train/n{i // 2}/photo{i}.JPEG': png(smooth(i)) for i in range(4)}
    return tree(
        tmp_path / 'tree', files | {'val/n1/one.JPEG': png(smooth(1, 60, 40)), 'val/n0/gray.JPEG': flat_jpeg('L', 9)}
    )


def test_pre_resized_photographs_read_back(photo_tree, tmp_path):
    folder = prepare_folder('small_20', photo_tree, tmp_path / 'tfds', short_side=20)
    assert folder == tmp_path / 'tfds/small_20/1.0.0'
    for split in ('train', 'val'):
        tree_source, small = folder_source(photo_tree, split), tfds_source('small_20', split, tmp_path / 'tfds')
        assert small.records.dataset_info.features['label'].names == ['n0', 'n1']
        assert len(small) == len(tree_source)
        names = {small.records[i]['file_name'].decode(): i for i in range(len(small))}
        for i in range(len(tree_source)):
            ours = small[names[str(tree_source.path(i).relative_to(photo_tree / split))]]
            expected = resize_short(20)(tree_source[i]['image'], RNG)
            assert ours['label'] == tree_source[i]['label'] and ours['image'].shape == expected.shape
            assert min(expected.shape[:2]) == 20
            assert np.abs(ours['image'].astype(int) - expected).mean() < 3  # JPEG
        assert small.records.data_source[0].find(b'\xff\xd8\xff') > 0
    with pytest.raises(FileExistsError, match='small_20/1.0.0 is there already'):
        prepare_folder('small_20', photo_tree, tmp_path / 'tfds')


def test_preparing_stops_at_a_damaged_file_or_leaves_it_out(photo_tree, tmp_path):
    first, second = damage(photo_tree, 1, 3)
    with pytest.raises(CorruptImage, match=str(first)):
        prepare_folder('small', photo_tree, tmp_path / 'tfds', splits=['train'], short_side=20)
    skipped = []
    prepare_folder('small', photo_tree, tmp_path / 'tfds', splits=['train'], short_side=20, on_corrupt=skipped.append)
    assert [str(error).split(':')[0] for error in skipped] == [str(first), str(second)]
    assert len(tfds_source('small', 'train', tmp_path / 'tfds')) == 2
    damage(photo_tree, 0, 2)
    with pytest.raises(ValueError, match='train: all 4 images are damaged'):
        prepare_folder('none', photo_tree, tmp_path / 'tfds', splits=['train'], on_corrupt=skipped.append)


def test_splits_with_different_classes_are_not_prepared(tmp_path):
    numbered_tree(tmp_path, 'val', 4, 2)
    numbered_tree(tmp_path, 'test', 6, 3)
    with pytest.raises(ValueError, match='got splits with different classes'):
        prepare_folder('small', tmp_path, tmp_path / 'tfds', splits=['val', 'test'])
    with pytest.raises(ValueError, match='splits: got none'):
        prepare_folder('small', tmp_path, tmp_path / 'tfds', splits=[])


@pytest.mark.parametrize('name', ['ImageNet', 'image net', '../up', '256'])
def test_names_of_data_sets(name, photo_tree, tmp_path):
    with pytest.raises(ValueError, match='expected lower-case letters, digits and _, with no digit first'):
        prepare_folder(name, photo_tree, tmp_path)


def test_the_command(photo_tree, tmp_path, monkeypatch, capsys):
    (bad,) = damage(photo_tree, 2)
    options = [f'--source={photo_tree}', f'--data_dir={tmp_path}/tfds', '--short_side=20']
    monkeypatch.setattr(sys, 'argv', ['prepare_folder', 'small', *options])
    with pytest.raises(SystemExit, match=f'^error: {bad}: '):
        main()
    monkeypatch.setattr(sys, 'argv', ['prepare_folder', 'small', *options, '--skip_corrupt'])
    main()
    printed = capsys.readouterr().out
    assert f'{tmp_path}/tfds/small/1.0.0\n' in printed and 'skipped 1 of 6 images' in printed
    assert len(tfds_source('small', 'train', tmp_path / 'tfds')) == 3


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'I;16', 'CMYK'])
@pytest.mark.parametrize('channels', [1, 3])
def test_an_image_that_is_too_large_is_read_smaller(monkeypatch, mode, channels):
    """Each pixel is the mean of a square, here of 4 x 4 pixels in strips of 8 lines; squares at the border may be smaller."""
    monkeypatch.setattr(images, 'LARGEST', 81)
    monkeypatch.setattr(images, 'STRIP', 8 * 34)
    pixels = RNG.integers(0, 256, (33, 34), dtype=np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16) << 8) if mode == 'I;16' else Image.fromarray(pixels).convert(mode)
    data = encoded(image, 'TIFF' if mode == 'CMYK' else 'PNG')
    with monkeypatch.context() as whole:
        whole.setattr(images, 'LARGEST', 10**6)
        all_of_it = decode(data, 'x', channels).astype(float)
    expected = [[all_of_it[i : i + 4, j : j + 4].mean((0, 1)) for j in range(0, 34, 4)] for i in range(0, 33, 4)]
    result = decode(data, 'x', channels)
    assert result.dtype == np.uint8 and result.shape == (9, 9, channels)
    np.testing.assert_allclose(result, expected, rtol=0, atol=0.51)


def test_an_image_of_32_bits_is_refused_at_any_size(monkeypatch):
    """The range of its pixels is not known, whether or not the image is read smaller."""
    data = encoded(Image.fromarray(np.full((20, 20), 70_000, np.int32)), 'TIFF')
    for largest in (10**6, 81):
        monkeypatch.setattr(images, 'LARGEST', largest)
        with pytest.raises(CorruptImage, match='32 bits each'):
            decode(data, 'x')


def test_a_jpeg_that_is_too_large_is_decoded_smaller(monkeypatch):
    """Smooth, so that all ways of making it smaller agree."""
    monkeypatch.setattr(images, 'LARGEST', 5000)
    ramp = np.add.outer(np.arange(160), np.arange(120)) * 0.9
    data = encoded(Image.fromarray(np.rint(ramp).astype(np.uint8)), 'JPEG', quality=95)
    expected = ramp.reshape(80, 2, 60, 2).mean((1, 3))
    np.testing.assert_allclose(decode(data, 'x', 1)[..., 0], expected, rtol=0, atol=4)


# The picture, its page, the benchmark.

DOCS = Path(__file__).parents[2] / 'docs'


def test_the_page_shows_every_augmentation():
    text = (DOCS / 'augmentations.md').read_text()
    shown = ' '.join(title for title, _, _ in picture_augmentations.PANELS)
    for name in (
        'resize_short',
        'resize_short_between',
        'resize_to',
        'random_crop',
        'center_crop',
        'inception_crop',
        'lighting',
    ):
        assert re.search(rf'\b{name}\(', text) and re.search(rf'\b{name}\(', shown)
    for name in ('flip', 'crop('):
        assert name in text and name in shown
    with Image.open(DOCS / 'augmentations.png') as picture:
        picture.load()
        assert picture.width > 500
    red = IMAGENET_MEAN[0], IMAGENET_STD[0]
    for low, high in (((0 - red[0]) / red[1], (1 - red[0]) / red[1]), (-255 * red[0], 255 - 255 * red[0])):
        assert any(f'{low:.{digits}f} .. {high:.{digits}f} |' in text for digits in (1, 2))


def test_the_picture_is_drawn():
    picture = picture_augmentations.picture()
    assert picture.width > 500 and len(picture.getcolors()) > 64


def test_the_benchmark_prints_every_pipeline(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')  # on a wide terminal, where no heading is folded
    bench_input.main(workers=(0,), batch_size=2, seconds=0.01, images=4, step=False)
    printed = capsys.readouterr().out
    for column in ('short side 256, crop 224', '256..480', 'Inception', 'pre-resized'):
        assert column in printed
    assert re.search(r'│ 0 +│( +[\d,]+ │){4}', printed)
