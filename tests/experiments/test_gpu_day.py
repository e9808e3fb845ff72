"""The one command of a day with a GPU, on CPU with a pretend set: pieces, jobs, a limit of time, going on, what is left."""

import functools
import json
import sys
import time

import numpy as np
import pytest

import bnn_jax as bnn
import experiments
from bnn_jax.data import ArraySource, PlusMinusOne
from bnn_jax.training import Config, OutOfTime, Recipe, experiment
from bnn_jax.training.metrics import read
from experiments import gpu_day, on_gpu, pieces
from experiments.gpu_day import Row
from experiments.jobs import Day, Job


def pretend(count: int, seed: int) -> ArraySource:
    """Images whose class is their brightness."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    pixels = rng.integers(0, 100, (count, 4, 4, 3)) + 150 * labels[:, None, None, None]
    return ArraySource(pixels.astype(np.uint8), labels)


SOURCES = {'train': pretend(40, 0), 'test': pretend(12, 1)}


@pytest.fixture
def folder(tmp_path):
    pieces.write_pieces(tmp_path / 'pieces', SOURCES, largest=1500)
    pieces.read_pieces.cache_clear()
    return tmp_path / 'pieces'


def test_pieces_are_small_and_lossless_and_checked(folder):
    paths = sorted(folder.glob('piece_*.npz'))
    assert len(paths) > 2
    for path in paths:
        with np.load(path) as arrays:
            assert len(arrays['data']) <= 1500 and len(arrays['data']) == arrays['lengths'].sum()
    for split, source in pieces.read_pieces(folder).items():
        np.testing.assert_array_equal(source.images, SOURCES[split].images)
        np.testing.assert_array_equal(source.labels, SOURCES[split].labels)
    pieces.read_pieces.cache_clear()
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-1] + b'x')
    with pytest.raises(ValueError, match='piece_1.npz: its checksum differs, so it was changed on the way'):
        pieces.read_pieces(folder)
    paths[1].unlink()
    assert pieces.missing(folder) == ['piece_1.npz']
    with pytest.raises(FileNotFoundError, match='lacks piece_1.npz; make them with `make gpu-pieces`'):
        pieces.read_pieces(folder)


def python(code: str):
    return lambda minutes: [sys.executable, '-S', '-c', code]


def test_jobs_run_in_order_side_by_side_and_end_in_time(tmp_path):
    """a and b share the card, c needs all of it; d outlives the time and is asked to save; e is done already."""
    times = tmp_path / 'times'
    times.mkdir()
    note = f'import pathlib, time; p = pathlib.Path({str(times)!r})'

    def job(name: str, code: str, share: float) -> Job:
        return Job(
            name, python(f'{note}; (p / "{name}.began").touch(); {code}'), (times / f'{name}.done').exists, share
        )

    def ends(name: str) -> str:
        return f'time.sleep(0.2); (p / "{name}.done").touch()'

    # A session of its own: no Ctrl-C of the terminal reaches it.
    saves = 'import os, signal, sys; assert os.getsid(0) == os.getpid(); signal.signal(15, lambda *_: sys.exit(75)); '
    saves += 'time.sleep(60)'
    (times / 'e.done').touch()
    jobs = [job('a', ends('a'), 0.5), job('b', ends('b'), 0.5), job('c', ends('c'), 1), job('e', 'pass', 1)]
    jobs += [job('d', saves, 1), job('never', ends('never'), 1)]
    day = Day(tmp_path)
    day.run(jobs, time.monotonic() + 2)
    began = {path.stem: path.stat().st_mtime for path in times.glob('*.began')}
    done = {path.stem: path.stat().st_mtime for path in times.glob('*.done')}
    assert began.keys() == {'a', 'b', 'c', 'd'} and done.keys() == {'a', 'b', 'c', 'e'}
    assert max(began['a'], began['b']) < min(done['a'], done['b']) and began['c'] > max(done['a'], done['b'])
    log = (tmp_path / 'log.txt').read_text()
    assert 'a: done after' in log and 'd: not finished after' in log and 'status 75; see logs/d.txt' in log


ROW = Row('mine', 'BNN', 3)
CONFIG = Config(
    model=functools.partial(bnn.models.mlp, 2, scheme=bnn.BNN, input_shape=(4, 4, 3), hidden=(8,)),
    data=pieces.images,
    standardize=PlusMinusOne(),
    batch_size=8,
    learning_rate=1e-2,
)


def test_a_row_is_stopped_goes_on_on_another_machine_and_leaves_its_results(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, 'recipes', lambda: {'mine': Recipe('mine', None, {'BNN': CONFIG})})
    monkeypatch.setattr(experiment, 'allocate_for_training', lambda: None)
    output, here, there = tmp_path / 'output', tmp_path / 'here', tmp_path / 'there'
    assert gpu_day.known([ROW, Row('mine', 'NONE', 1)]) == ([ROW], [Row('mine', 'NONE', 1)])
    with pytest.raises(OutOfTime):
        gpu_day.train(ROW, here, folder, 1e-9, False)
    with (here / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 2, "lo')  # cut by a kill
    gpu_day.keep(ROW, here, output)
    assert not (output / 'rows' / ROW.name / 'results.json').exists()
    gpu_day.restore(ROW, there, output)
    results = gpu_day.train(ROW, there, folder, 10, False)
    gpu_day.keep(ROW, there, output)
    kept = output / 'rows' / ROW.name
    assert json.loads((kept / 'results.json').read_text())['test_accuracy'] == results['test_accuracy']
    assert results['prediction_agreement'] == 1
    names = {path.name for path in kept.iterdir()}
    assert names == {'results.json', 'packed.safetensors', 'report.txt', 'curves.png', 'metrics.jsonl', 'config.json'}
    epochs = [json.loads(line) for line in (kept / 'metrics.jsonl').read_text().splitlines()]
    assert [record['epoch'] for record in epochs if 'epoch' in record] == [1, 2, 3]
    steps = [record['step'] for record in read(there / 'metrics.jsonl') if 'loss' in record]
    assert steps == list(range(1, 16))  # the first one travelled
    assert gpu_day.size(output) < 1e6


def test_every_row_of_the_day_is_one_of_the_recipes():
    assert gpu_day.known([*gpu_day.ROWS, *gpu_day.TINY])[1] == []
    assert len({row.name for row in gpu_day.ROWS}) == len(gpu_day.ROWS)


def test_the_last_line_says_what_is_not_done(tmp_path, capsys):
    output, first, second = tmp_path / 'output', *(row.name for row in gpu_day.TINY)
    (output / 'rows' / first).mkdir(parents=True)
    (output / 'rows' / first / 'results.json').touch()
    (output / 'checks.json').write_text('{"complete": true}')
    gpu_day.main(minutes=0, output=output, pieces=tmp_path / 'none', tiny=True)
    assert f' not done: {second}, throughput; run the same command again to continue; ' in capsys.readouterr().out
    (output / 'rows' / second).mkdir()
    (output / 'rows' / second / 'results.json').touch()
    (output / 'throughput.json').write_text('{"complete": true}')
    gpu_day.main(minutes=0, output=output, pieces=tmp_path / 'none', tiny=True)
    assert ' all is done; ' in capsys.readouterr().out


def test_results_are_measured_once_and_an_error_is_one(tmp_path):
    def killed():
        raise KeyboardInterrupt

    for tries in (1, 2):
        results = on_gpu.Results(tmp_path / 'checks.json')
        results.add('one', lambda tries=tries: {'equal': tries == 1})
        results.add('two', lambda: 1 / 0)
        with pytest.raises(KeyboardInterrupt):
            results.add('three', killed)
    results = on_gpu.Results(tmp_path / 'checks.json')
    results.add('three', killed)
    results.end()
    found = on_gpu.Results(tmp_path / 'checks.json').found
    assert found['one'] == {'equal': True} and found['two']['error'].startswith('ZeroDivisionError')
    assert found['three'] == {'error': 'the process ended here', 'tries': 2} and found['complete']
