"""Images per second of a training step with each scheme, compared with the float network in JAX and in PyTorch.

    taskset -c 1 python -m benchmarks.training                        # one core
    python -m benchmarks.training --models resnet18 --batch-size=256  # JAX's default device

Each step is one step of Adam on a random batch that is on the device already. The steps of the compared programs alternate,
so other work on the machine affects all of them. The tables show the median rate, the middle half of all rates, and the
ratio of a step's time to the float step's time: the median over the rounds.

On a GPU or TPU, a step is timed until its result is ready. If PyTorch is installed, it runs the float network on CPU in both
of its memory layouts, each in a process of its own, with one thread for each core that this process may use. In JAX and
PyTorch, the allocator keeps freed memory, as in the experiments. JAX's step donates its state, as in `fit`.
"""

import contextlib
import dataclasses
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx

import bnn_jax as bnn
from benchmarks.float_in_pytorch import in_pytorch
from bnn_jax.command.heap import keep_freed_memory, one_heap
from bnn_jax.nn.containers import Network
from bnn_jax.nn.tables import render
from bnn_jax.training.step import update

SCHEMES = ('FLOAT', 'BC', 'BWN', 'BNN', 'XNOR', 'XNOR_K', 'BIREAL')


@dataclasses.dataclass(frozen=True)
class Size:
    """The default size for a model: images per batch, shape of one image, classes."""

    batch: int
    image: tuple[int, int, int]
    classes: int


SIZES = {
    'lenet5': Size(128, (28, 28, 1), 10),
    'vgg_small': Size(32, (32, 32, 3), 10),
    'nin': Size(128, (32, 32, 3), 10),
    'resnet20': Size(128, (32, 32, 3), 10),
    'alexnet': Size(32, (224, 224, 3), 1000),
    'resnet18': Size(16, (224, 224, 3), 1000),
}


def timed(step: Callable[[], object], clock: Callable[[], float]) -> Callable[[], float]:
    """A function that calls the step and returns how many seconds it took."""

    def call() -> float:
        before = clock()
        step()
        return clock() - before

    return call


def take_turns(
    steps: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """`rounds` of functions of this process."""
    return rounds({name: timed(step, clock) for name, step in steps.items()}, seconds)


def rounds(steps: dict[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """The seconds that each function returns, call by call.

    Each round calls every function once. There are at least three rounds, after one that does not count.
    """
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    while len(times[next(iter(steps))]) < 3 or sum(map(sum, times.values())) < seconds * len(steps):
        for name, step in steps.items():
            times[name].append(step())
    return times


def row(name: str, times: Sequence[float], twin: Sequence[float], batch: int) -> list[str]:
    """A row: name, images/s (median and middle half), and the median ratio of the time to the twin's."""
    rates = sorted(batch / t for t in times)
    low, median, high = np.percentile(rates, [25, 50, 75])
    ratio = statistics.median(t / other for t, other in zip(times, twin, strict=True))
    return [name, f'{median:,.1f}', f'{low:,.1f} .. {high:,.1f}', f'{ratio:.2f}']


def network_of(model: str, scheme: str, size: Size, width: float) -> Network:
    """A new network."""
    build = getattr(bnn.models, model)
    return build(size.classes, scheme=getattr(bnn, scheme), rngs=nnx.Rngs(0), width=width, input_shape=size.image)


def jax_step(model: str, scheme: str, size: Size, width: float, batch: dict) -> Callable[[], object]:
    """A training step in JAX; each call continues from the state of the last one."""
    state = bnn.training.init(network_of(model, scheme, size, width), optax.adam(1e-3))
    compiled = jax.jit(update, donate_argnums=0)

    def step():
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return step


def torch_step(network: Network, batch: dict, channels_last: bool) -> Callable[[], object]:
    """The same training step of a float network in PyTorch, on CPU."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    copy = in_pytorch(network).train().to(memory_format=layout)
    optimizer = torch.optim.Adam(copy.parameters(), 1e-3)
    images = torch.from_numpy(np.array(batch['image'])).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(np.array(batch['label'])).long()

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(copy(images), labels).backward()
        optimizer.step()

    return step


@contextlib.contextmanager
def in_own_process(*arguments: object) -> Iterator[Callable[[], float]]:
    """The timed step of PyTorch in a process of its own, because in one heap each would split the free blocks of the other.

    Args:
        arguments: those of `serve` after the connection.
    """
    spawned = multiprocessing.get_context('spawn')
    ours, theirs = spawned.Pipe()
    process = spawned.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()

    def call() -> float:
        try:
            ours.send(True)
            return ours.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("PyTorch's process has ended; its error is above") from error

    try:
        yield call
    finally:
        ours.close()
        process.join()


def serve(asked: Any, model: str, size: Size, width: float, batch: dict, channels_last: bool, cpu_time: bool) -> None:
    """Answer each message with the seconds of a PyTorch step, until the connection is closed."""
    one_heap()
    keep_freed_memory()
    jax.config.update('jax_platforms', 'cpu')
    step = torch_step(network_of(model, 'FLOAT', size, width), batch, channels_last)
    call = timed(step, time.process_time if cpu_time else time.perf_counter)
    with contextlib.suppress(EOFError):
        while asked.recv():
            asked.send(call())


def measured(model: str, schemes: Sequence[str], size: Size, width: float, seconds: float, cpu_time: bool) -> str:
    """The table of one model."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size.batch, *size.image)).astype(np.float32)
    batch = {'image': images, 'label': rng.integers(0, size.classes, size.batch).astype(np.int32)}
    clock, here = time.process_time if cpu_time else time.perf_counter, jax.device_put(batch)
    steps = {scheme: timed(jax_step(model, scheme, size, width, here), clock) for scheme in schemes}
    missing = []
    with contextlib.ExitStack() as processes:
        for name, channels_last in (('PyTorch, float', False), ('PyTorch, float, channels last', True)):
            if version('torch') == 'not installed':
                missing.append([name, 'not installed', '', ''])
            else:
                process = in_own_process(model, size, width, batch, channels_last, cpu_time)
                steps[name] = processes.enter_context(process)
        times = rounds(steps, seconds)
    twin = times[schemes[0]]
    rows = [row(name, times[name], twin, size.batch) for name in steps]
    title = f'{model}: {size.batch} x {size.image}, width {width}, {len(twin)} rounds'
    columns = ['scheme', 'images/s', 'middle half', f'time / {schemes[0]}']
    return render(title, columns, [*rows, *missing])


def main(
    models: tuple[str, ...] = tuple(SIZES),
    schemes: tuple[str, ...] = SCHEMES,
    batch_size: int = 0,
    image_size: int = 0,
    width: float = 1.0,
    seconds: float = 10.0,
    cpu_time: bool = False,
) -> None:
    """Measure and print.

    Args:
        models: names of models: lenet5, vgg_small, nin, resnet20, alexnet, resnet18.
        schemes: names of schemes; the times of all are divided by those of the first.
        batch_size: images in a batch; 0: each model's own.
        image_size: height and width of the images; 0: each model's own.
        width: scales the number of filters and units in each layer.
        seconds: time for each scheme.
        cpu_time: measure CPU time (of the process that makes the step) instead of wall time, for a core that others use, too.
    """
    unknown = [name for name in models if name not in SIZES] + [name for name in schemes if name not in SCHEMES]
    if unknown or not models or not schemes:
        raise SystemExit(f'training: got {unknown or "nothing"}, expected models of {[*SIZES]}, schemes of {SCHEMES}')
    versions = ', '.join(f'{name} {version(name)}' for name in ('jax', 'jaxlib', 'flax', 'optax', 'torch'))
    kept = (
        'kept, as the experiments have it'
        if one_heap() and keep_freed_memory()
        else 'given back, for this C library cannot keep it'
    )
    devices = jax.devices()
    print(f'python {platform.python_version()}, {versions}')
    print(
        f'{len(devices)} x {devices[0].device_kind}, {len(os.sched_getaffinity(0))} cores; freed memory is {kept}',
        flush=True,
    )
    for model in models:
        size = SIZES[model]
        image = (image_size, image_size, size.image[2]) if image_size else size.image
        size = dataclasses.replace(size, batch=batch_size or size.batch, image=image)
        print(measured(model, schemes, size, width, seconds, cpu_time), flush=True)


def version(name: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.training', description=__doc__)
