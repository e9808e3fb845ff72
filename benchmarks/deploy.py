"""A network where it is deployed: time from process start to the first logits, memory, and time an image.

    make bench-deploy                                  # or: taskset -c 1 python -m benchmarks.deploy

Rows: JAX with the C++ kernels, the runtime from Python and from C, exported C, and, if they are installed, PyTorch and ONNX
Runtime with the float network.

Each row runs in processes of its own, all on one core. Times are the CPU time of the process, so other work on the machine
does not count. The start counts from the start of the process. Memory is the process's highest after its first logits,
images included. The rows take turns; the table shows medians.
"""

import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import tyro

import bnn_jax as bnn
from benchmarks.float_in_pytorch import in_pytorch
from benchmarks.networks import Shape
from bnn_jax.interop import c_library
from bnn_jax.native import build
from bnn_jax.nn.tables import listing

LOADS = {
    'JAX': """
import jax, numpy as np, bnn_jax as bnn
network = bnn.load('packed.safetensors')
call = jax.jit(lambda network, x: network(x))
answer = lambda x: np.asarray(call(network, x))
""",
    'runtime, Python': """
import numpy as np
from bnn_jax import runtime
answer = runtime.load('packed.safetensors')
""",
    'PyTorch float': """
import numpy as np, torch
torch.set_num_threads(1)
network = torch.jit.load('float.pt')
def answer(x):
    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
""",
    'ONNX Runtime float': """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession('float.onnx', options, providers=['CPUExecutionProvider'])
answer = lambda x: session.run(None, {'images': np.ascontiguousarray(x.transpose(0, 3, 1, 2))})[0]
""",
}
"""How a program of each kind comes to a function of images. It imports NumPy itself, as what it needs counts."""

MEASURE = """
import json, re, sys, time
images = np.load('images.npy')
answer(images[:1])
start = time.process_time()
peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])
seconds = {}
for batch in (1, len(images)):
    x, found = images[:batch], []
    answer(x)
    for _ in range(int(sys.argv[1])):
        begin = time.process_time()
        answer(x)
        found.append((time.process_time() - begin) / batch)
    seconds[batch] = sorted(found)[len(found) // 2]
print(json.dumps({'start': start, 'peak': peak, 'seconds': list(seconds.values())}))
"""

MAIN = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
%(include)s
static float images[%(batch)d * %(numbers)d], logits[%(batch)d * %(classes)d];
static double now(clockid_t clock) {
  struct timespec at;
  clock_gettime(clock, &at);
  return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}
static int compare(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }
int main(int argc, char **argv) {
  int calls = argc > 1 ? atoi(argv[1]) : 1, i, b, peak = 0;
  double start, *found = malloc(sizeof(double) * (size_t)calls), seconds[2];
  char line[256];
  FILE *file = fopen("images.bin", "rb");
  %(open)s
  if (file == NULL || fread(images, sizeof(float), %(numbers)d, file) != %(numbers)d) return 1;
  %(run1)s
  start = now(CLOCK_PROCESS_CPUTIME_ID);
  if (fread(images + %(numbers)d, sizeof(float), (%(batch)d - 1) * %(numbers)d, file) == 0) return 1;
  fclose(file);
  file = fopen("/proc/self/status", "r");
  while (file != NULL && fgets(line, sizeof(line), file) != NULL) sscanf(line, "VmHWM: %%d", &peak);
  for (b = 0; b < 2; ++b) {
    for (i = 0; i < calls; ++i) {
      const double begin = now(CLOCK_PROCESS_CPUTIME_ID);
      if (b == 0) { %(run1)s } else { %(runs)s }
      found[i] = (now(CLOCK_PROCESS_CPUTIME_ID) - begin) / (b == 0 ? 1 : %(batch)d);
    }
    qsort(found, (size_t)calls, sizeof(double), compare);
    seconds[b] = found[calls / 2];
  }
  printf("{\\"start\\": %%g, \\"peak\\": %%d, \\"seconds\\": [%%g, %%g]}\\n", start, peak, seconds[0], seconds[1]);
  return 0;
}
"""
"""The same in C; memory that is only reserved for the larger batch does not count before it is filled."""


def programs(folder: Path, packed, shape: Shape, images: np.ndarray) -> dict[str, list[str] | str]:
    """A command for each row, to be run in the folder; or why there is none."""
    found: dict[str, list[str] | str] = {
        name: [sys.executable, '-c', load + MEASURE] for name, load in LOADS.items() if 'float' not in name
    }
    numbers = {'batch': len(images), 'numbers': images[0].size, 'classes': shape.classes}
    height, width, _ = shape.image
    call = f'if (bnn_run(network, images, %d, {height}, {width}, 1, logits, error) != BNN_OK) return 2;'
    of_runtime = {
        'include': '#include "bnn_runtime.h"',
        'open': 'bnn_network *network; char error[BNN_ERROR];\n'
        '  if (bnn_open("packed.safetensors", NULL, &network, error) != BNN_OK) return 2;',
        'run1': call % 1,
        'runs': call % len(images),
    }
    c_library(packed, folder, shape.image)
    of_export = {
        'include': '#include "network.h"\nstatic network_cell scratch[NETWORK_SCRATCH];',
        'open': '',
        'run1': 'network(images, logits, scratch);',
        'runs': f'int k; for (k = 0; k < {len(images)}; ++k) network(images + k * {numbers["numbers"]}, logits, scratch);',
    }
    library = [build.LIBRARY, f'-Wl,-rpath,{Path(build.LIBRARY).parent}', f'-I{build.SOURCES}']
    for name, parts, more in (
        ('runtime, C', of_runtime, library),
        ('exported C', of_export, ['network.c', '-march=native']),
    ):
        program = name.replace(', ', '_').replace(' ', '_')
        (folder / f'{program}.c').write_text(MAIN % (numbers | parts))
        if shutil.which('cc') is None:
            found[name] = 'no cc'
            continue
        subprocess.run(['cc', '-std=c99', '-O3', f'{program}.c', *more, '-o', program], cwd=folder, check=True)
        found[name] = [f'./{program}']
    return found


def float_programs(folder: Path, model: str, shape: Shape) -> dict[str, list[str] | str]:
    """The same for the float network in PyTorch and ONNX Runtime."""
    names = [name for name in LOADS if 'float' in name]
    if importlib.util.find_spec('torch') is None:
        return dict.fromkeys(names, 'not installed')
    import torch  # pyright: ignore[reportMissingImports]

    twin, x = in_pytorch(shape.network(model, 'FLOAT')), torch.zeros(1, shape.image[2], *shape.image[:2])
    torch.jit.trace(twin, x).save(str(folder / 'float.pt'))
    found: dict[str, list[str] | str] = {names[0]: [sys.executable, '-c', LOADS[names[0]] + MEASURE]}
    if importlib.util.find_spec('onnxruntime') is None or importlib.util.find_spec('onnx') is None:
        return found | {names[1]: 'not installed'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        axes = {'images': {0: 'n'}}
        torch.onnx.export(
            twin, (x,), str(folder / 'float.onnx'), input_names=['images'], dynamic_axes=axes, dynamo=False
        )
    return found | {names[1]: [sys.executable, '-c', LOADS[names[1]] + MEASURE]}


def main(
    model: str = 'resnet18', scheme: str = 'XNOR', rounds: int = 3, calls: int = 10, batch: int = 16, width: float = 1.0
) -> None:
    """Prints a line for each way to run a network.

    Args:
        model: a function of bnn_jax.models.
        scheme: a scheme of bnn_jax.schemes.
        rounds: runs of each row's process; the table shows their medians.
        calls: timed calls of each batch in a run.
        batch: size of the larger batch.
        width: factor on the network's filters.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    shape = Shape(batch=batch, width=width)
    print(f'{platform.machine()}, Python {platform.python_version()}, {bnn.runtime.instruction_sets()[0]}, one core')
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), shape.images()
        packed = bnn.convert(shape.network(model, scheme))
        bnn.save(packed, folder / 'packed.safetensors')
        np.save(folder / 'images.npy', images)
        images.tofile(folder / 'images.bin')
        commands = programs(folder, packed, shape, images) | float_programs(folder, model, shape)
        paths = os.pathsep.join(
            [str(Path(bnn.__file__).parents[1]), *os.environ.get('PYTHONPATH', '').split(os.pathsep)]
        )
        cache = {'JAX_COMPILATION_CACHE_DIR': str(folder), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
        environment = {**os.environ, **cache, 'PYTHONPATH': paths}
        results: dict[str, list] = {name: [] for name in commands}
        for untimed in [True] + rounds * [False]:  # The first leaves JAX's compilations in the cache.
            for name, command in commands.items():
                if isinstance(command, list):
                    done = subprocess.run(
                        [*command, str(calls)], cwd=folder, env=environment, check=True, capture_output=True, text=True
                    )
                    if not untimed:
                        results[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for name, command in commands.items():
        if isinstance(command, str):
            rows.append([f'{name}: {command}', '', '', '', ''])
            continue
        start, peak = (statistics.median(run[key] for run in results[name]) for key in ('start', 'peak'))
        one, many = (1e3 * statistics.median(run['seconds'][i] for run in results[name]) for i in (0, 1))
        rows.append([name, f'{start:.3f}', f'{peak / 1024:.0f}', f'{one:.2f}', f'{many:.2f}'])
    columns = ['', 'start, CPU s', 'memory, MiB', 'batch 1, ms', f'batch {batch}, ms an image']
    print(listing(f'{model} {scheme}', columns, rows))


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.deploy', description=__doc__)
