"""Bop: flips against a NumPy loop, edges, schedules, a network that learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training


def flips(w, gradients, gamma, threshold):
    """The paper's algorithm, element by element, float64."""
    w, m = w.astype(np.float64).copy(), np.zeros(w.shape)
    history = []
    for t, g in enumerate(gradients):
        for i in np.ndindex(w.shape):
            m[i] = (1 - gamma(t)) * m[i] + gamma(t) * g[i]
            sign = -1.0 if w[i] < 0 else 1.0
            w[i] = -sign if sign * m[i] > threshold else sign
        history.append(w.copy())
    return history


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['eager', 'jit'])
def test_flips_of_a_schedule(wrap):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 5)).astype(np.float32)
    w[0, 0], w[1, 1] = 0, -0.0
    gradients = rng.normal(size=(12, 6, 5)).astype(np.float32)
    gamma = optax.piecewise_constant_schedule(0.25, {4: 0.5, 8: 0.5})
    expected = flips(w, gradients, lambda t: 0.25 * 0.5 ** ((t >= 4) + (t >= 8)), 0.05)
    tx = bnn.bop(gamma, 0.05)
    params, state = {'w': jnp.asarray(w)}, tx.init({'w': jnp.asarray(w)})
    update, count = wrap(tx.update), 0
    for g, wanted in zip(gradients, expected, strict=True):
        updates, state = update({'w': jnp.asarray(g)}, state, params)
        following = optax.apply_updates(params, updates)
        count += int((following['w'] * params['w'] < 0).sum())
        params = following
        np.testing.assert_allclose(params['w'], wanted, atol=1e-6, rtol=0)  # the first update comes from real weights
    assert count > 20


def test_exactly_on_the_threshold_nothing_flips():
    tx = bnn.bop(0.5, 0.25)
    w, g = jnp.asarray([1.0, -1.0, 1.0, -1.0]), jnp.asarray([0.5, -0.5, 0.5000001, -0.5000001])
    updates, state = tx.update(g, tx.init(w), w)
    np.testing.assert_array_equal(w + updates, [1, -1, -1, 1])
    assert state.count == 1
    np.testing.assert_array_equal(bnn.bop(0.5, 0).update(0 * g, tx.init(w), w)[0], np.zeros(4))


def test_a_network_of_flips_learns_and_converts():
    """Binary weights by Bop, the rest by Adam: latent weights are +-1 after every step."""
    model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=32 / 4096, input_shape=(5, 5, 1))
    tx = training.by_kind({training.latent_weights: bnn.bop(0.1, 1e-6), training.norms: optax.adam(1e-2)})
    rng = np.random.default_rng(0)
    batch = {'image': rng.normal(size=(30, 5, 5, 1)).astype(np.float32), 'label': np.arange(30) % 3}
    state, losses = training.init(model, tx), []
    for _ in range(40):
        state, metrics = training.train_step(state, batch)
        losses.append(float(metrics['loss']))
    for path, variable in nnx.to_flat_state(state.params):
        if path[-1] == 'kernel':
            np.testing.assert_array_equal(np.abs(variable[...]), 1)
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    trained = training.model_of(state)
    np.testing.assert_array_equal(
        training.logits_of(bnn.convert(trained))(batch['image']), training.logits_of(trained)(batch['image'])
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [((0,), 'got gamma 0'), ((1.5,), 'got gamma 1.5'), ((float('nan'),), 'gamma nan'), ((0.1, -1), 'threshold -1')],
)
def test_bad_numbers_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        bnn.bop(*arguments)


def test_missing_params_raise():
    tx = bnn.bop()
    with pytest.raises(ValueError, match='bop: got no params'):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
