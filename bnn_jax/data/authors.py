"""Read small data sets from the files of their authors. Labels are checked.

- mnist, fashion_mnist: four IDX files, train-images-idx3-ubyte, ... (http://yann.lecun.com/exdb/mnist,
  https://github.com/zalandoresearch/fashion-mnist).
- cifar10, cifar100: the binary or the python version (https://www.cs.toronto.edu/~kriz/cifar.html).
- svhn_cropped: train_32x32.mat, test_32x32.mat and optionally extra_32x32.mat (http://ufldl.stanford.edu/housenumbers).

Each file may be compressed with gzip, with a name that ends in .gz. The files may lie in the folder that you give or up to two
levels below it, where unpacking an archive puts them.
"""

import functools
import gzip
import io
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8

Split = tuple[np.ndarray, np.ndarray]
"""Images uint8 (n, H, W, C) and labels (n,)."""

FASHION_MNIST_CLASSES = (
    *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat'),
    *('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
)
CIFAR10_CLASSES = (
    *('airplane', 'automobile', 'bird', 'cat', 'deer'),
    *('dog', 'frog', 'horse', 'ship', 'truck'),
)
_CIFAR100 = (
    'apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle '
    'caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant '
    'flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man '
    'maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree '
    'plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper '
    'snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train '
    'trout tulip turtle wardrobe whale willow_tree wolf woman worm'
)
CIFAR100_CLASSES = tuple(_CIFAR100.split())
DIGITS = tuple(map(str, range(10)))


def read_idx(path: Path) -> "UInt8[np.ndarray, '*shape']":
    """Read the array in an IDX file of unsigned bytes, with or without gzip.

    Args:
        path: the file.

    Raises:
        ValueError: the file is damaged or of another kind.
    """
    data = _content(path)
    if len(data) < 4 or data[:3] != b'\x00\x00\x08' or len(data) < 4 + 4 * data[3]:
        raise ValueError(f'{path}: not an IDX file of unsigned bytes (it begins with {data[:4]!r}); download it again')
    shape = tuple(int(extent) for extent in np.frombuffer(data, '>u4', data[3], offset=4))
    body = data[4 + 4 * data[3] :]
    if len(body) != math.prod(shape):
        raise ValueError(
            f'{path}: got {len(body)} bytes for shape {shape}, expected {math.prod(shape)}; download it again'
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _content(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is a gzip file. Raises ValueError if the gzip file is damaged."""
    data = path.read_bytes()
    if data[:2] == b'\x1f\x8b':
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f'{path}: damaged gzip file ({error}); download it again') from error
    return data


def read_mnist(source: Path) -> dict[str, Split]:
    """Read MNIST or Fashion-MNIST from its four IDX files; images (n, 28, 28, 1).

    Args:
        source: the folder of the files, or one up to two levels above it.

    Returns:
        The splits 'train' and 'test'.
    """
    splits = {}
    for split, stem in (('train', 'train'), ('test', 't10k')):
        images, labels = (
            read_idx(_find(source, f'{stem}-{kind}-ubyte', f'{stem}-{kind.replace("-", ".")}-ubyte'))
            for kind in ('images-idx3', 'labels-idx1')
        )
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f'{source}: {split} has images {images.shape} and labels {labels.shape}, expected '
                '(n, height, width) and (n,); download its files again'
            )
        splits[split] = (images[..., None], labels)
    return splits


def read_cifar10(source: Path) -> dict[str, Split]:
    """Read CIFAR-10 from its binary or python batches; images (n, 32, 32, 3).

    Args:
        source: the folder of the files, or one up to two levels above it.

    Returns:
        The splits 'train' and 'test'.
    """
    batches = {'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']}
    return {split: _joined([_cifar(source, name, 1, b'labels') for name in names]) for split, names in batches.items()}


def read_cifar100(source: Path) -> dict[str, Split]:
    """Read CIFAR-100 from its binary or python files; images (n, 32, 32, 3), with the fine labels.

    Args:
        source: the folder of the files, or one up to two levels above it.

    Returns:
        The splits 'train' and 'test'.
    """
    return {split: _cifar(source, split, 2, b'fine_labels') for split in ('train', 'test')}


def read_svhn(source: Path) -> dict[str, Split]:
    """Read SVHN (cropped) from its .mat files; images (n, 32, 32, 3). Digit 0 has label 0.

    Args:
        source: the folder of the files, or one up to two levels above it.

    Returns:
        The splits 'train' and 'test', and 'extra' if its file exists.
    """
    splits = {split: _mat(_find(source, f'{split}_32x32.mat')) for split in ('train', 'test')}
    extra = _candidates(source, 'extra_32x32.mat')
    return splits | ({'extra': _mat(extra[0])} if extra else {})


def _cifar(source: Path, name: str, labels: int, key: bytes) -> Split:
    """Read one file, binary or python. A binary record begins with `labels` labels of one byte each; the last one is used."""
    path = _find(source, f'{name}.bin', name)
    data = _content(path)
    if path.name.removesuffix('.gz') == name:
        batch = _unpickled(path, data)
        pixels, classes = np.asarray(batch.get(b'data')), np.asarray(batch.get(key))
        if pixels.dtype != np.uint8 or pixels.shape != (*classes.shape, 3072) or classes.ndim != 1:
            raise ValueError(
                f'{path}: got data {pixels.dtype}{list(pixels.shape)} and {key.decode()} {list(classes.shape)}, expected '
                'uint8 (n, 3072) and (n,); download it again'
            )
    else:
        record = labels + 3072
        if not data or len(data) % record:
            raise ValueError(f'{path}: got {len(data)} bytes, expected a multiple of {record}; download it again')
        records = np.frombuffer(data, np.uint8).reshape(-1, record)
        pixels, classes = records[:, labels:], records[:, labels - 1]
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), classes


class _Arrays(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers. It refuses everything else, because a pickle could run code."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ('multiarray', '_reconstruct'): functools.partial(np.ndarray.__new__),
            ('numeric', '_frombuffer'): _frombuffer,
            ('numpy', 'ndarray'): np.ndarray,
            ('numpy', 'dtype'): np.dtype,
            ('_codecs', 'encode'): lambda text, encoding: text.encode('latin-1'),
        }
        parts = module.split('.')
        ours = parts[0] in ('numpy', '_codecs') and known.get((parts[-1], name))
        if not ours:
            raise pickle.UnpicklingError(f'the pickle names {module}.{name}, expected arrays')
        return ours


def _frombuffer(buffer, dtype, shape, order):
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _unpickled(path: Path, data: bytes) -> dict:
    try:
        batch = _Arrays(io.BytesIO(data), encoding='bytes').load()
    except Exception as error:  # A damaged pickle may raise any error.
        raise ValueError(f'{path}: not a pickled batch ({type(error).__name__}: {error}); download it again') from error
    if not isinstance(batch, dict):
        raise ValueError(f'{path}: got a pickled {type(batch).__name__}, expected a dict; download it again')
    return batch


def _mat(path: Path) -> Split:
    from scipy.io import loadmat

    try:
        file = io.BytesIO(_content(path)) if path.suffix == '.gz' else path
        content = loadmat(file, variable_names=['X', 'y'])
        images, labels = content['X'].transpose(3, 0, 1, 2), content['y'][:, 0]
    except Exception as error:  # A damaged file may raise any error.
        raise ValueError(
            f'{path}: no images X and labels y ({type(error).__name__}: {error}); download it again'
        ) from error
    if images.dtype != np.uint8 or images.shape != (*labels.shape, 32, 32, 3) or (labels > 10).any():
        raise ValueError(
            f'{path}: got X {images.dtype}{list(images.shape)} and y {list(labels.shape)} up to {labels.max(initial=0)}, '
            'expected uint8 (n, 32, 32, 3) and (n,) with values from 1 to 10; download it again'
        )
    return images, labels % 10  # The digit 0 is written as 10.


def _joined(parts: list[Split]) -> Split:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _candidates(source: Path, *names: str) -> list[Path]:
    """Find files with one of these names in source or up to two levels below it.

    Only the highest level with such a file counts, and there only the first name that is found.
    """
    for depth in ('', '*/', '*/*/'):
        for name in names:
            if found := sorted(
                path for ending in ('', '.gz') for path in source.glob(f'{depth}{name}{ending}') if path.is_file()
            ):
                return found
    return []


def _find(source: Path, *names: str) -> Path:
    """Find the file with one of these names. Raises FileNotFoundError if no folder has one, ValueError if several do."""
    found = _candidates(source, *names)
    if not found:
        archives = [path.name for path in source.glob('*') if path.name.endswith(('.tar.gz', '.tgz', '.zip', '.tar'))]
        remedy = f'unpack {archives[0]}' if archives else 'download it there, or give its folder: --source or data_dir'
        raise FileNotFoundError(f'{source} has no file {" or ".join(names)}, with or without .gz; {remedy}')
    if len({path.parent for path in found}) > 1:
        raise ValueError(f'{source} has {found[0]} and {found[1]}, expected one of them; name the folder it is in')
    return found[0]


class Authors(NamedTuple):
    """How a data set is read from the files of its authors."""

    # The folder of the files -> the splits.
    read: Callable[[Path], dict[str, Split]]
    # A name for each label.
    classes: tuple[str, ...]
    # The version of the TFDS data set that has the same images.
    version: str


READERS = {
    'mnist': Authors(read_mnist, DIGITS, '3.0.1'),
    'fashion_mnist': Authors(read_mnist, FASHION_MNIST_CLASSES, '3.0.1'),
    'cifar10': Authors(read_cifar10, CIFAR10_CLASSES, '3.0.2'),
    'cifar100': Authors(read_cifar100, CIFAR100_CLASSES, '3.0.2'),
    'svhn_cropped': Authors(read_svhn, DIGITS, '3.1.0'),
}
"""The data sets that can be read, by their names in TFDS. A line here adds one."""


def read_splits(name: str, source: Path) -> dict[str, Split]:
    """Read the splits of a data set from its authors' files.

    Args:
        name: one of `READERS`.
        source: the folder of the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or lies in several folders, a split has no images, or a label is not a class.
    """
    data_set = READERS[name]
    splits = data_set.read(source)
    for split, (_, labels) in splits.items():
        if len(labels) == 0:
            raise ValueError(f'{source}: {split} has no images, expected at least one; download its files again')
        if not 0 <= labels.min() <= labels.max() < len(data_set.classes):
            raise ValueError(
                f'{source}: {split} has labels from {labels.min()} to {labels.max()}, expected 0 to {len(data_set.classes) - 1}'
            )
    return splits
