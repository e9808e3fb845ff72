"""A plain folder tree of images, root/split/class/file, as ImageNet is mostly kept."""

import os
from pathlib import Path

import numpy as np

from bnn_jax.data.images import decode

SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp')


class FolderSource:
    """A source over image files: read and decoded on access. `classes[label]` is the name of a class's folder."""

    def __init__(self, folder: Path, files: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]):
        # A million paths as one array of bytes: 45 MB for ImageNet in every worker process, a fifth of a list of str.
        self.folder, self.files, self.labels, self.classes = folder, files, labels, classes

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / os.fsdecode(self.files[index])

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.folder}[{index}]: expected an index from 0 to {len(self) - 1}')
        path = self.path(index)
        return {'image': decode(path.read_bytes(), str(path)), 'label': int(self.labels[index])}


def folder_source(root: str | os.PathLike, split: str) -> FolderSource:
    """The images root/split/<class>/*.JPEG (.jpg .png .bmp .gif .webp, in any case), uint8 (H, W, 3), sizes as they are.

    Label i is the i-th class in sorted order. For ImageNet's folders, named by synset, that is TFDS's order too: n01440764
    is 0, n15075141 is 999. Classes are the folders of root/train where that exists, so that all splits agree; else those
    of the split. Images are ordered by class, then by name. Hidden files and files of other kinds are no images.
    Raises FileNotFoundError without the folder, ValueError for a tree without class folders, for a class without images
    in the split that defines the classes, and for one that root/train lacks; reading an image raises CorruptImage, a
    ValueError that begins with its path.
    """
    root = Path(root).expanduser()
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f'no folder {folder}; expected {root}/{split}/<class>/<image>.JPEG; name the folder above the splits as root'
        )
    present = _folders(folder)
    defining = root / 'train' if (root / 'train').is_dir() else folder
    classes = present if defining == folder else _folders(defining)
    strange = sorted(set(present) - set(classes))
    if not present or strange:
        got = f'class {strange[0]!r}, which {defining} lacks' if strange else 'no class folders'
        raise ValueError(
            f'{folder}: got {got}; expected {folder}/<class>/<image>.JPEG with the classes of {defining}'
            + ('' if strange else ' (are all images in one folder? sort them into a folder for each class)')
        )
    files, labels = [], []
    for name in present:
        names = _images(folder / name)
        if not names and defining == folder:
            raise ValueError(f'{folder / name}: got no images, expected at least one; unpack it again, or remove it')
        files += [f'{name}/{file}' for file in names]
        labels += [classes.index(name)] * len(names)
    if not files:
        raise ValueError(f'{folder}: got no images in {len(present)} class folders; unpack it again')
    encoded = np.asarray([os.fsencode(file) for file in files])
    return FolderSource(folder, encoded, np.asarray(labels, np.int32), classes)


def _folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')))


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith('.'))
