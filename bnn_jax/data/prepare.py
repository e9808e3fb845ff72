"""Write small data sets, from the files of their authors, in TFDS's ArrayRecord layout, without TensorFlow.

    python -m bnn_jax.data.prepare fashion_mnist --source=DOWNLOADS --data_dir=FOLDER

Afterward `tfds.data_source(name, data_dir=FOLDER)` reads the data set as if TFDS had prepared it. `bnn_jax.data.authors` lists
the data sets and their files. `bnn_jax.data.data_set` can also read the authors' files directly.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from bnn_jax.command import of_extra, one_line
from bnn_jax.data.authors import READERS, read_cifar10, read_idx, read_splits

__all__ = ['READERS', 'prepare', 'read_cifar10', 'read_idx', 'write']


def prepare(name: str, source: str | os.PathLike, data_dir: str | os.PathLike) -> Path:
    """Write a data set in TFDS's layout, unless it is there already.

    Args:
        name: one of `READERS`.
        source: the folder of the authors' files.
        data_dir: where to write the data set.

    Returns:
        The folder of the data set.

    Raises:
        FileNotFoundError: a file is missing.
        OSError: the data set cannot be written.
        ValueError: name is not in `READERS`, a file is damaged, a split has no images, or a label is not a class.
    """
    with of_extra('train'):
        import tensorflow_datasets as tfds

    if name not in READERS:
        raise ValueError(f'data set: got {name!r}, expected one of {", ".join(READERS)}')
    _, classes, version = READERS[name]
    place = Path(data_dir).expanduser() / name / version
    if (place / 'dataset_info.json').exists():
        return place
    splits = read_splits(name, Path(source).expanduser())
    features = {
        'image': tfds.features.Image(shape=splits['train'][0].shape[1:], dtype=np.uint8),
        'label': tfds.features.ClassLabel(names=list(classes)),
    }
    return write(name, version, features, {split: _examples(*data) for split, data in splits.items()}, data_dir)


def write(name: str, version: str, features: dict, splits: Mapping[str, Iterable], data_dir: str | os.PathLike) -> Path:
    """Write examples in TFDS's layout, as ArrayRecord, unless this version is there already.

    Args:
        name: the name of the data set.
        version: the version of the data set.
        features: TFDS's features.
        splits: split -> (key, example) pairs; images are encoded bytes in a file object.
        data_dir: where to write the data set.

    Returns:
        The folder of the data set.

    Raises:
        OSError: the data set cannot be written.
    """
    with of_extra('train'):
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
    """Yield examples that hold PNG bytes, because TFDS would encode arrays with TensorFlow."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, 'PNG')
        yield i, {'image': io.BytesIO(buffer.getvalue()), 'label': int(label)}


def main() -> None:
    """Run the command line."""
    from typing import Annotated

    import tyro

    def command(name: Annotated[str, tyro.conf.Positional], source: Path, data_dir: Path) -> None:
        """Prepare a small data set from files that you have downloaded.

        Args:
            name: mnist, fashion_mnist, cifar10, cifar100 or svhn_cropped.
            source: folder with the downloaded files.
            data_dir: folder for the prepared data set.
        """
        print(prepare(name, source, data_dir))

    with one_line():
        tyro.cli(command, prog='python -m bnn_jax.data.prepare', description=__doc__)


if __name__ == '__main__':
    main()
