"""Images per second that the input pipeline produces with several numbers of workers, and that a training step consumes.

    python -m benchmarks.input --workers 0 1 2 4 8 --seconds=10

The images are JPEGs like ImageNet's (500 x 375, quality 95), cut from the two photographs in scikit-learn, in a temporary
folder tree. They come from the page cache, so the figures do not include a slow disk.

Each column is an augmentation of the recipes. `pre-resized` crops 224 from records that `prepare_folder` wrote; the others read
the folder tree.

The last row is the training step of XNOR ResNet-18 at 224 x 224 on this machine's device, without input. The pipeline must be
at least as fast.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from bnn_jax.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Source,
    Standardize,
    flip,
    folder_source,
    inception_crop,
    random_crop,
    resize_short,
    resize_short_between,
    tfds_source,
    training_batches,
)
from bnn_jax.data.pipeline import steps_from
from bnn_jax.data.prepare_folder import prepare_folder
from bnn_jax.nn.tables import render

CLASSES = 4
STANDARDIZE = Standardize(IMAGENET_MEAN, IMAGENET_STD)


def write_tree(root: Path, images: int) -> None:
    """`images` different JPEGs of 500 x 375, as root/train/<class>/<number>.JPEG."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, np.random.default_rng(0)
    for i in range(images):
        photo = photos[i % len(photos)]
        top, left = rng.integers(0, photo.shape[0] - 375 + 1), rng.integers(0, photo.shape[1] - 500 + 1)
        path = root / 'train' / f'n{i % CLASSES:08d}' / f'{i}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[top : top + 375, left : left + 500]).save(path, quality=95)


def produced(source: Source, augmentations: Sequence, batch_size: int, workers: int, seconds: float) -> float:
    """Images per second, after every worker has started and emptied its buffer."""
    batches, _ = training_batches(
        source, batch_size=batch_size, seed=0, standardize=STANDARDIZE, augmentations=augmentations
    )
    stream = steps_from(batches, 0, 10**9, workers=workers)
    for _ in range(2 * max(workers, 3)):
        next(stream)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(stream)['label'])
    rate = count / (time.perf_counter() - start)
    stream.close()
    return rate


def consumed(batch_size: int, seconds: float) -> tuple[float, str]:
    """Images per second of the XNOR ResNet-18 training step, and the device."""
    import jax
    import optax
    from flax import nnx

    import bnn_jax as bnn

    model = bnn.models.resnet18(num_classes=1000, scheme=bnn.XNOR, rngs=nnx.Rngs(0))
    state = bnn.training.init(model, optax.adam(1e-3))
    batch = {'image': np.zeros((batch_size, 224, 224, 3), np.float32), 'label': np.zeros(batch_size, np.int32)}
    batch = jax.device_put(batch)
    state, metrics = bnn.training.train_step(state, batch)
    jax.block_until_ready(metrics)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        state, metrics = bnn.training.train_step(state, batch)
        jax.block_until_ready(metrics)
        count += batch_size
    return count / (time.perf_counter() - start), jax.devices()[0].device_kind


def main(
    workers: tuple[int, ...] = (0, 1, 2),
    batch_size: int = 32,
    seconds: float = 5.0,
    images: int = 256,
    step: bool = True,
) -> None:
    """Measure and print.

    Args:
        workers: numbers of worker processes; 0 is two threads of this process.
        batch_size: images in a batch.
        seconds: time for each measurement.
        images: number of different files.
        step: also measure the training step.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root, images)
        prepare_folder('small', root, root / 'tfds', splits=['train'])
        tree, small = folder_source(root, 'train'), tfds_source('small', 'train', root / 'tfds')
        pipelines = {
            'short side 256, crop 224': (tree, (resize_short(256), random_crop(224), flip)),
            'short side 256..480, crop 224': (tree, (resize_short_between(256, 480), random_crop(224), flip)),
            'Inception crop 224': (tree, (inception_crop(224), flip)),
            'pre-resized, crop 224': (small, (random_crop(224), flip)),
        }
        rates = {
            (k, name): produced(source, augmentations, batch_size, k, seconds)
            for k, (name, (source, augmentations)) in itertools.product(workers, pipelines.items())
        }
    rows = [[str(k), *(f'{rates[k, name]:,.0f}' for name in pipelines)] for k in workers]
    title = f'images/s into batches of {batch_size}, {os.cpu_count()} cores'
    if step:
        rate, device = consumed(batch_size, seconds)
        title += f'; last row: what the step takes on {device}'
        rows.append(['XNOR ResNet-18 step', *[f'{rate:,.1f}'] * len(pipelines)])
    print(render(title, ['workers', *pipelines], rows))


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.input', description=__doc__)
