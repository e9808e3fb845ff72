"""Diagnostics of binary layers against counts by hand and in NumPy; metrics.jsonl and TensorBoard have the same numbers."""

import dataclasses
import functools
import json
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import SCHEMES, build, images, two_modules
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

import bnn_jax as bnn
from bnn_jax.data import Standardize, digits
from bnn_jax.nn.containers import Network
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Dense
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import Relu
from bnn_jax.training import Config, evaluate, fit, init, model_of, train_step
from bnn_jax.training.diagnostics import all_equal, alphas, by_statistics, share, signs, statistics_record, watch
from bnn_jax.training.events import Events
from bnn_jax.training.health import Health, unhealthy
from bnn_jax.training.measures import in_top5
from bnn_jax.training.metrics import MetricsLog, read, seconds_per_step
from bnn_jax.training.plots import plot_watch

EPS = np.finfo(np.float32).eps

# A network of two layers.


def two_layers(scheme) -> Network:
    """A vector of 2 pixels; norm, product 2 -> 3; norm, product 3 -> 2."""
    rngs = nnx.Rngs(0)

    def product(into, out):
        return Product(Dense(), into, out, scheme=scheme, use_bias=False, rngs=rngs)

    norms = [Norm(n, scheme=scheme, rngs=rngs) for n in (2, 3)]
    layers = [bnn.nn.Flatten(), norms[0], product(2, 3), norms[1], product(3, 2)]
    return Network(layers, channels=1, num_classes=2)


FIRST = np.array([[0.5, -0.25, 1.0], [-1.0, 0.75, 0.0]], np.float32)
SECOND = np.array([[0.5, -0.5], [1.0, -1.0], [-0.125, 0.25]], np.float32)


def state_with(scheme, first, second):
    model = two_layers(scheme)
    model.body.layers[2].kernel[...], model.body.layers[4].kernel[...] = jnp.asarray(first), jnp.asarray(second)
    return init(model, optax.sgd(0.1))


def numbers(values) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def normalized(x, eps):
    x = np.asarray(x, np.float64)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + eps)


def test_by_hand():
    """Two signs of six flip in the first layer, one of six in the second; -0.0 and 0 are both +1."""
    first, second = FIRST.copy(), SECOND.copy()
    first[0, 1], first[0, 2], first[1, 2] = 0.25, -1.0, -0.0
    second[2, 1] = -0.25
    before = signs(state_with(bnn.XNOR, FIRST, SECOND))
    assert before.keys() == {'2', '4'} and before['2'].dtype == jnp.int8
    np.testing.assert_array_equal(before['2'], [[1, -1, 1], [-1, 1, 1]])
    np.testing.assert_array_equal(before['4'], [[1, -1], [1, -1], [-1, 1]])
    x = np.random.default_rng(0).normal(size=(9, 2, 1, 1)).astype(np.float32)
    start = {'2': 0.5, '4': 2.0}
    seen = numbers(watch(before, state_with(bnn.XNOR, first, second), jnp.asarray(x), start))

    inputs = normalized(x.reshape(9, 2), bnn.XNOR.eps)
    alphas = [np.mean(np.abs(w.astype(np.float64)), 0) for w in (first, second)]
    hidden = normalized(np.where(inputs >= 0, 1, -1) @ (alphas[0] * np.where(first >= 0, 1, -1)), bnn.XNOR.eps)
    expected = {'flips/2': 2 / 6, 'flips/4': 1 / 6, 'at_clip/2': 2 / 6, 'at_clip/4': 2 / 6}
    expected |= {'alpha/2': alphas[0].mean(), 'alpha/4': alphas[1].mean()}
    expected |= {f'in_window/{i}': np.mean(np.abs(x) <= 1) for i, x in (('2', inputs), ('4', hidden))}
    expected |= {f'alpha_over_start/{i}': expected[f'alpha/{i}'] / start[i] for i in '24'}
    expected |= {'flips': 3 / 12, 'equal_logits': 0}
    assert all(0.2 < expected[f'in_window/{i}'] < 1 for i in '24')
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        assert seen[name] == pytest.approx(value, rel=float(4 * EPS)), name


def test_a_state_compared_with_itself_has_no_flips():
    state = state_with(bnn.BNN, FIRST, SECOND)
    seen = watch(signs(state), state, jnp.ones((3, 2, 1, 1)))
    assert float(seen['flips']) == float(seen['flips/2']) == float(seen['flips/4']) == 0


def test_alpha_at_the_start():
    start = numbers(alphas(state_with(bnn.XNOR, FIRST, SECOND)))
    assert start == pytest.approx({'2': np.abs(FIRST).mean(), '4': np.abs(SECOND).mean()}, rel=float(4 * EPS))
    assert alphas(state_with(bnn.BNN, FIRST, SECOND)) == {}


def test_equal_logits():
    """Two filters with the same weights give every image two equal logits; NaN equals nothing."""
    same = np.repeat(SECOND[:, :1], 2, axis=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2, 1, 1)), jnp.float32)
    for second, expected in ((same, 1), (SECOND, 0)):
        state = state_with(bnn.XNOR, FIRST, second)
        assert float(watch(signs(state), state, x)['equal_logits']) == expected
    logits = jnp.asarray([[0.0, 0, 0], [1, 1, 1], [1, 1, 2], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(all_equal(logits), [True, True, False, False])


@pytest.mark.parametrize('groups', [1, 2])
def test_running_beside_batch_statistics(groups):
    """Three images and five, by hand in NumPy; the dropout and the random weights of training are off."""
    rng = np.random.default_rng(0)
    scheme = dataclasses.replace(bnn.FLOAT, norm_groups=groups)
    norm = Norm(2, scheme=scheme, rngs=nnx.Rngs(0))
    mean, var, w = np.array([0.5, -1]), np.array([4, 0.25]), rng.normal(size=(2, 6))
    norm.mean[...], norm.var[...] = jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32)
    rngs = nnx.Rngs(0)
    product = Product(Dense(), 2, 6, scheme=scheme, use_bias=False, rngs=rngs, dropout=0.5)
    product.kernel[...] = jnp.asarray(w, jnp.float32)
    model = Network([bnn.nn.Flatten(), norm, product], channels=1, num_classes=6)
    batches = [
        {'image': rng.normal(size=(n, 2, 1, 1)).astype(np.float32), 'label': rng.integers(0, 6, n)} for n in (3, 5)
    ]
    before = [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(model))]
    totals = by_statistics(model, batches)
    assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(nnx.state(model)), strict=True))

    expected = np.zeros((2, 4))
    for batch in batches:
        x, labels = batch['image'].reshape(-1, 2).astype(np.float64), batch['label']
        for row, inputs in zip(
            expected, ((x - mean) / np.sqrt(var + scheme.eps), normalized(x, scheme.eps)), strict=True
        ):
            logits = inputs @ w
            losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]
            row += [losses.sum(), (logits.argmax(1) == labels).sum(), 0, len(x)]
    np.testing.assert_allclose(totals, expected, rtol=1e-5)
    assert not np.allclose(expected[0, 0], expected[1, 0], rtol=0.01)
    record = statistics_record(totals)
    assert record['running_statistics/accuracy'] == totals[0, 1] / 8 and record['batch_statistics/equal_logits'] == 0
    assert statistics_record(by_statistics(model, [])) == {}


def test_weights_are_seen_as_they_are_read():
    """Centered over the inputs and clipped before the pass: 0.5 and 0.1 become +-0.2; 3 and -1 become 2, then 1."""
    scheme = bnn.presets.XNOR_PYTORCH
    first = np.array([[0.5, 3.0, 0.0], [0.1, -1.0, 0.0]], np.float32)
    state = state_with(scheme, first, SECOND)
    np.testing.assert_array_equal(signs(state)['2'][:, :2], [[1, 1], [-1, -1]])
    seen = watch(signs(state), state, jnp.ones((3, 2, 1, 1)))
    assert float(seen['at_clip/2']) == np.float32(2 / 6)
    assert float(seen['alpha/2']) == pytest.approx((0.2 + 1 + 0) / 3, rel=float(4 * EPS))


def test_flips_of_weights_that_evaluation_leaves_real():
    before = state_with(bnn.presets.BC_STOCHASTIC_THEANO, FIRST, SECOND)
    after = state_with(bnn.presets.BC_STOCHASTIC_THEANO, FIRST * np.float32([[-0.5], [1]]), SECOND)
    kept = signs(before)
    np.testing.assert_array_equal(kept['2'], np.sign(FIRST))
    assert float(watch(kept, after, jnp.ones((3, 2, 1, 1)))['flips/2']) == 0.5


# Networks and schemes.


@pytest.mark.parametrize('scheme', ['BC_STOCHASTIC', 'BNN', 'XNOR', 'BIREAL', 'FLOAT'])
def test_every_scheme_has_what_it_has(scheme):
    """Names are those of `summarize`; compiled once, over steps that reuse buffers; the state stays what it was."""
    traced = []

    def counted(function):
        return lambda *arguments: (traced.append(function), function(*arguments))[1]

    model = build('mlp', SCHEMES[scheme], width=1.0, hidden=(9, 12))
    x = np.random.default_rng(0).normal(size=(8, 5, 7, 3)).astype(np.float32)
    batch = {'image': x, 'label': np.arange(8)}
    state, read_signs, see = init(model, optax.adam(0.2)), jax.jit(counted(signs)), jax.jit(counted(watch))
    for _ in range(2):
        before = read_signs(state)
        last = state
        state, _ = train_step(state, batch)
        kept = [np.array(leaf) for leaf in jax.tree.leaves(state)]
        seen = numbers(see(before, state, x))
    assert traced == [signs, watch]
    assert all(np.array_equal(a, b) for a, b in zip(kept, jax.tree.leaves(state), strict=True))

    rows = bnn.summarize(model, x.shape).layers
    binary = {row.path for row in rows if row.weight_bits == 1}
    expected = {f'{name}/{path}' for path in binary for name in ('flips', 'at_clip')}
    expected |= {f'alpha/{path}' for path in binary if SCHEMES[scheme].scale}
    expected |= {f'in_window/{row.path}' for row in rows if row.input_bits == 1}
    assert seen.keys() == expected | {'equal_logits'} | ({'flips'} if binary else set())
    for name in ('flips', 'at_clip'):
        assert not expected if scheme == 'FLOAT' else any(seen[f'{name}/{path}'] > 0 for path in binary)
    assert all(0 <= value <= 1 for name, value in seen.items() if not name.startswith('alpha'))
    old, new = (_kernels(model_of(s)) for s in (last, state))
    if binary:
        changed = [(old[path] >= 0) != (new[path] >= 0) for path in binary]
        assert seen['flips'] == np.float32(np.mean(np.concatenate([c.ravel() for c in changed])))
    for path in binary:
        assert seen[f'flips/{path}'] == np.float32(np.mean((old[path] >= 0) != (new[path] >= 0)))
        assert seen[f'at_clip/{path}'] == np.float32(np.mean(np.abs(new[path]) >= 1))


def _kernels(model) -> dict[str, np.ndarray]:
    return {
        str(i): np.asarray(layer.kernel[...]) for i, layer in enumerate(model.body.layers) if isinstance(layer, Product)
    }


@pytest.mark.parametrize('tree_mode', [False, True])
def test_nested_networks_have_the_names_of_summarize(tree_mode):
    before = nnx.set_graph_mode(not tree_mode)
    try:
        for network, x in (
            (functools.partial(build, 'resnet20', bnn.XNOR), images('resnet20')),
            (functools.partial(two_modules, bnn.BIREAL), np.ones((2, 9, 8, 3), np.float32)),
        ):
            seen = jax.eval_shape(functools.partial(_watched, network), x)
            rows = bnn.summarize(nnx.eval_shape(network), x.shape).layers
            assert {name[6:] for name in seen if name.startswith('flips/')} == {
                row.path for row in rows if row.weight_bits == 1
            }
            assert {name[10:] for name in seen if name.startswith('in_window/')} == {
                row.path for row in rows if row.input_bits == 1
            }
    finally:
        nnx.set_graph_mode(before)


def _watched(network, x):
    state = init(network(), optax.sgd(0.1))
    return watch(signs(state), state, x)


def test_many_inputs_are_counted_exactly():
    """More than 2^24, beyond which a float32 sum of ones stays where it is."""
    mask = jnp.ones(2**24 + 2**23, bool).at[: 2**22].set(False)
    assert float(share(mask)) == np.float32(20 / 24)


@pytest.mark.parametrize('n', [1, 41, 55])
def test_all_are_a_share_of_one(n):
    assert float(jax.jit(lambda x: share(x > 0))(jnp.ones(n))) == 1


# Top five.


def test_top_five_counts_strictly_larger_logits():
    logits = np.zeros((5, 7), np.float32)
    logits[0] = [6, 5, 4, 3, 2, 1, 0]  # label 4: four are larger
    logits[1] = [6, 5, 4, 3, 2, 1, 0]  # label 5: five are
    logits[2, :5] = 1  # label 6, of the rest: five are
    logits[4, 2] = np.nan  # a NaN elsewhere counts as larger, one at the label is never in
    labels = jnp.asarray([4, 5, 6, 0, 2])
    np.testing.assert_array_equal(in_top5(jnp.asarray(logits), labels), [True, False, False, True, False])


def test_top_five_accuracy_needs_more_than_five_classes():
    for classes, said in ((5, False), (6, True)):
        model = bnn.models.mlp(classes, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), input_shape=(2, 2, 1), hidden=())
        batch = {'image': np.ones((4, 2, 2, 1), np.float32), 'label': np.array([0, 1, 2, 3])}
        _, metrics = train_step(init(model, optax.sgd(0.1)), batch)
        assert ('top5_accuracy' in metrics) == ('top5_accuracy' in evaluate(model, [batch])) == said


# A run.


def source(split, data_dir):
    return digits(split)


def constant(learning_rate, steps):
    return optax.constant_schedule(learning_rate)


def sgd(schedule):
    return optax.sgd(schedule)


CONFIG = Config(
    model=functools.partial(bnn.models.mlp, 10, scheme=bnn.XNOR, input_shape=(8, 8, 1), hidden=(16, 16)),
    data=source,
    standardize=Standardize((0.305,), (0.376,)),
    optimizer=sgd,
    epochs=1,
    batch_size=128,
    learning_rate=0.5,
    watch_every=4,
)


def events(folder) -> list[Event]:
    """All events in the order in which TensorBoard reads them, their checksums not looked at."""
    found = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from('<Q', content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def shown(folder) -> dict[tuple[int, str], float]:
    """(step, name) -> value as TensorBoard shows it: a start drops all that was said of its step and later."""
    values = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            values = {key: value for key, value in values.items() if key[0] < event.step}
        scalars = [value for value in event.summary.value if value.WhichOneof('value') == 'simple_value']
        values |= {(event.step, value.tag): value.simple_value for value in scalars}
    return values


def logged(path) -> dict[tuple[int, str], float]:
    return {(r['step'], name): np.float32(v) for r in read(path) for name, v in r.items() if name != 'step'}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('watched')
    fit(dataclasses.replace(CONFIG, workdir=str(workdir)))
    return workdir


def test_a_run_records_what_it_watches(finished):
    steps = [record for record in read(finished / 'metrics.jsonl') if 'loss' in record]
    assert [r['step'] for r in steps if any('/' in name for name in r)] == [4, 8]
    names = {
        f'{name}/{layer}' for name in ('flips', 'at_clip', 'alpha', 'alpha_over_start', 'in_window') for layer in ('5',)
    }
    assert {name for record in steps for name in record if '/' in name} == names
    assert all({'flips', 'equal_logits'} <= record.keys() for record in steps if record['step'] in (4, 8))


def test_the_epoch_has_images_a_second(finished):
    *steps, epoch = read(finished / 'metrics.jsonl')
    seconds = np.median(np.diff([record['seconds'] for record in steps]))
    assert epoch['images_per_second'] == pytest.approx(128 / seconds)
    assert seconds_per_step(steps[:1]) is None


def test_tensorboard_has_the_same_numbers(finished):
    assert shown(finished / 'tensorboard') == logged(finished / 'metrics.jsonl')
    assert events(finished / 'tensorboard')[0].file_version == 'brain.Event:2'


def test_tensorboard_has_settings_latent_weights_and_images(finished):
    values = [(event.step, value) for event in events(finished / 'tensorboard') for value in event.summary.value]
    (images,) = (value.image for step, value in values if value.tag == 'images' and step == 4)
    assert (images.height, images.width) == (8, 8 * 8)
    (latent,) = (value.histo for step, value in values if value.tag == 'latent/5' and step == 11)
    assert latent.num == sum(latent.bucket) == 16 * 16 and -1 <= latent.min < latent.max <= 1
    (stated,) = (value.metadata for _, value in values if value.tag == '_hparams_/session_start_info')
    settings = HParamsPluginData.FromString(stated.plugin_data.content).session_start_info.hparams
    assert settings['learning_rate'].number_value == 0.5 and settings['batch_size'].number_value == 128


def test_watching_changes_nothing_and_can_be_left_out(finished, tmp_path):
    fit(dataclasses.replace(CONFIG, workdir=str(tmp_path), watch_every=0))
    left_out = ('seconds', 'images_per_second', 'flips', 'equal_logits')

    def plain(folder):
        records = read(folder / 'metrics.jsonl')
        return [{k: v for k, v in record.items() if '/' not in k and k not in left_out} for record in records]

    assert plain(tmp_path) == plain(finished)
    assert not [name for record in read(tmp_path / 'metrics.jsonl') for name in record if '/' in name]


def test_a_resumed_run_drops_later_records(tmp_path):
    """Twice: from step 2, and from the beginning."""
    path = tmp_path / 'metrics.jsonl'
    for resumed_at, loss in ((0, 1.0), (2, 2.0)):
        with MetricsLog(path, resumed_at) as log:
            for step in range(resumed_at + 1, 5):
                log.write(step=step, loss=loss, seconds=float(step))
        assert shown(tmp_path / 'tensorboard') == logged(path)
    assert [record['loss'] for record in read(path)] == [1, 1, 2, 2]
    with MetricsLog(path, 0) as log:
        log.write(step=1, loss=3.0, seconds=0.5)
    assert shown(tmp_path / 'tensorboard') == logged(path) == {(1, 'loss'): 3, (1, 'seconds'): 0.5}


def test_no_record_no_event_file(tmp_path):
    Events(tmp_path / 'tensorboard', 0).close()
    assert not list(tmp_path.iterdir())


# Healthy ranges.


@pytest.mark.parametrize(
    ('record', 'sentence'),
    [
        ({'equal_logits': 0.3125}, '31.2% of the images have logits that are all equal (healthy: at most 1%)'),
        ({'running_statistics/equal_logits': 0.02}, '2.0% of the images have logits that are all equal'),
        ({'flips': 0.02}, '2.0% of all signs flip in one step (healthy after 100 steps: at most 1%)'),
        (
            {'alpha_over_start/3': 0.5, 'alpha_over_start/11': 0.06},
            'alpha of layer 11 is 0.06 of what it was at the start (healthy: at least 0.1)',
        ),
        (
            {'running_statistics/accuracy': 0.1, 'batch_statistics/accuracy': 0.43},
            'is 43% with batch statistics and 10% with running statistics (healthy: within 10 points)',
        ),
    ],
)
def test_a_value_out_of_range_gives_one_warning_once(record, sentence):
    record = {'step': 200} | record
    (found,) = unhealthy(record).values()
    assert sentence in found
    health = Health()
    first, second = health.warnings(record), health.warnings(record)
    assert [found] == first + second  # of flips at the second look, of all else at the first
    assert (first == []) == ('flips' in record)
    assert health.warnings(record) == Health([record, record]).warnings(record) == []


@pytest.mark.parametrize(
    'record',
    [
        {'loss': 2.3},
        {'flips': 0.2, 'step': 100},  # the first steps choose the signs
        {'flips': 0.004, 'alpha_over_start/1': 0.5, 'equal_logits': 0.0},
        {'running_statistics/accuracy': 0.4, 'batch_statistics/accuracy': 0.35, 'running_statistics/equal_logits': 0.0},
        {'running_statistics/accuracy': 0.35, 'batch_statistics/accuracy': 0.4},
    ],
)
def test_a_healthy_value_says_nothing(record):
    health = Health()
    assert [health.warnings({'step': 200} | record) for _ in range(2)] == [[], []]


def test_one_look_with_many_flips_says_nothing():
    health = Health()
    assert [health.warnings({'step': 200 + i, 'flips': f}) for i, f in enumerate((0.5, 0.001, 0.5))] == [[], [], []]
    assert len(health.warnings({'step': 203, 'flips': 0.5})) == 1


def dead(**arguments) -> Network:
    """A network whose last ReLU is 0 for every image."""
    network = bnn.models.mlp(10, scheme=bnn.XNOR, input_shape=(8, 8, 1), hidden=(16, 16), **arguments)
    *_, last = network.body.layers
    last.bias[...] = jnp.full(10, -1000.0)
    return Network([*network.body.layers, Relu()], channels=1, num_classes=10)


def decays_latent_weights(schedule):
    return optax.chain(optax.add_decayed_weights(10.0), optax.adam(schedule))


ILL = {
    'equal_logits': dataclasses.replace(CONFIG, model=dead),
    'alpha flips': dataclasses.replace(
        CONFIG, optimizer=decays_latent_weights, schedule=constant, epochs=12, learning_rate=0.05
    ),
}


@pytest.mark.parametrize('about', ILL)
def test_an_ill_run_warns_once(about, tmp_path, capsys):
    fit(dataclasses.replace(ILL[about], workdir=str(tmp_path)))
    records = read(tmp_path / 'metrics.jsonl')
    said = [record for record in records if 'warning' in record]
    sentences = {
        'equal_logits': 'logits that are all equal',
        'flips': 'of all signs flip',
        'alpha': 'alpha of layer 5 is',
    }
    for name in about.split():
        (record,) = (record for record in said if sentences[name] in record['warning'])
        assert record.keys() == {'step', 'warning', 'seconds'}
    printed = capsys.readouterr().err
    assert all(f'step {r["step"]}: warning: {r["warning"]}' in printed for r in said)
    assert len({r['warning'][-40:] for r in said}) == len(said)


def test_a_resumed_run_knows_alpha_at_the_start_and_warns_no_more(tmp_path):
    """The run is resumed as if it had been killed before its last checkpoint."""
    config = dataclasses.replace(ILL['equal_logits'], epochs=2, workdir=str(tmp_path))

    def fitted() -> list[dict]:
        fit(config)
        records = read(tmp_path / 'metrics.jsonl')
        return [{k: v for k, v in record.items() if k not in ('seconds', 'images_per_second')} for record in records]

    whole = fitted()
    shutil.rmtree(tmp_path / 'checkpoints' / '22')
    assert fitted() == whole
    assert sum('warning' in record for record in whole) == 1
    assert any('alpha_over_start/5' in record for record in whole if record['step'] > 11)


def test_a_healthy_run_does_not_warn(finished):
    records = read(finished / 'metrics.jsonl')
    assert not [record for record in records if 'warning' in record]
    epoch = records[-1]
    assert epoch['batch_statistics/accuracy'] > 0 and epoch['running_statistics/equal_logits'] == 0


# The picture.


def test_the_picture(finished, tmp_path):
    records = read(finished / 'metrics.jsonl')
    plot_watch(tmp_path / 'watch.png', 'a run', records)
    with Image.open(tmp_path / 'watch.png') as image:
        image.load()
        assert image.format == 'PNG' and len(image.convert('RGB').getcolors(1 << 20)) > 10


def test_no_picture_of_a_run_that_was_not_watched(tmp_path):
    plot_watch(tmp_path / 'watch.png', 'a run', [{'step': 1, 'loss': 1.0}])
    assert not list(tmp_path.iterdir())


def test_a_picture_of_many_layers_and_of_no_flips(tmp_path):
    records = [{'step': s} | {f'flips/{i}.body.1': 0.0 for i in range(40)} for s in (100, 200)]
    plot_watch(tmp_path / 'watch.png', 'a run', json.loads(json.dumps(records)))
    assert (tmp_path / 'watch.png').exists()
