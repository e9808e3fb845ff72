"""Read TFDS data sets of images and labels that were prepared as ArrayRecord, without TensorFlow."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from bnn_jax.command import of_extra
from bnn_jax.data.authors import READERS, read_splits
from bnn_jax.data.images import CorruptImage, decode
from bnn_jax.data.source import ArraySource
from bnn_jax.files import read_object

CHUNK = 1000
"""How many records `TfdsSource.in_memory` reads at a time."""


class TfdsSource:
    """A source of a TFDS data set, whose images are decoded on access. Errors name the image.

    Args:
        records: the records of `tfds.data_source`.
        name: the name of the data set and split, for messages.
        channels: the number of channels of the images; None: the records hold arrays, not encoded images.
        classes: a name for each label, if the data set has names.
    """

    def __init__(self, records: Any, name: str, channels: int | None = None, classes: tuple[str, ...] = ()):
        self.records, self.name, self.channels, self.classes = records, name, channels, classes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name}[{index}]: expected an index from 0 to {len(self) - 1}')
        try:
            return self._example(self.records[int(index)])
        except Exception as error:
            kind = CorruptImage if isinstance(error, CorruptImage) else ValueError
            raise kind(
                f'{self.name}[{index}]: this record cannot be read ({type(error).__name__}: {error}); '
                'the data set is damaged, prepare it again'
            ) from error

    def _example(self, record: dict) -> dict:
        image = record['image'] if self.channels is None else decode(record['image'], 'image', self.channels)
        return {'image': image, 'label': int(record['label'])}

    def in_memory(self) -> ArraySource:
        """Decode the whole split into memory. For small images: reading a batch from disk would take longer than a step.

        Raises:
            ValueError: images differ in size, or a record is damaged.
        """
        images, labels = [], []
        for first in range(0, len(self), CHUNK):
            indices = range(first, min(first + CHUNK, len(self)))
            try:
                records = self.records.__getitems__(list(indices))  # Several times faster than one by one.
                examples = [self._example(record) for record in records]
            except Exception:
                examples = [self[i] for i in indices]  # One by one, so that the error names the damaged image.
            images += [example['image'] for example in examples]
            labels += [example['label'] for example in examples]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f'{self.name}: images differ in size, expected one size; use data.tfds_source instead')
        return ArraySource(np.stack(images), np.asarray(labels, np.int32), self.classes)


def is_prepared(name: str, data_dir: str | os.PathLike) -> bool:
    """Whether data_dir has the data set in TFDS's layout.

    Args:
        name: the name of the data set.
        data_dir: the folder above the data set's folder.
    """
    return any((Path(data_dir).expanduser() / name).glob('**/dataset_info.json'))


def _missing(name: str, data_dir: str | os.PathLike) -> str:
    """The message for a missing data set, with what to do."""
    directory = Path(data_dir).expanduser() / name
    by_hand = (
        'or, from files downloaded by hand, without TensorFlow:\n'
        f'  python -m bnn_jax.data.prepare {name} --source=DOWNLOADS --data_dir={data_dir}\n'
    )
    return (
        f'data set {name!r} is not prepared in {data_dir} (no {directory}/.../dataset_info.json). To get it:\n'
        f'{_built(name, data_dir)}\n'
        f'{by_hand if name in READERS else ""}'
        'or, from a folder tree of photographs, ROOT/train/<class>/*.JPEG and ROOT/val/...:\n'
        f'  python -m bnn_jax.data.prepare_folder {name} --source=ROOT --data_dir={data_dir}\n'
        'or give the folder that has it: --data_dir=FOLDER'
    )


def _built(name: str, data_dir: str | os.PathLike) -> str:
    """The command by which TFDS prepares a data set."""
    return f'  tfds build {name} --file_format=array_record --data_dir={data_dir}   (needs TensorFlow and a download)'


def data_set(name: str, split: str, data_dir: str | os.PathLike) -> ArraySource:
    """Read a data set of small images into memory, as TFDS prepared it or from the files of its authors.

    Args:
        name: mnist, fashion_mnist, cifar10, cifar100, svhn_cropped, or any set that TFDS prepared with images of one size.
        split: 'train' or 'test' ('extra' too for svhn_cropped); for a set that TFDS prepared, any split expression.
        data_dir: the folder above TFDS's folder `name`, or the folder of the authors' files.

    Returns:
        A source, with the names of the classes.

    Raises:
        FileNotFoundError: the data set is missing; the message says how to get it.
        ValueError: a file is damaged, images differ in size, `tfds_source` raises it, or there is no such split.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> from bnn_jax import data
        >>> mnist = functools.partial(data.data_set, 'mnist')
        >>> config = functools.partial(bnn.training.Config, data=mnist, data_dir='~/mnist')
    """
    if name not in READERS or is_prepared(name, data_dir):
        return tfds_source(name, split, data_dir).in_memory()
    folder = Path(data_dir).expanduser()
    try:
        splits = read_splits(name, folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error}; or prepare {name!r} with TFDS:\n{_built(name, data_dir)}') from error
    if split not in splits:
        raise ValueError(f'{name}: got split {split!r}, expected one of {", ".join(splits)}')
    return ArraySource(*splits[split], READERS[name].classes)


OURS = 'tensorflow_datasets.core.features.'
"""All Python classes named in features.json must begin with this, because TFDS imports whatever module is named there."""


def _check_features(folder: Path) -> None:
    """Raises ValueError for a data set that names classes outside `OURS`, because reading data must not run code."""
    for path in folder.glob('**/features.json'):
        for name in _class_names(read_object(path, 'the data set is damaged, prepare it again')):
            if not (name.startswith(OURS) and name.removeprefix(OURS).replace('.', '_').isidentifier()):
                raise ValueError(
                    f'{path}: names the class {name!r}, expected one in {OURS}*, because opening the data set imports its '
                    'classes; prepare it with features of TFDS'
                )


def _class_names(described: Any) -> Iterator[str]:
    """All class names in features.json, also inside strings that hold JSON. Old versions of TFDS use the key `type`."""
    if isinstance(described, list):
        for inner in described:
            yield from _class_names(inner)
    if isinstance(described, dict):
        for key, inner in described.items():
            if key in ('pythonClassName', 'python_class_name', 'type') and isinstance(inner, str):
                yield inner
            elif isinstance(inner, str) and inner.lstrip()[:1] in ('{', '['):
                with contextlib.suppress(ValueError, RecursionError):  # Not JSON, or JSON that TFDS refuses too.
                    yield from _class_names(json.loads(inner))
            else:
                yield from _class_names(inner)


def tfds_source(name: str, split: str, data_dir: str | os.PathLike) -> TfdsSource:
    """Open a split of a TFDS data set that was prepared as ArrayRecord.

    8-bit images of 1 or 3 channels are decoded by `bnn_jax.data.images.decode`. Labels have the order of TFDS.

    Args:
        name: the name of the data set.
        split: a TFDS split expression, such as 'train' or 'train[:10%]'.
        data_dir: the folder above the data set's folder.

    Returns:
        A source, which reads from disk.

    Raises:
        FileNotFoundError: the data set is missing; the message says how to prepare it.
        ValueError: the data set has another file format, no such split, no images, no labels, or labels that are not
            integers; or its features.json is damaged or names a class that is not TFDS's.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> from bnn_jax import data
        >>> imagenet = functools.partial(data.tfds_source, 'imagenet_256')
        >>> config = functools.partial(bnn.training.Config, data=imagenet, data_dir='~/tensorflow_datasets')
    """
    with of_extra('train'):
        import tensorflow_datasets as tfds

    if not is_prepared(name, data_dir):
        raise FileNotFoundError(_missing(name, data_dir))
    _check_features(Path(data_dir).expanduser() / name)
    try:
        records: Any = tfds.data_source(name, split=split, data_dir=str(Path(data_dir).expanduser()))
    except (ValueError, NotImplementedError, AssertionError, FileNotFoundError) as error:
        raise ValueError(
            f'data set {name!r}, split {split!r} in {data_dir} cannot be opened ({error}); '
            'expected an existing split prepared with --file_format=array_record'
        ) from error
    features = cast(Any, records.dataset_info.features)
    if not {'image', 'label'} <= set(features):
        raise ValueError(f'data set {name!r} has features {sorted(features)}, expected image and label')
    label, one_array = features['label'], isinstance(features['label'], tfds.features.Tensor)
    if not one_array or label.shape or np.dtype(label.np_dtype).kind not in 'biu':
        raise ValueError(
            f'data set {name!r} has labels {label}, expected one integer for each image; write a source of your own for others'
        )
    image, classes = features['image'], tuple(getattr(features['label'], 'names', None) or ())
    shape, dtype = image.shape, image.np_dtype
    if not isinstance(image, tfds.features.Image) or dtype != np.uint8 or shape[-1] not in (1, 3):
        return TfdsSource(records, f'{name}/{split}', None, classes)
    # TFDS would decode CMYK to four channels, and use OpenCV if it is installed. `decode` gives the same pixels everywhere.
    encoded = dataclasses.replace(records, decoders={'image': tfds.decode.SkipDecoding()})
    return TfdsSource(encoded, f'{name}/{split}', shape[-1], classes)
