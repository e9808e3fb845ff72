"""A folder tree of images, root/split/class/file, the usual form of ImageNet."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bnn_jax.data.images import decode, printable

SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')


class FolderSource:
    """A source of image files, which are read and decoded on access.

    Args:
        folder: the folder of the split.
        files: paths inside the folder, as bytes.
        labels: the labels of the files, int32.
        classes: the names of the classes' folders.
    """

    def __init__(self, folder: Path, files: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]):
        # As one array of bytes, the paths of ImageNet take about 40 MB in each worker process: a third of what a list of str
        # takes.
        self.folder, self.files, self.labels, self.classes = folder, files, labels, classes

    def __len__(self) -> int:
        return len(self.files)

    def described(self) -> dict[str, Any]:
        """How config.json describes the source: classes and a checksum of `files`, not the folder, which may move."""
        return {'kind': 'data.FolderSource', 'classes': self.classes, 'crc32': zlib.crc32(self.files.data)}

    def path(self, index: int) -> Path:
        """The path of image `index`."""
        return self.folder / os.fsdecode(self.files[index])

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.folder}[{index}]: expected an index from 0 to {len(self) - 1}')
        path = self.path(index)
        name = printable(path)
        return {'image': decode(path.read_bytes(), name), 'label': int(self.labels[index]), 'name': name}


def folder_source(root: str | os.PathLike, split: str) -> FolderSource:
    """The images in root/split/<class>/, at any depth: uint8 (H, W, 3), each of its own size.

    Files .jpeg .jpg .png .bmp .gif .webp .tif .tiff count as images. Other files, hidden files and hidden folders are
    left out. Label i is the i-th class in sorted order. For ImageNet, whose folders are named by synset, this is the
    order of TFDS: n01440764 is 0, n15075141 is 999. The classes are the folders of root/train if it exists, so that all
    splits agree; else the folders of the split. Images are sorted by class, then by path.

    Args:
        root: the folder above the splits.
        split: the name of a folder in root; '' if the class folders are in root itself.

    Returns:
        A source. Its `__getitem__` raises CorruptImage, a ValueError, for a damaged image; the message begins with the path.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no class folders or no images, a class has no images in the split that defines the classes, or
            root/train lacks a class of the split.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from bnn_jax import data
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ('cat', 'dog'):
        ...         (pathlib.Path(root) / 'train' / name).mkdir(parents=True)
        ...         Image.new('RGB', (8, 8)).save(pathlib.Path(root) / 'train' / name / '0.png')
        ...     source = data.folder_source(root, 'train')
        ...     source.classes, source[1]['label'], source[1]['image'].shape
        (('cat', 'dog'), 1, (8, 8, 3))
    """
    root = Path(root).expanduser()
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f'no folder {folder}; expected {folder}/<class>/<image>.JPEG; give the folder above the splits as root'
        )
    present = _folders(folder)
    defining = root / 'train' if (root / 'train').is_dir() else folder
    classes = present if defining == folder else _folders(defining)
    strange = sorted(set(present) - set(classes))
    if not present or strange:
        got = f'class {printable(strange[0])!r}, which {defining} lacks' if strange else 'no class folders'
        raise ValueError(
            f'{folder}: got {got}; expected {folder}/<class>/<image>.JPEG'
            + (
                f' with the classes of {defining}'
                if strange
                else ' (are all images in one folder? sort them into a folder for each class)'
            )
        )
    files, labels = [], []
    for name in present:
        names = [file.relative_to(folder).as_posix() for file in image_files(folder / name)]
        if not names and defining == folder:
            raise ValueError(
                f'{printable(folder / name)}: got no images{_instead(folder / name)}, expected at least one file '
                f'{" ".join(SUFFIXES)}, there or deeper; unpack it again, or remove it'
            )
        files += names
        labels += [classes.index(name)] * len(names)
    if not files:
        raise ValueError(f'{folder}: got no images in {len(present)} class folders; unpack it again')
    classes = tuple(map(printable, classes))
    encoded = np.asarray([os.fsencode(file) for file in files])
    return FolderSource(folder, encoded, np.asarray(labels, np.int32), classes)


def folders(split: str, data_dir: str) -> FolderSource:
    """The `data` of a Config for a folder of photographs.

    Args:
        split: 'train' is data_dir/train; 'test' is the first folder of data_dir/test, val and validation that exists.
        data_dir: the folder above the splits.

    Returns:
        A source, as `folder_source` returns it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: as `folder_source`.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> from bnn_jax import data
        >>> config = functools.partial(bnn.training.Config, data=data.folders, data_dir='photos')
    """
    names = ('test', 'val', 'validation') if split == 'test' else (split,)
    root = Path(data_dir).expanduser()
    present = next((name for name in names if (root / name).is_dir()), None)
    if present is None:
        raise FileNotFoundError(
            f'{root} has no folder {" or ".join(names)}, expected {root}/train/<class>/<image>.jpg and {root}/test/...; for '
            f"class folders that are not split: data=Splits.held_out(folder_source('{root}', ''))"
        )
    return folder_source(root, present)


def _folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')))


def image_files(folder: str | os.PathLike) -> Iterator[Path]:
    """The image files in a folder, at any depth, in the order of their paths; hidden files and folders are left out.

    Args:
        folder: where to look.
    """
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith('.')), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from image_files(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield Path(entry.path)


def _instead(folder: Path) -> str:
    """The file suffixes in a folder without images, for the error message."""
    kinds = sorted({path.suffix or path.name for path in folder.rglob('*') if path.is_file()})
    return f' but files {" ".join(map(printable, kinds[:5]))}' if kinds else ''
