"""`bnn-jax export`: from a packed file to C, ONNX, QONNX or StableHLO."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from bnn_jax.cli.inputs import Shape


def export(
    file: tyro.conf.Positional[Path],
    c: Path | None = None,
    onnx: Path | None = None,
    qonnx: Path | None = None,
    stablehlo: Path | None = None,
    input: Shape | None = None,
    name: str = 'network',
) -> None:
    """Export a packed network to C, ONNX, QONNX or StableHLO. Give one or more of --c, --onnx, --qonnx and --stablehlo.

    Args:
        file: a packed network.
        c: folder for NAME.h and NAME.c, a C99 library that allocates no memory, opens no file and needs no other library.
        onnx: file for an ONNX model in standard operators; it stores binary weights as bits and computes in float32.
        qonnx: file for an ONNX model with BipolarQuant nodes, for FINN and hls4ml.
        stablehlo: file for a portable program that jax.export.deserialize reads; it takes any number of images.
        input: height, width and channels of an image; by default from the file.
        name: name of the C function and its files.

    Example:
        bnn-jax export digits.safetensors --c=firmware/ --name=digits
    """
    from bnn_jax import interop
    from bnn_jax.data.preprocessing import Preprocessing
    from bnn_jax.files import write
    from bnn_jax.inference.serialization import load, preprocessing_of

    if not any((c, onnx, qonnx, stablehlo)):
        raise ValueError('export: got no output, expected --c FOLDER, or --onnx, --qonnx or --stablehlo FILE')
    network, described = load(file), preprocessing_of(file)
    prepared = None if described is None else Preprocessing.of(described)
    shape = input or (None if prepared is None else prepared.input_shape)
    if shape is None:
        raise ValueError(
            f'export: {file} does not state the size of its images, expected --input HEIGHT WIDTH CHANNELS'
        )
    if c is not None:
        _library(network, c, shape, name, None if prepared is None else prepared.normalization)
    written: list[tuple[Path | None, Callable[[], bytes]]] = [
        (onnx, lambda: interop.onnx_model(network, shape, preprocessing=described).SerializeToString()),
        (qonnx, lambda: interop.qonnx_model(network, shape, preprocessing=described).SerializeToString()),
        (stablehlo, lambda: _program(network, shape)),
    ]
    for path, content in written:
        if path is not None:
            write(path.expanduser(), content())
            print(f'{path}: {path.expanduser().stat().st_size:,} bytes')


def _program(network: Any, shape: Shape) -> bytes:
    from bnn_jax.command import of_extra
    from bnn_jax.interop import stablehlo

    with of_extra('stablehlo'):
        import flatbuffers  # noqa: F401  # JAX's own error names no extra.
    return bytes(stablehlo(network, shape).serialize())


def _library(network: Any, folder: Path, shape: Shape, name: str, normalization: Any) -> None:
    """Write a C library and print its sizes."""
    from bnn_jax.interop import c_library

    library = c_library(network, folder, shape, name=name, normalization=normalization)
    print(f'{library.header}, {library.source}: weights {library.weights:,} bytes, scratch {library.scratch:,} bytes')
    print(_code(library.source, library.weights))


def _code(source: Path, weights: int) -> str:
    """The size of the library's code when compiled here, as a sentence."""
    compiler, size = shutil.which('cc'), shutil.which('size')
    if compiler is None or size is None:
        return 'code: not measured, because cc or size is missing here'
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / 'network.o'
        compile = [compiler, '-std=c99', '-Os', '-c', str(source), '-o', str(compiled)]
        try:
            subprocess.run(compile, check=True, capture_output=True)
            text = subprocess.run([size, str(compiled)], check=True, capture_output=True, text=True).stdout
            bytes_ = int(text.splitlines()[1].split()[0])
        except (OSError, subprocess.CalledProcessError, IndexError, ValueError) as error:
            return f'code: not measured ({error})'
    return f'code: about {max(0, bytes_ - weights):,} bytes (cc -std=c99 -Os, here)'
