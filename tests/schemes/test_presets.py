"""Presets: XNOR-Net's PyTorch loop step by step in float64, and what the others are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import pytorch_loop
from flax import nnx
from networks import abstract, randomize_norms

import bnn_jax as bnn
from bnn_jax import quantizers, training
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.stateless import LeakyRelu, MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.quantizers import gradient_factors, published
from bnn_jax.schemes import Exponential, ReCUWeight, Scheme, Trained, check_scale, initializers, presets
from bnn_jax.schemes.projections import center_and_clip
from bnn_jax.training.step import update

PRESETS = {name: value for name, value in vars(presets).items() if isinstance(value, Scheme) and name.isupper()}
PRESETS = {name: value for name, value in PRESETS.items() if not hasattr(bnn, name)}
FOUR_CLASSES = {'num_classes': 4, 'width': 0.2, 'input_shape': (20, 21, 2)}


def named(state) -> dict:
    """Values of a state by 'layer.name', the layer's number in the network first."""
    return {'.'.join(map(str, path[2:])): np.asarray(v[...]) for path, v in nnx.to_flat_state(state)}


def set_values(model, values: dict) -> None:
    """Put float64 arrays by 'layer.name' into the model, whatever dtype was there."""
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(values['.'.join(map(str, path[2:]))]))
    nnx.update(model, state)


def starting_values(model, rng) -> dict:
    """Weights beyond 1, kernel columns that centering makes exactly 0, gammas below 0.01, statistics far from 0 and 1."""
    values = {}
    for name, value in named(nnx.state(model)).items():
        if name.endswith('var'):
            values[name] = rng.uniform(0.5, 2, value.shape)
        elif name == '1.scale':
            values[name] = np.ones(value.shape)
        elif name == '1.bias':
            values[name] = np.zeros(value.shape)
        else:
            values[name] = rng.normal(size=value.shape) * (0.6 if name.endswith('kernel') else 0.5)
    values['0.kernel'] *= 0.3
    # A channel of one sign would have gradients of 0, that is rounding, which Adam makes as large as any other.
    values['4.scale'] = rng.uniform(0.5, 1.5, values['4.scale'].shape)
    values['5.kernel'][2, 3, :, 1] = 0.5
    values['10.kernel'][:, 7] = -0.25
    return values


@pytest.mark.parametrize(
    ('scheme', 'factor'),
    [
        (presets.XNOR_PYTORCH, 1),
        (
            dataclasses.replace(presets.XNOR_PYTORCH, weight=gradient_factors.times_1e9(presets.XNOR_PYTORCH.weight)),
            1e9,
        ),
    ],
    ids=['MNIST', 'ImageNet factor'],
)
def test_the_pytorch_loop_step_by_step_in_float64(scheme, factor):
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(6, 20, 21, 2)), rng.integers(0, 4, 6)) for _ in range(4)]
    with jax.enable_x64(True):
        model = bnn.models.lenet5(scheme=scheme, rngs=nnx.Rngs(0), **FOUR_CLASSES)
        values = starting_values(model, rng)
        set_values(model, values)
        state = training.init(model, optax.chain(optax.add_decayed_weights(1e-5), optax.adam(1e-3)))
        params = {name: values[name] for name in named(state.params)}
        running = {name: value for name, value in values.items() if name not in params}
        losses, stored, statistics = pytorch_loop.train(params, running, batches, rate=1e-3, decay=1e-5, factor=factor)
        for (images, labels), loss, expected, stats in zip(batches, losses, stored, statistics, strict=True):
            state, metrics = training.train_step(state, {'image': images, 'label': labels})
            np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-9, atol=0)
            actual, rest = named(state.params), named(state.rest)
            assert actual.keys() == expected.keys()
            assert rest.keys() == stats.keys()
            for name, value in (*expected.items(), *stats.items()):
                ours = (actual | rest)[name]
                assert ours.dtype == np.float64, name
                np.testing.assert_allclose(ours, value, rtol=1e-9, atol=1e-9, err_msg=name)
        # The loop is no trivial one: weights were clamped, some centered to 0, and stored ones leave [-1, 1] and 0 mean.
        projected = pytorch_loop.restored(params['5.kernel'])
        assert (np.abs(projected) == 1).any()
        assert (projected == 0).any()
        assert (np.abs(stored[-1]['5.kernel']) > 1).any()
        assert (params['8.scale'] < 0.01).any()


# The others


@pytest.fixture(scope='module')
def steps():
    """One step of a small network of each preset, all compiled together: the state before it, after it, and its metrics."""
    batch = {'image': np.random.default_rng(0).normal(size=(16, 3, 3, 1)).astype(np.float32)}
    batch['label'] = np.arange(16, dtype=np.int32) % 3
    models = {
        name: bnn.models.mlp(3, scheme=preset, rngs=nnx.Rngs(0), hidden=(8, 8), input_shape=(3, 3, 1))
        for name, preset in PRESETS.items()
    }
    states = {name: training.init(model, optax.sgd(0.01), steps=5) for name, model in models.items()}
    after = jax.jit(lambda states: {name: update(state, batch) for name, state in states.items()})(states)
    return {name: (models[name], states[name], *after[name]) for name in PRESETS}


@pytest.mark.parametrize('name', PRESETS)
def test_presets_are_schemes_that_train(name, steps):
    """Sound as schemes, documented as differences, and one step changes every trained parameter that has a gradient."""
    preset, (model, state, after, metrics) = PRESETS[name], steps[name]
    for part in (preset, preset.first(preset), preset.last(preset), preset.shortcut(preset)):
        check_scale(part)
    assert hash(preset) == hash(dataclasses.replace(preset))
    assert bnn.summarize(model, (1, 3, 3, 1)).layers[-1].output_shape == (1, 3)
    assert np.isfinite(metrics['loss'])
    for path, variable in nnx.to_flat_state(after.params):
        if path[-1] == 'kernel':
            before = dict(nnx.to_flat_state(state.params))[path]
            assert (np.asarray(variable[...]) != np.asarray(before[...])).any(), path


def test_presets_are_their_sources():
    weight = {name: preset.weight for name, preset in PRESETS.items()}
    exact = gradient_factors.times_n(gradient_factors.less_one_channel(published.scaled_sign_zero_ste))
    lua = gradient_factors.less_one_channel(published.scaled_sign_zero_lua)
    assert weight == {
        'XNOR_PYTORCH': exact,
        'XNOR_PYTORCH_CIFAR': exact,
        'XNOR_PYTORCH_IMAGENET': gradient_factors.times_1e9(exact),
        'XNOR_LUA': lua,
        'BWN_LUA': gradient_factors.times_n(lua),
        'RECU_PYTORCH': Trained(ReCUWeight, Exponential(0.85, 0.99)),
        'BIREAL_SCALED_GRADIENT': quantizers.scaled_sign_ste_const_alpha,
        'XNOR_PAPER': quantizers.scaled_sign_paper,
        'XNOR_PAPER_ALGORITHM_1': published.scaled_sign_identity,
        'BWN_PAPER': quantizers.scaled_sign_paper,
        'XNOR_CAFFE': published.scaled_sign_identity,
        'XNOR_THEANO': gradient_factors.times_alpha(published.scaled_sign_identity),
        'BNN_THEANO': quantizers.sign_ste,
        'BNN_THEANO_MNIST': quantizers.sign_ste,
        'BC_THEANO': quantizers.sign_ste,
        'BC_STOCHASTIC_THEANO': published.unquantized,
        'XNOR_DARKNET': published.scaled_sign_minus_identity,
    }
    before = {name for name, preset in PRESETS.items() if preset.before is center_and_clip}
    assert before == {'XNOR_PYTORCH', 'XNOR_PYTORCH_CIFAR', 'XNOR_PYTORCH_IMAGENET', 'XNOR_LUA', 'BWN_LUA'}
    assert before == {name for name, preset in PRESETS.items() if preset.sign is published.sign_zero}
    eps = {
        name: [part(preset).eps for part in (preset.first, lambda s: s, preset.last)]
        for name, preset in PRESETS.items()
    }
    assert eps['XNOR_LUA'] == [1e-5, 1e-4, 1e-3]
    assert eps['XNOR_PYTORCH_IMAGENET'] == [1e-4, 1e-4, 1e-3]
    assert eps['BWN_LUA'] == [1e-3] * 3
    uniform = {name for name, preset in PRESETS.items() if preset.gamma_init is initializers.unit_uniform}
    assert uniform == {'XNOR_LUA', 'BWN_LUA'}


def test_sign_zero_is_refused_and_deployable_converts_with_the_same_parameters():
    keywords = {'rngs': nnx.Rngs(0), 'width': 0.2, 'input_shape': (20, 21, 2)}
    model = bnn.models.lenet5(4, scheme=presets.XNOR_PYTORCH, **keywords)
    with pytest.raises(ValueError, match=r'sign\(0\) = 0'):
        bnn.convert(model)
    randomize_norms(model)  # far from 0, where the two signs differ
    deployed = bnn.models.lenet5(4, scheme=presets.deployable(presets.XNOR_PYTORCH), **keywords)
    nnx.update(deployed, nnx.state(model))
    x = np.random.default_rng(0).normal(size=(3, 20, 21, 2)).astype(np.float32)
    logits = [np.asarray(training.logits_of(network)(x)) for network in (model, deployed, bnn.convert(deployed))]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[1], logits[2])
    with pytest.raises(ValueError, match='with the sign sign, expected sign_zero or sign_minus; .* needs no change'):
        presets.deployable(bnn.XNOR)


def test_sign_0_of_0_is_refused_whether_or_not_a_weight_is_0():
    scheme = dataclasses.replace(bnn.BWN, weight=published.scaled_sign_zero_ste, sign=published.sign_zero)
    model = bnn.models.mlp(3, scheme=scheme, rngs=nnx.Rngs(0), width=1 / 512, input_shape=(3, 3, 1))
    with pytest.raises(ValueError, match=r'layer 4: its scheme has sign\(0\) = 0, expected \+1.*presets.deployable'):
        bnn.convert(model)


def small_mlp(scheme):
    return bnn.models.mlp(3, scheme=scheme, rngs=nnx.Rngs(0), width=1 / 512, input_shape=(3, 3, 1))


def test_gamma_of_lua_starts_uniform_in_every_layer():
    """One seed, one network: gammas of U(0, 1), all else as with gammas of 1."""
    variant = dataclasses.replace(presets.XNOR_LUA, gamma_init=initializers.ones)
    keywords = {'width': 0.5, 'input_shape': (20, 21, 2)}
    model, plain = (
        named(nnx.state(bnn.models.lenet5(4, scheme=s, rngs=nnx.Rngs(0), **keywords)))
        for s in (presets.XNOR_LUA, variant)
    )
    gammas = np.concatenate([value for name, value in model.items() if name.endswith('scale')])
    assert gammas.size == 10 + 10 + 25 + 250
    assert gammas.min() >= 0 and gammas.max() < 1 and len(set(gammas.tolist())) > 290
    # 295 draws: the standard error of the mean is sqrt(1 / 12 / 295) = 0.017.
    assert abs(gammas.mean() - 0.5) < 4 * 0.017
    for name, value in plain.items():
        expected = np.ones_like(value) if name.endswith('scale') else model[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_an_untrained_gamma_is_1():
    scheme = dataclasses.replace(bnn.XNOR, gamma_init=initializers.unit_uniform, affine=False)
    scales = [value for name, value in named(nnx.state(small_mlp(scheme))).items() if name.endswith('scale')]
    assert scales and all((value == 1).all() for value in scales)


def test_darknets_sign_is_refused_and_deployable_converts():
    def network(scheme):
        builder = NetworkBuilder((9, 8, 3), scheme=scheme, width=1, rngs=nnx.Rngs(0), activation=LeakyRelu(0.1))
        builder.conv(5, 3, padding=1)
        builder.conv(7, 3, padding=1, pool=MaxPool(Window.of(2, 2)))
        builder.conv(6, 3)
        return builder.conv_network(4)

    model = network(presets.XNOR_DARKNET)
    with pytest.raises(ValueError, match=r'its scheme has sign\(0\) = -1, expected \+1.*presets.deployable'):
        bnn.convert(model)
    randomize_norms(model)  # far from 0, where the two signs differ
    deployed = network(presets.deployable(presets.XNOR_DARKNET))
    nnx.update(deployed, nnx.state(model))
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    logits = [np.asarray(training.logits_of(n)(x)) for n in (model, deployed, bnn.convert(deployed))]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[1], logits[2])


def test_stochastic_binaryconnect_is_evaluated_on_real_weights():
    """Training: products with drawn signs; evaluation: NumPy's network of W itself; conversion: refused, then of sign W."""
    preset = presets.BC_STOCHASTIC_THEANO
    model = small_mlp(preset)
    x = np.random.default_rng(0).normal(size=(5, 3, 3, 1)).astype(np.float32)
    values = {name: value.astype(np.float64) for name, value in named(nnx.state(model)).items() if 'noise' not in name}
    y = x.reshape(5, 9).astype(np.float64)
    for product, relu in zip((1, 4, 7, 10), (True, True, True, False), strict=True):
        y = y @ values[f'{product}.kernel'] + values[f'{product}.bias']
        y = y / np.sqrt(1 + 1e-4)  # gamma 1, beta 0, running mean 0 and variance 1
        y = np.maximum(y, 0) if relu else y
    np.testing.assert_allclose(training.logits_of(model)(x), y, rtol=1e-4, atol=1e-5)  # float32
    first = model.body.layers[1]
    first.train()
    columns = np.asarray(first(jnp.eye(9)))  # rows of the drawn weights
    assert set(np.unique(columns)) == {-1, 1}
    assert (columns != np.asarray(first(jnp.eye(9)))).any()
    with pytest.raises(
        ValueError, match='layer 1: its scheme uses real weights in evaluation, expected signs.*BC_STOCHASTIC'
    ):
        bnn.convert(model)
    signs = small_mlp(dataclasses.replace(preset, weight=quantizers.sign_ste, sign=quantizers.sign))
    nnx.update(signs, nnx.state(model))
    np.testing.assert_allclose(bnn.convert(signs)(x), training.logits_of(signs)(x), rtol=1e-4, atol=1e-5)


def test_trained_parameters_of_alexnet_under_the_published_codes():
    """Weights, biases, gamma and beta, as the published models have them."""
    sizes = {'BWN_LUA': (224, 2), 'XNOR_LUA': (224, 2), 'XNOR_PYTORCH_IMAGENET': (227, 0)}
    channels = [96, 256, 384, 384, 256, 4096, 4096]
    inputs = [96, 96, 256, 384, 384, 256, 4096, 4096]  # after the first convolution, then before every other product
    features = [*inputs[:5], 256 * 6 * 6, *inputs[6:]]
    normalized = {'BWN_LUA': channels, 'XNOR_LUA': inputs, 'XNOR_PYTORCH_IMAGENET': features}
    for name, (size, padding) in sizes.items():
        keywords = {'input_shape': (size, size, 3), 'padding': padding, 'scheme': PRESETS[name]}
        model = abstract(bnn.models.alexnet, num_classes=1000, **keywords)
        expected = 62_367_776 + sum(channels) + 1000 + 2 * sum(normalized[name])
        assert bnn.summarize(model, (1, size, size, 3)).params == expected
    assert [2 * sum(n) for n in normalized.values()] == [19_136, 19_328, 37_248]
    assert sum(channels) + 1000 == 10_568


def test_dorefa_trains_and_is_refused_with_its_reason():
    model = bnn.models.lenet5(3, scheme=bnn.DOREFA, rngs=nnx.Rngs(0), width=0.2, input_shape=(16, 16, 1))
    batch = {
        'image': np.random.default_rng(0).normal(size=(9, 16, 16, 1)).astype(np.float32),
        'label': np.arange(9) % 3,
    }
    state = training.init(model, optax.adam(1e-2))
    losses = []
    for _ in range(30):
        state, metrics = training.train_step(state, batch)
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(ValueError, match=r'layer \d+: its activation quantizer is not a sign.*\{0, 1\}'):
        bnn.convert(training.model_of(state))


def test_dorefa_against_its_formula():
    from bnn_jax.nn.operations import Dense
    from bnn_jax.nn.product import Product

    layer = Product(Dense(), 6, 4, scheme=bnn.DOREFA, use_bias=False, rngs=nnx.Rngs(0))
    x = np.array([[-1, 0, 0.49, 0.51, 1, 3]], np.float32)
    w = np.asarray(layer.kernel[...], np.float64)
    expected = np.array([[0, 0, 0, 1, 1, 1]]) @ np.where(w >= 0, 1, -1) * np.abs(w).mean()
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-6)
