"""Whole networks, from an image to logits, and their memory. See benchmarks.inference."""

import dataclasses
import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from flax import nnx

import bnn_jax as bnn
from benchmarks.float_in_pytorch import in_pytorch
from benchmarks.layers import Clock, milliseconds, speedup, why_not_native
from benchmarks.peak_memory import STATUS, leaves_to
from benchmarks.training import take_turns
from bnn_jax.kernels import BACKENDS, backends
from bnn_jax.nn.containers import Network
from bnn_jax.nn.packed import PackedNetwork
from bnn_jax.nn.tables import listing

Step = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Images per batch, shape of one image, classes, and the width, which scales the number of filters in each layer."""

    batch: int = 1
    image: tuple[int, int, int] = (224, 224, 3)
    classes: int = 1000
    width: float = 1.0

    def network(self, model: str, scheme: str) -> Network:
        """A network with random weights, in evaluation mode."""
        network = getattr(bnn.models, model)(
            self.classes,
            scheme=getattr(bnn, scheme),
            rngs=nnx.Rngs(0),
            width=self.width,
            input_shape=self.image,
        )
        network.eval()
        return network

    def images(self) -> np.ndarray:
        """A batch of random images."""
        return np.random.default_rng(0).normal(size=(self.batch, *self.image)).astype(np.float32)


def evaluated(network: Network, images: jax.Array) -> Step:
    """Logits in training arithmetic, compiled. The parameters are operands, as in a packed network."""
    graphdef, state = nnx.split(network)
    call = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
    return lambda: jax.block_until_ready(call(state, images))


def packed_step(network: PackedNetwork, images: jax.Array, backend: str) -> Step:
    """Logits of a packed network, compiled with this backend."""
    with mock.patch.object(backends, 'AUTO', BACKENDS[backend]):
        # A new function each time, because JAX would reuse the trace of an earlier one.
        call = jax.jit(lambda network, images: network(images)).lower(network, images).compile()
    return lambda: jax.block_until_ready(call(network, images))


def pytorch_steps(network: Network, images: np.ndarray) -> dict[str, Callable[[], np.ndarray] | str]:
    """The float network in PyTorch and, exported from it, in ONNX Runtime, on this process's cores; or why it is missing."""
    cores = len(os.sched_getaffinity(0))
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {'PyTorch': 'not installed', 'ONNX Runtime': 'not measured, PyTorch exports the network'}
    torch.set_num_threads(cores)
    twin, x = in_pytorch(network), torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def in_torch() -> np.ndarray:
        with torch.inference_mode():
            return twin(x).numpy()

    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {'PyTorch': in_torch, 'ONNX Runtime': 'not installed'}
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            torch.onnx.export(twin, (x,), file, input_names=['images'], dynamo=False)
    except Exception as error:  # Other versions of the exporter, or a missing package, raise other errors.
        return {'PyTorch': in_torch, 'ONNX Runtime': f'not measured, PyTorch did not export the network: {error}'}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    # Without this option its threads keep the cores busy after a call, during the next measurement.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=['CPUExecutionProvider'])
    feed = {'images': x.numpy()}
    return {'PyTorch': in_torch, 'ONNX Runtime': lambda: np.asarray(session.run(None, feed)[0])}


def network_times(
    model: str, schemes: Sequence[str], backends: Sequence[str], shape: Shape, seconds: float, clock: Clock
) -> str:
    """The table of one architecture, and for each network a line that says whether its logits agree."""
    images = shape.images()
    on_device = jax.device_put(images)
    network = shape.network(model, 'FLOAT')
    steps: dict[str, Step] = {'float32': evaluated(network, on_device)}
    missing, notes = [], []
    logits = np.asarray(steps['float32']())
    for name, step in pytorch_steps(network, images).items():
        if isinstance(step, str):
            missing.append([f'float32, {name}: {step}', '', '', ''])
        else:
            steps[f'float32, {name}'] = step
            notes.append(f'float32, {name}: logits differ from JAX by up to {np.abs(step() - logits).max():.1e}')
    for scheme in schemes:
        network = shape.network(model, scheme)
        macs = bnn.summarize(network, (shape.batch, *shape.image)).macs_1bit
        expected, packed = np.asarray(evaluated(network, on_device)()), bnn.convert(network)
        for backend in backends if macs else ('',):
            name = f'{scheme}, {backend}' if macs else f'{scheme}, no product of two signs'
            step = packed_step(packed, on_device, backend or 'xla')
            notes.append(f'{name}: {agreement(np.asarray(step()), expected)}')
            steps[name] = step
        if why_not_native() is not None:
            missing.append([f'{scheme}, native: {why_not_native()}', '', '', ''])
    times = take_turns(steps, seconds, clock)
    rows = [[name, *milliseconds(own), f'{speedup(times, name, "float32"):.2f}'] for name, own in times.items()]
    title = f'{model}: {shape.batch} x {shape.image}, width {shape.width}, {len(times["float32"])} rounds'
    table = listing(title, ['network', 'ms', 'middle half', 'float32 time / this'], [*rows, *missing])
    return '\n'.join([table, *notes])


def agreement(logits: np.ndarray, expected: np.ndarray) -> str:
    """How logits from bits compare with those in training arithmetic."""
    if np.array_equal(logits, expected):
        return 'logits equal those in training arithmetic to the last bit'
    return f'logits DIFFER from those in training arithmetic by up to {np.abs(logits - expected).max():.1e}'


def memory(model: str, schemes: Sequence[str], shape: Shape) -> str:
    """A table: bytes of the file, and memory growth of a fresh process that loads it and computes one batch."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for scheme in ('FLOAT', *schemes):
            network = shape.network(model, scheme)
            summary = bnn.summarize(network, (shape.batch, *shape.image))
            path, options = Path(folder) / f'{scheme}.safetensors', []
            if scheme == 'FLOAT':
                path, options = path.with_suffix('.npz'), [f'--model={model}']
                options += [f'--classes={shape.classes}', f'--width={shape.width}']
                leaves_to(path, network)
            else:
                bnn.save(bnn.convert(network), path)
            stored = summary.bytes if scheme == 'FLOAT' else summary.packed_bytes
            sizes = [f'{number / 2**20:.2f}' for number in (path.stat().st_size, stored)]
            del network
            # The first process fills the compilation cache, so the second one's growth excludes the compiler.
            grown = [growth(path, [*options], shape, Path(folder) / 'compiled') for _ in range(2)]
            rows.append([f'{model} {scheme}', *sizes, *grown])
    columns = ['network', 'file', 'its tensors', 'growth, compiling', 'growth, compiled before']
    return listing(f'MiB; batch {shape.batch} x {shape.image}', columns, rows)


def growth(path: Path, options: Sequence[str], shape: Shape, cache: Path) -> str:
    """The output of `peak_memory` in a fresh process."""
    if not STATUS.exists():
        return 'not measured: no /proc here'
    command = [sys.executable, '-m', 'benchmarks.peak_memory', str(path), *options]
    command += [f'--batch={shape.batch}', '--image', *map(str, shape.image)]
    variables = {
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    root = Path(__file__).parent.parent
    child = subprocess.run(command, cwd=root, env=os.environ | variables, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f'{" ".join(command)}\n{child.stderr}')
    return child.stdout.strip()
