"""Presets: XNOR-Net's PyTorch loop step by step in float64, and what the others are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import pytorch_loop
from flax import nnx
from networks import randomise_norms

import bnn_jax as bnn
from bnn_jax import factors, presets, quantizers, training, variants
from bnn_jax.projections import centre_and_clip
from bnn_jax.schemes import Scheme, check_scale

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
    """Weights beyond 1, kernel columns that centring makes exactly 0, gammas below 0.01, statistics far from 0 and 1."""
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
        (dataclasses.replace(presets.XNOR_PYTORCH, weight=factors.times_1e9(presets.XNOR_PYTORCH.weight)), 1e9),
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
        # The loop is no trivial one: weights were clamped, some centred to 0, and stored ones leave [-1, 1] and 0 mean.
        projected = pytorch_loop.restored(params['5.kernel'])
        assert (np.abs(projected) == 1).any()
        assert (projected == 0).any()
        assert (np.abs(stored[-1]['5.kernel']) > 1).any()
        assert (params['8.scale'] < 0.01).any()


# The others


@pytest.mark.parametrize('preset', PRESETS.values(), ids=PRESETS)
def test_presets_are_schemes_that_train(preset):
    """Sound as schemes, documented as differences, and one step changes every trained parameter that has a gradient."""
    for part in (preset, preset.first(preset), preset.last(preset), preset.shortcut(preset)):
        check_scale(part)
    assert hash(preset) == hash(dataclasses.replace(preset))
    model = bnn.models.mlp(3, scheme=preset, rngs=nnx.Rngs(0), width=1 / 512, input_shape=(3, 3, 1))
    batch = {'image': np.random.default_rng(0).normal(size=(16, 3, 3, 1)).astype(np.float32)}
    batch['label'] = np.arange(16) % 3
    assert bnn.summarize(model, (1, 3, 3, 1)).layers[-1].output_shape == (1, 3)
    state = training.init(model, optax.sgd(0.01))
    after, metrics = training.train_step(state, batch)
    assert np.isfinite(metrics['loss'])
    for path, variable in nnx.to_flat_state(after.params):
        if path[-1] == 'kernel':
            before = dict(nnx.to_flat_state(state.params))[path]
            assert (np.asarray(variable[...]) != np.asarray(before[...])).any(), path


def test_presets_are_their_sources():
    weight = {name: preset.weight for name, preset in PRESETS.items()}
    exact = factors.times_n(factors.less_one_channel(variants.scaled_sign_zero_ste))
    lua = factors.less_one_channel(variants.scaled_sign_zero_lua)
    assert weight == {
        'XNOR_PYTORCH': exact,
        'XNOR_PYTORCH_CIFAR': exact,
        'XNOR_PYTORCH_IMAGENET': factors.times_1e9(exact),
        'XNOR_LUA': lua,
        'BWN_LUA': factors.times_n(lua),
        'XNOR_PAPER': quantizers.scaled_sign_paper,
        'XNOR_PAPER_ALGORITHM_1': variants.scaled_sign_identity,
        'BWN_PAPER': quantizers.scaled_sign_paper,
        'XNOR_CAFFE': variants.scaled_sign_identity,
        'XNOR_THEANO': factors.times_alpha(variants.scaled_sign_identity),
        'BNN_THEANO': quantizers.sign_ste,
        'BC_THEANO': quantizers.sign_ste,
    }
    before = {name for name, preset in PRESETS.items() if preset.before is centre_and_clip}
    assert before == {'XNOR_PYTORCH', 'XNOR_PYTORCH_CIFAR', 'XNOR_PYTORCH_IMAGENET', 'XNOR_LUA', 'BWN_LUA'}
    assert before == {name for name, preset in PRESETS.items() if preset.sign is variants.sign_zero}
    eps = {
        name: [part(preset).eps for part in (preset.first, lambda s: s, preset.last)]
        for name, preset in PRESETS.items()
    }
    assert eps['XNOR_LUA'] == [1e-5, 1e-4, 1e-3]
    assert eps['XNOR_PYTORCH_IMAGENET'] == [1e-4, 1e-4, 1e-3]
    assert eps['BWN_LUA'] == [1e-3] * 3


def test_sign_zero_is_refused_and_deployable_converts_with_the_same_parameters():
    keywords = {'rngs': nnx.Rngs(0), 'width': 0.2, 'input_shape': (20, 21, 2)}
    model = bnn.models.lenet5(4, scheme=presets.XNOR_PYTORCH, **keywords)
    with pytest.raises(ValueError, match=r'sign\(0\) = 0'):
        bnn.convert(model)
    randomise_norms(model)  # far from 0, where the two signs differ
    deployed = bnn.models.lenet5(4, scheme=presets.deployable(presets.XNOR_PYTORCH), **keywords)
    nnx.update(deployed, nnx.state(model))
    x = np.random.default_rng(0).normal(size=(3, 20, 21, 2)).astype(np.float32)
    logits = [np.asarray(training.logits_of(network)(x)) for network in (model, deployed, bnn.convert(deployed))]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[1], logits[2])
    with pytest.raises(ValueError, match='this one needs no change'):
        presets.deployable(bnn.XNOR)


def test_sign_0_of_0_is_refused_whether_or_not_a_weight_is_0():
    scheme = dataclasses.replace(bnn.BWN, weight=variants.scaled_sign_zero_ste, sign=variants.sign_zero)
    model = bnn.models.mlp(3, scheme=scheme, rngs=nnx.Rngs(0), width=1 / 512, input_shape=(3, 3, 1))
    with pytest.raises(ValueError, match=r'layer 4: its scheme has sign\(0\) = 0, expected \+1.*presets.deployable'):
        bnn.convert(model)


def test_dorefa_trains_and_is_refused_with_its_reason():
    model = bnn.models.vgg_small(3, scheme=bnn.DOREFA, rngs=nnx.Rngs(0), width=0.04, input_shape=(8, 8, 1))
    batch = {'image': np.random.default_rng(0).normal(size=(9, 8, 8, 1)).astype(np.float32), 'label': np.arange(9) % 3}
    state = training.init(model, optax.adam(1e-2))
    losses = []
    for _ in range(30):
        state, metrics = training.train_step(state, batch)
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(ValueError, match=r'layer \d+: its activation quantizer is not a sign.*\{0, 1\}'):
        bnn.convert(training.model_of(state))


def test_dorefa_against_its_formula():
    from bnn_jax.layers import Product
    from bnn_jax.products import Dense

    layer = Product(Dense(), 6, 4, scheme=bnn.DOREFA, use_bias=False, rngs=nnx.Rngs(0))
    x = np.array([[-1, 0, 0.49, 0.51, 1, 3]], np.float32)
    w = np.asarray(layer.kernel[...], np.float64)
    expected = np.array([[0, 0, 0, 1, 1, 1]]) @ np.where(w >= 0, 1, -1) * np.abs(w).mean()
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-6)
