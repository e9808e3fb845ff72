"""Two stages: the first stage's scheme and network, the start of the second against NumPy, and a run killed in it.

As a script it is the other process: `python tests/test_stages.py WORKDIR`, killed in the second stage.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import Standardize, digits
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import Flatten, Relu
from bnn_jax.nn.variables import Latent, Noise, Progress
from bnn_jax.training import Config, fit, init, model_of, train_step
from bnn_jax.training.metrics import MetricsLog
from bnn_jax.training.two_stage import activations_only, second_stage

TESTS = Path(__file__).parents[1]
BINARY = {name: getattr(bnn, name) for name in ('BNN', 'XNOR', 'XNOR_K', 'BIREAL', 'DOREFA', 'IRNET')}
BINARY['XNOR_LUA'] = bnn.presets.XNOR_LUA


def mlp(scheme, seed=0, hidden=(24, 16)):
    return bnn.models.mlp(10, scheme=scheme, rngs=nnx.Rngs(seed), input_shape=(8, 8, 1), hidden=hidden)


def trained(scheme, seed=1):
    """Weights that training may leave: some beyond 1, filters off center; statistics and gamma anywhere."""
    model, rng = mlp(activations_only(scheme), seed), np.random.default_rng(seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Product):
            module.kernel[...] = jnp.asarray(0.2 + rng.normal(size=module.kernel.shape), jnp.float32)
        if isinstance(module, Norm):
            for name, value in (('scale', rng.normal), ('bias', rng.normal), ('mean', rng.normal)):
                getattr(module, name)[...] = jnp.asarray(value(size=module.num_features), jnp.float32)
            module.var[...] = jnp.asarray(rng.uniform(0.1, 9, module.num_features), jnp.float32)
    model.eval()
    return model


def products(model):
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, Product)]


def arrays(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(arrays(ours), arrays(theirs), strict=True))


# The scheme of the first stage.


WITH_OFFSET = dataclasses.replace(bnn.XNOR, offset=lambda w: w.mean(tuple(range(w.ndim - 1))))


@pytest.mark.parametrize('scheme', [*BINARY.values(), WITH_OFFSET], ids=[*BINARY, 'an offset'])
def test_only_what_concerns_weights_changes(scheme):
    first = activations_only(scheme)
    changed = {f.name for f in dataclasses.fields(first) if getattr(first, f.name) is not getattr(scheme, f.name)}
    assert 'weight' in changed <= {'weight', 'scale', 'offset', 'projection', 'before', 'balance', 'training_weight'}
    assert {getattr(first, field) for field in changed} == {None}
    assert activations_only(first) == first


@pytest.mark.parametrize('scheme', [bnn.FLOAT, bnn.BC, bnn.BC_STOCHASTIC, bnn.BWN])
def test_real_activations_have_no_first_stage(scheme):
    with pytest.raises(ValueError, match='real activations, expected binary ones'):
        activations_only(scheme)


def logits(network, x, weights):
    """NumPy, float64: the layers of an mlp in XNOR-Net's order; weights: number of a product -> what it multiplies by."""
    x, count = np.asarray(x, np.float64), 0
    for layer in network.body.layers:
        match layer:
            case Flatten():
                x = x.reshape(len(x), -1)
            case Relu():
                x = np.maximum(x, 0)
            case Norm():
                gamma, beta, mean, var = (
                    np.asarray(v[...], np.float64) for v in (layer.scale, layer.bias, layer.mean, layer.var)
                )
                x = gamma * (x - mean) / np.sqrt(var + layer.epsilon) + beta
            case Product():
                if 0 < count < len(products(network)) - 1:
                    x = np.where(x >= 0, 1.0, -1.0)
                x = x @ weights[count] + (0 if layer.bias is None else np.asarray(layer.bias[...], np.float64))
                count += 1
            case _:
                raise AssertionError(layer)
    return x


X = np.random.default_rng(0).normal(size=(9, 8, 8, 1)).astype(np.float32)


def test_the_first_stage_multiplies_signs_by_real_weights():
    first = trained(bnn.XNOR)
    weights = [np.asarray(layer.kernel[...], np.float64) for layer in products(first)]
    np.testing.assert_allclose(first(X), logits(first, X, weights), rtol=1e-4, atol=1e-4)


# The start of the second stage.


def test_the_second_stage_starts_from_the_signs_of_the_first():
    """alpha sign(W), W the first stage's weights centered over inputs and clipped, from nothing but its own arrays."""
    first = trained(bnn.XNOR)
    weights = []
    for i, layer in enumerate(products(first)):
        w = np.asarray(layer.kernel[...], np.float64)
        if 0 < i < len(products(first)) - 1:
            w = np.clip(w - w.mean(0), -1, 1)
            w = np.abs(w).mean(0) * np.where(w >= 0, 1.0, -1.0)
        weights.append(w)
    model = second_stage(mlp(bnn.XNOR), first)
    model.eval()
    np.testing.assert_allclose(model(X), logits(first, X, weights), rtol=1e-4, atol=1e-4)
    packed = bnn.convert(model)
    assert np.array_equal(packed(X), model(X))


@pytest.mark.parametrize('name', BINARY)
def test_all_is_copied_and_latent_weights_are_projected(name):
    scheme, first, model = BINARY[name], trained(BINARY[name]), mlp(BINARY[name])
    untouched = arrays(nnx.state(model)), arrays(nnx.state(first))
    second = second_stage(model, first)
    assert same(nnx.state(model), untouched[0]) and same(nnx.state(first), untouched[1])
    others = nnx.Not(nnx.Any(Noise, nnx.PathContains('kernel')))
    assert same(nnx.state(second, others), nnx.state(first, others))
    latent = 0
    for ours, theirs in zip(products(second), products(first), strict=True):
        w, real = np.asarray(ours.kernel[...]), np.asarray(theirs.kernel[...])
        assert np.abs(real).max() > 1 and np.abs(real.mean(0)).max() > 0.1
        binary = ours.scheme.weight is not None
        latent += binary
        assert isinstance(ours.kernel, Latent) == binary and not isinstance(theirs.kernel, Latent)
        if binary and scheme.projection is not None:
            assert np.abs(w).max() <= 1
            expected = real - real.mean(0) if name in ('XNOR', 'XNOR_K') else real
            np.testing.assert_allclose(w, np.clip(expected, -1, 1), rtol=0, atol=1e-6)
        else:
            assert np.array_equal(w, real)
    assert latent


def test_the_second_stage_trains_and_stays_projected():
    state = init(second_stage(mlp(bnn.XNOR), trained(bnn.XNOR)), optax.sgd(1.0))
    state, _ = train_step(state, {'image': X, 'label': np.arange(9)})
    w = np.asarray(products(model_of(state))[1].kernel[...])
    assert np.abs(w).max() <= 1


def test_random_keys_stay_the_models_own():
    scheme = bnn.presets.XNOR_PYTORCH_IMAGENET
    model, first = mlp(scheme), mlp(activations_only(scheme), seed=1)
    keys = arrays(nnx.state(model, Noise))
    assert keys and same(nnx.state(second_stage(model, first), Noise), keys)
    assert not same(nnx.state(first, Noise), keys)


def test_progress_stays_the_models_own():
    model, first = mlp(bnn.RECU), mlp(activations_only(bnn.RECU), seed=1)
    assert not arrays(nnx.state(first, Progress))  # Only the weights of ReCU have a schedule.
    assert arrays(nnx.state(second_stage(model, first), Progress)) == arrays(nnx.state(model, Progress)) != []


def test_residual_networks():
    def build(scheme, seed):
        return bnn.models.resnet20(
            10, scheme=scheme, rngs=nnx.Rngs(seed), width=0.25, blocks=(1, 1, 1), input_shape=(8, 8, 3)
        )

    first = build(activations_only(bnn.BIREAL), 1)
    second = second_stage(build(bnn.BIREAL, 0), first)
    for ours, theirs in zip(products(second), products(first), strict=True):
        w = theirs.kernel[...]
        assert np.array_equal(ours.kernel[...], w if ours.scheme.weight is None else jnp.clip(w, -1, 1))


def test_networks_that_end_with_a_convolution():
    """NIN rectifies its last convolution where that is real, not where only its weights are."""
    small = {'rngs': nnx.Rngs(0), 'width': 0.1, 'input_shape': (8, 8, 3)}
    model, first = (bnn.models.nin(10, scheme=s, **small) for s in (bnn.BNN, activations_only(bnn.BNN)))
    layers = second_stage(model, first).body.layers
    assert [type(layer) for layer in layers] == [type(layer) for layer in first.body.layers]


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match=r'second_stage: got .*kernel.*of shape \(24, 8\), expected \(24, 16\)'):
        second_stage(mlp(bnn.XNOR), mlp(activations_only(bnn.XNOR), hidden=(24, 8)))
    for other in (bnn.FLOAT, activations_only(bnn.BNN)):
        with pytest.raises(ValueError, match='train the first stage with activations_only'):
            second_stage(mlp(bnn.XNOR), mlp(other))
    with pytest.raises(TypeError, match='second_stage: got str, expected a Network'):
        second_stage(mlp(bnn.XNOR), 'first')  # pyright: ignore[reportArgumentType]


# What is said of the first stage's network.


def test_it_is_not_converted():
    with pytest.raises(ValueError, match='real weights on a binary input .*the second stage and convert that'):
        bnn.convert(trained(bnn.XNOR))
    with pytest.raises(ValueError, match='real weights on a binary input'):
        bnn.convert(mlp(dataclasses.replace(bnn.BNN, last=activations_only)))  # Other layers are packed, this one not.


def test_its_summary_counts_no_bit():
    summary = bnn.summarize(trained(bnn.XNOR), (1, 8, 8, 1))
    assert summary.binary_params == summary.macs_1bit == 0
    assert [(row.input_bits, row.weight_bits) for row in summary.layers if row.weights] == [(32, 32), (1, 32), (32, 32)]
    assert '1/32' in str(summary)


# Both stages, one after the other.


def sgd(schedule):
    return optax.sgd(0.1)


def source(split, data_dir):
    return digits(split)


def started(first, model, **keywords):
    return second_stage(model(**keywords), first)


def both(workdir: Path, scheme=bnn.XNOR):
    """The state after both stages."""
    model = partial(bnn.models.mlp, 10, input_shape=(8, 8, 1), hidden=(24, 16))
    second = Config(
        model=partial(model, scheme=scheme),
        data=source,
        standardize=Standardize((0.305,), (0.376,)),
        optimizer=sgd,
        epochs=1,
        checkpoint_every=5,
        workdir=str(workdir),
    )
    first = dataclasses.replace(
        second, model=partial(model, scheme=activations_only(scheme)), workdir=str(workdir / 'first')
    )
    return fit(dataclasses.replace(second, model=partial(started, model_of(fit(first)), second.model)))


def test_interrupted_in_the_second_stage_it_ends_the_same(tmp_path, monkeypatch):
    whole, part = tmp_path / 'whole', tmp_path / 'part'
    state, original = both(whole), MetricsLog.write

    def interrupted(self, **record):
        original(self, **record)
        if record['step'] == 13 and self.path.parent == part:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, 'write', interrupted)
    with pytest.raises(KeyboardInterrupt):
        both(part)
    monkeypatch.undo()
    assert (part / 'first' / 'checkpoints' / '22').exists() and not (part / 'checkpoints' / '22').exists()
    assert same(both(part), state)
    w = np.asarray(products(model_of(state))[1].kernel[...])
    assert np.abs(w).max() <= 1
