"""fit: killed, stopped, resumed and refused, a run's result is that of an uninterrupted one or a clear error.

As a script it is the other process of these tests: `python tests/test_fit.py train WORKDIR EVENT STEP`, or
`python tests/test_fit.py storage FINISHED EMPTY`, where storage fails in two workdirs.
"""

import dataclasses
import errno
import functools
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import multihost_utils

import bnn_jax as bnn
from bnn_jax.command import heap
from bnn_jax.data import ArraySource, Standardize, center_crop, crop, digits, evaluation_batches, flip, random_crop
from bnn_jax.schemes.projections import center
from bnn_jax.training import Config, Interrupted, NonFiniteLoss, evaluate, experiment, fit, init, model_of
from bnn_jax.training.checkpoint import Checkpoints
from bnn_jax.training.metrics import MetricsLog, read
from bnn_jax.training.signals import HOSTS_ASK_EVERY, Deadline, Signals

TESTS = Path(__file__).parents[1]
EPOCH, LAST = 22, 44
"""Steps of an epoch and of a whole run."""
WATCHED = 7
"""Steps between looks at the binary layers."""


def adam(schedule):
    """optax.adam and schedules of optax, which mix dtypes in their own arithmetic; everything else stays strict."""
    tx = optax.adam(schedule)

    def update(*arguments):
        with jax.numpy_dtype_promotion('standard'):
            return tx.update(*arguments)

    return optax.GradientTransformation(tx.init, update)


def source(split, data_dir):
    return digits(split)


CONFIG = Config(
    model=functools.partial(bnn.models.mlp, 10, scheme=bnn.BC_STOCHASTIC, input_shape=(8, 8, 1), hidden=(16, 16)),
    data=source,
    standardize=Standardize((0.305,), (0.376,)),
    augmentations=(crop(1),),
    optimizer=adam,
    epochs=2,
    batch_size=64,
    learning_rate=1e-2,
    checkpoint_every=5,
    watch_every=WATCHED,
)
"""It has all kinds of state: latent weights, statistics, random keys, moments of the optimizer."""


def config(workdir, **changes) -> Config:
    return dataclasses.replace(CONFIG, workdir=str(workdir), **changes)


# Events of a run.


def steps_saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())


def after(owner, method: str, step: int, action) -> None:
    """Have `action` happen once, after a call of owner.method at that step: its first argument, or `step=`."""
    original, happened = getattr(owner, method), []

    def replaced(self, *arguments, **record):
        result = original(self, *arguments, **record)
        at = record['step'] if record else int(getattr(arguments[0], 'step', arguments[0]))
        if at == step and not happened:
            happened.append(step)
            action(self)
        return result

    setattr(owner, method, replaced)


def send(number: int):
    return lambda _: os.kill(os.getpid(), number)


def first_checkpoint(log: MetricsLog) -> None:
    """Return when the first checkpoint is whole."""
    deadline = time.monotonic() + 60
    while not steps_saved(log.path.parent) and time.monotonic() < deadline:
        time.sleep(0.01)


def cut_line_and_kill(log: MetricsLog) -> None:
    """The first checkpoint is whole, the last record half written."""
    first_checkpoint(log)
    log.path.write_bytes(log.path.read_bytes()[:-20])
    os.kill(os.getpid(), signal.SIGKILL)


EVENTS = {
    'cut a line and SIGKILL': (MetricsLog, 'write', cut_line_and_kill),
    'SIGKILL while saving': (Checkpoints, 'save', send(signal.SIGKILL)),
    'SIGTERM': (MetricsLog, 'write', send(signal.SIGTERM)),
    'SIGINT': (MetricsLog, 'write', send(signal.SIGINT)),
}


def process(*arguments) -> subprocess.CompletedProcess:
    """This file as a script."""
    environment = os.environ | {'PYTHONPATH': str(TESTS.parent)}
    line = [sys.executable, '-W', 'error', __file__, *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


# The files of a run.


def arrays(state) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(state)]


def same(ours, theirs) -> bool:
    """Bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(arrays(ours), arrays(theirs), strict=True))


def saved(workdir: Path, config: Config = CONFIG):
    """The state of the newest checkpoint."""
    tx = config.optimizer(config.schedule(config.learning_rate, LAST))
    state = init(config.model(rngs=nnx.Rngs(config.seed), width=config.width), tx)
    with Checkpoints(workdir / 'checkpoints', config.decisive()) as checkpoints:
        return checkpoints.restore(state)


def records(workdir: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    times = ('seconds', 'images_per_second')
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in times} for line in lines]


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The uninterrupted run: its workdir and its last state."""
    workdir = tmp_path_factory.mktemp('finished')
    return workdir, fit(config(workdir))


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A finished workdir, to be spoilt."""
    return shutil.copytree(finished[0], tmp_path / 'copy')


def test_what_a_run_leaves(finished):
    workdir, state = finished
    assert int(state.step) == LAST
    assert same(saved(workdir), state)
    log = records(workdir)
    steps, epochs = [r for r in log if 'epoch' not in r], [r for r in log if 'epoch' in r]
    assert [record['step'] for record in steps] == list(range(1, LAST + 1))
    always = {'step', 'loss', 'accuracy', 'top5_accuracy', 'gradient_norm', 'learning_rate'}
    watched = {'flips', 'equal_logits'}
    assert all({key for key in record if '/' not in key} - watched == always for record in steps)
    assert [r['step'] for r in steps if r.keys() > always] == list(range(WATCHED, LAST + 1, WATCHED))
    for record in steps:
        expected = 1e-2 * (1 + np.cos(np.pi * (record['step'] - 1) / LAST)) / 2
        assert record['learning_rate'] == pytest.approx(expected, rel=1e-5)
    assert [(record['step'], record['epoch']) for record in epochs] == [(EPOCH, 1), (LAST, 2)]
    for record in epochs:
        own = [r for r in steps if record['step'] - EPOCH < r['step'] <= record['step']]
        for name in ('loss', 'accuracy', 'top5_accuracy'):
            assert record[f'train_{name}'] == pytest.approx(np.mean([r[name] for r in own]))
    assert epochs[1]['test_loss'] < epochs[0]['test_loss']
    seconds = [record['seconds'] for record in read(workdir / 'metrics.jsonl')]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    described = json.loads((workdir / 'config.json').read_text())
    assert described.keys() == {'description', *(field.name for field in dataclasses.fields(Config))}
    assert described['epochs'] == 2 and described['learning_rate'] == 0.01


def test_killed_and_stopped_again_and_again_a_run_ends_the_same(finished, tmp_path):
    for event, step, status, newest in (
        ('cut a line and SIGKILL', 8, -signal.SIGKILL, [5]),
        ('SIGKILL while saving', EPOCH, -signal.SIGKILL, [20, EPOCH]),
    ):
        done = process('train', tmp_path, event, step)
        assert done.returncode == status, done.stderr
        assert 'Traceback' not in done.stderr
        assert steps_saved(tmp_path)[-1] in newest
    assert 'resuming from step 5 of 44' in done.stderr
    state = fit(config(tmp_path))
    assert same(state, finished[1])
    assert same(saved(tmp_path), finished[1])
    assert records(tmp_path) == records(finished[0])


@pytest.mark.parametrize(
    ('event', 'step', 'status'),
    [('SIGINT', 1, 130), ('SIGTERM', EPOCH, 143), ('SIGTERM', LAST, 143)],
)
def test_a_signal_saves_and_stops(finished, tmp_path, monkeypatch, event, step, status):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    owner, method, action = EVENTS[event]
    monkeypatch.setattr(owner, method, getattr(owner, method))
    after(owner, method, step, action)
    with pytest.raises(Interrupted) as error:
        fit(config(tmp_path))
    monkeypatch.undo()
    assert error.value.code == status
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    reached = records(tmp_path)[-1]['step']
    assert 0 <= reached - step <= 2
    assert steps_saved(tmp_path)[-1] == reached
    assert records(tmp_path) == [record for record in records(finished[0]) if record['step'] <= reached]
    assert same(fit(config(tmp_path)), finished[1])
    assert records(tmp_path) == records(finished[0])


@pytest.fixture
def python_handles_sigint():
    """Python's handler of SIGINT. A shell starts background jobs without it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_a_second_signal_is_not_waited_for(python_handles_sigint):
    with Signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_several_hosts_are_asked_by_calls_however_many_steps_these_take(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', lambda number: bool(asked.append(number)))
    monkeypatch.setattr(multihost_utils, 'broadcast_one_to_all', lambda over: over)
    for _ in range(2):  # two runs of a process
        with Signals() as signals:
            assert [signals.stop_now() for _ in range(3)] == [0, 0, 0]
    assert asked == list(range(asked[0], asked[0] + 6))
    deadline = Deadline(1e-9)
    assert [deadline.stop_now() for _ in range(HOSTS_ASK_EVERY)] == [False] * (HOSTS_ASK_EVERY - 1) + [True]


def test_fit_outside_the_main_thread_leaves_the_allocator_of_the_process_alone(finished, tmp_path, monkeypatch):
    def changed(*parameters):
        raise AssertionError('fit changed the allocator')

    monkeypatch.setattr(heap, '_set', changed)
    monkeypatch.setattr(experiment, 'allocate_for_training', changed)
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(config(tmp_path))))
    thread.start()
    thread.join()
    assert same(results[0], finished[1])


def test_a_finished_run_trains_no_further(finished, copy, monkeypatch):
    def step_of(config):
        def step(state, batch):
            raise AssertionError('a step was taken')

        return step

    monkeypatch.setattr(sys.modules['bnn_jax.training.fit'], 'step_of', step_of)
    metrics = (copy / 'metrics.jsonl').read_bytes()
    assert same(fit(config(copy, checkpoint_every=7)), finished[1])
    assert (copy / 'metrics.jsonl').read_bytes() == metrics


def test_a_run_can_move(finished, copy, tmp_path):
    moved = copy.rename(tmp_path / 'elsewhere')
    assert same(fit(config(moved, data_dir='another', checkpoint_every=1)), finished[1])


# A working directory that is not this run's.


def constant(learning_rate, steps):
    return optax.constant_schedule(learning_rate)


def accuracies(workdir: Path) -> list[float]:
    return [record['test_accuracy'] for record in read(workdir / 'metrics.jsonl') if 'epoch' in record]


def test_a_run_whose_rates_do_not_depend_on_its_length_is_extended(tmp_path):
    """Bit for bit the longer run, by its end; and the best network of an epoch is kept beside the last."""
    options = {'schedule': constant, 'keep_best': True, 'ema': 0.9, 'warmup_epochs': 0.5}
    short, whole = (config(tmp_path / name, **options) for name in ('short', 'whole'))
    fit(dataclasses.replace(short, epochs=1))
    assert same(fit(short), fit(whole))
    for name in ('short', 'whole'):
        best = int(np.argmax(accuracies(tmp_path / name)))
        assert [int(path.name) for path in (tmp_path / name / 'best').iterdir()] == [(best + 1) * EPOCH]
    with pytest.raises(ValueError, match='was made with epochs = 2, this run has 1'):
        fit(dataclasses.replace(short, epochs=1))
    # Started anew, it keeps nothing of the run before, not even of later steps.
    folder = tmp_path / 'short'
    shutil.rmtree(folder / 'checkpoints')
    next((folder / 'best').iterdir()).rename(folder / 'best' / '99')
    fit(dataclasses.replace(short, epochs=1))
    assert [path.name for path in (folder / 'best').iterdir()] == [str(EPOCH)]


def test_a_save_takes_the_place_of_a_later_one(finished, tmp_path):
    state = finished[1]
    earlier = dataclasses.replace(state, step=state.step - 1)
    with Checkpoints(tmp_path, {}, kept=1) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        checkpoints.save(earlier)
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == [str(LAST - 1)]


def test_a_run_without_patience_left_ends_and_stays_ended(tmp_path, capsys):
    hopeless = config(tmp_path, schedule=constant, learning_rate=1e-12, epochs=50, patience=1, watch_every=0)
    ended = fit(hopeless)
    scores = accuracies(tmp_path)
    assert len(scores) < 50 and int(ended.step) == len(scores) * EPOCH
    assert scores[-1] <= max(scores[:-1]) and all(b > a for a, b in itertools.pairwise(scores[:-1]))
    capsys.readouterr()
    assert same(fit(hopeless), ended) and accuracies(tmp_path) == scores
    said = capsys.readouterr().err
    assert f'this run is finished ({int(ended.step)} steps)' in said and 'compiling' not in said


def another_test_set(split, data_dir):
    return digits('test')


@pytest.mark.parametrize(
    'change',
    [
        {'epochs': 3},
        {'batch_size': 32},
        {'learning_rate': 2e-2},
        {'width': 0.5},
        {'seed': 1},
        {'model': functools.partial(CONFIG.model, hidden=(16, 8))},
        {'model': functools.partial(CONFIG.model, hidden=(16, 16, 16))},
        {'model': functools.partial(CONFIG.model, scheme=bnn.FLOAT)},
        {'model': functools.partial(CONFIG.model, scheme=dataclasses.replace(bnn.BC_STOCHASTIC, projection=center))},
        {'optimizer': optax.sgd},
        {'schedule': constant},
        {'augmentations': ()},
        {'standardize': Standardize((0.5,), (0.5,))},
        {'data': another_test_set},
    ],
    ids=lambda change: ', '.join(change),
)
def test_another_run_in_the_same_place_is_refused(copy, change):
    before = files(copy)
    with pytest.raises(ValueError, match='use another --workdir, or delete .*checkpoints to start again') as error:
        fit(config(copy, **change))
    (name,) = change
    if name not in ('model', 'optimizer'):  # There the difference is one of arrays.
        assert name in str(error.value)
    assert files(copy) == before


def test_a_checkpoint_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
    state = init(CONFIG.model(rngs=nnx.Rngs(0), width=1.0), CONFIG.optimizer(CONFIG.schedule(1e-2, LAST)))
    before = {key: value for key, value in CONFIG.decisive().items() if key != 'description'}
    with Checkpoints(tmp_path, before) as checkpoints:
        checkpoints.save(state)
    remedy = 'use the version of bnn_jax that wrote it, or use another --workdir, or delete .* to start again'
    with (
        pytest.raises(ValueError, match=f'its config has form 1, expected form 2.*{remedy}'),
        Checkpoints(tmp_path, CONFIG.decisive()) as checkpoints,
    ):
        checkpoints.restore(state)


def test_what_changes_no_parameter_may_change(finished, copy):
    changed = config(copy, workers=3, anchors=((1, 0.5),), data_dir='elsewhere', checkpoint_every=9)
    assert same(fit(changed), finished[1])


def test_worker_processes_and_augmentations_of_the_test_images(tmp_path, capfd):
    """The parameters are those without processes; only the evaluation sees what is done to the test images."""
    model = functools.partial(CONFIG.model, input_shape=(6, 6, 1))
    changes = {'model': model, 'augmentations': (random_crop(6),), 'evaluation_augmentations': (center_crop(6),)}
    ours = fit(config(tmp_path / 'a', epochs=1, workers=1, anchors=((1, 0.25),), **changes))
    assert same(ours, fit(config(tmp_path / 'b', epochs=1, **changes)))
    (record,) = [r for r in records(tmp_path / 'a') if 'epoch' in r]
    assert record == records(tmp_path / 'b')[-1]
    test = digits('test')
    central = ArraySource(np.ascontiguousarray(test.images[:, 1:7, 1:7]), test.labels)
    batches = evaluation_batches(central, batch_size=64, standardize=CONFIG.standardize)
    assert evaluate(model_of(ours), batches)['accuracy'] == record['test_accuracy']
    points = 100 * (record['test_accuracy'] - 0.25)
    assert capfd.readouterr().err.count(f'published 25.00% ({points:+.2f} points here)') == 1


def test_a_difference_is_named_by_its_place(copy):
    model = functools.partial(CONFIG.model, scheme=dataclasses.replace(bnn.BC_STOCHASTIC, eps=0.25))
    with pytest.raises(ValueError, match=r'was made with model.scheme.eps = 0.0001, this run has 0.25; use another'):
        fit(config(copy, model=model))


def test_the_remedy_works(finished, copy):
    """Checkpoints deleted, another run starts anew in the same place, and nothing of the first is left."""
    shutil.rmtree(copy / 'checkpoints')
    assert not same(fit(config(copy, seed=1)).params, finished[1].params)
    first, other = records(finished[0]), records(copy)
    assert [record['step'] for record in other] == [record['step'] for record in first]
    assert other[0]['loss'] != first[0]['loss']
    assert json.loads((copy / 'config.json').read_text())['seed'] == 1


@pytest.mark.parametrize('below', ['', 'deeper/still'])
def test_a_workdir_that_cannot_be_written(tmp_path, below):
    (tmp_path / 'file').write_text('')
    workdir = tmp_path / 'file' / below
    with pytest.raises(OSError, match='workdir cannot be written.*choose another --workdir') as error:
        fit(config(workdir))
    assert str(workdir) in str(error.value)


# Storage that fails.


def full_disk(log: MetricsLog) -> None:
    """The first checkpoint is whole; from now on no file may grow beyond 8 KiB; the parameters alone take 10."""
    first_checkpoint(log)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def outcome_of(case: str, action) -> dict:
    """The result of an action that returns a state, or its error, as JSON."""
    try:
        state = action()
    except OSError as error:
        return {'case': case, 'error': 'OSError', 'message': str(error)}
    except ValueError as error:
        return {'case': case, 'error': 'ValueError', 'message': str(error)}
    except Exception as error:
        return {'case': case, 'error': repr(type(error)), 'message': str(error)}
    return {'case': case, 'error': None, 'state': [array.tolist() for array in arrays(state)]}


DAMAGE = {
    'cut short': lambda content: content[: len(content) // 2],
    'emptied': lambda content: b'',
    'one byte changed': lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
    'deleted': lambda content: None,
}


def restore_damaged(workdir: Path):
    """Every file of the newest checkpoint damaged in every way, one at a time: what `saved` makes of it."""
    folder = workdir / 'checkpoints' / str(LAST)
    for path, content in files(folder).items():
        for damage, spoil in DAMAGE.items():
            spoilt = spoil(content)
            (folder / path).unlink() if spoilt is None else (folder / path).write_bytes(spoilt)
            yield outcome_of(f'{path} {damage}', lambda: saved(workdir))
            (folder / path).write_bytes(content)


@pytest.fixture(scope='module')
def storage(finished, tmp_path_factory):
    """A finished workdir, one that was empty, and what came of failing storage there: in a process of its own, since
    Orbax's threads complain long after an error."""
    finished, empty = shutil.copytree(finished[0], tmp_path_factory.mktemp('a') / 'b'), tmp_path_factory.mktemp('empty')
    done = process('storage', finished, empty)
    assert done.returncode == 0, done.stderr
    return finished, empty, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_full_disk_while_saving(storage):
    """The checkpoint of step 10 does not fit on the disk."""
    _, workdir, [*_, outcome] = storage
    assert (outcome['case'], outcome['error']) == ('full disk', 'OSError')
    assert re.search('could not write a checkpoint.*earlier checkpoints are kept. Free space', outcome['message'])
    assert str(workdir) in outcome['message']
    assert steps_saved(workdir) == [5]
    assert int(saved(workdir).step) == 5


def test_a_damaged_checkpoint_is_never_taken_for_a_good_one(finished, storage):
    """Whatever happens to a file of it: a ValueError with place and remedy, or the state that was saved."""
    workdir, _, [*outcomes, _] = storage
    good = [array.tolist() for array in arrays(finished[1])]
    refused = [outcome for outcome in outcomes if outcome['error']]
    assert len(outcomes) > 20 and len(refused) > 5
    assert not [outcome['case'] for outcome in outcomes if not outcome['error'] and outcome['state'] != good]
    unclear = [
        (outcome['case'], outcome['error'], outcome['message'][:100])
        for outcome in refused
        if outcome['error'] != 'ValueError'
        or f'{workdir}/checkpoints' not in outcome['message']
        or 'delete ' not in outcome['message']
    ]
    assert not unclear


def test_an_error_of_the_disk_keeps_its_number(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    original = ocp.CheckpointManager.save

    def save(self, step, **arguments):
        if step == 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, step, **arguments)

    monkeypatch.setattr(ocp.CheckpointManager, 'save', save)
    with pytest.raises(OSError, match=r'could not write a checkpoint \(No space left on device\)') as error:
        fit(config(tmp_path))
    assert error.value.errno == errno.ENOSPC
    assert steps_saved(tmp_path) == [5]


# Training that cannot go on.


@pytest.mark.parametrize('checkpoint_every', [3, 1])
def test_a_loss_that_is_not_finite(tmp_path, checkpoint_every):
    """The update of step 8 is infinite, so the loss of step 9 is NaN; the newest checkpoint is one from before."""

    def schedule(learning_rate, steps):
        return lambda count: jnp.where(count == 7, jnp.inf, learning_rate)

    run = config(tmp_path, schedule=schedule, checkpoint_every=checkpoint_every)
    with pytest.raises(NonFiniteLoss, match=rf'^step [89]: .*{tmp_path}/checkpoints.*--learning_rate'):
        fit(run)
    assert [record['step'] for record in records(tmp_path)] == list(range(1, 9))
    state = saved(tmp_path, run)
    assert int(state.step) == (6 if checkpoint_every == 3 else 7)
    assert all(np.isfinite(leaf).all() for leaf in arrays((state.params, state.rest)))


def all_nan(image):
    return np.full(image.shape, np.nan, np.float32)


def test_nan_images(tmp_path):
    with pytest.raises(NonFiniteLoss, match='^step 1: .*check the images for NaN'):
        fit(config(tmp_path, standardize=all_nan))
    assert not steps_saved(tmp_path)


def test_no_workdir():
    with pytest.raises(ValueError, match="workdir: got '', expected a folder"):
        fit(CONFIG)


@pytest.mark.parametrize('bad', ['train', 'test'])
def test_labels_that_are_no_classes(tmp_path, bad):
    def data(split, data_dir):
        return ArraySource(digits(split).images, digits(split).labels + (split == bad))

    with pytest.raises(ValueError, match='expected 0 to 9; is num_classes that of the data set'):
        fit(config(tmp_path, data=data))


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('epochs', 0, 'epochs: got 0, expected at least 1'),
        ('batch_size', 0, 'batch_size: got 0, expected at least 1'),
        ('checkpoint_every', -1, 'checkpoint_every: got -1, expected at least 1'),
        ('learning_rate', 0.0, 'learning_rate: got 0.0, expected a positive number'),
        ('learning_rate', -0.1, 'learning_rate: got -0.1'),
        ('learning_rate', float('nan'), 'learning_rate: got nan'),
        ('learning_rate', float('inf'), 'learning_rate: got inf'),
        ('seed', -1, 'seed: got -1, expected 0 or more'),
        ('workers', -1, 'workers: got -1, expected 0 or more'),
        ('watch_every', -1, 'watch_every: got -1, expected 0 or more'),
        ('anchors', ((1, 20.09),), r'anchors: got \(1, 20.09\), expected \(epoch from 1, accuracy from 0 to 1\)'),
        ('anchors', ((0, 0.5),), r'anchors: got \(0, 0.5\)'),
        (
            'optimizer',
            optax.adam(1e-3),
            'optimizer: got a GradientTransformation.*, expected a function that makes one',
        ),
        ('schedule', optax.constant_schedule(1e-3), r'schedule: got .* expected a function \(learning_rate, steps\)'),
        ('schedule', 1e-3, 'schedule: got 0.001, expected a function'),
        ('model', nnx.Linear(1, 1, rngs=nnx.Rngs(0)), 'model: got Linear .*each run makes its own'),
        ('model', digits, 'model: got function digits, expected a function or class that makes a network from rngs='),
        ('data', (np.zeros(1), np.zeros(1)), r'data: got a tuple, expected .*data.Splits\(train, test\)'),
        ('loss', 'focal', 'loss: got a str, expected'),
        ('model', bnn.models.mlp, "model: got 'mlp', which also needs num_classes, scheme; give it these, such as"),
        ('standardize', None, 'standardize: got None, expected a function of an image'),
        ('augmentations', flip, r'augmentations: got <function flip .*>, expected a tuple, \(\) for none'),
        (
            'evaluation_augmentations',
            (crop,),
            "evaluation_augmentations: got 'crop', expected a function of an image and",
        ),
    ],
)
def test_a_config_is_checked(name, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **{name: value})


class WithoutWidth(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 1, rngs=rngs)


def test_a_model_may_do_without_a_width():
    assert isinstance(dataclasses.replace(CONFIG, model=WithoutWidth).network(), WithoutWidth)
    with pytest.raises(ValueError, match="width: got 0.5, expected 1.0, as 'WithoutWidth' takes no width"):
        dataclasses.replace(CONFIG, model=WithoutWidth, width=0.5)


def test_an_empty_test_set_is_refused_before_the_first_step(tmp_path):
    def data(split, data_dir):
        return digits(split) if split == 'train' else ArraySource(digits(split).images[:0], digits(split).labels[:0])

    with pytest.raises(ValueError, match='got no images'):
        fit(config(tmp_path, data=data))
    assert not (tmp_path / 'metrics.jsonl').exists()


def test_what_only_data_and_model_can_check(tmp_path):
    with pytest.raises(ValueError, match='batch_size: got 2000, expected 1 to 1437'):
        fit(config(tmp_path, batch_size=2000))
    with pytest.raises(ValueError, match='width: got 0.0, expected a number above 0'):
        fit(config(tmp_path, width=0.0))


# metrics.jsonl.


@pytest.mark.parametrize('rest', ['', '{"step": 3, "lo', '\n'])
def test_metrics_with_a_damaged_end(tmp_path, rest):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1, "loss": 2.0, "seconds": 0.5}\n{"step": 2, "loss": 1.0, "seconds": 1.5}\n' + rest)
    assert [record['step'] for record in read(path)] == [1, 2]
    with MetricsLog(path, 1) as log:
        assert log.seconds == 0.5
        log.write(step=2, loss=3.0, seconds=2.5)
    assert read(path) == [{'step': 1, 'loss': 2.0, 'seconds': 0.5}, {'step': 2, 'loss': 3.0, 'seconds': 2.5}]
    with MetricsLog(path, 0) as log:
        assert log.seconds == 0
    assert read(path) == []
    assert not (tmp_path / 'metrics.damaged.jsonl').exists()


@pytest.mark.parametrize(
    'damage',
    [b'{"step": 2, "lo', b'\xff\xfe', b'[]', b'{}', b'{"step": "2", "seconds": 1}', b'{"step": 2}', b'[' * 100_000]
    + [
        b'{"step": 2, "seconds": 1, "loss": "x"}',
        b'{"step": 2, "seconds": null}',
        b'{"step": 2, "seconds": 1, "warning": 3}',
    ],
)
def test_only_the_damaged_line_is_left_out(tmp_path, damage):
    path, good = tmp_path / 'metrics.jsonl', [{'step': step, 'seconds': 0.5 * step} for step in (1, 3, 4)]
    lines = [json.dumps(record).encode() for record in good]
    before = b'\n'.join([lines[0], damage, *lines[1:], b''])
    path.write_bytes(before)
    with MetricsLog(path, 4) as log:
        assert log.seconds == 2
    assert read(path) == good
    assert (tmp_path / 'metrics.damaged.jsonl').read_bytes() == before


def test_no_metrics_yet(tmp_path):
    assert read(tmp_path / 'metrics.jsonl') == []


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['train', workdir, event, step]:
            owner, method, action = EVENTS[event]
            after(owner, method, int(step), action)
            fit(config(workdir))
            sys.exit('the event did not happen')
        case ['storage', finished, empty]:
            for outcome in restore_damaged(Path(finished)):
                print(json.dumps(outcome))
            after(MetricsLog, 'write', 9, full_disk)
            print(json.dumps(outcome_of('full disk', lambda: fit(config(empty)))))
