"""Any TFDS image set prepared as ArrayRecord, read without TensorFlow."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from bnn_jax.data.source import ArraySource

CHUNK = 1000


class TfdsSource:
    """A source over `tfds.data_source`: decodes on access; an image that cannot be decoded is named."""

    def __init__(self, records: Any, name: str):
        self.records, self.name = records, name

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name}[{index}]: expected an index from 0 to {len(self) - 1}')
        try:
            record = self.records[int(index)]
        except Exception as error:
            raise ValueError(
                f'{self.name}[{index}]: this record cannot be read ({type(error).__name__}: {error}); '
                'the data set is damaged, prepare it again'
            ) from error
        return {'image': record['image'], 'label': int(record['label'])}

    def in_memory(self) -> ArraySource:
        """The whole split, decoded once: for sets of small images, where reading anew every epoch costs more than a step.

        Raises ValueError for images of different sizes, and as indexing does.
        """
        images, labels = [], []
        for first in range(0, len(self), CHUNK):
            indices = range(first, min(first + CHUNK, len(self)))
            try:
                records = self.records.__getitems__(list(indices))  # several times faster than one by one
            except Exception:
                records = [self[i] for i in indices]  # names the damaged one
            images += [record['image'] for record in records]
            labels += [int(record['label']) for record in records]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f'{self.name}: images differ in size, expected one size; read it from disk instead')
        return ArraySource(np.stack(images), np.asarray(labels, np.int32))


def tfds_source(name: str, split: str, data_dir: str | os.PathLike) -> TfdsSource:
    """Split `split` (a TFDS split expression) of the data set `name` under `data_dir`, prepared as ArrayRecord.

    Raises FileNotFoundError, saying how to prepare it, where it is missing; ValueError where it has another file format,
    no such split, or no images with labels.
    """
    import tensorflow_datasets as tfds

    directory = Path(data_dir).expanduser() / name
    if not any(directory.glob('**/dataset_info.json')):
        raise FileNotFoundError(
            f'data set {name!r} is not prepared in {data_dir} (no {directory}/.../dataset_info.json). To get it:\n'
            f'  tfds build {name} --file_format=array_record --data_dir={data_dir}   (needs TensorFlow and a download)\n'
            'or, for fashion_mnist and cifar10, from files downloaded by hand, without TensorFlow:\n'
            f'  python -m bnn_jax.data.prepare {name} --source=DOWNLOADS --data_dir={data_dir}\n'
            'or name the folder it is in: --data_dir=FOLDER'
        )
    try:
        records: Any = tfds.data_source(name, split=split, data_dir=str(Path(data_dir).expanduser()))
    except (ValueError, NotImplementedError, AssertionError, FileNotFoundError) as error:
        raise ValueError(
            f'data set {name!r}, split {split!r} in {data_dir} cannot be opened ({error}); '
            'expected an existing split prepared with --file_format=array_record'
        ) from error
    if not {'image', 'label'} <= set(records.dataset_info.features):
        raise ValueError(
            f'data set {name!r} has features {sorted(records.dataset_info.features)}, expected image and label'
        )
    return TfdsSource(records, f'{name}/{split}')
