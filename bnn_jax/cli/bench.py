"""`bnn-jax bench`: how long a packed network takes."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro

from bnn_jax.cli.inputs import Shape, preprocessing, random_images

TIMED_CALLS = 20


def bench(
    file: tyro.conf.Positional[Path],
    batch: int = 1,
    input: Shape | None = None,
    float: bool = False,
    calls: int = TIMED_CALLS,
) -> None:
    """Measure the median time that a packed network takes for a batch of random images on this machine.

    Args:
        file: a packed network.
        batch: number of images in a batch.
        input: height, width and channels of an image; required if the file does not state them.
        float: also measure the same network in float32, with unpacked weights and the float products of training.
        calls: number of timed calls, after an untimed first call that compiles.

    Example:
        bnn-jax bench digits.safetensors --batch=8 --float
    """
    import jax

    from bnn_jax.inference.float_twin import float_twin
    from bnn_jax.inference.serialization import load, preprocessing_of
    from bnn_jax.nn.tables import listing
    from bnn_jax.training.evaluation import logits_of
    from bnn_jax.training.results import device, versions

    if batch < 1 or calls < 1:
        raise ValueError(f'bench: got batch {batch} and calls {calls}, expected at least 1 for each')
    network, stated = load(file), preprocessing_of(file)
    if input is None and stated is None:
        raise ValueError(f'{file} does not state the size of its images; give --input HEIGHT WIDTH CHANNELS')
    shape = preprocessing(file, None).input_shape if input is None else input
    images = random_images((batch, *shape))
    networks = {'packed': network} | ({'float32': float_twin(network)} if float else {})
    rows = []
    for name, one in networks.items():
        times = _milliseconds(logits_of(one), images, calls)
        median = statistics.median(times)
        bytes_of = sum(leaf.nbytes for leaf in jax.tree.leaves(one))
        spread = f'{min(times):.3f} to {max(times):.3f}'
        rows.append([name, f'{median:.3f}', spread, f'{1000 * batch / median:,.1f}', f'{bytes_of:,}'])
    print(f'{file}, batch {batch} of {"x".join(map(str, shape))}, {calls} calls, {device()}')
    print(listing('', ['arithmetic', 'median ms', 'min to max ms', 'images/s', 'bytes in memory'], rows))
    print(', '.join(f'{name} {version}' for name, version in versions().items()))


def _milliseconds(logits: Callable, images: np.ndarray, calls: int) -> list[float]:
    import jax

    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        jax.block_until_ready(logits(images))
        times.append(1000 * (time.perf_counter() - start))
    return times[1:]  # The first call compiled.
