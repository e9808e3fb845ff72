"""Compares the ways to deploy a network: time from process start to the first logits, memory, and time per image.

    make bench-deploy                                  # or: taskset -c 1 python -m benchmarks.deploy

Programs: JAX with the C++ kernels; the runtime from Python and from C; exported C. If they are installed, also ONNX Runtime
with `interop.onnx_model`, PyTorch with the float network in float32, and ONNX Runtime with the float network in float32 and
in int8.

Each program runs in several new processes, all on the same cores. The programs run in turn, and the table shows medians:
- start: CPU time from the start of the process to its first logits;
- time per image: on one core CPU time, which excludes other work on the machine; on several cores wall time. Exported C has
  one thread;
- memory: the peak memory of the process up to its first logits, including the images;
- file: the size of the network's file; for exported C, of the program;
- environment: the size of the installed packages, without Python.
"""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tyro

import bnn_jax as bnn
from benchmarks.deployed import FILES, float_programs, onnx_programs, programs
from benchmarks.networks import Shape
from bnn_jax.native import build
from bnn_jax.nn.tables import listing

PACKAGES = {
    'JAX': ['bnn_jax'],
    'runtime, Python': ['numpy'],
    'ONNX Runtime, our export': ['onnxruntime'],
    'PyTorch float': ['torch', 'numpy'],
    'ONNX Runtime float': ['onnxruntime'],
    'ONNX Runtime int8': ['onnxruntime'],
}
"""The packages that each program needs; the size of this library is added where it is used."""


def installed_bytes(packages: list[str]) -> int:
    """Bytes of the installed packages and of all their requirements."""
    wanted, seen, total = list(packages), set(), 0
    while wanted:
        name = re.sub(r'[-_.]+', '-', wanted.pop()).lower()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # A requirement of another system or of an extra.
            continue
        if name in seen:
            continue
        seen.add(name)
        paths = [path.locate() for path in distribution.files or []]
        total += sum(Path(str(path)).stat().st_size for path in paths if Path(str(path)).is_file())
        required = [text for text in distribution.requires or [] if 'extra ==' not in text]
        wanted += [match[0] for text in required if (match := re.match(r'[\w.-]+', text))]
    return total


def library_bytes() -> int:
    """Bytes of the files of this library."""
    root = Path(bnn.__file__).parent
    return sum(path.stat().st_size for path in root.rglob('*') if path.is_file() and '__pycache__' not in path.parts)


def main(
    model: str = 'resnet18',
    scheme: str = 'XNOR',
    rounds: int = 3,
    calls: int = 10,
    batch: int = 16,
    width: float = 1.0,
    cores: int = 1,
) -> None:
    """Measure, and print a table with a row for each program.

    Args:
        model: a function of bnn_jax.models.
        scheme: a scheme of bnn_jax.schemes.
        rounds: processes of each program; the table shows medians over them.
        calls: timed calls in each process, for each size of batch.
        batch: size of the larger batch.
        width: scales the number of filters in each layer.
        cores: number of cores that compute.
    """
    available = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(available):
        raise ValueError(f'cores: got {cores}, expected 1 to {len(available)}')
    os.sched_setaffinity(0, available[-cores:])
    shape = Shape(batch=batch, width=width)
    print(
        f'{platform.machine()}, Python {platform.python_version()}, {bnn.runtime.instruction_sets()[0]}, cores: {cores}'
    )
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), shape.images()
        packed = bnn.convert(shape.network(model, scheme))
        bnn.save(packed, folder / 'packed.safetensors')
        np.save(folder / 'images.npy', images)
        images.tofile(folder / 'images.bin')
        commands = programs(folder, packed, shape, images, cores) | onnx_programs(folder, packed, shape, cores)
        commands |= float_programs(folder, model, shape, images, cores)
        paths = os.pathsep.join(
            [str(Path(bnn.__file__).parents[1]), *os.environ.get('PYTHONPATH', '').split(os.pathsep)]
        )
        cache = {'JAX_COMPILATION_CACHE_DIR': str(folder), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
        environment = {**os.environ, **cache, 'PYTHONPATH': paths}
        results: dict[str, list] = {name: [] for name in commands}
        for untimed in [True] + rounds * [False]:  # The first round fills JAX's compilation cache.
            for name, command in commands.items():
                if isinstance(command, list):
                    done = subprocess.run(
                        [*command, str(calls)], cwd=folder, env=environment, check=True, capture_output=True, text=True
                    )
                    if not untimed:
                        results[name].append(json.loads(done.stdout.splitlines()[-1]))
        sizes = {name: (folder / file).stat().st_size for name, file in FILES.items() if (folder / file).exists()}
    rows = []
    for name, command in commands.items():
        if isinstance(command, str):
            rows.append([f'{name}: {command}', *[''] * 6])
            continue
        start, peak = (statistics.median(run[key] for run in results[name]) for key in ('start', 'peak'))
        one, many = (1e3 * statistics.median(run['seconds'][i] for run in results[name]) for i in (0, 1))
        installed = installed_bytes(PACKAGES.get(name, [])) + (
            library_bytes() if name in ('JAX', 'runtime, Python') else 0
        )
        if name == 'runtime, C':
            installed = Path(build.LIBRARY).stat().st_size
        large = [f'{sizes[name] / 1e6:.2f}', f'{installed / 1e6:.0f}' if installed else 'none']
        rows.append([name, f'{start:.3f}', f'{peak / 1024:.0f}', f'{one:.2f}', f'{many:.2f}', *large])
    columns = [
        '',
        'start, CPU s',
        'memory, MiB',
        'batch 1, ms',
        f'batch {batch}, ms an image',
        'file, MB',
        'environment, MB',
    ]
    print(listing(f'{model} {scheme}', columns, rows))


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.deploy', description=__doc__)
