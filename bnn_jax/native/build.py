"""Compiles the C++ library: for a wheel (hatch_build.py), `python -m bnn_jax.kernels` and `python -m bnn_jax.runtime`.

This module imports neither the rest of this library nor JAX, because a wheel is built where neither is installed.
"""

import hashlib
import os
from collections.abc import Sequence

# Paths are strings here: the runtime imports this module, and importing pathlib takes longer than loading a network.
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, 'cpp')
LIBRARY = os.environ.get('BNN_LIBRARY', os.path.join(HERE, 'libbnn_native.so'))
"""Where the compiled kernels are; $BNN_LIBRARY is for packages installed where nothing can be written."""

RECORD = '.sha256'
"""The suffix of the file, next to the library, that holds the library's SHA-256. A library without it is not loaded."""

FLAGS = ('-std=c++17', '-O3', '-fPIC', '-ffp-contract=off', '-Wall', '-pthread')
"""The compiler may not contract a product and a sum into a fused multiply-add: the sum reads the rounded product, as in
training."""

INSTRUCTIONS = {
    'x86_64': {'avx2': ('-mavx2', '-mfma'), 'avx512': ('-mavx512f', '-mavx512bw', '-mavx512vpopcntdq')},
    'aarch64': {'neon': ()},
}
"""Machine -> instruction set -> the compiler flags of its source file. The library chooses among the sets when it runs."""


def digest() -> str:
    """A digest of all sources. The library contains the digest of the sources that it was compiled from."""
    found = hashlib.sha256()
    # Sorted, because the order of files in a folder is not defined.
    for name in sorted(os.listdir(SOURCES)):
        if name.endswith(('.cc', '.h')):
            found.update(_content(os.path.join(SOURCES, name)))
    return found.hexdigest()[:16]


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(_content(path)).hexdigest()


def record(library: str | os.PathLike) -> str:
    """The path of the file with the SHA-256 of a library."""
    return os.fspath(library) + RECORD


def compiler() -> list[str] | None:
    """The command in $CXX; if CXX is not set, the first of c++, g++ and clang++ that is installed.

    None if no such command is installed.
    """
    import shlex
    import shutil

    named = os.environ.get('CXX')
    candidates = [shlex.split(named)] if named else [['c++'], ['g++'], ['clang++']]
    return next((words for words in candidates if shutil.which(words[0])), None)


def build(include: str | os.PathLike | None) -> str:
    """Compile and link `LIBRARY` with XLA's headers in `include`: those of the oldest jaxlib that is to run it.

    An older jaxlib refuses a library that was compiled with newer headers; a newer jaxlib runs one that was compiled with older
    headers. If `include` is None, the functions that XLA calls are left out, and only `bnn_jax.runtime` can use the library.
    Returns LIBRARY, which is replaced in one step. Raises RuntimeError if there is no compiler, if the compiler fails (the
    message has its output), or if the folder of LIBRARY cannot be written.
    """
    # Imported here, because the runtime imports this module, compiles nothing and must start quickly.
    import tempfile

    words = expect_compiler()
    try:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(LIBRARY) or '.') as folder:
            linked, written = os.path.join(folder, 'library'), os.path.join(folder, 'record')
            _run([*words, '-shared', '-pthread', *objects(folder, include), '-o', linked])
            with open(written, 'w') as file:
                file.write(sha256(linked))
            os.replace(written, record(LIBRARY))
            # In one step: a process that has the old file open goes on with it.
            os.replace(linked, LIBRARY)
        uninstalled_with(LIBRARY, os.path.dirname(os.path.dirname(HERE)))
    except OSError as error:
        raise RuntimeError(f'cannot write {LIBRARY}, or cannot start {words[0]}: {error}') from error
    return LIBRARY


def uninstalled_with(library: str | os.PathLike, site: str | os.PathLike) -> None:
    """Add a library and the file with its SHA-256 to the list of files that pip uninstalls, in the package's .dist-info.

    Args:
        library: the path of the library. If it is not inside `site`, nothing is written.
        site: the folder that `bnn_jax` is in. In a checkout there is no such list, and nothing is written.
    """
    inside = os.path.relpath(library, site).replace(os.sep, '/')
    for folder in os.listdir(site):
        files = os.path.join(site, folder, 'RECORD')
        if not (folder.startswith('bnn_jax-') and folder.endswith('.dist-info') and os.path.exists(files)):
            continue
        with open(files, 'r+') as listed:
            there = {line.partition(',')[0] for line in listed}
            missing = [] if inside.startswith('..') else {inside, inside + RECORD} - there
            listed.writelines(f'{name},,\n' for name in sorted(missing))


def objects(
    folder: str | os.PathLike, include: str | os.PathLike | None, more: Sequence[str] = (), machine: str = ''
) -> list[str]:
    """Compile the sources into a folder.

    Args:
        folder: where the object files are written.
        include: as in `build`.
        more: flags in addition to FLAGS.
        machine: the processor that $CXX compiles for, as `platform.machine` names it; empty: this one.

    Returns:
        The object files.

    Raises:
        RuntimeError: there is no compiler, or it fails; the message has its output.
    """
    import platform

    words = expect_compiler()
    machine = machine or platform.machine().lower()
    # Systems differ in what they call the same processors.
    machine = {'amd64': 'x86_64', 'arm64': 'aarch64'}.get(machine, machine)
    files = {'portable': (), **INSTRUCTIONS.get(machine, {}), 'layers': (), 'runtime': (f'-DBNN_SOURCES="{digest()}"',)}
    if include is not None:
        files['native'] = ('-isystem', str(include))
    made = []
    for name, flags in files.items():
        made.append(os.path.join(folder, f'{name}.o'))
        _run([*words, *FLAGS, *flags, *more, '-c', os.path.join(SOURCES, f'{name}.cc'), '-o', made[-1]])
    return made


def expect_compiler() -> list[str]:
    """The command of `compiler`. Raises RuntimeError if there is none."""
    words = compiler()
    if words is None:
        named = os.environ.get('CXX')
        raise RuntimeError(
            f'no C++ compiler: $CXX is {named!r}, which is not installed; unset CXX, or set it to an installed compiler'
            if named
            else 'no C++ compiler: found none of c++, g++ and clang++; install one, or set CXX'
        )
    return words


def _content(path: str | os.PathLike) -> bytes:
    with open(path, 'rb') as file:
        return file.read()


def _run(command: list[str]) -> None:
    import shlex
    import subprocess

    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f'{shlex.join(command)} failed:\n{done.stderr.strip() or done.stdout.strip()}')
