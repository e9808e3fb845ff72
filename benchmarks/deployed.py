"""The programs that `benchmarks.deploy` measures, in Python and in C, and the files that they read."""

import importlib.metadata
import importlib.util
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

from benchmarks.float_in_pytorch import in_pytorch
from benchmarks.networks import Shape
from bnn_jax.interop import c_library, onnx_model
from bnn_jax.native import build

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
network = runtime.load('packed.safetensors')
answer = lambda x: network(x, threads=CORES)
""",
    'PyTorch float': """
import numpy as np, torch
torch.set_num_threads(CORES)
network = torch.jit.load('float.pt')
def answer(x):
    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
""",
}
"""Code that defines `answer`, a function from images to logits. Imports are part of it, because they count as start time."""

ONNX = """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = CORES
session = onnxruntime.InferenceSession('FILE', options, providers=['CPUExecutionProvider'])
answer = lambda x: session.run(None, {'images': PREPARED})[0]
"""
IN_CHANNELS_FIRST = 'np.ascontiguousarray(x.transpose(0, 3, 1, 2))'

FILES = {
    'JAX': 'packed.safetensors',
    'runtime, Python': 'packed.safetensors',
    'runtime, C': 'packed.safetensors',
    'exported C': 'exported_C',
    'ONNX Runtime, our export': 'packed.onnx',
    'PyTorch float': 'float.pt',
    'ONNX Runtime float': 'float.onnx',
    'ONNX Runtime int8': 'int8.onnx',
}
MEASURE = """
import json, re, sys, time
images = np.load('images.npy')
answer(images[:1])
start = time.process_time()
clock = time.process_time if CORES == 1 else time.perf_counter
peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])
seconds = {}
for batch in (1, len(images)):
    x, found = images[:batch], []
    answer(x)
    for _ in range(int(sys.argv[1])):
        begin = clock()
        answer(x)
        found.append((clock() - begin) / batch)
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
  const clockid_t clock = %(cores)d == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
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
      const double begin = now(clock);
      if (b == 0) { %(run1)s } else { %(runs)s }
      found[i] = (now(clock) - begin) / (b == 0 ? 1 : %(batch)d);
    }
    qsort(found, (size_t)calls, sizeof(double), compare);
    seconds[b] = found[calls / 2];
  }
  printf("{\\"start\\": %%g, \\"peak\\": %%d, \\"seconds\\": [%%g, %%g]}\\n", start, peak, seconds[0], seconds[1]);
  return 0;
}
"""
"""The C program. Like the Python programs, it has all images in memory when it reads its peak memory."""


def in_python(load: str, cores: int) -> list[str]:
    """The command that runs a Python program."""
    return [sys.executable, '-c', (load + MEASURE).replace('CORES', str(cores))]


def in_onnx_runtime(file: str, prepared: str, cores: int) -> list[str]:
    """The command that runs an ONNX model. prepared: an expression that makes the input of the model from the images x."""
    return in_python(ONNX.replace('FILE', file).replace('PREPARED', prepared), cores)


def programs(folder: Path, packed, shape: Shape, images: np.ndarray, cores: int) -> dict[str, list[str] | str]:
    """For each program, its command, to run in `folder`, or the reason why it is missing."""
    found: dict[str, list[str] | str] = {
        name: in_python(load, cores) for name, load in LOADS.items() if 'float' not in name
    }
    numbers = {'cores': cores, 'batch': len(images), 'numbers': images[0].size, 'classes': shape.classes}
    height, width, _ = shape.image
    call = f'if (bnn_run(network, images, %d, {height}, {width}, {cores}, logits, error) != BNN_OK) return 2;'
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


def onnx_programs(folder: Path, packed, shape: Shape, cores: int) -> dict[str, list[str] | str]:
    """As `programs`, for `interop.onnx_model`."""
    name = 'ONNX Runtime, our export'
    if not are_installed('onnxruntime', 'onnx'):
        return {name: 'not installed'}
    (folder / FILES[name]).write_bytes(onnx_model(packed, shape.image).SerializeToString())
    return {name: in_onnx_runtime(FILES[name], 'x', cores)}


def float_programs(
    folder: Path, model: str, shape: Shape, images: np.ndarray, cores: int
) -> dict[str, list[str] | str]:
    """As `programs`, for the float network in PyTorch and ONNX Runtime."""
    in_torch, in_onnx, in_int8 = 'PyTorch float', 'ONNX Runtime float', 'ONNX Runtime int8'
    if not are_installed('torch'):
        return dict.fromkeys([in_torch, in_onnx, in_int8], 'not installed')
    import torch  # pyright: ignore[reportMissingImports]

    baseline, x = in_pytorch(shape.network(model, 'FLOAT')), torch.zeros(1, shape.image[2], *shape.image[:2])
    torch.jit.trace(baseline, x).save(str(folder / FILES[in_torch]))
    found: dict[str, list[str] | str] = {in_torch: in_python(LOADS[in_torch], cores)}
    if not are_installed('onnxruntime', 'onnx'):
        return found | dict.fromkeys([in_onnx, in_int8], 'not installed')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        file, axes = str(folder / FILES[in_onnx]), {'images': {0: 'n'}}
        torch.onnx.export(baseline, (x,), file, input_names=['images'], dynamic_axes=axes, dynamo=False)
    quantized(folder / FILES[in_onnx], folder / FILES[in_int8], images)
    return found | {name: in_onnx_runtime(FILES[name], IN_CHANNELS_FIRST, cores) for name in (in_onnx, in_int8)}


def quantized(file: Path, to: Path, images: np.ndarray) -> None:
    """Quantize a model to int8 with ONNX Runtime, calibrated on these images."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{'images': np.ascontiguousarray(image[None].transpose(0, 3, 1, 2))} for image in images[:4]]

        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            return self.left.pop() if self.left else None

    logging.disable(logging.WARNING)
    prepared = to.with_suffix('.prepared')
    quantization.shape_inference.quant_pre_process(str(file), str(prepared))
    quantization.quantize_static(str(prepared), str(to), Images(), per_channel=True)
    logging.disable(logging.NOTSET)


def are_installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)
