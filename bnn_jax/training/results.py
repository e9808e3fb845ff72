"""The results of a run: results.json and the packed network."""

import contextlib
import functools
import importlib.metadata
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from bnn_jax.files import write
from bnn_jax.inference.converter import convert
from bnn_jax.inference.serialization import load, save
from bnn_jax.nn.packed import PackedNetwork
from bnn_jax.nn.summary import summarize
from bnn_jax.training.config import Config
from bnn_jax.training.evaluation import evaluate, evaluation_loss, logits_of
from bnn_jax.training.images import test_batches
from bnn_jax.training.metrics import seconds_per_step

if TYPE_CHECKING:
    from bnn_jax.data import Source
    from bnn_jax.data.preprocessing import Preprocessing

TIMED_CALLS = 20
"""The number of calls whose median time is measured."""

SCHEMA, VERSION = 'bnn_jax.results', 1
"""The schema and version in results.json (docs/results.schema.json). Changing or removing a field raises the version."""


def results_of(name: str, config: Config, model: Any, records: list[dict]) -> dict[str, Any]:
    """Evaluate a trained network. If it has binary weights, convert it, and write packed.safetensors and report.txt.

    Args:
        name: the name of the run.
        config: the config of the run.
        model: its trained network.
        records: the records of its training, from `metrics.read`.

    Returns:
        What results.json holds (docs/results.schema.json).
    """
    scored = [record for record in records if 'test_accuracy' in record]
    best = max(scored, key=lambda record: record['test_accuracy'], default=None)
    # If no two neighboring steps are recorded: the mean time of a step, which includes compilation and evaluation.
    seconds_a_step = seconds_per_step(records) or records[-1]['seconds'] / records[-1]['step']
    test_source = config.data('test', config.data_dir)
    batches = functools.partial(test_batches, config, test_source)
    with contextlib.closing(batches()) as first:
        first_batch = next(first)
        first_images = first_batch['image']
    loss = evaluation_loss(config.objective(), first_batch['label'])
    tested = evaluate(model, batches(), loss)
    summary = summarize(model, first_images.shape)
    results: dict[str, Any] = {
        'schema': SCHEMA,
        'version': VERSION,
        'experiment': name,
        'test_accuracy': tested.get('accuracy'),
        'test_loss': tested['loss'],
        'packed_test_accuracy': None,
        'prediction_agreement': None,
        'max_abs_logit_difference': None,
        'float32_bytes': summary.bytes,
        'packed_bytes': None,
        'epochs': config.epochs,
        'best_test_accuracy': None if best is None else best['test_accuracy'],
        'best_epoch': None if best is None else best['epoch'],
        'train_seconds': records[-1]['seconds'],
        'images_per_second': config.batch_size / seconds_a_step,
        'milliseconds_per_batch': milliseconds(logits_of(model), first_images),
        'packed_milliseconds_per_batch': None,
        'not_converted': None,
    }
    if summary.binary_params:
        preparing = preprocessing(config, first_images.shape[1:], class_names(model, test_source))
        results |= _of_bits(config, model, preparing, loss, batches, first_images)
    return results | {'config': config.described(), 'versions': versions(), 'commit': _commit(), 'device': device()}


def _of_bits(
    config: Config, model: Any, preparing: 'Preprocessing | None', loss: Any, batches: Callable, images: np.ndarray
) -> dict[str, Any]:
    """The results of the packed network, which is written to the workdir; or the reason why there is none."""
    workdir = Path(config.workdir).expanduser()
    try:
        network = convert(deployed(config, model))
    except ValueError as error:
        print(f'the network is trained, but not converted: {error}', file=sys.stderr)
        return {'not_converted': str(error)}
    described = None if preparing is None else preparing.described()
    file = save(network, workdir / 'packed.safetensors', preprocessing=described)
    # The saved file is evaluated, because users get the file.
    packed = load(file) if isinstance(network, PackedNetwork) else load(file, into=model)
    write(workdir / 'report.txt', f'{packed.report}\n')
    return compare(model, packed, batches) | {
        'packed_test_accuracy': evaluate(packed, batches(), loss).get('accuracy'),
        'packed_bytes': packed.report.bytes,
        'packed_milliseconds_per_batch': milliseconds(logits_of(packed), images),
    }


def class_names(model: Any, source: 'Source') -> tuple[str, ...]:
    """The names of a data set's classes; () if the model states another number of classes.

    Args:
        model: the trained network.
        source: the data set.
    """
    names = tuple(getattr(source, 'classes', ()))
    return names if len(names) == getattr(model, 'num_classes', len(names)) else ()


def preprocessing(
    config: Config, input_shape: tuple[int, ...], classes: tuple[str, ...] = ()
) -> 'Preprocessing | None':
    """How a run prepares test images, as the packed network's file states it.

    Args:
        config: the config of the run.
        input_shape: (H, W, C) of a prepared image.
        classes: the names of the classes.

    Returns:
        The preprocessing; None if a file cannot describe all of it.
    """
    from bnn_jax.data.preprocessing import Preprocessing

    try:
        return Preprocessing(cast(Any, input_shape), config.standardize, config.evaluation_augmentations, classes)
    except ValueError:
        return None


def deployed(config: Config, model: Any) -> Any:
    """The network to convert: the trained model, or `config.deployed` with the model's parameters and statistics."""
    if config.deployed is None:
        return model
    network = config.network(config.deployed)
    nnx.update(network, nnx.state(model))
    network.eval()
    return network


def compare(model, packed, batches: Callable) -> dict[str, float]:
    """Compare a network in training arithmetic with its packed network.

    Args:
        model: the trained network.
        packed: the packed network.
        batches: a function that returns the batches of test images.

    Returns:
        `prediction_agreement`, the share of images with the same predicted class, and `max_abs_logit_difference`.
    """
    in_training, from_bits, agree, count, difference = logits_of(model), logits_of(packed), 0, 0, 0.0
    for batch in batches():
        ours, theirs = (np.asarray(logits(batch['image'])) for logits in (in_training, from_bits))
        agree += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        difference = max(difference, float(np.abs(ours - theirs).max()))
        count += len(ours)
    return {'prediction_agreement': agree / count, 'max_abs_logit_difference': difference}


def milliseconds(logits: Callable, images: Float[np.ndarray, 'N H W C']) -> float:
    """The median time of a compiled call, in milliseconds.

    Args:
        logits: images -> logits.
        images: a batch.
    """
    times = []
    jax.block_until_ready(logits(images))  # Compiles.
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        jax.block_until_ready(logits(images))
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run's numbers depend on."""
    packages = ('bnn_jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy')
    installed = {dist.metadata['Name'].replace('-', '_'): dist.version for dist in importlib.metadata.distributions()}
    return {'python': sys.version.split()[0]} | {name: installed.get(name, 'not installed') for name in packages}


def _commit() -> str:
    """The commit of the repository in which the command was started, with -dirty if files differ; 'unknown' without one.

    It may be the user's own repository; `versions` has the version of this library.
    """
    command = ['git', 'describe', '--always', '--dirty', '--exclude=*', '--abbrev=12']
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return 'unknown'
    return done.stdout.strip() or 'unknown'


def device() -> str:
    """The number and kind of the devices, and the machine's architecture."""
    devices = jax.devices()
    kind = devices[0].device_kind
    return f'{len(devices)} x {kind} ({platform.machine()})'
