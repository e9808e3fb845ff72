"""The programs of examples/, short and tiny; and a run of what none of them shows, numbers in place of classes."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import bnn_jax as bnn
from bnn_jax import cli
from bnn_jax.data import ArraySource, Splits, Unchanged
from bnn_jax.training import Config, run
from bnn_jax.training.metrics import read
from examples import arrays, own_loop, own_loss_and_schedule, own_network, own_optimizer, photographs


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion('standard'):  # Adam mixes dtypes.
        yield


def assert_packed_alike(results: dict) -> None:
    assert results['prediction_agreement'] == 1 and results['max_abs_logit_difference'] == 0
    assert results['packed_bytes'] < results['float32_bytes']


def test_arrays(tmp_path):
    assert_packed_alike(arrays.main(str(tmp_path), epochs=1))
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {'packed.safetensors', 'curves.png', 'results.json', 'metrics.jsonl', 'report.txt'}


def test_photographs_of_many_sizes_are_named(tmp_path, capsys):
    for i in range(20):
        folder = tmp_path / 'photographs' / ('cat' if i % 2 else 'dog')
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (9 + i, 12), (120 * (i % 2), 90, 5 * i)).save(folder / f'{i}.png')
    assert_packed_alike(photographs.main(str(tmp_path / 'photographs'), str(tmp_path / 'run'), epochs=1, size=16))
    answers = tmp_path / 'answers.jsonl'
    cli.main(
        ['predict', str(tmp_path / 'run' / 'packed.safetensors'), str(tmp_path / 'photographs'), '-o', str(answers)]
    )
    names = [{one['class'] for one in json.loads(line)['classes']} for line in answers.read_text().splitlines()]
    assert names == [{'cat', 'dog'}] * 20


def test_own_network(tmp_path, capsys):
    assert_packed_alike(own_network.main(str(tmp_path), epochs=1))
    assert 'convolutions.1' in capsys.readouterr().out


def test_own_loss_and_schedule(tmp_path):
    assert_packed_alike(own_loss_and_schedule.main(str(tmp_path), epochs=1))
    rates = [record['learning_rate'] for record in read(tmp_path / 'metrics.jsonl') if 'learning_rate' in record]
    assert rates[0] < max(rates) == pytest.approx(1e-2, rel=0.1) and rates[-1] < rates[0]


def test_own_loop(tmp_path):
    assert own_loop.main(str(tmp_path / 'own.safetensors'), steps=2)['count'] == 120


def test_own_optimizer():
    metrics = own_optimizer.main(steps=2)
    assert set(metrics) == {'loss', 'gradient_norm', 'accuracy', 'top5_accuracy'} and np.isfinite(metrics['loss'])


def squared_error(outputs, labels):
    return jnp.square(outputs - labels).mean(-1)


def test_numbers_in_place_of_classes(tmp_path):
    """fit, evaluation, pictures and results know no accuracy then."""
    images = np.random.default_rng(0).normal(size=(30, 2, 2, 1))
    labels = images.reshape(30, 4)[:, :2]
    config = Config(
        model=partial(bnn.models.mlp, 2, scheme=bnn.XNOR, input_shape=(2, 2, 1), hidden=(8, 8)),
        data=Splits.held_out(ArraySource(images, labels)),
        standardize=Unchanged(),
        loss=squared_error,
        epochs=2,
        batch_size=12,
        workdir=str(tmp_path),
    )
    results = run('numbers', config)
    assert results['test_accuracy'] is None and results['max_abs_logit_difference'] == 0
    (last,) = [record for record in read(tmp_path / 'metrics.jsonl') if record.get('epoch') == 2]
    assert last['test_loss'] == pytest.approx(results['test_loss'])
    model = bnn.load(tmp_path / 'packed.safetensors')
    tested = config.data('test', '')
    error = np.square(np.asarray(model(tested.images.astype(np.float32))) - tested.labels).mean()
    assert results['test_loss'] == pytest.approx(error, rel=1e-5)
