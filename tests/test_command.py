"""How commands end: errors are one line, signals a sentence and their status."""

import os
import signal
import subprocess
import sys

import pytest

from bnn_jax import command

SLOW = """
from bnn_jax import command
command.begin()
print('ready', flush=True)
{}
"""


def python(code: str, **environment: str) -> subprocess.Popen:
    """Code in a process of its own, which imports `bnn_jax.command` alone."""
    bare = "import sys, types; sys.modules['bnn_jax'] = package = types.ModuleType('bnn_jax'); package.__path__ = ['bnn_jax']"
    started = [sys.executable, '-c', f'{bare}\n{code}']
    piped = subprocess.PIPE
    return subprocess.Popen(
        started, stdin=piped, stdout=piped, stderr=piped, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (ValueError('got 3,\n  expected 4'), 'got 3, expected 4'),
        (FileNotFoundError(2, 'No such file', 'x'), "[Errno 2] No such file: 'x'"),
        (RuntimeError('INTERNAL: no'), 'RuntimeError: INTERNAL: no (BNN_DEBUG=1 shows where)'),
        (MemoryError(), 'not enough memory (BNN_DEBUG=1 shows where)'),
        (KeyError('a'), "KeyError: 'a' (BNN_DEBUG=1 shows where)"),
        (ValueError(), 'ValueError'),
    ],
)
def test_an_error_is_one_line(error, message):
    with pytest.raises(SystemExit) as ended, command.one_line():
        raise error
    assert ended.value.code == f'error: {message}' and ended.value.__suppress_context__


def test_a_long_message_keeps_its_ends():
    text = command.sentence(ValueError('begin ' + 'x' * 10_000 + ' end'))
    assert text.startswith('begin ') and text.endswith(' end') and len(text) < 1100


def test_tracebacks_for_those_who_want_them(monkeypatch):
    monkeypatch.setenv('BNN_DEBUG', '1')
    with pytest.raises(KeyError), command.one_line():
        raise KeyError('a')


def test_what_nobody_catches():
    with python(SLOW.format("raise RuntimeError('one\\ntwo')")) as process:
        said = process.stderr.read()
    assert (process.returncode, said) == (1, 'error: RuntimeError: one two (BNN_DEBUG=1 shows where)\n')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_at_once(number):
    """Also in the middle of C code, which Python's own handlers wait for: here a password's key that takes minutes."""
    with python(SLOW.format("import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)")) as process:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(number)
        said = process.stderr.read()
    assert (process.returncode, said) == (128 + number, f'stopped by {number.name}\n')


def test_a_handler_set_meanwhile_gets_the_first_signal_alone():
    noting = "signal.signal(2, lambda *_: print('noted', flush=True)); print(1, flush=True); time.sleep(99)"
    with python(SLOW.format(f'import signal, time; {noting}')) as process:
        assert (process.stdout.readline(), process.stdout.readline()) == ('ready\n', '1\n')
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == 'noted\n'
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, said) == (130, 'stopped by SIGINT\n')


def test_a_reader_that_is_gone():
    with python(SLOW.format("input(); print('x' * 10**6)")) as process:
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write('\n')
        process.stdin.flush()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, '')


def test_flags_that_xla_would_end_the_process_for():
    with python(SLOW.format(''), XLA_FLAGS='--no_such_flag') as process:
        said = process.stderr.read()
    assert process.returncode == 1
    assert (
        said
        == "error: XLA_FLAGS: got '--no_such_flag', which XLA refuses (Unknown flag in XLA_FLAGS: --no_such_flag)\n"
    )
