"""Compiles stress.cc with the library under sanitizers, and runs it: python stress.py address,undefined --mutants=10000.

Needs NumPy and a C++ compiler with sanitizers, no JAX. `make sanitize` runs it.
"""

import argparse
import importlib.util
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packed_files import EVERY_IMAGE, GOLDEN, GOLDEN_IMAGE, altered, of_every_kind

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / 'inference'))
import foreign  # noqa: E402

spec = importlib.util.spec_from_file_location('build', HERE.parents[1] / 'bnn_jax' / 'native' / 'build.py')
assert spec is not None and spec.loader is not None
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument('sanitizers', help='as -fsanitize takes them; none: without')
    arguments.add_argument('--mutants', type=int, default=2000)
    arguments.add_argument('--seed', type=int, default=0)
    chosen = arguments.parse_args()
    flags = ['-g', '-O1', '-fno-omit-frame-pointer']
    if chosen.sanitizers != 'none':
        flags += [f'-fsanitize={chosen.sanitizers}', '-fno-sanitize-recover=all']
    with tempfile.TemporaryDirectory() as folder:
        objects = build.objects(Path(folder), None, flags)
        program = [*build.compiler(), *build.FLAGS, *flags, f'-I{build.SOURCES}', str(HERE / 'stress.cc'), *objects]
        subprocess.run([*program, '-o', f'{folder}/stress'], check=True)
        every, other = Path(folder) / 'every_kind.safetensors', Path(folder) / 'foreign.safetensors'
        every.write_bytes(of_every_kind())
        other.write_bytes(foreign.written(foreign.numbers_of_all_kinds(0)))
        few, seed = chosen.mutants // 4, chosen.seed
        # Of a third file, and with checksums that fit.
        fitting = (content for _, content in itertools.islice(foreign.mutants(seed), 2 * few))
        stressed(folder, GOLDEN, GOLDEN_IMAGE, altered(GOLDEN.read_bytes(), few, seed), True)
        stressed(folder, every, EVERY_IMAGE, altered(every.read_bytes(), few, seed), True)
        stressed(folder, other, foreign.SHAPE, fitting, False)


def stressed(folder: str, path: Path, image: tuple[int, ...], mutants: Iterator[bytes], are_caught: bool) -> None:
    """Runs the program on a file and mutants; are_caught: whether their checksums are to catch what was changed."""
    command = [f'{folder}/stress', str(path), *map(str, image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            for mutant in mutants:
                process.stdin.write(len(mutant).to_bytes(8, 'little') + bytes([are_caught]) + mutant)
            process.stdin.close()
        except BrokenPipeError:
            pass  # Its status says why.
    if process.returncode != 0:
        raise SystemExit(f'{" ".join(command)} ended with status {process.returncode}')


if __name__ == '__main__':
    main()
