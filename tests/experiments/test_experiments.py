"""Experiments: every recipe answers --help and sets its options, and one short run leaves all that is documented."""

import dataclasses
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from networks import abstract
from PIL import Image

import bnn_jax as bnn
import experiments
from bnn_jax.data import PlusMinusOne, Splits, digits, evaluation_batches
from bnn_jax.nn.product import Product
from bnn_jax.schemes.projections import clip
from bnn_jax.training import Config, Recipe, evaluate, experiment, init
from bnn_jax.training.metrics import read
from bnn_jax.training.progress import Progress
from bnn_jax.training.recipe import public_schemes
from bnn_jax.training.results import results_of
from bnn_jax.training.two_stage import activations_only
from experiments import (
    __main__,
    ablation,
    demo,
    digits_vgg_small,
    digits_vgg_small_distilled,
    digits_vgg_small_two_stage,
    fashion_mnist_lenet5,
    gpu_day,
    picture_augmentations,
    picture_cifar10,
    picture_quantizers,
    pictures,
    pieces,
    short_runs,
    table,
)

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    'README.md',
    'experiments/README.md',
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').rglob('*.md')),
]
RECIPES = experiments.recipes()
COMMANDS = {
    module.__name__.removeprefix('experiments.'): module
    for module in (
        ablation,
        demo,
        gpu_day,
        picture_augmentations,
        picture_cifar10,
        picture_quantizers,
        pictures,
        pieces,
        short_runs,
        table,
    )
}
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
"""Fields that results.json must have."""


# The command line.


def test_the_list_has_a_line_for_each_recipe_and_command(capsys):
    __main__.main()
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    lines = dict(line.split(maxsplit=1) for line in text.replace('\n    ', ' ').splitlines()[1:])
    assert lines.keys() == {*RECIPES, *COMMANDS} and experiments.commands().keys() == COMMANDS.keys()
    for name, recipe in RECIPES.items():
        assert lines[name].endswith(f'[{" ".join(recipe.rows)}]')


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(SystemExit, match=r"^error: got 'cifar10_nn', expected .*; is it cifar10_nin"):
        __main__.main(['cifar10_nn', '--epochs=1'])


def help_of(command: str, capsys) -> str:
    """What `python -m experiments.NAME options` prints with --help, in this process."""
    words = shlex.split(command)
    module, options = words[words.index('-m') + 1], [*words[words.index('-m') + 2 :], '--help']
    name = module.removeprefix('experiments.')
    with pytest.raises(SystemExit) as ended:
        if name in RECIPES:
            experiment.main(RECIPES[name], options)
        else:
            COMMANDS[name].command(options)
    assert ended.value.code == 0, command
    return ' '.join(capsys.readouterr().out.replace('│', ' ').split())


def commands_of(document: str) -> list[str]:
    """The commands of a document, in code blocks and in the text, without placeholders."""
    text = (ROOT / document).read_text().replace('\\\n', ' ')
    text = re.sub(r'\b(STEPS|WIDTH)\b', '1', text.replace('--rows ROW', '--rows nin_xnor_3e-3'))
    found = re.findall(r"python -m\s+experiments\.[^`'\n#]*", text)
    return [re.sub(r' \.\.\.|\[.*', '', line) for line in found if not re.search(r'\.(NAME|ROW)\b', line)]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_the_commands_of_the_documents(document, capsys):
    """Each is a recipe with a row, or another command, and takes these options."""
    commands = commands_of(document)
    assert commands or document != 'experiments/README.md'
    for command in commands:
        help_of(command, capsys)


def test_every_row_of_the_tables_is_one_command(capsys):
    """And every row of the recipes stands in a table."""
    text = (ROOT / 'experiments' / 'README.md').read_text()
    commands = re.findall(r'^\| `(\w+) --scheme=(\w+)`', text, re.M)
    assert set(commands) == {(name, row) for name, recipe in RECIPES.items() for row in recipe.rows}
    for name, row in sorted(set(commands)):
        assert f'(default: {row})' in help_of(f'-m experiments.{name} --scheme={row}', capsys)


@pytest.mark.parametrize('name', RECIPES)
def test_help_names_every_option(name, capsys):
    text = help_of(f'-m experiments.{name}', capsys)
    assert f'experiments.{name}' in text and '--scheme' in text and '--preset' in text
    assert all(f'--{scalar.replace("_", "-")}' in text for scalar in SCALARS)


@pytest.mark.parametrize('name', [*RECIPES, 'demo'])
@pytest.mark.parametrize('option', ['--epoch_count=1', '--epochs=many', '--model=x', 'epochs'])
def test_other_options_are_refused(name, option, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        if name == 'demo':
            demo.command([option])
        else:
            experiment.main(RECIPES[name], [option])
    assert error.value.code == 2
    assert option.lstrip('-').partition('=')[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_is_what_its_module_and_its_text_say(name):
    """A row with the name of a public scheme has that scheme, unless its text says that it follows the published code;
    CIFAR-10's ResNets choose its residual."""
    recipe, schemes = RECIPES[name], public_schemes()
    assert recipe.description and recipe.description.splitlines()[0].endswith('.')
    assert f'Command: python -m experiments.{name} --scheme=SCHEME' in recipe.description
    for row in [*recipe.rows, *schemes]:
        config = recipe.row(row)
        assert (config.recipe, config.row, config.workdir) == (name, row, '')
        assert recipe.run_name(row) == f'{name}_{row.lower()}'
        scheme = config.model.keywords['scheme']
        follows_code = re.search(rf'^- {row}: .*whose code this row follows', recipe.description, re.MULTILINE)
        if row in schemes and not follows_code:
            changes = {'residual': scheme.residual} if name.startswith('cifar10_resnet') else {}
            assert scheme == dataclasses.replace(schemes[row], **changes)
        zero = scheme.sign in (bnn.quantizers.published.sign_zero, bnn.quantizers.published.sign_minus)
        assert (config.deployed is not None) == zero
    assert recipe.row() == recipe.row(recipe.default)


def test_the_row_that_no_public_scheme_names():
    uncentered = fashion_mnist_lenet5.RECIPE.row('XNOR_UNCENTERED').model.keywords['scheme']
    assert uncentered == dataclasses.replace(bnn.XNOR, projection=clip)


def test_a_recipe_without_other_schemes_has_its_rows_only():
    recipe = Recipe('mine', 'A run.', {'XNOR': BASE})
    assert recipe.row('XNOR') == dataclasses.replace(BASE, recipe='mine', row='XNOR')
    with pytest.raises(ValueError, match="scheme: got 'BNN', expected a row of mine: XNOR$"):
        recipe.row('BNN')


def test_the_recipe_of_the_guide_is_one():
    """Its code, up to the command line."""
    (block,) = re.findall(r'```python\n(# mine.py.*?)```', (ROOT / 'docs' / 'guide' / 'train.md').read_text(), re.S)
    namespace = {'__name__': 'mine'}
    exec(block, namespace)
    recipe = namespace['RECIPE']
    assert isinstance(recipe, Recipe) and recipe.run_name('BNN') == 'mine_bnn'
    config = recipe.row('BNN')
    described = config.described()
    assert (described['data'], described['model']['function']) == ('mine.images', 'models.vgg_small')
    network = abstract(config.model, width=config.width)
    assert bnn.summarize(network, (1, *config.standardize(digits('test')[0]['image']).shape)).binary_params


def test_an_unknown_scheme_is_refused():
    with pytest.raises(
        SystemExit,
        match=r"^error: scheme: got 'xnor' \(is it XNOR\?\), expected a row of cifar10_nin: XNOR, .*, or one of .*BC,",
    ):
        experiment.main(RECIPES['cifar10_nin'], ['--scheme=xnor'])


@pytest.mark.parametrize('option', [['--scheme=BNN'], ['--scheme', 'BNN'], ['--preset=BNN']])
def test_the_command_line_chooses_the_row(option):
    recipe = RECIPES['digits_vgg_small']
    name, config, command = experiment.chosen(recipe, [*option, '--epochs=2'])
    assert command == experiment.Command()
    expected = dataclasses.replace(recipe.row('BNN'), epochs=2, workdir='runs/digits_vgg_small_bnn-0')
    assert (name, config) == ('digits_vgg_small_bnn', expected)


BASE = digits_vgg_small.config(bnn.XNOR)


def chosen(*options) -> Config:
    return experiment.with_options('x', 'A run.', BASE, options)


def test_without_options_a_run_is_as_written():
    assert chosen() == dataclasses.replace(BASE, workdir='runs/x-0')


@pytest.mark.parametrize('dash', ['_', '-'])
def test_options_set_scalars(dash):
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
        'on_device': True,
        'max_minutes': 1.5,
        'evaluate_every': 2,
        'label_smoothing': 0.1,
        'mixup': 0.2,
        'cutout': 4,
        'warmup_epochs': 0.5,
        'clip_gradient': 1.5,
        'ema': 0.9,
        'patience': 3,
        'workers': 2,
        'workdir': 'here',
        'data_dir': 'there',
    }
    assert values.keys() | {'keep_best'} == set(SCALARS)
    options = [f'--{name.replace("_", dash)}={value}' for name, value in values.items()]
    assert chosen(*options, f'--keep{dash}best') == dataclasses.replace(BASE, **values, keep_best=True)


def test_the_seed_names_the_workdir():
    assert chosen('--seed=3').workdir == 'runs/x-3'


def test_several_seeds_have_folders_of_their_own_and_one_sentence(monkeypatch, capsys):
    """No run: what each would have been given, and what is said of their results."""
    given = []

    def run_or_exit(name, config, prepare):
        given.append((name, config.seed, config.workdir))
        return {'test_accuracy': 0.5 + config.seed / 10, 'packed_test_accuracy': None, 'config': {}}

    monkeypatch.setattr(experiment, 'run_or_exit', run_or_exit)
    recipe = RECIPES['digits_vgg_small']
    experiment.main(recipe, ['--seeds=3', '--seed=1'])
    experiment.main(recipe, ['--seeds=2', '--workdir=here'])
    name = 'digits_vgg_small_xnor'
    assert given == [
        *((name, seed, f'runs/{name}-{seed}') for seed in (1, 2, 3)),
        *((name, seed, f'here-{seed}') for seed in (0, 1)),
    ]
    assert f'{name}, 3 seeds: test accuracy 70.00% (60.00% to 80.00%)' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='^error: seeds: got 0, expected at least 1'):
        experiment.main(recipe, ['--seeds=0'])


def test_progress_leaves_out_compilation_and_evaluation(monkeypatch, capfd):
    """A clock: 9 s to compile, 0.5 s a step, 20 s to evaluate, 5 s that one step waits for something else."""
    now = [0.0]
    monkeypatch.setattr('bnn_jax.training.progress.time.monotonic', lambda: now[0])
    record = {'loss': 1.0, 'accuracy': 0.5}
    with Progress(0, 40, 10, 0.0) as progress:
        for step in range(1, 21):
            now[0] += {1: 9, 5: 5, 11: 0.5}.get(step, 0.5)
            progress.step({'step': step, **record})
            if step == 10:
                now[0] += 20
                progress.epoch({'step': 10, 'epoch': 1, 'train_loss': 1, 'test_loss': 1})
        now[0] += 0.5
        progress.step({'step': 21, **record})
    lines = [line for line in capfd.readouterr().err.splitlines() if 'steps/s' in line]
    assert lines and all('2.0 steps/s' in line for line in lines)
    steps = [int(re.match(r'step (\d+)/40', line)[1]) for line in lines]
    assert all(f'0:00:{round((40 - step) * 0.5):02} left' in line for step, line in zip(steps, lines, strict=True))


@pytest.mark.parametrize('option', ['--epochs=0', '--learning_rate=-1', '--seed=-1', '--batch_size=0'])
def test_impossible_values_end_with_a_message(option):
    with pytest.raises(SystemExit, match=f'^error: {option[2:].partition("=")[0]}: got '):
        chosen(option)


def test_a_missing_data_set_ends_with_a_message(tmp_path):
    with pytest.raises(SystemExit, match="^error: .*; or prepare 'fashion_mnist' with TFDS") as error:
        experiment.main(fashion_mnist_lenet5.RECIPE, [f'--data_dir={tmp_path}', f'--workdir={tmp_path / "run"}'])
    assert error.value.__suppress_context__


# One short run.


def assert_schema(results: dict) -> None:
    """Check results against docs/results.schema.json, with the parts of JSON Schema that it uses."""
    schema = json.loads((ROOT / 'docs' / 'results.schema.json').read_text())
    kinds = {'string': str, 'number': int | float, 'integer': int, 'object': dict, 'null': type(None)}
    assert set(schema['required']) <= results.keys() <= schema['properties'].keys()
    for name, value in results.items():
        described = schema['properties'][name]
        if 'const' in described:
            assert value == described['const']
            continue
        names = described['type']
        assert any(isinstance(value, kinds[kind]) for kind in ([names] if isinstance(names, str) else names)), name


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The workdir of a short run in a process of its own, and what it printed."""
    workdir = tmp_path_factory.mktemp('runs') / 'digits'
    line = [sys.executable, '-W', 'error', '-m', 'experiments.digits_vgg_small', *SHORT, f'--workdir={workdir}']
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr and 'Warning' not in done.stderr
    return workdir, json.loads(done.stdout)


def test_results(finished):
    workdir, printed = finished
    results = json.loads((workdir / 'results.json').read_text())
    assert results.keys() >= RESULTS
    assert_schema(results)
    assert printed == {key: value for key, value in results.items() if key not in ('config', 'versions')}
    assert results['prediction_agreement'] == 1
    assert results['max_abs_logit_difference'] == 0
    assert results['packed_test_accuracy'] == results['test_accuracy'] > 0.1
    assert 0 < results['packed_bytes'] < results['float32_bytes']
    assert results['epochs'] == results['config']['epochs'] == 1
    assert results['config'].keys() == {'description', *(field.name for field in dataclasses.fields(Config))}
    assert (results['config']['recipe'], results['config']['row']) == ('digits_vgg_small', 'XNOR')
    assert results['experiment'] == 'digits_vgg_small_xnor' and results['not_converted'] is None
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
    expected = dataclasses.replace(BASE, epochs=1, width=0.03125, on_device=False, workdir=str(finished[0]))
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
        'not_converted',
    }
    assert not (tmp_path / 'packed.safetensors').exists()
    assert results['float32_bytes'] == 4 * (64 * 8 + 2 * 8 + 8 * 10 + 10)  # A normalization is two numbers a channel.
    timed = 'milliseconds_per_batch'
    assert {**results, timed: 0} == {**again, timed: 0}


def test_a_network_that_cannot_be_converted_says_so_or_is_deployed_as_another(tmp_path, capsys):
    """sign(0) = 0 is refused, and the run keeps its results; the same network with sign(0) = +1 takes its parameters."""
    model = functools.partial(bnn.models.mlp, 10, input_shape=(8, 8, 1), hidden=(8, 8))
    trained, converted = bnn.presets.XNOR_LUA, bnn.presets.deployable(bnn.presets.XNOR_LUA)
    changes = {'model': functools.partial(model, scheme=trained), 'epochs': 1, 'width': 1.0, 'workdir': str(tmp_path)}
    config = dataclasses.replace(BASE, **changes)
    refused = experiment.run('refused', config)
    assert 'sign(0) = 0' in refused['not_converted'] and refused['not_converted'] in capsys.readouterr().err
    assert refused['packed_bytes'] is None and not (tmp_path / 'packed.safetensors').exists()
    results = experiment.run(
        'deployed', dataclasses.replace(config, deployed=functools.partial(model, scheme=converted))
    )
    assert results['prediction_agreement'] == 1
    assert results['packed_test_accuracy'] == results['test_accuracy'] == refused['test_accuracy'] > 0.1
    assert results['not_converted'] is None


# Runs before which another is trained.


def fitted(monkeypatch, module) -> list[Config]:
    """The configs that module fits; what it gets is a network as it is initialized."""
    configs = []

    def fit(config):
        configs.append(config)
        return init(config.model(rngs=nnx.Rngs(5), width=config.width), optax.sgd(0.1))

    monkeypatch.setattr(module, 'fit', fit)
    return configs


SMALL = dataclasses.replace(BASE, workdir='here', epochs=3, width=0.03125, seed=4)


def test_the_teacher_is_the_float_row(monkeypatch):
    configs = fitted(monkeypatch, digits_vgg_small_distilled)
    student = digits_vgg_small_distilled.RECIPE.prepare(SMALL)
    (teacher,) = configs
    twin = digits_vgg_small.RECIPE.row('FLOAT')
    own = {name: getattr(SMALL, name) for name in ('epochs', 'width', 'seed')}
    assert teacher.described() == dataclasses.replace(twin, workdir='here/teacher', **own).described()
    loss = student.loss()
    assert (loss.temperature, loss.share) == (4, 0.5)
    assert dataclasses.replace(student, loss=SMALL.loss) == SMALL
    assert json.dumps(student.described())


def test_the_second_stage_starts_from_the_first(monkeypatch):
    configs = fitted(monkeypatch, digits_vgg_small_two_stage)
    second = digits_vgg_small_two_stage.RECIPE.prepare(SMALL)
    (first,) = configs
    assert first.model.keywords['scheme'] == activations_only(bnn.XNOR)
    assert dataclasses.replace(first, model=SMALL.model, workdir='here') == SMALL
    assert dataclasses.replace(second, model=SMALL.model) == SMALL
    start, trained = second.model(rngs=nnx.Rngs(4), width=0.03125), first.model(rngs=nnx.Rngs(5), width=0.03125)
    kernels = ([layer.kernel[...] for _, layer in nnx.iter_modules(network) if isinstance(layer, Product)]
               for network in (start, trained))  # fmt: skip
    for ours, theirs in zip(*kernels, strict=True):
        binary = theirs.shape[-2] > 1 and not np.array_equal(ours, theirs)
        assert np.array_equal(ours, bnn.schemes.projections.center_and_clip(theirs) if binary else theirs)
    assert json.dumps(second.described())


def test_the_command_line_sets_the_allocator_before_anything_is_trained(monkeypatch):
    called = []
    monkeypatch.setattr(experiment, 'allocate_for_training', lambda: called.append('allocate'))
    monkeypatch.setattr(experiment, 'run', lambda name, config: called.append(name) or {})
    recipe = dataclasses.replace(RECIPES['digits_vgg_small'], prepare=lambda config: called.append('prepare') or config)
    experiment.main(recipe, ['--scheme=BNN', '--workdir=here'])
    assert called == ['allocate', 'prepare', 'digits_vgg_small_bnn']


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

    monkeypatch.setattr(demo, 'run_or_exit', run_or_exit)
    demo.command(['--epochs=9', '--seed=4', '--workdir=here'])
    xnor, float_twin = started['here/xnor'], started['here/float']
    assert (xnor.epochs, xnor.seed, xnor.width) == (9, 4, 0.25)
    own = ('model', 'learning_rate', 'workdir', 'row')
    others = [field.name for field in dataclasses.fields(Config) if field.name not in own]
    assert all(getattr(float_twin, name) == getattr(xnor, name) for name in others)
    assert (xnor.recipe, xnor.row, float_twin.row) == ('digits_vgg_small', 'XNOR', 'FLOAT')
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


def test_results_of_a_run_without_accuracies_and_neighboring_steps(tmp_path):
    model = functools.partial(bnn.models.mlp, 10, scheme=bnn.FLOAT, hidden=(), input_shape=(8, 8, 1))
    data = Splits(digits('train'), digits('test'))
    config = Config(model, data, PlusMinusOne(), workdir=str(tmp_path))
    records = [{'step': 3, 'loss': 1.0, 'seconds': 6.0}, {'step': 3, 'epoch': 3, 'test_loss': 1.0, 'seconds': 6.0}]
    found = results_of('mine', config, config.network(), records)
    assert found['images_per_second'] == config.batch_size / 2
    assert found['best_epoch'] is found['best_test_accuracy'] is None


# The table of results.


def run_folder(folder: Path, name: str, accuracies: list[float], **results) -> Path:
    """Write the files of a finished run that the table reads."""
    folder.mkdir()
    base = {'experiment': name, 'epochs': len(accuracies), 'test_accuracy': accuracies[-1], 'float32_bytes': 12_345}
    base |= {'commit': 'abcdef', 'device': '1 x cpu', 'versions': {'jax': '0.10'}}
    base |= {'packed_test_accuracy': None, 'prediction_agreement': None, 'packed_bytes': None, 'train_seconds': 90}
    (folder / 'results.json').write_text(json.dumps(base | results))
    records = ({'step': i, 'epoch': i, 'test_accuracy': accuracy} for i, accuracy in enumerate(accuracies, 1))
    (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(record)}\n' for record in records))
    return folder


def test_the_table_has_mean_and_spread_of_each_experiment(capsys, tmp_path, finished):
    packed = {'packed_test_accuracy': 0.75, 'prediction_agreement': 0.9, 'packed_bytes': 1_234}
    folders = [
        run_folder(tmp_path / 'a', 'ours', [0.25, 0.5], **packed),
        run_folder(tmp_path / 'b', 'ours', [0.5, 1.0], **packed | {'prediction_agreement': 1.0}),
        run_folder(tmp_path / 'c', 'twin', [0.25, 0.5, 0.875]),
        run_folder(tmp_path / 'd', 'twin', [0.875]),
        finished[0],
    ]
    table.command([*map(str, folders), f'--picture={tmp_path / "curves.png"}'])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 and len({line.count('|') for line in lines}) == 1
    for part in ('ours', '2', '75.00% (50.00% to 100.00%)', '75.00%', '10.00%', '12,345', '1,234', '1.5', 'abcdef'):
        assert f' {part} ' in lines[2]
    assert ' 87.50% ' in lines[3] and ' float ' in lines[3]
    assert '| `digits_vgg_small --scheme=XNOR` |' in lines[4] and ' 0.00% ' in lines[4]
    with Image.open(tmp_path / 'curves.png') as image:
        assert image.format == 'PNG'


def test_the_table_names_a_run_that_has_not_finished(tmp_path):
    with pytest.raises(SystemExit, match=f'^error: {tmp_path} has no results.json'):
        table.command([str(tmp_path)])
