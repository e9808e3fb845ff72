"""Photographs: files of every kind, folder trees, augmentations, worker processes, shards, pre-resized sets.

The oracles are pixels known beforehand, the colour formulas, and filters computed in NumPy.
"""

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnn_jax.data import ArraySource, CorruptImage, folder_source, skip_corrupt
from bnn_jax.data.images import decode, skipped_message
from bnn_jax.data.threads import in_threads

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
    grey, alpha = PHOTO[..., 0], PHOTO[..., 1]
    three = np.stack([grey] * 3, axis=-1)
    opaque = Image.fromarray(np.dstack([PHOTO, alpha]))
    palette = Image.fromarray(grey // 64)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 1])
    looked_up = np.asarray([(10, 20, 30), (40, 50, 60), (70, 80, 90), (255, 0, 1)], np.uint8)[grey // 64]
    bits = grey > 127
    for data, expected in (
        (png(PHOTO), PHOTO),
        (encoded(Image.fromarray(PHOTO), 'BMP'), PHOTO),
        (encoded(Image.fromarray(PHOTO), 'PPM'), PHOTO),
        (encoded(Image.fromarray(PHOTO), 'WEBP', lossless=True), PHOTO),
        (png(grey), three),
        (png(np.dstack([grey, alpha])), three),
        (encoded(opaque, 'PNG'), PHOTO),
        (encoded(palette, 'PNG'), looked_up),
        (encoded(palette, 'PNG', transparency=bytes([0, 100, 200, 255])), looked_up),
        (encoded(palette, 'PNG', transparency=1), looked_up),
        (encoded(palette, 'GIF'), looked_up),
        (encoded(Image.fromarray(bits), 'PNG'), np.stack([bits * np.uint8(255)] * 3, axis=-1)),
        (png(grey.astype(np.uint16) * 256 + alpha), three),
    ):
        image = decode(data, 'photo.JPEG')
        assert image.dtype == np.uint8 and image.shape == (5, 7, 3)
        np.testing.assert_array_equal(image, expected)


def test_one_channel_is_grey():
    image = decode(png(PHOTO[..., 0]), 'grey', channels=1)
    np.testing.assert_array_equal(image, PHOTO[..., :1])
    luma = PHOTO @ np.asarray([0.299, 0.587, 0.114])
    assert np.abs(decode(png(PHOTO), 'colour', channels=1)[..., 0] - luma).max() <= 1
    with pytest.raises(ValueError, match='channels: got 4, expected 1'):
        decode(png(PHOTO), 'photo', channels=4)


def flat_jpeg(mode: str, colour) -> bytes:
    return encoded(Image.new(mode, (16, 8), colour), 'JPEG', quality=100)


def of_one_colour(data: bytes) -> np.ndarray:
    image = decode(data, 'flat.JPEG')
    assert image.dtype == np.uint8 and image.shape == (8, 16, 3)
    assert np.ptp(image.reshape(-1, 3), axis=0).max() == 0
    return image[0, 0].astype(float)


def test_grey_and_colour_jpegs():
    np.testing.assert_allclose(of_one_colour(flat_jpeg('L', 77)), 77, atol=1)
    np.testing.assert_allclose(of_one_colour(flat_jpeg('RGB', (200, 30, 90))), (200, 30, 90), atol=2)


def test_cmyk_jpegs_with_and_without_adobes_marker():
    ink = np.asarray([30, 200, 90, 60])
    adobe = flat_jpeg('CMYK', tuple(ink.tolist()))  # Written as Adobe does: the marker APP14, and 255 - ink.
    start = adobe.index(b'\xff\xee')
    length = struct.unpack('>H', adobe[start + 2 : start + 4])[0]
    assert adobe[start + 4 : start + 9] == b'Adobe' and adobe[start + 2 + length - 1] == 0
    np.testing.assert_allclose(of_one_colour(adobe), (255 - ink[:3]) * (255 - ink[3]) / 255, atol=2)

    plain = adobe[:start] + adobe[start + 2 + length :]  # Now the numbers in the file are the ink.
    np.testing.assert_allclose(of_one_colour(plain), ink[:3] * ink[3] / 255, atol=2)

    ycck = bytearray(adobe)
    ycck[start + 2 + length - 1] = 2  # Now they are Y, Cb, Cr of 255 - CMY inverted, and 255 - K.
    y, cb, cr = 255.0 - ink[:3]
    rgb = np.asarray(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    )
    expected = (255 - rgb.clip(0, 255)) * (255 - ink[3]) / 255
    np.testing.assert_allclose(of_one_colour(bytes(ycck)), expected, atol=2)


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
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n',
    ],
    ids=['empty', 'text', 'head', 'cut', 'png-head', 'png-cut', 'check-sum', 'bomb', 'program'],
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
    names = {'n02': ['b.JPEG', 'a.jpg'], 'n10': ['c.PNG'], 'N99': ['d.JpEg'], 'n01': ['z.JPEG', 'é.JPEG', 'y.webp']}
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
    assert len(source) == len(expected) == 7
    for i, (label, path, value) in enumerate(expected):
        example = source[i]
        assert set(example) == {'image', 'label'} and type(example['label']) is int and example['label'] == label
        assert source.path(i) == tmp_path / path
        np.testing.assert_array_equal(example['image'], np.full((2, 3, 3), value))
    copy = pickle.loads(pickle.dumps(source))
    assert copy[6]['label'] == 3 and copy.path(6) == source.path(6)
    for index in (-1, 7):
        with pytest.raises(IndexError, match='expected an index from 0 to 6'):
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
