"""Fashion-MNIST and CIFAR-10 from the files a user downloaded by hand to TFDS's ArrayRecord layout, without TensorFlow.

    python -m bnn_jax.data.prepare fashion_mnist --source=DOWNLOADS --data_dir=FOLDER

Afterwards `tfds.data_source(name, data_dir=FOLDER)` reads it, as if TFDS had prepared it. Source files:
fashion_mnist: the four IDX files train-images-idx3-ubyte, ... with or without .gz (https://github.com/zalandoresearch/fashion-mnist).
cifar10: data_batch_1.bin ... data_batch_5.bin, test_batch.bin (https://www.cs.toronto.edu/~kriz/cifar.html, binary version).
"""

import gzip
import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

Split = tuple[np.ndarray, np.ndarray]

VERSIONS = {'fashion_mnist': '3.0.1', 'cifar10': '3.0.2'}
"""The versions of the stock TFDS builders that these files equal."""

FASHION_MNIST_CLASSES = (
    *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat'),
    *('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
)
CIFAR10_CLASSES = (
    *('airplane', 'automobile', 'bird', 'cat', 'deer'),
    *('dog', 'frog', 'horse', 'ship', 'truck'),
)


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, with or without gzip, as an array. Raises ValueError where it is not one, whole."""
    data = path.read_bytes()
    if data[:2] == b'\x1f\x8b':
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f'{path}: damaged gzip file ({error}); download it again') from error
    if len(data) < 4 or data[:3] != b'\x00\x00\x08' or len(data) < 4 + 4 * data[3]:
        raise ValueError(f'{path}: not an IDX file of unsigned bytes (it begins with {data[:4]!r}); download it again')
    shape = tuple(int(extent) for extent in np.frombuffer(data, '>u4', data[3], offset=4))
    body = data[4 + 4 * data[3] :]
    if len(body) != math.prod(shape):
        raise ValueError(
            f'{path}: got {len(body)} bytes for shape {shape}, expected {math.prod(shape)}; download it again'
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_fashion_mnist(source: Path) -> dict[str, Split]:
    """{'train': (images uint8 (n, 28, 28, 1), labels), 'test': ...} from the four IDX files."""
    splits = {}
    for split, stem in (('train', 'train'), ('test', 't10k')):
        images = read_idx(_find(source, f'{stem}-images-idx3-ubyte'))
        labels = read_idx(_find(source, f'{stem}-labels-idx1-ubyte'))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(f'{source}: {split} has images {images.shape} and labels {labels.shape}, expected as many')
        splits[split] = (images[..., None], labels)
    return splits


def read_cifar10(source: Path) -> dict[str, Split]:
    """{'train': (images uint8 (n, 32, 32, 3), labels), 'test': ...} from the binary batches."""
    record = 1 + 3 * 32 * 32

    def read(name: str) -> np.ndarray:
        path = _find(source, name)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if data.size == 0 or data.size % record:
            raise ValueError(f'{path}: got {data.size} bytes, expected a multiple of {record}; download it again')
        return data.reshape(-1, record)

    def split(names) -> Split:
        records = np.concatenate([read(name) for name in names])
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]

    return {'train': split([f'data_batch_{i}.bin' for i in range(1, 6)]), 'test': split(['test_batch.bin'])}


def _find(source: Path, name: str) -> Path:
    for candidate in (source / name, source / f'{name}.gz'):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f'{source} has neither {name} nor {name}.gz; download it there, or name its folder: --source'
    )


READERS = {
    'fashion_mnist': (read_fashion_mnist, FASHION_MNIST_CLASSES),
    'cifar10': (read_cifar10, CIFAR10_CLASSES),
}


def prepare(name: str, source: str | os.PathLike, data_dir: str | os.PathLike) -> Path:
    """Write data set `name` under data_dir in TFDS's layout; returns its folder. Does nothing if it is there already.

    Raises ValueError for another name or damaged files, FileNotFoundError for missing ones; labels are checked.
    """
    import tensorflow_datasets as tfds

    if name not in READERS:
        raise ValueError(f'data set: got {name!r}, expected one of {", ".join(READERS)}')
    place = Path(data_dir).expanduser() / name / VERSIONS[name]
    if (place / 'dataset_info.json').exists():
        return place
    read, classes = READERS[name]
    splits = read(Path(source).expanduser())
    for split, (_, labels) in splits.items():
        if len(labels) == 0:
            raise ValueError(f'{source}: {split} has no images, expected at least one; download its files again')
        if labels.max(initial=0) >= len(classes):
            raise ValueError(f'{source}: {split} has label {labels.max()}, expected 0 to {len(classes) - 1}')
    features = {
        'image': tfds.features.Image(shape=splits['train'][0].shape[1:], dtype=np.uint8),
        'label': tfds.features.ClassLabel(names=list(classes)),
    }
    return write(name, VERSIONS[name], features, {split: _examples(*data) for split, data in splits.items()}, data_dir)


def write(name: str, version: str, features: dict, splits: Mapping[str, Iterable], data_dir: str | os.PathLike) -> Path:
    """Write {split: (key, example) pairs} under data_dir in TFDS's layout, as ArrayRecord; returns the set's folder.

    Images must be given encoded, as bytes in a file object. Does nothing if that version is there already.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    methods = {
        'name': name,
        'VERSION': tfds.core.Version(version),
        '_info': lambda self: tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=('image', 'label')
        ),
        '_split_generators': lambda self, manager: splits,
        '_generate_examples': lambda self: iter(()),
    }
    with registered.skip_registration():
        kind = type(name.title().replace('_', ''), (tfds.core.GeneratorBasedBuilder,), methods)
        try:
            builder = kind(data_dir=str(Path(data_dir).expanduser()), file_format='array_record')
            builder.download_and_prepare()
        except OSError as error:
            raise OSError(
                error.errno,
                f'could not write the data set ({error}); choose another --data_dir',
                str(data_dir),
            ) from error
    return Path(builder.data_dir)


def _examples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
    """Images as PNG bytes: given as arrays, TFDS would encode them with TensorFlow."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, 'PNG')
        yield i, {'image': io.BytesIO(buffer.getvalue()), 'label': int(label)}


def main() -> None:
    """The command."""
    from typing import Annotated

    import tyro

    def command(name: Annotated[str, tyro.conf.Positional], source: Path, data_dir: Path) -> None:
        """Prepare fashion_mnist or cifar10 from files downloaded by hand.

        Args:
            name: fashion_mnist or cifar10.
            source: folder with the downloaded files.
            data_dir: folder for the prepared data set.
        """
        print(prepare(name, source, data_dir))

    try:
        tyro.cli(command, prog='python -m bnn_jax.data.prepare', description=__doc__)
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None


if __name__ == '__main__':
    main()
