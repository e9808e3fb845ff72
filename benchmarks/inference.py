"""Inference from bits compared with float32: products of signs, packing, whole networks, memory; also PyTorch and ONNX Runtime.

    taskset -c 1 python -m benchmarks.inference     # one core
    python -m benchmarks.inference                  # all cores that this process may use
    python -m benchmarks.inference --networks resnet18/BWN --no-layers --no-memory

Weights and images are random. The calls of the compared programs alternate, so other work on the machine affects all of them.
The tables show:
- the median time and the middle half of all times;
- float32 time / this: in each round, the float32 time divided by the row's time; the median over the rounds;
- "alone": the calls of one row run one after the other, so that operands and result stay in the caches;
- "words in the first cache": the rate of one thread with words in the first-level cache, the best of many short runs. It is
  not an upper limit: on AMD Zen 5, whole maps are faster.

$BNN_INSTRUCTIONS chooses the instruction set of the native kernels. XLA_FLAGS=--xla_cpu_max_isa=AVX2 restricts XLA. If
PyTorch and ONNX Runtime are installed, they run the same float network, with one thread for each core that this process may
use.
"""

import os
import platform
import re
import time
from pathlib import Path

import jax
import tyro

from benchmarks import figure4
from benchmarks import layers as bench_layers
from benchmarks import networks as bench_networks
from benchmarks.networks import Shape
from benchmarks.training import version
from bnn_jax.kernels import BACKENDS, native


def processor() -> str:
    """The name of the processor, from /proc/cpuinfo on Linux."""
    path = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.+)', path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def machine() -> str:
    """Versions, processor, cores, instruction sets."""
    names = ('jax', 'jaxlib', 'flax', 'numpy', 'torch', 'onnxruntime')
    reason = native.missing()
    kernels = f'not here: {reason}' if reason else f'for {", ".join(native.instruction_sets())}'
    chosen = ', '.join(f'{name}={os.environ.get(name, "")}' for name in ('BNN_INSTRUCTIONS', 'XLA_FLAGS'))
    return '\n'.join(
        (
            f'python {platform.python_version()}, {", ".join(f"{name} {version(name)}" for name in names)}',
            f'{jax.devices()[0].device_kind}: {processor()}, {len(os.sched_getaffinity(0))} cores may be used',
            f'native kernels {kernels}; {chosen}',
        )
    )


def by_model(networks: tuple[str, ...]) -> dict[str, list[str]]:
    """{'alexnet': ['XNOR', 'BNN']} from 'alexnet/XNOR' and 'alexnet/BNN'. Raises SystemExit for an unknown name."""
    schemes: dict[str, list[str]] = {}
    for name in networks:
        model, _, scheme = name.partition('/')
        if model not in ('alexnet', 'resnet18', 'vgg_small', 'lenet5') or scheme not in ('XNOR', 'BNN', 'BWN', 'BC'):
            raise SystemExit(f'inference: got network {name!r}, expected one such as resnet18/XNOR, alexnet/BNN')
        schemes.setdefault(model, []).append(scheme)
    return schemes


def main(
    networks: tuple[str, ...] = ('resnet18/XNOR', 'alexnet/XNOR', 'alexnet/BNN'),
    backends: tuple[str, ...] = ('dense', 'xla', 'native'),
    batch_size: int = 1,
    image_size: int = 224,
    width: float = 1.0,
    seconds: float = 2.0,
    layers: bool = True,
    memory: bool = True,
    picture: Path | None = None,
    cpu_time: bool = False,
) -> None:
    """Measure and print.

    Args:
        networks: MODEL/SCHEME; models: alexnet, resnet18, vgg_small, lenet5; schemes: XNOR, BNN, BWN, BC.
        backends: backends of packed products; if native cannot run, the tables say why.
        batch_size: images in a batch.
        image_size: height and width of the images.
        width: scales the number of filters and units in each layer.
        seconds: time for each measurement.
        layers: measure single products and packing.
        memory: measure the networks' files and resident memory, in fresh processes.
        picture: PNG file for the paper's Fig. 4 with measured points; by default none.
        cpu_time: measure the CPU time of this process instead of wall time, for a core that other processes use, too.
    """
    wrong = [name for name in backends if name not in BACKENDS]
    if wrong or not backends:
        raise SystemExit(f'inference: got backends {wrong or "none"}, expected some of {", ".join(BACKENDS)}')
    schemes = by_model(networks)
    clock = time.process_time if cpu_time else time.perf_counter
    print(machine(), flush=True)
    reason = bench_layers.why_not_native()
    measured = [name for name in backends if name != 'native' or reason is None]
    if reason is None:
        core = bench_layers.per_second(seconds, clock)
        print(f'words in the first cache: {core / 1e9:.0f} G products of signs a second and core', flush=True)
    if layers:
        print(bench_layers.layers(measured, batch_size, seconds, clock), flush=True)
        print(bench_layers.packing([b for b in measured if b != 'dense'], batch_size, seconds, clock), flush=True)
    for model, of_model in schemes.items():
        channels = 1 if model == 'lenet5' else 3
        shape = Shape(batch_size, (image_size, image_size, channels), width=width)
        print(bench_networks.network_times(model, of_model, measured, shape, seconds, clock), flush=True)
        if memory:
            print(bench_networks.memory(model, of_model, shape), flush=True)
    if picture is not None:
        figure4.draw(picture, measured, seconds, clock)
        print(f'{picture}: {picture.stat().st_size:,} bytes')


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.inference', description=__doc__)
