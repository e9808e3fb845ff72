"""What happens to runs from outside, seeded: files of a workdir damaged, signals at random moments, strange environments.

    python tests/training/outside.py damage --count 300 --seed 0
    python tests/training/outside.py signals --count 60 --seed 0
    python tests/training/outside.py environment

docs/reliability.md says what came out. A damaged run must go on or be refused with one line by name, and other checkpoints
stay as they were; a signal must end a command with its status and without a traceback; no environment may show one.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import bnn_jax as bnn
from bnn_jax.command import EXPECTED, begin, sentence
from bnn_jax.data import ArraySource, PlusMinusOne
from bnn_jax.training import Config, Recipe, experiment, fit, named
from bnn_jax.training.restore import trained

ROOT = Path(__file__).parents[2]


@named('tests.outside')
def source(split: str, data_dir: str) -> ArraySource:
    return ArraySource(np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 2)


MODEL = functools.partial(bnn.models.mlp, 2, scheme=bnn.XNOR, input_shape=(8, 8, 1))
CONFIG = Config(
    model=MODEL,
    data=source,
    standardize=PlusMinusOne(),
    epochs=2,
    batch_size=8,
    width=0.005,
    watch_every=0,
    checkpoint_every=1,
)
RECIPE = Recipe('outside', 'A run that takes seconds.', {'XNOR': CONFIG})

VALUES = (None, True, -1, 2**63, 1.5, 'x', [], {}, [[]], 1e400)


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done to the bytes of a file, and what is left of them."""
    at = rng.randrange(len(data) + 1)
    ways = {
        'cut': data[:at],
        'a byte': data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        'zeros': data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :],
        'empty': b'',
        'more': data + rng.randbytes(9),
        'other JSON': json.dumps(rng.choice(VALUES)).encode(),
        'nested': b'[' * 100_000,
        'not UTF-8': b'\xff\xfe' + data,
    }
    with contextlib.suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict) and found:
            key = rng.choice(sorted(found))
            ways['a value'] = json.dumps(found | {key: rng.choice(VALUES)}).encode()
            ways['a field gone'] = json.dumps({k: v for k, v in found.items() if k != key}).encode()
    way = rng.choice(sorted(ways))
    return way, ways[way]


def digest(folder: Path) -> dict[Path, str]:
    files = (path for path in sorted(folder.rglob('*')) if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def damage(count: int, seed: int) -> bool:
    rng, outcomes, bad = random.Random(seed), collections.Counter(), False
    with tempfile.TemporaryDirectory() as top:
        good = Path(top) / 'good'
        with contextlib.redirect_stderr(io.StringIO()):
            experiment.run_or_exit('outside', _in(good))
        files = sorted(path.relative_to(good) for path in good.rglob('*') if path.is_file() and path.suffix != '.png')
        for number in range(count):
            workdir = Path(top) / f'run{number}'
            shutil.copytree(good, workdir)
            name = rng.choice(files)
            way, left = damaged((workdir / name).read_bytes(), rng)
            if rng.random() < 0.1:
                way, left = 'gone', None
                (workdir / name).unlink()
            else:
                (workdir / name).write_bytes(left)
            before = digest(workdir / 'checkpoints')
            for what in ('read', 'go on'):
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        trained(RECIPE, workdir) if what == 'read' else fit(_in(workdir))
                    outcome = 'goes on'
                except EXPECTED as error:
                    outcome, said = 'refused', sentence(error)
                    if digest(workdir / 'checkpoints') != before:
                        bad = True
                        print(f'{what}, {name} {way}: refused, and checkpoints were changed: {said}')
                except BaseException as error:
                    outcome, bad = 'RAW', True
                    print(f'{what}, {name} {way}: {type(error).__name__}: {str(error)[:200]}')
                outcomes[f'{what}: {outcome}'] += 1
            shutil.rmtree(workdir)
    print(f'{count} damaged workdirs, seed {seed}: {dict(sorted(outcomes.items()))}')
    return bad


def _in(workdir: Path) -> Config:
    return dataclasses.replace(RECIPE.row(), workdir=str(workdir))


def signals(count: int, seed: int) -> bool:
    rng, outcomes, bad = random.Random(seed), collections.Counter(), False
    summary = ['-m', 'bnn_jax', 'summary', '--model', 'lenet5', '--input', '28', '28', '1']
    run = ['-m', 'experiments.digits_vgg_small', '--width=0.03', '--epochs=1']
    commands = {'summary': (summary, 4), 'list': (['-m', 'experiments'], 4), 'run': (run, 12)}
    commands['readers'] = ([*run, '--workers=1'], 15)
    for _ in range(count):
        name, number = rng.choice(sorted(commands)), rng.choice([signal.SIGINT, signal.SIGTERM])
        (command, longest), to_all = commands[name], rng.random() < 0.5
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, *command, *([f'--workdir={folder}/run'] if longest > 4 else [])]
            piped = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
            process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **piped)
            moment = rng.uniform(0.1, longest)
            time.sleep(moment)
            if process.poll() is not None:
                outcome = 'was over'
            else:
                (os.killpg if to_all else os.kill)(process.pid, number)
                outcome = 'its status'
            _, said = process.communicate(timeout=120)
        wrong = outcome == 'its status' and process.returncode not in (-number, 128 + number)
        if wrong or 'Traceback' in said:
            outcome, bad = 'WRONG', True
            print(f'{name}, {number.name} after {moment:.2f} s: status {process.returncode}\n{said}')
        outcomes[f'{name}: {outcome}'] += 1
    print(f'{count} signals, seed {seed}: {dict(sorted(outcomes.items()))}')
    return bad


ENVIRONMENTS = {
    'JAX_PLATFORMS': ('nonsense', 'cuda', 'tpu', ','),
    'XLA_FLAGS': ('--nonsense', 'nonsense', *(f'--xla_force_host_platform_device_count={n}' for n in ('x', -3))),
    'JAX_ENABLE_X64': ('maybe',),
    'JAX_NUM_CPU_DEVICES': ('x', '-1'),
    'JAX_COMPILATION_CACHE_DIR': ('/dev/null', '/proc/no'),
    'JAX_DEFAULT_MATMUL_PRECISION': ('x',),
    'BNN_INSTRUCTIONS': ('AVX2', 'nonsense'),
    'BNN_LIBRARY': ('/dev/null', '/no/such'),
    'COLUMNS': ('0', '-5', 'x', '1', '999999999999'),
    'TMPDIR': ('/no/such', '/dev/null'),
    'HOME': ('/no/such', ''),
    'XDG_CACHE_HOME': ('/proc/no', '/dev/null'),
    'MPLBACKEND': ('nonsense',),
    'LC_ALL': ('nonsense', 'C'),
    'PYTHONIOENCODING': ('ascii', 'utf-16'),
    'TERM': ('nonsense', ''),
}


def environment() -> bool:
    count, errors, bad = 0, 0, False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'network.safetensors'
        bnn.save(bnn.convert(CONFIG.network()), file)
        command = [sys.executable, '-m', 'bnn_jax', 'bench', str(file), '--input', '8', '8', '1', '--calls', '1']
        for name, values in ENVIRONMENTS.items():
            for value in values:
                changed = {'JAX_PLATFORMS': 'cpu'} | os.environ | {name: value}
                done = subprocess.run(command, cwd=ROOT, capture_output=True, env=changed)
                said, count = done.stderr.decode(errors='replace'), count + 1
                lines = [line for line in said.splitlines() if line.startswith('error: ')]
                errors += done.returncode == 1
                if 'Traceback' in said or done.returncode not in (0, 1) or len(lines) != done.returncode:
                    bad = True
                    print(f'{name}={value}: status {done.returncode}\n{said[-2000:]}')
    print(f'{count} environments: {count - errors} run, {errors} end with one line and status 1')
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['damage', 'signals', 'environment'])
    parser.add_argument('--count', type=int, default=60)
    parser.add_argument('--seed', type=int, default=0)
    chosen = parser.parse_args()
    begin()  # Threads of C code print no tracebacks of their own.
    parts = {'damage': damage, 'signals': signals}
    bad = environment() if chosen.what == 'environment' else parts[chosen.what](chosen.count, chosen.seed)
    sys.exit(bad)


if __name__ == '__main__':
    main()
