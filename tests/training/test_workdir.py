"""Working directories that others hold, and files in them that anything may have happened to."""

import dataclasses
import json
import subprocess
import sys
import threading
from functools import partial

import pytest

import bnn_jax as bnn
from bnn_jax.data import PlusMinusOne, digits
from bnn_jax.files import read_json, read_object
from bnn_jax.training import Config
from bnn_jax.training.workdir import held

CONFIG = Config(model=partial(bnn.models.mlp, 10, scheme=bnn.BNN), data=digits, standardize=PlusMinusOne())


def test_one_process_a_workdir(tmp_path):
    """Another one is refused by name while the first lives; what a killed one leaves does no harm."""
    code = 'import fcntl, sys; f = open(sys.argv[1], "a"); fcntl.flock(f, fcntl.LOCK_EX); print("locked", flush=True); input()'
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path))
    with held(config) as workdir:
        assert workdir == tmp_path and (tmp_path / '.lock').read_text().startswith('pid ')
    piped = subprocess.PIPE
    with subprocess.Popen([sys.executable, '-c', code, str(tmp_path / '.lock')], stdin=piped, stdout=piped) as other:
        assert other.stdout.readline() == b'locked\n'
        with pytest.raises(ValueError, match=r'another process \(pid .*\) runs in this workdir; .* another --workdir'):
            held(config).__enter__()
        other.kill()
        other.wait()
        with held(config):
            pass


def test_a_thread_can_hold_a_workdir_repeatedly(tmp_path):
    config, refused = dataclasses.replace(CONFIG, workdir=str(tmp_path)), []

    def other():
        try:
            held(config).__enter__()
        except ValueError as error:
            refused.append(str(error))

    with held(config), held(config):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and 'another thread' in refused[0]
    with held(config):
        pass


@pytest.mark.parametrize('content', [b'{"a', b'\xff\xfe', b'[' * 100_000, b'', b'\0\0'])
def test_files_that_are_no_json(tmp_path, content):
    path = tmp_path / 'config.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'{path} is not JSON'):
        read_json(path)


@pytest.mark.parametrize('content', ['{"a', '[]', 'null', '3', None])
def test_files_that_are_no_object(tmp_path, content):
    path = tmp_path / 'config.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f'{path} cannot be read .*; do this'):
        read_object(path, 'do this')


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *(('epochs', value) for value in ('x', None, 1.5, True, [1], 2**31, -1)),
        pytest.param('epochs', 10**400, id='epochs-10**400'),
        *(('width', value) for value in ('1', None, float('inf'), float('nan'), 1e30, 0.0, -1.0)),
        *(('learning_rate', value) for value in ('1e-3', float('inf'), 0.0)),
        *(('seed', value) for value in (2**63, -1, 0.0)),
        *(('keep_best', value) for value in (1, 'yes', None)),
        *(('workdir', value) for value in (None, 3)),
        ('on_device', 1),
    ],
)
def test_options_of_a_wrong_kind_or_size(name, value):
    with pytest.raises(ValueError, match=f'^{name}: got '):
        dataclasses.replace(CONFIG, **{name: value})


def test_the_expected_range_of_an_option_has_both_bounds():
    expected = 'epochs: got -3,000,000,000, expected a number from -2,147,483,647 to 2,147,483,647'
    with pytest.raises(ValueError, match=f'^{expected}$'):
        dataclasses.replace(CONFIG, epochs=-3_000_000_000)


def test_whole_numbers_are_taken_for_others():
    assert json.dumps(dataclasses.replace(CONFIG, mixup=1, on_device=None).described())
