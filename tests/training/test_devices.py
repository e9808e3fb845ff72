"""Eight simulated devices compute the same as one. Two processes train one network, and any number of them can resume it.

Run as a script, this file is another process of the tests: `eight`, or `host COORDINATOR HOSTS HOST WORKDIR STEPS END`.
"""

import dataclasses
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import multihost_utils

import bnn_jax as bnn
from bnn_jax.data import Standardize, crop, digits, evaluation_batches, flip
from bnn_jax.nn.norm import Norm
from bnn_jax.training import Config, Interrupted, evaluate, fit, init, model_of, train_step
from bnn_jax.training.devices import (
    Hosts,
    all_devices,
    check_same_on_hosts,
    check_shares,
    replicated,
    spread,
    sum_over_hosts,
    whole,
)
from bnn_jax.training.metrics import read
from bnn_jax.training.on_device import Draw, batched
from bnn_jax.training.step import update

TESTS = Path(__file__).parents[1]


def environment(devices: int) -> dict[str, str]:
    return os.environ | {
        'PYTHONPATH': os.pathsep.join(map(str, (TESTS.parent, TESTS))),
        'JAX_NUM_CPU_DEVICES': str(devices),
    }


# Eight devices in one process.

SMALL = {'width': 0.1, 'input_shape': (16, 16, 1)}
NETWORKS = {
    'lenet5 XNOR_K': (bnn.models.lenet5, bnn.XNOR_K, SMALL),
    'mlp BC_STOCHASTIC': (bnn.models.mlp, bnn.BC_STOCHASTIC, {'hidden': (16, 16), 'input_shape': (8, 8, 1)}),
}
GROUPED = dataclasses.replace(bnn.FLOAT, norm_groups=8)


def batch_of(size: int, shape: tuple[int, ...] = (8, 8, 1), dtype=np.float64) -> dict:
    rng = np.random.default_rng(3)
    return {'image': rng.normal(size=(size, *shape)).astype(dtype), 'label': rng.integers(0, 10, size).astype(np.int32)}


def state_of(constructor, scheme, keywords, dtype=jnp.float64):
    """A training state whose update is the gradient: SGD with rate 1, without projection."""
    model = constructor(10, scheme=dataclasses.replace(scheme, projection=None), rngs=nnx.Rngs(0), **keywords)
    state = init(model, optax.sgd(1.0))

    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    params, rest = jax.tree.map(cast, (state.params, state.rest))
    return dataclasses.replace(state, params=params, rest=rest, opt_state=state.tx.init(params))


def evaluated_model():
    model = bnn.models.resnet20(
        10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), width=0.2, input_shape=(8, 8, 1), blocks=(1, 1, 1)
    )
    model.eval()
    return model


def difference(ours, theirs) -> float:
    """The largest difference of two trees' numbers."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0)) for a, b in pairs)


def on_all(state, batch, **keywords):
    """Three steps on all devices: the state after them, and the number of compilations."""
    mesh = all_devices()
    traced = []

    def counted(state, batch):
        traced.append(1)
        return update(state, batch, **keywords)

    step = jax.jit(counted, donate_argnums=0, out_shardings=whole(mesh))
    state, batch = replicated(state, mesh), spread(batch, mesh)
    text = step.lower(state, batch).compile().as_text()
    states = []
    for _ in range(3):
        state, metrics = step(state, batch)
        states.append(jax.tree.map(np.array, (metrics, state.params, state.rest)))
    return states, len(traced), text


def on_one(state, batch, **keywords):
    states, step = [], jax.jit(functools.partial(update, **keywords))
    for _ in range(3):
        state, metrics = step(state, batch)
        states.append(jax.tree.map(np.array, (metrics, state.params, state.rest)))
    return states


def eight() -> dict:
    """The results that the tests below check, measured on eight devices."""
    found: dict = {'devices': jax.device_count(), 'steps': {}, 'compiled': {}, 'images gathered': {}}
    with jax.enable_x64(True):
        for name, network in NETWORKS.items():
            batch = batch_of(16, network[-1]['input_shape'])
            ours, compiled, text = on_all(state_of(*network), batch)
            theirs = on_one(state_of(*network), batch)
            found['steps'][name] = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
            found['compiled'][name] = compiled
            found['images gathered'][name] = bool(re.search(r'all-gather[^\n]*\[16,', text))
        state, batch = state_of(bnn.models.lenet5, GROUPED, SMALL), batch_of(64, (16, 16, 1))
        ours, found['compiled']['groups and parts'], _ = on_all(state, batch, parts=2)
        theirs = on_one(state, batch, parts=2)
        found['steps']['groups and parts'] = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    model = evaluated_model()
    batches = list(evaluation_batches(digits('test'), batch_size=100, standardize=Standardize((0.3,), (0.4,))))
    on_eight = [evaluate(network, batches) for network in (model, bnn.convert(model))]
    found['evaluated'] = on_eight
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
    lying = {'image': pixels, 'label': np.arange(50, dtype=np.int32), 'table': np.linspace(0, 1, 256)[:, None]}
    augmentations = tuple(map(batched, (crop(2), flip)))
    alone, together = (Draw(0, 16, 50, augmentations, mesh) for mesh in (None, all_devices()))
    batches = [
        jax.jit(draw.batch)(replicated(lying, all_devices()) if draw.mesh else lying, jnp.int32(4))
        for draw in (alone, together)
    ]
    found['drawn'] = difference(*batches)
    found['images a device'] = {len(shard.data) for shard in batches[1]['image'].addressable_shards} == {2}
    try:
        spread(batch_of(12), all_devices())
    except ValueError as error:
        found['uneven'] = str(error)
    try:
        check_shares(24, all_devices(), 2)
    except ValueError as error:
        found['uneven parts'] = str(error)
    return found


@pytest.fixture(scope='module')
def found() -> dict:
    line = [sys.executable, '-W', 'error', __file__, 'eight']
    done = subprocess.run(line, env=environment(8), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize('name', [*NETWORKS, 'groups and parts'])
def test_eight_devices_compute_the_same_as_one(found, name):
    """Loss, gradient (the update of SGD with rate 1), statistics and random keys, within the roundings of sums in another
    order, float64: three steps, the differences of the first growing in the others."""
    assert found['devices'] == 8
    first, _, third = found['steps'][name]
    assert first < 1e-12 and third < 1e-9


def test_eight_devices_compile_once(found):
    assert set(found['compiled'].values()) == {1}


def test_no_device_is_sent_the_images_of_others(found):
    assert not any(found['images gathered'].values())


def test_eight_devices_evaluate_as_one(found):
    """360 images in batches of 100, which 8 devices cannot share evenly: every image counts once."""
    expected = evaluate(
        evaluated_model(), evaluation_batches(digits('test'), batch_size=100, standardize=Standardize((0.3,), (0.4,)))
    )
    for ours in found['evaluated']:
        assert ours['count'] == 360 and ours['accuracy'] == expected['accuracy']
        np.testing.assert_allclose(ours['loss'], expected['loss'], rtol=1e-6)  # float32 logits


def test_eight_devices_draw_the_batch_of_one(found):
    assert found['drawn'] == 0 and found['images a device']


def test_a_batch_that_devices_cannot_share(found):
    assert found['uneven'] == 'batch_size: got 12 for 8 devices, expected a multiple of 8'


# Statistics of parts of a batch, and a batch in parts, on one device.


def test_each_group_is_normalized_by_itself():
    """Against the mean and variance of each group in NumPy; running statistics move toward the mean over the groups."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3, 2, 4)).astype(np.float32)
    norm = Norm(4, scheme=dataclasses.replace(bnn.XNOR, norm_groups=3), rngs=nnx.Rngs(0))
    groups = x.reshape(3, -1, 4).astype(np.float64)
    mean, var = groups.mean(1), groups.var(1)
    expected = ((groups - mean[:, None]) / np.sqrt(var[:, None] + 1e-4)).reshape(x.shape)
    np.testing.assert_allclose(norm(x), expected, atol=1e-5)  # float32, values below 4
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean.mean(0), atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var.mean(0), atol=1e-6)


def test_a_batch_that_groups_cannot_share():
    norm = Norm(4, scheme=dataclasses.replace(bnn.XNOR, norm_groups=3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match='a batch of 4 images for norm_groups=3, expected a multiple of norm_groups'):
        norm(jnp.zeros((4, 2, 2, 4)))
    with pytest.raises(ValueError, match='norm_groups: got 0, expected at least 1'):
        dataclasses.replace(bnn.XNOR, norm_groups=0)


in_parts_of = jax.jit(update, static_argnames='parts')


def test_a_batch_in_parts_equals_the_whole_batch():
    """A network without normalization: loss, accuracy and gradient of 4 parts are those of the whole, to float64's
    rounding."""
    with jax.enable_x64(True):
        state = state_of(bnn.models.mlp, bnn.FLOAT, {'hidden': (), 'input_shape': (8, 8, 1)})
        whole_batch, in_parts = (in_parts_of(state, batch_of(12), parts=parts) for parts in (1, 4))
    assert difference(whole_batch, in_parts) < 1e-14


def test_a_batch_in_parts_moves_the_statistics_part_by_part():
    """Part i consists of images i, i + 2, ...; the running mean of the first normalization is updated twice."""
    scheme = dataclasses.replace(bnn.FLOAT, momentum=0.5)
    with jax.enable_x64(True):
        state = state_of(bnn.models.mlp, scheme, {'hidden': (3,), 'input_shape': (8, 8, 1)})
        batch = batch_of(8)
        after, _ = in_parts_of(state, batch, parts=2)
        x = batch['image'].reshape(8, -1)
        kernels = [value[...] for path, value in nnx.to_flat_state(state.params) if path[-1] == 'kernel']
        kernel = next(np.asarray(k) for k in kernels if k.shape == (64, 3))
        first, second = ((x[i::2] @ kernel).mean(0) for i in (0, 1))
        (norm,) = (module for _, module in nnx.iter_modules(model_of(after)) if isinstance(module, Norm))
    np.testing.assert_allclose(norm.mean[...], 0.5 * (0.5 * first) + 0.5 * second, atol=1e-14)


# bfloat16.


@pytest.mark.parametrize('name', ['BWN', 'XNOR'])
def test_operands_in_bfloat16(name):
    """Parameters, statistics, gradients and logits stay float32; the loss is that of rounded operands, evaluation rounds
    nothing. Signs are exact in bfloat16, so binary products do not change."""
    scheme = getattr(bnn, name)
    model = bnn.models.lenet5(10, scheme=scheme, rngs=nnx.Rngs(0), **SMALL)
    batch = batch_of(8, (16, 16, 1), np.float32)
    losses = {}
    for operands in (None, jnp.bfloat16):
        state = init(model, optax.sgd(0.1), operands=operands)
        evaluated = evaluate(model_of(state), [batch])
        state, metrics = train_step(state, batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))
        losses[operands] = float(metrics['loss']), evaluated
    assert losses[None][1] == losses[jnp.bfloat16][1]
    if name == 'BWN':  # Rounding x may flip signs in XNOR, so no bound holds there.
        assert losses[None][0] != losses[jnp.bfloat16][0]
        np.testing.assert_allclose(losses[None][0], losses[jnp.bfloat16][0], rtol=0.05)  # 8 bits, 4 layers


def test_bfloat16_products_round_operands_and_sum_in_float32():
    """One dense layer against NumPy on operands rounded to bfloat16."""
    model = bnn.models.mlp(3, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), input_shape=(2, 2, 1), hidden=())
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(5, 2, 2, 1)).astype(np.float32), np.array([0, 1, 2, 0, 1])
    state = init(model, optax.sgd(1.0), operands=jnp.bfloat16)
    after, metrics = train_step(state, {'image': images, 'label': labels})

    def rounded(a):
        return np.asarray(jnp.asarray(a, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32), np.float64)

    kernels = [np.asarray(value[...]) for path, value in nnx.to_flat_state(state.params) if path[-1] == 'kernel']
    logits = rounded(images.reshape(5, 4)) @ rounded(kernels[0])
    loss = np.log(np.exp(logits).sum(-1)) - logits[np.arange(5), labels]
    np.testing.assert_allclose(metrics['loss'], loss.mean(), rtol=1e-6)
    assert float(after.step) == 1


def test_maps_between_layers_are_bfloat16_and_the_rest_is_not():
    """Dense, norm, ReLU, dense against NumPy, which rounds what each layer reads; sums and statistics are not rounded."""
    model = bnn.models.mlp(3, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), input_shape=(2, 2, 1), hidden=(5,))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 2, 2, 1)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    state = init(model, optax.sgd(1.0), operands=jnp.bfloat16)
    after, metrics = train_step(state, {'image': images, 'label': labels})

    def narrow(a):
        return np.asarray(jnp.asarray(a, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32), np.float64)

    first, last = (narrow(value[...]) for path, value in nnx.to_flat_state(state.params) if path[-1] == 'kernel')
    x = narrow(narrow(images.reshape(6, 4)) @ first)
    mean, var = x.mean(0), x.var(0)
    y = narrow(np.maximum(narrow((x - mean) / np.sqrt(var + bnn.FLOAT.eps)), 0))
    logits = y @ last
    loss = np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), labels]
    np.testing.assert_allclose(metrics['loss'], loss.mean(), rtol=1e-6)
    (norm,) = (module for _, module in nnx.iter_modules(model_of(after)) if isinstance(module, Norm))
    np.testing.assert_allclose(norm.mean[...], (1 - bnn.FLOAT.momentum) * mean, rtol=1e-5, atol=1e-7)
    assert norm.mean[...].dtype == jnp.float32


def test_every_kind_of_layer_trains_in_bfloat16():
    """Only traced: branches, auxiliary heads, residuals, averages, trained signs. The training state stays float32."""
    trained = dataclasses.replace(bnn.BIREAL, activation=bnn.schemes.Trained(bnn.schemes.RSign))
    small = networks.SMALL['resnet20'][1][1:]
    for model, shape in ((networks.two_modules(bnn.XNOR_K), (9, 8, 3)), (networks.build('resnet20', trained), small)):
        state, batch = init(model, optax.adam(1e-3), operands=jnp.bfloat16), batch_of(4, shape, np.float32)
        after, metrics = jax.eval_shape(update, state, batch)
        assert metrics['loss'].dtype == jnp.float32
        assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [leaf.dtype for leaf in jax.tree.leaves(state)]


# Two processes.


def source(split, data_dir):
    return digits(split)


def config(workdir, **changes) -> Config:
    """A float network, so that runs on different numbers of devices differ only by rounding: no sign can flip."""
    return Config(
        model=functools.partial(bnn.models.mlp, 10, scheme=bnn.FLOAT, input_shape=(8, 8, 1), hidden=(16,)),
        data=source,
        standardize=Standardize((0.305,), (0.376,)),
        optimizer=optax.sgd,
        epochs=2,
        batch_size=64,
        learning_rate=1e-2,
        checkpoint_every=5,
        workdir=str(workdir),
        **changes,
    )


def say(**record) -> None:
    """One line of JSON in one write: JAX's collectives print to the same pipe, and not always whole lines."""
    os.write(1, f'\n{json.dumps(record)}\n'.encode())


def host(coordinator: str, hosts: str, number: str, workdir: str, step: str, end: str) -> None:
    """One process of a run. After that step it sends itself the signal `end`: 'kill', 'term' or 'none'."""
    # A process notices that the other one is gone after 10 seconds instead of 100.
    jax.distributed.initialize = functools.partial(jax.distributed.initialize, heartbeat_timeout_seconds=10)
    Hosts(coordinator, int(hosts), int(number)).join()
    images_module = sys.modules['bnn_jax.training.images']
    check, seen = images_module.as_batch, []

    def counted(*arguments, **options):
        seen.append(1)
        if len(seen) == int(step) and end != 'none':
            os.kill(os.getpid(), signal.SIGKILL if end == 'kill' else signal.SIGTERM)
        check(*arguments, **options)

    images_module.as_batch = counted
    say(sum=host_sum(), copied=copied())
    try:
        fit(config(workdir))
    except Interrupted as stopped:
        say(stopped=stopped.code)
        raise


def host_sum() -> list[float]:
    """Numbers that float32 could not hold, added over the hosts."""
    return sum_over_hosts(np.array([jax.process_index() + 1 + 2.0**-40, 1.0])).tolist()


def copied() -> list[bool]:
    """Whether each array of a model stays on the devices of all hosts, where `model_of` copies it."""
    model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
    copy = model_of(replicated(init(model, optax.sgd(1.0)), all_devices()))
    return [leaf.is_fully_replicated and not leaf.is_fully_addressable for leaf in jax.tree.leaves(nnx.state(copy))]


def start(workdir: Path, *, hosts: int, devices: int, ends: dict[int, tuple[int, str]]):
    """Start the processes of one run; ends: (step, end) of those that end early."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    coordinator = f'localhost:{port}' if hosts > 1 else ''
    processes = []
    for number in range(hosts):
        step, end = ends.get(number, (0, 'none'))
        line = [sys.executable, __file__, 'host', coordinator, str(hosts), str(number), str(workdir), str(step), end]
        processes.append(
            subprocess.Popen(line, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return processes


def ended(processes):
    """Wait for the processes of a run. Returns exit codes, JSON lines and outputs."""
    outputs = [process.communicate(timeout=300) for process in processes]
    printed = [[json.loads(line) for line in out.splitlines() if line.startswith('{')] for out, _ in outputs]
    return [process.returncode for process in processes], printed, outputs


def latest(workdir: Path) -> int:
    return max(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())


def test_a_run_on_two_processes_resumes_on_any_number_after_a_kill(tmp_path, monkeypatch):
    """Two hosts of two devices; one is killed and the other ends by itself; then two hosts of one, where one of them is told to
    stop and both do, at the same step; then one of one. The parameters are those of an uninterrupted run on one device,
    within the rounding of float32 sums over 44 steps."""
    # On one CPU device, convolutions are native and sum in another order than on many devices. Here they use XLA, too, because
    # a binary network can turn such a rounding into another prediction.
    monkeypatch.setattr('bnn_jax.ops.native_convolution.usable', lambda: False)
    jax.clear_caches()
    workdir = tmp_path / 'many'

    processes = start(workdir, hosts=2, devices=2, ends={1: (8, 'kill')})
    try:
        uninterrupted = fit(config(tmp_path / 'one'))  # The processes need some ten seconds.
    finally:
        codes, _, outputs = ended(processes)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0, outputs
    assert latest(workdir) == 5

    codes, printed, outputs = ended(start(workdir, hosts=2, devices=1, ends={1: (5, 'term')}))
    assert codes == [143, 143], outputs
    assert printed == [[{'sum': [3 + 2.0**-39, 2.0], 'copied': [True] * 5}, {'stopped': 143}]] * 2
    assert 5 < latest(workdir) < 44

    assert host_sum() == [1 + 2.0**-40, 1.0]
    resumed = fit(config(workdir))
    assert int(resumed.step) == 44
    assert difference(resumed.params, uninterrupted.params) < 1e-4
    assert difference(resumed.rest, uninterrupted.rest) < 1e-4
    ours, theirs = (read(folder / 'metrics.jsonl') for folder in (workdir, tmp_path / 'one'))
    assert [r['step'] for r in ours] == [r['step'] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        # Each host normalizes its own part of the test images, so these numbers depend on the number of hosts.
        of_hosts = {name for name in a if name.startswith('batch_statistics/')}
        for name in set(a) - {'seconds', 'images_per_second'} - of_hosts:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'hosts, message',
    [
        (('', 2, 0), 'hosts, host: got 2 and 0, expected --coordinator=HOST:PORT with them'),
        (('auto', 1, 1), 'hosts, host: got 1 and 1, expected --coordinator=HOST:PORT with them'),
        (('localhost:1', 2, 2), 'host: got 2 of 2 hosts, expected 0 to 1'),
        (('localhost:1', 0, 0), 'hosts: got 0, expected at least 1'),
    ],
)
def test_hosts_that_do_not_fit_together(hosts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Hosts(*hosts)


@pytest.mark.parametrize(
    'other, message',
    [
        ((5, 1), 'hosts: got the steps [4, 5] of the run, expected the same step on every host'),
        ((4, 1), 'hosts: got different options or code, expected the same options and code on every host'),
    ],
)
def test_hosts_that_would_train_different_networks(monkeypatch, other, message):
    """`other` is what the other host sends: its step and the digest of its config."""
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(multihost_utils, 'process_allgather', lambda own: np.stack([own, np.array(other, np.uint32)]))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_on_hosts(4, {'seed': 0})
    monkeypatch.setattr(multihost_utils, 'process_allgather', lambda own: np.stack([own, own]))
    check_same_on_hosts(4, {'seed': 0})


def test_what_may_differ_between_hosts(tmp_path):
    """Hosts that save or stop at different steps would wait for each other forever."""
    ours = config(tmp_path)
    other = dataclasses.replace(ours, workdir='other', data_dir='elsewhere', workers=2)
    assert other.same_on_hosts() == ours.same_on_hosts()
    limited = [dataclasses.replace(ours, max_minutes=minutes).same_on_hosts() for minutes in (1.5, 1.0)]
    assert limited[0] == limited[1]  # After a teacher, hosts have different minutes left.
    for name, value in {'watch_every': 7, 'max_minutes': 1.5, 'checkpoint_every': 7, 'keep_best': True}.items():
        assert dataclasses.replace(ours, **{name: value}).same_on_hosts() != ours.same_on_hosts(), name


def test_a_batch_whose_parts_devices_cannot_share(found):
    assert found['uneven parts'] == (
        'batch_size: got 24 for 8 devices in 2 parts (accumulate), expected a multiple of 16'
    )


def test_one_device_takes_any_batch():
    check_shares(7, all_devices())


if __name__ == '__main__':
    command, *arguments = sys.argv[1:]
    if command == 'eight':
        print(json.dumps(eight()))
    else:
        host(*arguments)
