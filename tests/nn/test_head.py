"""Another number of classes: what is new is named, all else is taken over; then the head trains alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.interop.torch import load_state_dict, start_from
from bnn_jax.nn import Auxiliary, Flatten, Network, Norm, PRelu, Product, Sequential, with_classes

X = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)


def mlp(classes=10, scheme=bnn.XNOR):
    return bnn.models.mlp(classes, scheme=scheme, rngs=nnx.Rngs(0), hidden=(8,), input_shape=(2, 2, 1))


def arrays(model) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model)))
    return {'.'.join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def dense(out_features, scheme=bnn.FLOAT):
    return Product(bnn.nn.Dense(), 4, out_features, scheme=scheme, use_bias=False, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('scheme', [bnn.XNOR, bnn.BNN], ids=['XNOR', 'BNN'])
def test_all_but_the_last_layer_is_taken_over(scheme):
    """BinaryNet ends with a normalization, which is new as well."""
    model = mlp(scheme=scheme)
    model.eval()
    network = with_classes(model, 3, rngs=nnx.Rngs(1))
    before, after = arrays(model), arrays(network)
    new = {name for name in after if any(name.startswith(f'{layer}.') for layer in network.new_layers)}
    assert {name for name in after if after[name].shape != before[name].shape} == new and new
    for name in set(after) - new:
        np.testing.assert_array_equal(after[name], before[name])
    assert (network.num_classes, network(X).shape) == (3, (4, 3)) and model(X).shape == (4, 10)
    assert all(layer.use_running_average for _, layer in nnx.iter_modules(network) if isinstance(layer, Norm))
    assert network.new_layers == (('body.layers.6',) if scheme is bnn.XNOR else ('body.layers.3', 'body.layers.4'))


def test_heads_that_only_training_sees_are_new_too():
    head = Auxiliary(Sequential([dense(10)]), 0.5)
    network = with_classes(Network([Flatten(), head, dense(10)], channels=1, num_classes=10), 3, rngs=nnx.Rngs(0))
    assert network.new_layers == ('body.layers.1.head.layers.0', 'body.layers.2')
    assert network.with_auxiliary(X)[1][0][1].shape == (4, 3)


def test_what_has_no_head_is_refused():
    with pytest.raises(TypeError, match='with_classes: got Sequential, expected a trained Network'):
        with_classes(Sequential([dense(10)]), 3, rngs=nnx.Rngs(0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match='body does not end with a product of 10 outputs'):
        with_classes(Network([Flatten(), dense(8)], channels=1, num_classes=10), 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r'body.layers.2 is a PRelu after the last product'):
        with_classes(Network([Flatten(), dense(3), PRelu(3)], channels=1, num_classes=3), 4, rngs=nnx.Rngs(0))


def test_start_from_leaves_another_head_alone():
    model, trained = mlp(3), mlp(10, bnn.FLOAT)
    started = start_from(model, trained)
    assert len(started.new_layers) == 1
    (ours, theirs, own) = (
        [layer.kernel[...] for _, layer in nnx.iter_modules(m) if isinstance(layer, Product)]
        for m in (started, trained, model)
    )
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[-1], own[-1])
    assert start_from(mlp(10), trained).new_layers == ()


def test_kernels_kept_as_one_column_are_taken():
    """Bi-Real Net's published code names them `weights`, (out in kh kw, 1)."""
    conv = Product(bnn.nn.Convolution(bnn.nn.Window.of(2)), 1, 3, scheme=bnn.BIREAL, use_bias=False, rngs=nnx.Rngs(0))
    network = Network([conv, Flatten()], channels=1, num_classes=3)
    kernel = np.random.default_rng(0).normal(size=(3, 1, 2, 2)).astype(np.float32)
    loaded = load_state_dict(network, {'conv.weights': kernel.reshape(-1, 1)})
    np.testing.assert_array_equal(loaded.body.layers[0].kernel[...], kernel.transpose(2, 3, 1, 0))


def test_the_head_trains_alone_and_then_all():
    network = with_classes(mlp(), 3, rngs=nnx.Rngs(1))
    head, rest = training.inside(*network.new_layers), training.outside(*network.new_layers)
    tx = training.by_kind({head: optax.sgd(0.5), rest: optax.set_to_zero()})
    state, _ = training.train_step(training.init(network, tx), (X, np.arange(4) % 3))
    before, after = (
        arrays(nnx.merge(state.graphdef, p, state.rest)) for p in (nnx.state(network, nnx.Param), state.params)
    )
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert moved == {'body.layers.6.kernel', 'body.layers.6.bias'}
    assert training.init(training.model_of(state), optax.sgd(0.5)).num_classes == 3
    assert dataclasses.replace(state, step=jnp.int32(0)).num_classes == 3
