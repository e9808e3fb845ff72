"""A layer says of itself how it is packed, what it costs and whether it keeps order: one table, every property.

And modules of the user's: converted, saved, loaded, summarized, trained.
"""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import assert_runs_without_jax, evaluated

import bnn_jax as bnn
from bnn_jax import nn, training
from bnn_jax.nn.layer import kept
from bnn_jax.ops import Signs, ordered_mean, rounded
from bnn_jax.schemes import AdaptiveSign, RSign, Scheduled, Trained, TrainedScale

C = 6
IMAGES = np.random.default_rng(0).normal(size=(2, 5, 7, C)).astype(np.float32)
WINDOW = nn.Window.of(3, 2, ((1, 1), (1, 1)))


def slopes(*values):
    layer = nn.PRelu(C)
    layer.slope[...] = jnp.asarray(np.resize(values, C), jnp.float32)
    return layer


def trained_norm():
    norm, rng = nn.Norm(C, scheme=bnn.XNOR, rngs=nnx.Rngs(0)), np.random.default_rng(1)
    norm.scale[...] = jnp.asarray([1, -2, 0, 0.5, -0.25, 3], jnp.float32)
    norm.mean[...], norm.bias[...] = (jnp.asarray(rng.normal(size=C), jnp.float32) for _ in range(2))
    norm.eval()
    return norm


# layer, trainable parameters, direction of every channel (None: no threshold may stand for it), acts on signs
LAYERS = {
    'Relu': (nn.Relu(), 0, 1, False),
    'LeakyRelu': (nn.LeakyRelu(0.25), 0, 1, False),
    'LeakyRelu, falling': (nn.LeakyRelu(-0.25), 0, None, False),
    'PRelu': (slopes(0.25, 0, 2), C, 1, False),
    'PRelu, one channel falling': (slopes(0.25, 0, 2, -0.5), C, None, False),
    'HardTanh': (nn.HardTanh(), 0, 1, False),
    'PadChannels': (nn.PadChannels(1, 2), 0, None, False),
    'Norm': (trained_norm(), 2 * C, [1, -1, 0, 1, -1, 1], False),
    'MaxPool': (nn.MaxPool(WINDOW), 0, None, True),
    'AvgPool': (nn.AvgPool(WINDOW), 0, None, False),
    'GlobalAveragePool': (nn.GlobalAveragePool(), 0, None, False),
    'Flatten': (nn.Flatten(), 0, None, True),
}
each_layer = pytest.mark.parametrize(('layer', 'params', 'direction', 'moves'), LAYERS.values(), ids=LAYERS)


@each_layer
def test_a_layer(layer, params, direction, moves):
    y = layer(IMAGES)
    packed = layer.packed()
    np.testing.assert_array_equal(packed(IMAGES), y)
    assert packed.label() in (layer.label(), 'PackedNorm') and packed.row('3').path == '3'
    cost = layer.cost(y.shape)
    assert cost.params == params and cost.weight_bits is None and cost.macs_1bit == cost.macs_32bit == 0
    assert cost.packed_bytes == packed.stored_bytes()
    assert packed.moves_signs() == moves
    found = packed.direction(C)
    if direction is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, np.resize(direction, C))
        # Check the stated direction on rising inputs, channel by channel.
        x = np.repeat(np.linspace(-3, 3, 41, dtype=np.float32)[:, None], C, axis=1)
        steps = np.diff(np.asarray(layer(x)), axis=0)
        assert (steps * found >= 0).all() and (steps[:, found == 0] == 0).all()
    if moves:
        signs = np.where(IMAGES < 0, np.float32(-1), np.float32(1))
        highest = jnp.full((1,), 2**C - 1, jnp.uint32)
        moved = packed.on_signs(Signs.of(jnp.asarray(signs)), highest)
        expected = Signs.of(layer(jnp.asarray(signs)))
        np.testing.assert_array_equal(moved.words, expected.words)


def network(layer, scheme=bnn.XNOR):
    """Norm, product, the layer, product, norm: between two products a threshold may stand."""
    r = nnx.Rngs(0)
    layers = [
        nn.Flatten(),
        nn.Norm(16, scheme=scheme, rngs=r),
        nn.Linear(16, C, scheme=scheme, use_bias=False, rngs=r),
        layer,
        nn.Linear(C, 10, scheme=scheme, rngs=r),
    ]
    return nn.Network(layers, channels=1, num_classes=10)


SMALL = np.random.default_rng(2).normal(size=(3, 4, 4, 1)).astype(np.float32)


class Doubled(nnx.Module):
    """A user's layer with an array, which says nothing of itself."""

    def __init__(self, channels: int):
        self.channels = channels
        self.factor = nnx.Param(jnp.full((channels,), 2.0))

    def __call__(self, x):
        return x * jnp.broadcast_to(self.factor[...], x.shape)


OWN = {
    'PRelu': (slopes(0.25, 1.5), True),
    'a module': (Doubled(C), False),
    'Dropout': (nnx.Dropout(0.5, rngs=nnx.Rngs(0)), False),
    'nnx.Linear': (nnx.Linear(C, C, rngs=nnx.Rngs(1)), False),
    'a function': (nnx.relu, False),
}


@pytest.mark.parametrize(('layer', 'in_bits'), OWN.values(), ids=OWN)
def test_a_float_layer_among_binary_ones_stays_float_and_is_named(layer, in_bits):
    model = network(layer)
    model.eval()
    packed = bnn.convert(model)
    np.testing.assert_array_equal(packed(SMALL), model(SMALL))
    row = packed.report.rows[3]
    assert row.path == '3' and (row.became == 'integer thresholds, bits') == in_bits
    assert nn.walk(model) and bnn.summarize(model, SMALL.shape).layers[3].path == '3'


def test_a_registered_layer_is_saved_and_another_is_refused(tmp_path):
    packed = bnn.convert(network(Doubled(C)))
    with pytest.raises(ValueError, match=r"class Doubled has no name in files.*nn.register\('Doubled'"):
        bnn.save(packed, tmp_path / 'own.safetensors')
    assert not (tmp_path / 'own.safetensors').exists()
    nn.register('test.Doubled', fields=('channels',))(Doubled)
    with pytest.raises(ValueError, match="'test.Doubled' is taken"):
        nn.register('test.Doubled')(nnx.Linear)
    loaded = bnn.load(bnn.save(packed, tmp_path / 'own.safetensors'))
    np.testing.assert_array_equal(loaded(SMALL), packed(SMALL))
    assert isinstance(kept(Doubled(C)).module(), Doubled)


class Own(nnx.Module):
    """A user's network: float layers of Flax, binary ones of this library, its own `__call__`."""

    def __init__(self, rngs, scheme=bnn.XNOR):
        self.stem, self.norm = nnx.Conv(3, 12, (3, 3), rngs=rngs), nnx.BatchNorm(12, rngs=rngs)
        self.conv = nn.Conv(12, 33, (3, 3), strides=2, padding=1, scheme=scheme, rngs=rngs)
        self.blocks = nnx.List(
            [nn.Linear(33, 33, use_bias=False, scheme=bnn.BIREAL, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)]
        )
        self.head = nnx.Sequential(nn.Norm(33, scheme=scheme, rngs=rngs), nnx.Linear(33, 7, rngs=rngs))

    def __call__(self, x):
        x = self.conv(self.norm(nnx.relu(self.stem(x)))).mean((1, 2))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


PHOTOS = np.random.default_rng(3).normal(size=(8, 9, 8, 3)).astype(np.float32)
BATCH = {'image': PHOTOS, 'label': np.arange(8) % 7}


@pytest.fixture(scope='module')
def own():
    """A user's network after some steps."""
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):  # Flax's own layers rely on both.
        state = training.init(Own(nnx.Rngs(0)), optax.sgd(0.1))
        first = None
        for _ in range(6):
            state, metrics = training.train_step(state, BATCH)
            first = first or float(metrics['loss'])
        assert float(metrics['loss']) < first
        assert (
            max(float(jnp.abs(w[...]).max()) for w in jax.tree.leaves(nnx.state(training.model_of(state), nn.Latent)))
            <= 1
        )
        yield training.model_of(state)


def test_a_users_module_converts_to_the_bit(own, tmp_path):
    packed = bnn.convert(own)
    logits = own(PHOTOS)
    assert isinstance(packed, Own) and not isinstance(own.conv, type(packed.conv))
    np.testing.assert_array_equal(packed(PHOTOS), logits)
    run = jax.jit(lambda model, x: model(x))
    np.testing.assert_array_equal(run(packed, PHOTOS), run(own, PHOTOS))
    became = {row.path: row.became for row in packed.report.rows}
    assert became['conv'] == became['blocks.0'] == 'xnor + popcount'
    assert all(became[path] == 'float32' for path in ('stem', 'norm', 'blocks.1', 'head.layers.0', 'head.layers.1'))
    reason = next(row.reason for row in packed.report.rows if row.path == 'norm')
    assert 'may give the other sign for up to' in reason  # nnx.BatchNorm rounds as its compilation likes.
    result = training.evaluate(own, [BATCH])
    assert result == training.evaluate(packed, [BATCH]) and result['count'] == 8
    path = bnn.save(packed, tmp_path / 'own.safetensors')
    np.testing.assert_array_equal(bnn.load(path, into=Own(nnx.Rngs(5)))(PHOTOS), logits)
    with pytest.raises(ValueError, match=r'load\(path, into=module\)'):
        bnn.load(path)
    with pytest.raises(ValueError, match='as in the module|only in the file'):
        bnn.load(
            path,
            into=Own(nnx.Rngs(0), scheme=dataclasses.replace(bnn.XNOR, bias=True, scale=None, weight=bnn.BNN.weight)),
        )


def test_a_users_module_is_summarized(own):
    summary = bnn.summarize(own, PHOTOS.shape)
    shapes = {layer.path: layer.output_shape for layer in summary.layers}
    assert shapes['stem'] == (8, 9, 8, 12) and shapes['conv'] == (8, 5, 4, 33) and shapes['head.layers.1'] == (8, 7)
    assert summary.binary_params == 9 * 12 * 33 + 33 * 33 and summary.macs_1bit == 20 * 9 * 12 * 33 + 33 * 33


def test_sequential_of_flax_converts():
    model = nnx.Sequential(nn.Flatten(), nn.Linear(16, 10, scheme=bnn.BNN, use_bias=False, rngs=nnx.Rngs(0)))
    packed = bnn.convert(model)
    np.testing.assert_array_equal(packed(SMALL), model(SMALL))
    assert [row.became for row in packed.report.rows] == ['float32', 'xnor + popcount']


@pytest.mark.parametrize('shape', [(16,), (5, 16), (2, 3, 16)])
def test_linear_takes_leading_axes_as_flax_does(shape):
    layer = nn.Linear(16, 4, scheme=bnn.XNOR, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    rows = np.stack([np.asarray(layer(row[None]))[0] for row in x.reshape(-1, 16)])
    np.testing.assert_array_equal(layer(x), rows.reshape(*x.shape[:-1], 4))
    np.testing.assert_array_equal(layer.packed()(jnp.asarray(x)), layer(x))


@pytest.mark.parametrize('padding', ['SAME', 'VALID', 1, ((0, 1), (2, 0))])
@pytest.mark.parametrize('options', [{'strides': 2}, {'kernel_dilation': 2}, {'feature_group_count': 3}])
def test_float_convolutions_are_those_of_flax(padding, options):
    ours = nn.Conv(6, 9, (3, 2), padding=padding, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), **options)
    theirs = nnx.Conv(6, 9, (3, 2), padding=padding, rngs=nnx.Rngs(0), **options)
    theirs.kernel[...] = ours.kernel[...]
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        expected = theirs(IMAGES)
    # Sums of 12 to 36 products in another order.
    np.testing.assert_allclose(ours(IMAGES), expected, rtol=1e-5, atol=1e-5)


# Sums in a fixed order, for the same numbers must come out of every compilation.
def mean(w):
    return ordered_mean(w.reshape(-1, w.shape[-1]))


def spread(w, numbers):
    return jnp.broadcast_to(numbers, w.shape)


def deviation(w):
    centered = rounded(w - spread(w, mean(w))).reshape(-1, w.shape[-1])
    return rounded(jnp.sqrt(ordered_mean(rounded(centered * centered))))


def centered_sign(w):
    return bnn.quantizers.sign(w - spread(w, mean(w)))


def two_values(w):
    """AdaBin's weights: mean +- deviation of the filter."""
    return centered_sign(w) * spread(w, deviation(w)) + spread(w, mean(w))


def sharpening(x, progress):
    return bnn.quantizers.sign_ste(x * (1 + 9 * progress))


class ScaleAndOffset(TrainedScale):
    """A trained alpha and a trained offset for each filter."""

    def __init__(self, kernel, rngs):
        super().__init__(kernel, rngs)
        self.mean = nnx.Param(mean(kernel))

    def offset(self):
        return self.mean[...]


ADABIN = {'weight': two_values, 'sign': centered_sign, 'scale': deviation, 'offset': mean, 'projection': None}
STATEFUL = {
    'AdaptiveSign': dataclasses.replace(bnn.BIREAL, activation=Trained(AdaptiveSign)),
    'affine in both': dataclasses.replace(bnn.BIREAL, activation=Trained(AdaptiveSign), **ADABIN),
    'trained scale, scheduled': bnn.presets.RECU_PYTORCH,
    'RSign, trained alpha and offset': dataclasses.replace(
        bnn.BIREAL, activation=Trained(RSign), weight=Trained(ScaleAndOffset), scale=None
    ),
    'scheduled, affine weights': dataclasses.replace(bnn.BIREAL, activation=Scheduled(sharpening), **ADABIN),
}


@pytest.mark.parametrize('scheme', STATEFUL.values(), ids=STATEFUL)
def test_trained_scheduled_and_affine_quantizers_train_and_convert(scheme, tmp_path):
    model = bnn.models.lenet5(5, scheme=scheme, rngs=nnx.Rngs(0), width=0.2, input_shape=(16, 17, 1))
    x = np.random.default_rng(0).normal(size=(4, 16, 17, 1)).astype(np.float32)
    state = training.init(model, optax.sgd(0.1), steps=5)
    for _ in range(5):
        state, metrics = training.train_step(state, {'image': x, 'label': np.arange(4)})
    assert np.isfinite(float(metrics['loss']))
    trained = training.model_of(state)
    for field in ('weight', 'activation'):
        if isinstance(getattr(scheme, field), Trained):
            pairs = zip(nn.walk(model), nn.walk(trained), strict=True)
            pairs = [[getattr(place.layer, field, None) for place in pair] for pair in pairs]
            changes = [
                jax.tree.map(lambda a, b: bool((a != b).any()), *(nnx.state(one, nnx.Param) for one in pair))
                for pair in pairs
                if isinstance(pair[0], nnx.Module)
            ]
            assert len(changes) == 2 and all(map(any, map(jax.tree.leaves, changes)))
    packed = bnn.convert(trained)
    assert bnn.summarize(trained, x.shape).packed_bytes == packed.report.bytes
    logits = evaluated(packed, x)
    np.testing.assert_array_equal(logits, evaluated(trained, x))
    np.testing.assert_allclose(evaluated(bnn.inference.float_twin(packed), x), logits, rtol=1e-6, atol=1e-6)
    loaded = bnn.load(bnn.save(packed, tmp_path / 'network.safetensors'))
    np.testing.assert_array_equal(evaluated(loaded, x), logits)
    assert_runs_without_jax(packed, x, logits)


def test_a_trained_scale_by_hand():
    """alpha_f sum x sign(w), and its gradients; an alpha below 0 turns the signs of the integers round."""
    scheme = dataclasses.replace(bnn.BNN, weight=Trained(TrainedScale))
    layer = nn.Linear(3, 2, use_bias=False, scheme=scheme, rngs=nnx.Rngs(0))
    w, x = np.float32([[0.5, -2], [-0.25, 0.75], [0, -0.5]]), np.float32([[1, -1, 1], [-1, -1, 1]])
    layer.kernel[...] = jnp.asarray(w)
    layer.weight.alpha[...] = jnp.asarray([0.5, -3], jnp.float32)
    signs = np.where(w < 0, -1, 1)
    np.testing.assert_array_equal(layer(x), [0.5, -3] * (x @ signs))
    np.testing.assert_array_equal(layer.packed()(jnp.asarray(x)), layer(x))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    to = jax.grad(lambda params: nnx.merge(graphdef, params, rest)(x)[:, 0].sum() * 2)(params)
    g = 2 * x.sum(0)  # dC / d(alpha_0 s_0)
    np.testing.assert_array_equal(to['weight']['alpha'][...], [g @ signs[:, 0], 0])
    np.testing.assert_array_equal(to['kernel'][...], np.stack([0.5 * g, 0 * g], 1))


@pytest.mark.parametrize('padding', [0, 1])
def test_an_affine_product_by_hand(padding):
    """(a s + b)(d t + c) summed over windows in NumPy, zeros outside the image."""
    scheme = STATEFUL['affine in both']
    layer = nn.Conv(3, 2, 3, padding=padding, scheme=scheme, rngs=nnx.Rngs(0))
    layer.activation.distance[...], layer.activation.center[...] = jnp.float32(0.5), jnp.float32(0.25)
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 3)).astype(np.float32)
    w = np.asarray(layer.kernel[...], np.float64)
    average, spreading = w.reshape(-1, 2).mean(0), w.reshape(-1, 2).std(0)
    weights = np.where(w >= average, average + spreading, average - spreading)
    inputs = np.pad(np.where(x >= 0.25, 0.75, -0.25), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    rows, columns = 3 + 2 * padding, 2 + 2 * padding
    expected = np.zeros((1, rows, columns, 2))
    for i in range(rows):
        for j in range(columns):
            expected[0, i, j] = np.tensordot(inputs[0, i : i + 3, j : j + 3], weights, 3)
    # 27 terms of size 1, rounded to float32.
    np.testing.assert_allclose(layer(x), expected + np.asarray(layer.bias[...]), atol=1e-5)
    np.testing.assert_array_equal(layer.packed()(jnp.asarray(x)), layer(x))


def test_a_scheduled_quantizer_sees_the_progress():
    seen = []

    def see(x, progress):
        jax.debug.callback(lambda p: seen.append(float(p)), progress)
        return bnn.quantizers.sign_ste(x)

    scheme = dataclasses.replace(bnn.BNN, activation=Scheduled(see))
    model = bnn.models.mlp(3, scheme=scheme, rngs=nnx.Rngs(0), width=0.002, input_shape=(2, 2, 1))
    with pytest.raises(ValueError, match=r'expected the number of updates of the run: init\(model, tx, steps='):
        training.init(model, optax.sgd(0.1))
    state = training.init(model, optax.sgd(0.1), steps=3)
    for _ in range(4):
        state, _ = training.train_step(state, {'image': np.ones((2, 2, 2, 1), np.float32), 'label': np.arange(2)})
    jax.effects_barrier()
    assert sorted(set(seen)) == [0, 0.5, 1]


def test_copies():
    model = bnn.models.mlp(3, scheme=bnn.XNOR, rngs=nnx.Rngs(0), width=0.002, input_shape=(2, 2, 1))
    state = training.init(model, optax.adam(1e-3))
    by_function = training.init(model, optax.adam(1e-3), loss=training.cross_entropy)
    packed, x = bnn.convert(model), np.ones((2, 2, 2, 1), np.float32)
    for twin in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        np.testing.assert_array_equal(twin(model)(x), model(x))
        np.testing.assert_array_equal(twin(packed)(x), packed(x))
        assert twin(by_function).loss == by_function.loss
        assert twin(bnn.XNOR) == bnn.XNOR and twin(bnn.presets.XNOR_PYTORCH) == bnn.presets.XNOR_PYTORCH
        with jax.numpy_dtype_promotion('standard'):  # Adam relies on it.
            after, _ = training.train_step(twin(state), {'image': x, 'label': np.arange(2)})
            expected, _ = training.train_step(state, {'image': x, 'label': np.arange(2)})
        assert all(map(np.array_equal, jax.tree.leaves(after.params), jax.tree.leaves(expected.params)))


def test_what_is_printed():
    assert (
        repr(bnn.XNOR) == 'XNOR' and repr(dataclasses.replace(bnn.XNOR, pad_value=-1)) == 'replace(XNOR, pad_value=-1)'
    )
    packed = bnn.convert(bnn.models.resnet20(10, scheme=bnn.BIREAL, rngs=nnx.Rngs(0), width=0.1))
    assert repr(packed).count('\n') < 20
    assert 'ResNet-18' in bnn.models.resnet18.__doc__ and 'XNOR-Net' in bnn.XNOR.__doc__
