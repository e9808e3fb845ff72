"""Checks, CIFAR-10 rows and benchmarks on a GPU, in one command with a time limit; called again, it continues.

    make gpu MINUTES=30        # or: python -m experiments.gpu_day --minutes=30 --pieces=gpu_pieces --output=runs/gpu

It needs a JAX that sees the GPU, but no internet connection. It does, in this order:
1. compare the backends of the device with exact integer products, and seven packed networks with training arithmetic
   (`on_gpu.ON`, `on_gpu.NETWORKS`);
2. train the rows of CIFAR-10 (`ROWS`), several at a time if one does not fill the card;
3. measure the throughput of training;
4. run the benchmarks.

Training needs the images that `experiments.pieces` writes. If a piece is missing, the other work gets the time.

The folder `output` stays under 60 MB. It gets checks.json, throughput.json, benchmarks/, machine.json and logs, and for
each finished row results.json, the packed network, its curve and its records of epochs. The runs themselves lie beside it,
in OUTPUT.work. If there is room, the newest checkpoint of an unfinished run is copied to `output`, so that you can resume
it on another machine.
"""

import ctypes
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnn_jax.files import write
from bnn_jax.training.metrics import read
from experiments import run_command
from experiments.jobs import Day, Job

LARGEST = 58_000_000
"""The largest size of the output folder, in bytes. A checkpoint that would exceed it is not copied."""

FINISH = 60.0
"""Seconds that are reserved for a row after its training ends, to convert and test the network."""

FOR_MEASURING = 0.2, 300.0
"""Throughput and benchmarks get this share of the time, or this many seconds if that is less, until they are done."""


class Row(NamedTuple):
    """A row of a recipe, and how it is trained."""

    recipe: str
    row: str
    # May be fewer epochs than the recipe's.
    epochs: int
    seed: int = 0
    # The share of the GPU that the run takes, as far as known. Shares of concurrent runs sum to at most 1.
    share: float = 0.5

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f'{self.recipe}_{self.row.lower()}-{self.seed}'


ROWS = [
    Row('cifar10_resnet18', 'RECU', 400),
    Row('cifar10_resnet20', 'RECU', 400, share=0.25),
    Row('cifar10_resnet20', 'IRNET', 400, share=0.25),
    Row('cifar10_vgg_small', 'BNN', 200),
    Row('cifar10_vgg_small', 'XNOR', 200),
    Row('cifar10_vgg_small', 'BC', 200),
    Row('cifar10_vgg_small', 'FLOAT', 200),
    Row('cifar10_vgg_small_one_dense', 'RECU', 300),
    Row('cifar10_nin', 'XNOR', 320, share=0.25),
    Row('cifar10_nin', 'XNOR_PYTORCH_CIFAR', 320, share=0.25),
    Row('cifar10_nin', 'BWN', 320, share=0.25),
    Row('cifar10_nin', 'FLOAT', 320, share=0.25),
    Row('cifar10_resnet18', 'BIREAL', 400),
    Row('cifar10_resnet20', 'BIREAL', 400, share=0.25),
    Row('cifar10_resnet18', 'XNOR', 400),
    Row('cifar10_resnet20', 'XNOR', 400, share=0.25),
]
"""The most important rows first. At the end, the first nine again with two other seeds."""
ROWS += [row._replace(seed=seed) for seed in (1, 2) for row in ROWS[:9]]

TINY = [Row('cifar10_resnet20', 'BIREAL', 1), Row('cifar10_nin', 'XNOR', 1)]
"""The rows that are trained to try the command without a GPU."""

BENCHMARKS = {
    'inference': ('benchmarks.inference', '--backends', 'dense', 'xla', '--no-memory', '--batch_size=256'),
    'inference_of_one': ('benchmarks.inference', '--backends', 'dense', 'xla', '--no-memory', '--no-layers'),
    'training': ('benchmarks.training', '--models', 'resnet18', 'alexnet', '--batch_size=256', '--seconds=5'),
}
"""Name -> module and options."""


def this(part: str, output: Path, *options: str) -> list[str]:
    """The command of a part of this module, in a process of its own."""
    return [sys.executable, '-m', 'experiments.gpu_day', f'--part={part}', f'--output={output}', *options]


# Rows.


def train(row: Row, workdir: Path, pieces: Path, minutes: float, tiny: bool) -> dict[str, Any]:
    """Train a row on the images of the pieces, convert it and test it from bits, all in workdir. Raises as `fit` does."""
    from bnn_jax.training.experiment import run
    from bnn_jax.training.memory import allocate_for_training
    from experiments import pieces as travelling
    from experiments import recipes

    allocate_for_training()
    small = {'width': 0.1, 'batch_size': 16} if tiny else {}
    config = dataclasses.replace(
        recipes()[row.recipe].row(row.row),
        data=travelling.images,
        data_dir=str(pieces),
        workdir=str(workdir),
        epochs=row.epochs,
        seed=row.seed,
        precision='float32' if tiny else 'bfloat16',
        max_minutes=max(minutes, 1e-9),
        evaluate_every=max(1, row.epochs // 40),
        watch_every=500,
        on_device=True,
        **small,
    )
    return run(row.name, config)


def keep(row: Row, workdir: Path, output: Path) -> None:
    """Copy the results of a finished row to the output folder.

    Of an unfinished row, copy the config and the records, and the newest checkpoint if there is room.
    """
    kept = output / 'rows' / row.name
    finished = (workdir / 'results.json').exists()
    if not finished and not (workdir / 'config.json').exists():
        return
    kept.mkdir(parents=True, exist_ok=True)
    records = read(workdir / 'metrics.jsonl')
    few = [r for r in records[:-1] if 'epoch' in r or 'warning' in r] + records[-1:]
    write(kept / 'metrics.jsonl', ''.join(f'{json.dumps(record)}\n' for record in few))
    shutil.copy(workdir / 'config.json', kept)
    shutil.rmtree(kept / 'checkpoints', ignore_errors=True)
    if finished:
        for name in (
            'packed.safetensors',
            'curves.png',
            'report.txt',
            'results.json',
        ):  # results.json comes last: it marks the folder as complete.
            if (workdir / name).exists():
                shutil.copy(workdir / name, kept)
        return
    steps = [path for path in (workdir / 'checkpoints').glob('[0-9]*') if path.name.isdigit()]
    newest = max(steps, key=lambda path: int(path.name), default=None)
    if newest is not None and size(newest) + size(output) < LARGEST:
        shutil.copytree(newest, kept / 'checkpoints' / newest.name)


def restore(row: Row, workdir: Path, output: Path) -> None:
    """Copy the row's checkpoint from the output folder if this machine has no folder of the run."""
    kept = output / 'rows' / row.name
    if not workdir.exists() and (kept / 'checkpoints').exists():
        shutil.copytree(kept, workdir)


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def known(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows that exist in the recipes, and those that do not."""
    from experiments import recipes

    found, others, there = [], [], recipes()
    for row in rows:
        try:
            there[row.recipe].row(row.row)
            found.append(row)
        except (KeyError, ValueError):
            others.append(row)
    return found, others


# The command.


def main(
    minutes: float = 30.0,
    output: Path = Path('runs/gpu'),
    pieces: Path = Path('gpu_pieces'),
    tiny: bool = bool(os.environ.get('GPU_DAY_TINY')),
    part: str = '',
    row: int = -1,
) -> None:
    """Do as much as the time allows.

    Args:
        minutes: time limit of this call.
        output: folder of the results, to copy back.
        pieces: folder of the images, made by experiments.pieces.
        tiny: small networks and few rows, for a trial without a GPU; the same as GPU_DAY_TINY=1 in the environment.
        part: the part of the work that this process does: train, checks or throughput. By default it starts all of them.
        row: with part=train, the index in `ROWS` (with tiny: `TINY`) of the row to train.
    """
    rows = TINY if tiny else ROWS
    if part:
        _end_with_parent()
    if part == 'train':
        chosen = rows[row]
        train(chosen, _work(output) / chosen.name, pieces, minutes, tiny)
        return
    if part:
        from experiments import on_gpu

        {'checks': on_gpu.checks, 'throughput': on_gpu.throughput}[part](output, tiny)
        return
    end, day, options = time.monotonic() + 60 * minutes, Day(output), ['--tiny'] if tiny else []
    benchmarks = [] if tiny else [_benchmark(name, output) for name in BENCHMARKS]
    measuring = [_measured('throughput', output, options), *benchmarks]
    kept_free = 0.0 if all(job.done() for job in measuring) else min(FOR_MEASURING[0] * 60 * minutes, FOR_MEASURING[1])
    from experiments.pieces import missing

    there, others = known(rows)
    checks = [_measured('checks', output, options)]
    trained = [_trained(row, rows.index(row), output, [f'--pieces={pieces}', *options]) for row in there]
    day.run(checks, end)
    if lacking := missing(pieces):
        day.say(f'no rows: {pieces} lacks {", ".join(lacking)}')
    else:
        for other in others:
            day.say(f'{other.name}: the recipes have no such row')
        day.run(trained, end - kept_free, 0.0 if tiny else FINISH)
    day.run(measuring, end)
    left = [job.name for job in (*checks, *trained, *measuring) if not job.done()]
    state = f'not done: {", ".join(left)}; run the same command again to continue' if left else 'all is done'
    day.say(f'{state}; {output} has {size(output) / 1e6:.1f} MB')


def _work(output: Path) -> Path:
    """The folder of the runs themselves."""
    return Path(f'{output}.work')


def _measured(name: str, output: Path, options: Sequence[str]) -> Job:
    """The job of a part of this module that writes its results as NAME.json."""
    return Job(name, lambda minutes: this(name, output, *options), lambda: _complete(output / f'{name}.json'))


def _trained(row: Row, number: int, output: Path, options: Sequence[str]) -> Job:
    """The job that trains a row. number: the index of the row in `ROWS` or `TINY`."""
    workdir = _work(output) / row.name

    def command(minutes: float) -> list[str]:
        restore(row, workdir, output)
        return this('train', output, f'--row={number}', f'--minutes={minutes}', *options)

    done = (output / 'rows' / row.name / 'results.json').exists
    return Job(row.name, command, done, row.share, lambda status: keep(row, workdir, output))


def _end_with_parent() -> None:
    """On Linux: if the parent of this process is killed, this process gets SIGTERM, so that it saves."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _complete(path: Path) -> bool:
    """Whether a file of results says that it is complete."""
    return path.exists() and json.loads(path.read_text()).get('complete', False)


def _benchmark(name: str, output: Path) -> Job:
    """The job of a benchmark. Its output is kept if its exit status is 0."""
    log, kept = output / 'logs' / f'benchmark_{name}.txt', output / 'benchmarks' / f'{name}.txt'

    def after(status: int) -> None:
        if status == 0:
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(log, kept)

    module, *options = BENCHMARKS[name]
    return Job(f'benchmark_{name}', lambda minutes: [sys.executable, '-m', module, *options], kept.exists, after=after)


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with options; arguments: by default those of this process."""
    run_command(main, 'gpu_day', __doc__, arguments)


if __name__ == '__main__':
    command()
