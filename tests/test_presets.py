"""Presets: XNOR-Net's PyTorch loop step by step in float64, and what the others are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import pytorch_loop
from flax import nnx

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
