"""`bnn-jax export`."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import tyro

from bnn_jax.cli.inputs import Shape


def export(file: tyro.conf.Positional[Path], c: Path, input: Shape | None = None, name: str = 'network') -> None:
    """A packed file as a C99 library: weights as arrays, no allocation, no file access, no other library.

    Args:
        file: a packed network.
        c: the folder to write NAME.h and NAME.c into.
        input: height, width and channels of an image; by default what the file says.
        name: of the function and the files.
    """
    from bnn_jax.data.preprocessing import Preprocessing
    from bnn_jax.inference.serialization import load, preprocessing_of
    from bnn_jax.interop.c_source import c_library

    network, described = load(file), preprocessing_of(file)
    prepared = None if described is None else Preprocessing.of(described)
    shape = input or (None if prepared is None else prepared.input_shape)
    if shape is None:
        raise ValueError(
            f'export: {file} does not say how large its images are, expected --input HEIGHT WIDTH CHANNELS'
        )
    normalization = None if prepared is None else prepared.normalization
    library = c_library(network, c, shape, name=name, normalization=normalization)
    print(f'{library.header}, {library.source}: weights {library.weights:,} bytes, scratch {library.scratch:,} bytes')
    print(_code(library.source, library.weights))


def _code(source: Path, weights: int) -> str:
    """How large its code becomes here."""
    compiler, size = shutil.which('cc'), shutil.which('size')
    if compiler is None or size is None:
        return 'code: not measured, for there is no cc or no size here'
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
