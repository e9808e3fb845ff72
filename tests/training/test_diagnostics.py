"""What a run shows of its binary layers: counted by hand and in NumPy; the same in metrics.jsonl and for TensorBoard."""

import dataclasses
import functools
import json
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

import bnn_jax as bnn
from bnn_jax.data import Standardize, digits
from bnn_jax.nn.containers import Network
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Dense
from bnn_jax.nn.product import Product
from bnn_jax.training import Config, evaluate, fit, init, model_of, train_step
from bnn_jax.training.diagnostics import _share, signs, watch
from bnn_jax.training.events import Events
from bnn_jax.training.metrics import MetricsLog, read, seconds_per_step
from bnn_jax.training.plots import plot_watch
from bnn_jax.training.step import in_top5

pytestmark = pytest.mark.usefixtures('compiled_quickly')

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


def normalised(x, eps):
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
    seen = numbers(watch(before, state_with(bnn.XNOR, first, second), jnp.asarray(x)))

    inputs = normalised(x.reshape(9, 2), bnn.XNOR.eps)
    alphas = [np.mean(np.abs(w.astype(np.float64)), 0) for w in (first, second)]
    hidden = normalised(np.where(inputs >= 0, 1, -1) @ (alphas[0] * np.where(first >= 0, 1, -1)), bnn.XNOR.eps)
    expected = {'flips/2': 2 / 6, 'flips/4': 1 / 6, 'at_clip/2': 2 / 6, 'at_clip/4': 2 / 6}
    expected |= {'alpha/2': alphas[0].mean(), 'alpha/4': alphas[1].mean()}
    expected |= {f'in_window/{i}': np.mean(np.abs(x) <= 1) for i, x in (('2', inputs), ('4', hidden))}
    assert all(0.2 < expected[f'in_window/{i}'] < 1 for i in '24')
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        assert seen[name] == pytest.approx(value, rel=float(4 * EPS)), name


def test_nothing_flips_in_a_state_beside_itself():
    state = state_with(bnn.BNN, FIRST, SECOND)
    seen = watch(signs(state), state, jnp.ones((3, 2, 1, 1)))
    assert float(seen['flips/2']) == float(seen['flips/4']) == 0


def test_weights_are_seen_as_they_are_read():
    """Centred over the inputs and clipped before the pass: 0.5 and 0.1 become +-0.2; 3 and -1 become 2, then 1."""
    scheme = bnn.presets.XNOR_PYTORCH
    first = np.array([[0.5, 3.0, 0.0], [0.1, -1.0, 0.0]], np.float32)
    state = state_with(scheme, first, SECOND)
    np.testing.assert_array_equal(signs(state)['2'][:, :2], [[1, 1], [-1, -1]])
    seen = watch(signs(state), state, jnp.ones((3, 2, 1, 1)))
    assert float(seen['at_clip/2']) == np.float32(2 / 6)
    assert float(seen['alpha/2']) == pytest.approx((0.2 + 1 + 0) / 3, rel=float(4 * EPS))


# Networks and schemes.


@pytest.mark.parametrize('scheme', ['BC', 'BC_STOCHASTIC', 'BNN', 'XNOR', 'BIREAL', 'FLOAT'])
def test_every_scheme_has_what_it_has(scheme):
    """Names are those of `summarize`; compiled once, over steps that reuse buffers; the state stays what it was."""
    model = build('mlp', SCHEMES[scheme], width=1.0, hidden=(9, 12))
    x = np.random.default_rng(0).normal(size=(8, 5, 7, 3)).astype(np.float32)
    batch = {'image': x, 'label': np.arange(8)}
    state, read_signs, see = init(model, optax.adam(0.2)), jax.jit(lambda s: signs(s)), jax.jit(lambda *a: watch(*a))
    for _ in range(2):
        before = read_signs(state)
        last = state
        state, _ = train_step(state, batch)
        kept = [np.array(leaf) for leaf in jax.tree.leaves(state)]
        seen = numbers(see(before, state, x))
    assert read_signs._cache_size() == see._cache_size() == 1
    assert all(np.array_equal(a, b) for a, b in zip(kept, jax.tree.leaves(state), strict=True))

    rows = bnn.summarize(model, x.shape).layers
    binary = {row.path for row in rows if row.weight_bits == 1}
    expected = {f'{name}/{path}' for path in binary for name in ('flips', 'at_clip')}
    expected |= {f'alpha/{path}' for path in binary if SCHEMES[scheme].scale}
    expected |= {f'in_window/{row.path}' for row in rows if row.input_bits == 1}
    assert seen.keys() == expected
    for name in ('flips', 'at_clip'):
        assert not expected if scheme == 'FLOAT' else any(seen[f'{name}/{path}'] > 0 for path in binary)
    assert all(0 <= value <= 1 for name, value in seen.items() if not name.startswith('alpha'))
    old, new = (_kernels(model_of(s)) for s in (last, state))
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
    assert float(_share(mask)) == np.float32(20 / 24)


@pytest.mark.parametrize('n', [1, 41, 55])
def test_all_are_a_share_of_one(n):
    assert float(jax.jit(lambda x: _share(x > 0))(jnp.ones(n))) == 1


# Top five.


def test_top_five_counts_strictly_larger_logits():
    logits = np.zeros((5, 7), np.float32)
    logits[0] = [6, 5, 4, 3, 2, 1, 0]  # label 4: four are larger
    logits[1] = [6, 5, 4, 3, 2, 1, 0]  # label 5: five are
    logits[2, :5] = 1  # label 6, of the rest: five are
    logits[4, 2] = np.nan  # a NaN elsewhere counts as larger, one at the label is never in
    labels = jnp.asarray([4, 5, 6, 0, 2])
    np.testing.assert_array_equal(in_top5(jnp.asarray(logits), labels), [True, False, False, True, False])


def test_top_five_of_five_classes_is_not_said():
    for classes, said in ((5, False), (6, True)):
        model = bnn.models.mlp(classes, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), input_shape=(2, 2, 1), hidden=())
        batch = {'image': np.ones((4, 2, 2, 1), np.float32), 'label': np.array([0, 1, 2, 3])}
        _, metrics = train_step(init(model, optax.sgd(0.1)), batch)
        assert ('top5_accuracy' in metrics) == ('top5_accuracy' in evaluate(model, [batch])) == said


# A run.


def source(split, data_dir):
    return digits(split)


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
        values |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
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
    names = {f'{name}/{layer}' for name in ('flips', 'at_clip', 'alpha', 'in_window') for layer in ('5',)}
    assert {name for record in steps for name in record if '/' in name} == names


def test_the_epoch_has_images_a_second(finished):
    *steps, epoch = read(finished / 'metrics.jsonl')
    seconds = np.median(np.diff([record['seconds'] for record in steps]))
    assert epoch['images_per_second'] == pytest.approx(128 / seconds)
    assert seconds_per_step(steps[:1]) is None


def test_tensorboard_has_the_same_numbers(finished):
    assert shown(finished / 'tensorboard') == logged(finished / 'metrics.jsonl')
    assert events(finished / 'tensorboard')[0].file_version == 'brain.Event:2'


def test_watching_changes_nothing_and_can_be_left_out(finished, tmp_path):
    fit(dataclasses.replace(CONFIG, workdir=str(tmp_path), watch_every=0))
    times = ('seconds', 'images_per_second')

    def plain(folder):
        records = read(folder / 'metrics.jsonl')
        return [{k: v for k, v in record.items() if '/' not in k and k not in times} for record in records]

    assert plain(tmp_path) == plain(finished)
    assert not [name for record in read(tmp_path / 'metrics.jsonl') for name in record if '/' in name]


def test_a_resumed_run_takes_back_what_lies_beyond(tmp_path):
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


# The picture.


def test_the_picture(finished, tmp_path):
    records = read(finished / 'metrics.jsonl')
    plot_watch(tmp_path / 'watch.png', 'a run', records)
    with Image.open(tmp_path / 'watch.png') as image:
        image.load()
        assert image.format == 'PNG' and len(image.convert('RGB').getcolors(1 << 20)) > 10


def test_no_picture_of_a_float_network(tmp_path):
    plot_watch(tmp_path / 'watch.png', 'a run', [{'step': 1, 'loss': 1.0}])
    assert not list(tmp_path.iterdir())


def test_a_picture_of_many_layers_and_of_no_flips(tmp_path):
    records = [{'step': s} | {f'flips/{i}.body.1': 0.0 for i in range(40)} for s in (100, 200)]
    plot_watch(tmp_path / 'watch.png', 'a run', json.loads(json.dumps(records)))
    assert (tmp_path / 'watch.png').exists()
