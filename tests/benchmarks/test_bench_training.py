"""The benchmark of the training step: its clockwork by hand-made clocks, and one tiny run."""

import itertools
import multiprocessing
import threading

import pytest

from benchmarks import training as bench_training
from benchmarks.training import row, take_turns


def test_steps_take_turns_and_the_first_round_is_not_counted():
    calls = []
    ticks = itertools.count()
    steps = {name: (lambda name=name: calls.append(name)) for name in 'ab'}
    times = take_turns(steps, 0, lambda: float(next(ticks) ** 2))
    assert calls == ['a', 'b'] * 4
    # Calls to the clock: 0 1 | 2 3 | 4 5 ...; a difference of squares is the sum of its neighbors. Two do not count.
    assert times == {'a': [9, 17, 25], 'b': [13, 21, 29]}


def test_a_process_answers_until_the_connection_is_closed(monkeypatch):
    calls = []
    for name in ('one_heap', 'keep_freed_memory', 'network_of'):
        monkeypatch.setattr(bench_training, name, lambda *arguments: True)
    monkeypatch.setattr(bench_training, 'torch_step', lambda *arguments: lambda: calls.append(1))
    ours, theirs = multiprocessing.Pipe()
    size = bench_training.SIZES['lenet5']
    thread = threading.Thread(target=bench_training.serve, args=(theirs, 'lenet5', size, 1.0, {}, False, True))
    thread.start()
    for _ in range(2):
        ours.send(True)
        assert ours.recv() >= 0
    ours.close()
    thread.join()
    assert calls == [1, 1]


def test_a_row_is_medians_and_the_median_ratio_round_by_round():
    assert row('XNOR', [1, 2, 4], [1, 1, 4], 8) == ['XNOR', '4.0', '3.0 .. 6.0', '1.00']
    assert row('XNOR', [3, 6, 9], [2, 4, 6], 1800)[1:] == ['300.0', '250.0 .. 450.0', '1.50']


def test_a_tiny_run_prints_every_scheme_device_and_versions(capsys):
    bench_training.main(models=('lenet5',), schemes=('FLOAT', 'XNOR'), batch_size=2, width=0.05, seconds=0.01)
    printed = capsys.readouterr().out
    for text in ('jax 0.', '1 x cpu', 'lenet5: 2 x (28, 28, 1), width 0.05', 'time / FLOAT', 'XNOR', 'PyTorch, float'):
        assert text in printed, text
    assert ('torch not installed' in printed) == (printed.count('not installed') >= 2)


def test_unknown_names_are_refused():
    with pytest.raises(SystemExit, match="got .'resnet19'., expected models of"):
        bench_training.main(models=('resnet19',))
