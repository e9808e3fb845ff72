"""Short runs: every row is a recipe; a result is written once, with what was watched; the table reads it."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from networks import abstract

from bnn_jax import IRNET, XNOR
from bnn_jax.data import Standardize, digits
from bnn_jax.models import mlp, nin
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import Relu
from bnn_jax.training import Config
from experiments import short_runs


def source(split, data_dir):
    return digits(split)


def tiny() -> Config:
    return Config(
        model=functools.partial(mlp, 10, scheme=XNOR, input_shape=(8, 8, 1), hidden=(16, 16)),
        data=source,
        standardize=Standardize((0.305,), (0.376,)),
        batch_size=32,
    )


@pytest.mark.parametrize('row', short_runs.ROWS)
def test_rows_build_networks(row):
    config = short_runs.ROWS[row]()
    network = abstract(config.model, width=config.width)
    assert isinstance(network, Network)
    config.optimizer(config.schedule(config.learning_rate, 300))


def test_the_progress_of_a_scheduled_row_ends_with_the_run():
    config = dataclasses.replace(tiny(), model=functools.partial(tiny().model, scheme=IRNET))
    assert np.isfinite(short_runs.trained(config, 25)['train_loss'])


def test_unknown_rows_and_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="rows: got 'nin_xnor_1', expected some of nin_xnor_before, "):
        short_runs.main(rows=('nin_xnor_1e-3', 'nin_xnor_1'))
    with pytest.raises(ValueError, match='steps: got 24, expected at least 25, the first watched step'):
        short_runs.main(steps=24)


def test_the_former_row_has_two_relus_at_the_end():
    network = abstract(short_runs.ROWS['nin_xnor_before']().model, width=0.05)
    now = abstract(nin, num_classes=10, scheme=XNOR, width=0.05)
    relus = [sum(isinstance(layer, Relu) for layer in n.body.layers) for n in (network, now)]
    assert relus[0] == relus[1] + 1


def test_a_result_is_written_once_and_read_by_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(short_runs, 'ROWS', {'tiny': tiny})
    out = tmp_path / 'runs.jsonl'
    for _ in range(2):
        short_runs.main(rows=('tiny',), steps=60, out=out)
    (line,) = out.read_text().splitlines()
    result = json.loads(line)
    assert (result['row'], result['steps'], result['batch']) == ('tiny', 60, 32)
    assert [look['step'] for look in result['looks']] == [25, 50]
    assert result['equal_logits'] == 0 <= result['flips'] < 1
    assert result['train_accuracy'] > 0.2 and result['running_statistics/accuracy'] > 0.2
    assert len(capsys.readouterr().out.splitlines()) == 1
    short_runs.main(out=out, table_only=True)
    assert '| tiny, 0 | 1, 32, 60 | 0.001 |' in capsys.readouterr().out


def test_another_seed_is_another_result(tmp_path):
    out = tmp_path / 'runs.jsonl'
    short_runs.append(out, 'tiny', tiny(), 60, 0.0, {})
    assert short_runs.is_finished(out, 'tiny', tiny(), 60)
    assert not short_runs.is_finished(out, 'tiny', dataclasses.replace(tiny(), seed=1), 60)
    assert not short_runs.is_finished(out, 'tiny', dataclasses.replace(tiny(), width=0.5), 60)


def test_an_unknown_row_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rows: got 'nin', expected some of nin_xnor_before, "):
        short_runs.main(rows=('nin_xnor_1e-3', 'nin'), out=tmp_path / 'runs.jsonl')
