"""Experiments: every run answers --help and sets its options, and one short run leaves all that is documented."""

import dataclasses
import functools
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import bnn_jax as bnn
from bnn_jax.data import digits, evaluation_batches
from bnn_jax.nn.product import Product
from bnn_jax.schemes.projections import clip
from bnn_jax.training import Config, evaluate, experiment, init
from bnn_jax.training.metrics import read
from bnn_jax.training.two_stage import activations_only
from experiments import demo, digits_vgg_small, digits_vgg_small_xnor_distilled, digits_vgg_small_xnor_two_stage

ROOT = Path(__file__).parents[2]
RUNS = [
    path.stem
    for path in sorted((ROOT / 'experiments').glob('*.py'))
    if 'bnn_jax.training.experiment import' in path.read_text()
]
SCALARS = [field.name for field in dataclasses.fields(Config) if 'help' in field.metadata]
SHORT = ['--epochs=1', '--width=0.03125']

RESULTS = {
    'test_accuracy',
    'packed_test_accuracy',
    'prediction_agreement',
    'max_abs_logit_difference',
    'float32_bytes',
    'packed_bytes',
    'epochs',
    'train_seconds',
    'images_per_second',
    'config',
    'versions',
    'device',
}
"""What results.json has at least."""


def start(name: str, monkeypatch, *options) -> None:
    """As `python -m experiments.name options`, in this process."""
    monkeypatch.setattr(sys, 'argv', [name, *map(str, options)])
    monkeypatch.delitem(sys.modules, f'experiments.{name}', raising=False)
    runpy.run_module(f'experiments.{name}', run_name='__main__')


# The command line.


def test_there_are_runs():
    assert {'demo', 'digits_vgg_small_xnor', 'fashion_mnist_lenet5_xnor'} <= set(RUNS)


@pytest.mark.parametrize('name', RUNS)
def test_help_names_every_option(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        start(name, monkeypatch, '--help')
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert f'experiments.{name}' in text
    assert all(f'--{scalar.replace("_", "-")}' in text for scalar in SCALARS)


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('option', ['--epoch_count=1', '--epochs=many', '--model=x', 'epochs'])
def test_other_options_are_refused(name, option, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        start(name, monkeypatch, option)
    assert error.value.code == 2
    assert option.lstrip('-').partition('=')[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


OTHERS = ('demo', 'imagenet_', 'cifar10_')
"""Runs whose tests are elsewhere, or whose schemes are two."""


SCHEMES = {
    'fashion_mnist_lenet5_xnor_uncentred': dataclasses.replace(bnn.XNOR, projection=clip),
    'fashion_mnist_lenet5_xnor_k': bnn.XNOR_K,
}
"""Of runs whose last word does not name it."""


@pytest.mark.parametrize('name', [name for name in RUNS if not name.startswith(OTHERS)])
def test_a_run_is_what_its_name_says(name, monkeypatch):
    called = []
    monkeypatch.setattr(experiment, 'main', lambda *arguments: called.append(arguments))
    start(name, monkeypatch)
    ((stated, description, config, *_),) = called
    assert stated == name
    assert description and description.splitlines()[0].endswith('.')
    scheme = name.removesuffix('_distilled').removesuffix('_two_stage').rpartition('_')[2]
    assert config.model.keywords['scheme'] == (SCHEMES.get(name) or getattr(bnn, scheme.upper()))
    assert config.workdir == ''


BASE = digits_vgg_small.config(bnn.XNOR)


def chosen(monkeypatch, *options) -> Config:
    monkeypatch.setattr(sys, 'argv', ['x', *options])
    return experiment.with_options('x', 'A run.', BASE)


def test_without_options_a_run_is_as_written(monkeypatch):
    assert chosen(monkeypatch) == dataclasses.replace(BASE, workdir='runs/x-0')


@pytest.mark.parametrize('dash', ['_', '-'])
def test_options_set_scalars(dash, monkeypatch):
    values = {
        'epochs': 3,
        'batch_size': 16,
        'learning_rate': 0.5,
        'width': 2.0,
        'seed': 7,
        'checkpoint_every': 9,
        'watch_every': 8,
        'accumulate': 4,
        'precision': 'bfloat16',
        'workers': 2,
        'workdir': 'here',
        'data_dir': 'there',
    }
    assert values.keys() == set(SCALARS)
    options = [f'--{name.replace("_", dash)}={value}' for name, value in values.items()]
    assert chosen(monkeypatch, *options) == dataclasses.replace(BASE, **values)


def test_the_seed_names_the_workdir(monkeypatch):
    assert chosen(monkeypatch, '--seed=3').workdir == 'runs/x-3'


@pytest.mark.parametrize('option', ['--epochs=0', '--learning_rate=-1', '--seed=-1', '--batch_size=0'])
def test_impossible_values_end_with_a_message(option, monkeypatch):
    with pytest.raises(SystemExit, match=f'^error: {option[2:].partition("=")[0]}: got '):
        chosen(monkeypatch, option)


def test_a_missing_data_set_ends_with_a_message(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="^error: .*'fashion_mnist' is not prepared") as error:
        start('fashion_mnist_lenet5_xnor', monkeypatch, f'--data_dir={tmp_path}', f'--workdir={tmp_path / "run"}')
    assert error.value.__suppress_context__


# One short run.


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The workdir of a short run in a process of its own, and what it printed."""
    workdir = tmp_path_factory.mktemp('runs') / 'digits'
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    line = [sys.executable, '-W', 'error', '-m', 'experiments.digits_vgg_small_xnor', *SHORT, f'--workdir={workdir}']
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr and 'Warning' not in done.stderr
    return workdir, json.loads(done.stdout)


def test_results(finished):
    workdir, printed = finished
    results = json.loads((workdir / 'results.json').read_text())
    assert results.keys() >= RESULTS
    assert printed == {key: value for key, value in results.items() if key not in ('config', 'versions')}
    assert results['prediction_agreement'] == 1
    assert results['max_abs_logit_difference'] == 0
    assert results['packed_test_accuracy'] == results['test_accuracy'] > 0.1
    assert 0 < results['packed_bytes'] < results['float32_bytes']
    assert results['epochs'] == results['config']['epochs'] == 1
    assert results['config'].keys() == {field.name for field in dataclasses.fields(Config)}
    assert results['config']['width'] == 0.03125
    assert results['train_seconds'] > 0
    seconds = [record['seconds'] for record in read(workdir / 'metrics.jsonl') if 'loss' in record]
    assert results['images_per_second'] == pytest.approx(64 / np.median(np.diff(seconds)))
    assert re.fullmatch('[0-9a-f]{12}(-dirty)?|unknown', results['commit'])
    assert results['versions'].keys() >= {'python', 'bnn_jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy'}
    assert results['versions']['jax'] == jax.__version__
    assert 'cpu' in results['device']


def test_metrics(finished):
    records = [json.loads(line) for line in (finished[0] / 'metrics.jsonl').read_text().splitlines()]
    assert [record['step'] for record in records] == [*range(1, 23), 22]
    losses = [record['loss'] for record in records[:-1]]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert records[-1]['test_accuracy'] == finished[1]['test_accuracy']


def test_curves(finished):
    with Image.open(finished[0] / 'curves.png') as image:
        image.load()
        assert image.format == 'PNG' and min(image.size) > 100
        assert len(image.convert('RGB').getcolors(1 << 20)) > 10


def test_config(finished):
    config = json.loads((finished[0] / 'config.json').read_text())
    expected = dataclasses.replace(BASE, epochs=1, width=0.03125, workdir=str(finished[0]))
    assert {name: config[name] for name in SCALARS} == {name: getattr(expected, name) for name in SCALARS}


def test_the_packed_network_reproduces_the_accuracy(finished):
    workdir, results = finished
    packed = bnn.load(workdir / 'packed.safetensors')
    batches = evaluation_batches(digits('test'), batch_size=64, standardize=BASE.standardize)
    assert evaluate(packed, batches)['accuracy'] == results['packed_test_accuracy']
    assert packed.report.bytes == results['packed_bytes']
    assert (workdir / 'report.txt').read_text().strip() == str(packed.report).strip()


def test_a_float_network_has_no_packed_results(tmp_path):
    model = functools.partial(bnn.models.mlp, 10, scheme=bnn.FLOAT, input_shape=(8, 8, 1), hidden=(8,))
    config = dataclasses.replace(BASE, model=model, epochs=1, width=1.0, workdir=str(tmp_path))
    with jax.numpy_dtype_promotion('standard'):  # optax.adam mixes dtypes.
        results, again = experiment.run('float', config), experiment.run('float', config)
    assert results.keys() >= RESULTS
    assert {key for key, value in results.items() if value is None} == {
        'packed_test_accuracy',
        'prediction_agreement',
        'max_abs_logit_difference',
        'packed_bytes',
        'packed_milliseconds_per_batch',
    }
    assert not (tmp_path / 'packed.safetensors').exists()
    assert results['float32_bytes'] == 4 * (64 * 8 + 2 * 8 + 8 * 10 + 10)  # A normalisation is two numbers a channel.
    timed = 'milliseconds_per_batch'
    assert {**results, timed: 0} == {**again, timed: 0}


def test_a_network_that_cannot_be_converted_is_deployed_as_another(tmp_path):
    """sign(0) = 0 is refused, after the training; the same network with sign(0) = +1 takes its parameters."""
    model = functools.partial(bnn.models.mlp, 10, input_shape=(8, 8, 1), hidden=(8, 8))
    trained, converted = bnn.presets.XNOR_LUA, bnn.presets.deployable(bnn.presets.XNOR_LUA)
    changes = {'model': functools.partial(model, scheme=trained), 'epochs': 1, 'width': 1.0, 'workdir': str(tmp_path)}
    config = dataclasses.replace(BASE, **changes)
    with pytest.raises(ValueError, match=r'sign\(0\) = 0'):
        experiment.run('refused', config)
    results = experiment.run(
        'deployed', dataclasses.replace(config, deployed=functools.partial(model, scheme=converted))
    )
    assert results['prediction_agreement'] == 1
    assert results['packed_test_accuracy'] == results['test_accuracy'] > 0.1


# Runs before which another is trained.


def fitted(monkeypatch, module) -> list[Config]:
    """The configs that module fits; what it gets is a network as it is initialised."""
    configs = []

    def fit(config):
        configs.append(config)
        return init(config.model(rngs=nnx.Rngs(5), width=config.width), optax.sgd(0.1))

    monkeypatch.setattr(module, 'fit', fit)
    return configs


SMALL = dataclasses.replace(BASE, workdir='here', epochs=3, width=0.03125, seed=4)


def test_the_teacher_is_the_float_row(monkeypatch):
    configs = fitted(monkeypatch, digits_vgg_small_xnor_distilled)
    student = digits_vgg_small_xnor_distilled.taught(SMALL)
    (teacher,) = configs
    twin = digits_vgg_small.config(bnn.FLOAT, 1e-3)
    own = {name: getattr(SMALL, name) for name in ('epochs', 'width', 'seed')}
    assert teacher.described() == dataclasses.replace(twin, workdir='here/teacher', **own).described()
    loss = student.loss()
    assert (loss.temperature, loss.share) == (4, 0.5)
    assert dataclasses.replace(student, loss=SMALL.loss) == SMALL
    assert json.dumps(student.described())


def test_the_second_stage_starts_from_the_first(monkeypatch):
    configs = fitted(monkeypatch, digits_vgg_small_xnor_two_stage)
    second = digits_vgg_small_xnor_two_stage.after_the_first(SMALL)
    (first,) = configs
    assert first.model.keywords['scheme'] == activations_only(bnn.XNOR)
    assert dataclasses.replace(first, model=SMALL.model, workdir='here') == SMALL
    assert dataclasses.replace(second, model=SMALL.model) == SMALL
    start, trained = second.model(rngs=nnx.Rngs(4), width=0.03125), first.model(rngs=nnx.Rngs(5), width=0.03125)
    kernels = ([layer.kernel[...] for _, layer in nnx.iter_modules(network) if isinstance(layer, Product)]
               for network in (start, trained))  # fmt: skip
    for ours, theirs in zip(*kernels, strict=True):
        binary = theirs.shape[-2] > 1 and not np.array_equal(ours, theirs)
        assert np.array_equal(ours, bnn.schemes.projections.centre_and_clip(theirs) if binary else theirs)
    assert json.dumps(second.described())


def test_what_goes_before_a_run_fails_with_a_message():
    def prepare(config):
        raise ValueError('teacher: no')

    with pytest.raises(SystemExit, match='^error: teacher: no$'):
        experiment.run_or_exit('x', BASE, prepare)


# The demo.


def test_the_demo_trains_both_networks_and_compares_them(monkeypatch, capsys):
    started = {}

    def run_or_exit(name, config):
        started[config.workdir] = config
        return RESULTS_OF_THE_DEMO[len(started) - 1]

    monkeypatch.setattr(experiment, 'run_or_exit', run_or_exit)
    start('demo', monkeypatch, '--epochs=9', '--seed=4', '--workdir=here')
    xnor, float_twin = started['here/xnor'], started['here/float']
    assert (xnor.epochs, xnor.seed, xnor.width) == (9, 4, 0.25)
    own = ('model', 'learning_rate', 'workdir')
    others = [field.name for field in dataclasses.fields(Config) if field.name not in own]
    assert all(getattr(float_twin, name) == getattr(xnor, name) for name in others)
    assert xnor.model.keywords['scheme'] is bnn.XNOR and float_twin.model.keywords['scheme'] is bnn.FLOAT
    text = capsys.readouterr().out
    assert demo.table(*reversed(RESULTS_OF_THE_DEMO), 64) in text and 'here' in text


RESULTS_OF_THE_DEMO = (
    {
        'test_accuracy': 0.95,
        'float32_bytes': 2_000_000,
        'milliseconds_per_batch': 4.5,
        'packed_test_accuracy': 0.949,
        'packed_bytes': 70_000,
        'packed_milliseconds_per_batch': 1.125,
        'prediction_agreement': 0.9975,
    },
    {'test_accuracy': 0.975, 'float32_bytes': 2_000_000, 'milliseconds_per_batch': 3.25},
)


def test_the_table_of_the_demo():
    text = demo.table(*reversed(RESULTS_OF_THE_DEMO), 64)
    for part in ('97.50%', '95.00%', '94.90%', '2,000,000', '70,000', '3.25', '4.50', '1.12', '64', '99.75%'):
        assert part in text


# The table of results.


def run_folder(folder: Path, name: str, accuracies: list[float], **results) -> Path:
    """What a finished run leaves, as far as the table reads it."""
    folder.mkdir()
    base = {'experiment': name, 'epochs': len(accuracies), 'test_accuracy': accuracies[-1], 'float32_bytes': 12_345}
    base |= {'commit': 'abcdef', 'device': '1 x cpu', 'versions': {'jax': '0.10'}}
    base |= {'packed_test_accuracy': None, 'prediction_agreement': None, 'packed_bytes': None, 'train_seconds': 90}
    (folder / 'results.json').write_text(json.dumps(base | results))
    records = ({'step': i, 'epoch': i, 'test_accuracy': accuracy} for i, accuracy in enumerate(accuracies, 1))
    (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(record)}\n' for record in records))
    return folder


def test_the_table_has_mean_and_spread_of_each_experiment(monkeypatch, capsys, tmp_path, finished):
    packed = {'packed_test_accuracy': 0.75, 'prediction_agreement': 0.9, 'packed_bytes': 1_234}
    folders = [
        run_folder(tmp_path / 'a', 'ours', [0.25, 0.5], **packed),
        run_folder(tmp_path / 'b', 'ours', [0.5, 1.0], **packed | {'prediction_agreement': 1.0}),
        run_folder(tmp_path / 'c', 'twin', [0.25, 0.5, 0.875]),
        run_folder(tmp_path / 'd', 'twin', [0.875]),
        finished[0],
    ]
    start('table', monkeypatch, *folders, f'--picture={tmp_path / "curves.png"}')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 and len({line.count('|') for line in lines}) == 1
    for part in ('ours', '2', '75.00% (50.00% to 100.00%)', '75.00%', '10.00%', '12,345', '1,234', '1.5', 'abcdef'):
        assert f' {part} ' in lines[2]
    assert ' 87.50% ' in lines[3] and ' float ' in lines[3]
    assert 'digits_vgg_small_xnor' in lines[4] and ' 0.00% ' in lines[4]
    with Image.open(tmp_path / 'curves.png') as image:
        assert image.format == 'PNG'


def test_the_table_names_a_run_that_has_not_finished(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=f'^error: {tmp_path} has no results.json'):
        start('table', monkeypatch, tmp_path)
