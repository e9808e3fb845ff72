"""Fig. 4 of the XNOR-Net paper (arXiv:1603.05279), with measured points beside its formula.

    taskset -c 1 python -m benchmarks.figure4 docs/figure4.png

- (a): memory of networks with real first and last layers, in float32 and as `save` stores them.
- (b): speed-up of one convolution, against its number of channels.
- (c): speed-up of one convolution, against its filter size.

Line: the paper's S = 64 c N_W / (c N_W + 64), where N_W is the area of the filter. It assumes that an operation on 64 signs
takes the time of one float operation. The paper's own figure shows only this formula.

Points: the time of a float32 convolution divided by the time of a packed convolution, measured on this machine. The float32
time is that of XLA's convolution or of XLA's matrix product of patches, whichever is faster. The packed convolution takes
words and returns integers. There are 256 filters and 14 x 14 output pixels, without padding.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from flax import nnx

import bnn_jax as bnn
from benchmarks.layers import Clock, Layer, speedup, steps_of, why_not_native
from benchmarks.training import take_turns

MODELS = ('alexnet', 'resnet18')
CHANNELS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SIZES = (1, 2, 3, 4, 5, 7, 9, 11, 14, 17, 20)
OUT, FILTERS, DEPTH = 14, 256, 256
"""Output pixels along each side, filters, and the channels in (c)."""


def formula(channels: float, size: float) -> float:
    """The paper's speed-up of one convolution: c N_W N_I operations divided by c N_W N_I / 64 + N_I operations."""
    products = channels * size**2
    return 64 * products / (products + 64)


def layer(channels: int, size: int) -> Layer:
    """A convolution with OUT x OUT output pixels and no padding."""
    return Layer(OUT + size - 1, channels, FILTERS, size, padding=0)


def measured(layers: Sequence[Layer], backends: Sequence[str], seconds: float, clock: Clock) -> dict[str, list[float]]:
    """The time of the faster float32 product divided by that of each backend, for each layer."""
    points: dict[str, list[float]] = {backend: [] for backend in backends}
    for one in layers:
        times = take_turns(steps_of(one, backends), seconds, clock)
        fastest = min(('float32', 'float32, patches'), key=lambda name: float(np.median(times[name])))
        for backend in backends:
            points[backend].append(speedup(times, backend, fastest))
    return points


def megabytes(model: str) -> tuple[float, float]:
    """Size of an XNOR network for ImageNet in MB: in float32 and packed."""

    def make():
        return getattr(bnn.models, model)(1000, scheme=bnn.XNOR, rngs=nnx.Rngs(0))

    summary = bnn.summarize(nnx.eval_shape(make), (1, 224, 224, 3))
    return summary.bytes / 1e6, summary.packed_bytes / 1e6


def draw(
    path: Path, backends: Sequence[str] = ('native', 'xla'), seconds: float = 1.0, clock: Clock = time.perf_counter
) -> None:
    """Measure, and write the figure."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    panels = (
        ('(b) channels, 3 x 3 filters', CHANNELS, [layer(c, 3) for c in CHANNELS], [formula(c, 3) for c in CHANNELS]),
        (
            f'(c) filter size, {DEPTH} channels',
            SIZES,
            [layer(DEPTH, k) for k in SIZES],
            [formula(DEPTH, k) for k in SIZES],
        ),
    )
    figure, (bars, *plots) = plt.subplots(1, 3, figsize=(12, 3.8), dpi=100, layout='constrained')
    for i, model in enumerate(MODELS):
        sizes = megabytes(model)
        for place, size, color in zip((i - 0.2, i + 0.2), sizes, ('C0', 'C1'), strict=True):
            bars.bar(
                place, size, 0.4, color=color, label=('float32' if color == 'C0' else 'packed') if i == 0 else None
            )
            bars.annotate(f'{size:.1f}', (place, size), ha='center', va='bottom', fontsize=8)
    bars.set(title='(a) memory, MB', xticks=range(len(MODELS)), xticklabels=MODELS)
    bars.legend()
    for axis, (title, places, layers, line) in zip(plots, panels, strict=True):
        axis.plot(places, line, 'k-', label='formula of the paper')
        for backend, points in measured(layers, backends, seconds, clock).items():
            axis.plot(places, points, 'o:', markersize=4, label=f'measured, {backend}')
        axis.set(title=title, ylabel='float32 time / its', ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    plots[0].set_xscale('log', base=2)
    cores = len(os.sched_getaffinity(0))
    figure.suptitle(
        f'{jax.devices()[0].device_kind}, {cores} core{"s" if cores > 1 else ""}', fontsize=9, ha='left', x=0.01
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def main(path: Annotated[Path, tyro.conf.Positional], seconds: float = 1.0, cpu_time: bool = False) -> None:
    """Measure and draw.

    Args:
        path: PNG file to write.
        seconds: time for each point.
        cpu_time: measure the CPU time of this process instead of wall time, for a core that other processes use, too.
    """
    reason = why_not_native()
    if reason is not None:
        print(f'native is not measured: {reason}')
    clock = time.process_time if cpu_time else time.perf_counter
    draw(path, ('xla',) if reason else ('native', 'xla'), seconds, clock)
    print(f'{path}: {path.stat().st_size:,} bytes')


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.figure4', description=__doc__)
