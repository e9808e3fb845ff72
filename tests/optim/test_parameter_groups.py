"""Optimizer groups: who belongs to which kind, and which rules raise."""

import dataclasses

import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.training import biases, by_kind, float_weights, latent_weights, norms

SCHEME = dataclasses.replace(bnn.XNOR, bias=True, projection=None)


def built(scheme=SCHEME):
    return bnn.models.lenet5(3, scheme=scheme, rngs=nnx.Rngs(0), width=0.1, input_shape=(16, 16, 1))


def batch():
    image = np.random.default_rng(0).normal(size=(6, 16, 16, 1)).astype(np.float32)
    return {'image': image, 'label': np.arange(6) % 3}


RATES = {latent_weights: 2.0, float_weights: 3.0, norms: 5.0, biases: 7.0}


def kind_of(model, path):
    module, name = model, path[-1]
    for key in path[:-1]:
        module = module[key] if isinstance(key, int) else getattr(module, key)
    if isinstance(module, nnx.BatchNorm):
        return norms
    if name == 'bias':
        return biases
    return latent_weights if module.scheme.weight is not None else float_weights


def test_every_parameter_moves_at_the_rate_of_its_kind():
    model = built()
    plain = training.init(model, optax.sgd(1e-4))
    grouped = training.init(model, by_kind({kind: optax.sgd(1e-4 * rate) for kind, rate in RATES.items()}))
    start = dict(nnx.to_flat_state(plain.params))
    plain, grouped = (dict(nnx.to_flat_state(training.train_step(s, batch())[0].params)) for s in (plain, grouped))
    seen = set()
    for path, variable in start.items():
        kind = kind_of(model, path)
        seen.add(kind)
        moved, expected = (np.asarray(after[path][...] - variable[...], np.float64) for after in (grouped, plain))
        # Differences of float32 numbers of order 1.
        np.testing.assert_allclose(moved, RATES[kind] * expected, rtol=1e-2, atol=2e-6, err_msg=str(path))
    assert seen == set(RATES)


def test_decay_of_one_kind_only():
    rules = {kind: optax.sgd(0.0) for kind in (latent_weights, norms, biases)}
    decayed = optax.chain(optax.set_to_zero(), optax.add_decayed_weights(0.5), optax.sgd(1.0))
    state = training.init(built(), by_kind({**rules, float_weights: decayed}))
    after, _ = training.train_step(state, batch())
    before = dict(nnx.to_flat_state(state.params))
    for path, variable in nnx.to_flat_state(after.params):
        factor = 0.5 if kind_of(built(), path) is float_weights else 1
        np.testing.assert_array_equal(variable[...], factor * before[path][...])


def test_rules_that_match_nothing_or_too_much_raise():
    rules = {kind: optax.sgd(0.1) for kind in RATES}
    with pytest.raises(ValueError, match='latent_weights matches no parameter, expected at least one'):
        training.init(built(dataclasses.replace(bnn.FLOAT, bias=True)), by_kind(rules))
    with pytest.raises(ValueError, match='biases matches no parameter'):
        training.init(built(bnn.BNN), by_kind({kind: rules[kind] for kind in (latent_weights, norms, biases)}))
    del rules[norms]
    with pytest.raises(ValueError, match='(scale|bias) is matched by no rule, expected exactly one rule'):
        training.init(built(), by_kind(rules))
    everything = {**{kind: optax.sgd(0.1) for kind in RATES}, lambda path, variable, params: True: optax.sgd(0.1)}
    with pytest.raises(ValueError, match='is matched by .*, <lambda>, expected exactly one rule'):
        training.init(built(), by_kind(everything))
    body = {kind('body'): optax.sgd(0.1) for kind in (bnn.optim.inside, bnn.optim.outside)}
    with pytest.raises(ValueError, match=r"by_kind: outside\('body'\) matches no parameter"):
        training.init(built(), by_kind(body))


def test_groups_beside_a_projection():
    """The scheme's projection still comes last, and touches latent weights only."""
    model = built(dataclasses.replace(SCHEME, projection=bnn.schemes.projections.clip))
    state = training.init(model, by_kind({kind: optax.sgd(100.0) for kind in RATES}))
    after, _ = training.train_step(state, batch())
    largest = {latent_weights: 0.0, float_weights: 0.0}
    for path, variable in nnx.to_flat_state(after.params):
        kind = kind_of(model, path)
        largest[kind] = max(largest.get(kind, 0), float(np.abs(variable[...]).max()))
    assert largest[latent_weights] == 1
    assert largest[float_weights] > 1
