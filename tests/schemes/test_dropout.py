"""Dropout: masks against their definitions, the rules, and what vanishes in evaluation and packed arithmetic."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx
from networks import evaluated, images

import bnn_jax as bnn
from bnn_jax.nn.containers import Auxiliary
from bnn_jax.nn.operations import Dense
from bnn_jax.nn.product import Product
from bnn_jax.nn.variables import Noise
from bnn_jax.schemes import dropout, presets


def products(layers) -> list[Product]:
    return [layer for layer in layers if isinstance(layer, Product)]


def rates(model) -> list:
    return [(layer.dropout, layer.drop) for layer in products(model.body.layers)]


def abstract(architecture: str, scheme, **keywords):
    return networks.abstract(getattr(bnn.models, architecture), num_classes=10, scheme=scheme, **keywords)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_elements_are_dropped_one_by_one(dtype):
    x = jnp.asarray(np.arange(1, 20_001).reshape(2, 10_000) % 2 * 2 - 1, dtype)
    y = dropout.elements(x, 0.75, jax.random.key(0))
    assert y.dtype == x.dtype
    values = np.asarray(y, np.float32)
    assert set(np.unique(values)) == {-4, 0, 4}
    # 20,000 draws with probability 1/4: standard deviation 61.
    assert abs((values != 0).sum() - 5000) < 4 * 61
    np.testing.assert_array_equal(values[values != 0], 4 * np.asarray(x, np.float32)[values != 0])
    factor = jax.grad(lambda x: dropout.elements(x, 0.75, jax.random.key(0)).astype(jnp.float32).sum())(x)
    np.testing.assert_array_equal(np.asarray(factor, np.float32), np.where(values != 0, 4, 0))


@pytest.mark.parametrize('flattened', [False, True])
def test_channels_are_dropped_whole_image_by_image(flattened):
    x = np.random.default_rng(0).normal(size=(50, 3, 4, 40)).astype(np.float32)
    given = jnp.asarray(x.reshape(50, -1) if flattened else x)
    y = dropout.Channels(40)(given, 0.2, jax.random.key(1))
    assert y.shape == given.shape
    y = np.asarray(y).reshape(x.shape)
    dropped = (y == 0).all(axis=(1, 2))
    # 2,000 draws with probability 1/5: standard deviation 17.9.
    assert abs(dropped.sum() - 400) < 4 * 18
    assert len({row.tobytes() for row in dropped}) > 40
    for n in range(50):
        for c in range(40):
            expected = 0 * x[n, :, :, c] if dropped[n, c] else x[n, :, :, c] / np.float32(0.8)
            np.testing.assert_allclose(y[n, :, :, c], expected, rtol=1e-6)


def test_rules():
    image, vector = dropout.ProductInput((6, 5, 7), True, True), dropout.ProductInput((9,), True, False)
    convolution = dropout.ProductInput((6, 5, 7), False, False)
    assert [rule(image) for rule in RULES] == [None, dropout.Channels(7), dropout.elements, dropout.elements]
    assert [rule(vector) for rule in RULES] == [dropout.elements, dropout.Channels(9), None, dropout.elements]
    assert [rule(convolution) for rule in RULES] == [None, None, None, dropout.elements]


RULES = (dropout.of_vectors, dropout.of_dense_channels, dropout.of_pooled, dropout.everywhere)


def test_where_the_sources_drop():
    elements, none = dropout.elements, (0.0, dropout.elements)
    lua = rates(abstract('alexnet', presets.BWN_LUA))
    assert lua == [none] * 5 + [(0.1, dropout.Channels(256)), (0.1, dropout.Channels(4096)), none]
    pytorch = abstract('alexnet', presets.XNOR_PYTORCH_IMAGENET, input_shape=(227, 227, 3), padding=0)
    assert rates(pytorch) == [none] * 6 + [(0.5, elements)] * 2
    nin = rates(abstract('nin', presets.XNOR_PYTORCH_CIFAR))
    assert nin == [none] * 3 + [(0.5, elements)] + [none] * 2 + [(0.5, elements)] + [none] * 2
    mnist = rates(abstract('mlp', presets.BNN_THEANO_MNIST))
    assert mnist == [(0.2, elements)] + [(0.5, elements)] * 3


@pytest.mark.parametrize('scheme', [bnn.FLOAT, bnn.XNOR])
def test_dropout_of_googlenet_is_the_architectures(scheme):
    model = abstract('googlenet', scheme, auxiliary=(0.3, 0.3), dropout=0.4, auxiliary_dropout=0.7)
    assert [layer.dropout for layer in products(model.body.layers)] == [0.0] * 3 + [0.4]
    heads = [layer.head.layers for layer in model.body.layers if isinstance(layer, Auxiliary)]
    assert [[layer.dropout for layer in products(head)] for head in heads] == [[0.0, 0.0, 0.7]] * 2
    assert all(rate == 0 for rate, _ in rates(abstract('googlenet', scheme)))
    with pytest.raises(ValueError, match='dropout: got 1, expected a rate'):
        abstract('googlenet', scheme, dropout=1)


def test_pooling_branches_and_blocks_are_told_apart():
    scheme = dataclasses.replace(bnn.XNOR, dropout=0.5, drops=dropout.of_pooled)
    model = abstract('resnet18', scheme)
    inner = [products(block.body.layers) for block in model.body.layers if hasattr(block, 'shortcut')]
    assert [layer.dropout for pair in inner for layer in pair] == [0.5] + [0.0] * 15


def test_a_sign_is_dropped_after_it_is_taken():
    """The product sees {0, +-1 / (1 - rate)}: a 0 before the sign would become +1."""
    scheme = dataclasses.replace(bnn.BNN, bias=False)
    layer = Product(
        Dense(), 6, 6, scheme=scheme, use_bias=False, dropout=0.5, drop=dropout.Channels(3), rngs=nnx.Rngs(0)
    )
    layer.kernel[...] = jnp.where(jnp.eye(6) > 0, 1.0, -1.0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 6)), jnp.float32)
    layer.train()
    # The kernel is 2 I - 1, so y = 2 z - sum z, sum y = -4 sum z.
    y = np.asarray(layer(x))
    z = (y - y.sum(1, keepdims=True) / 4) / 2
    signs = np.where(np.asarray(x) >= 0, 1, -1)
    kept = z != 0
    np.testing.assert_array_equal(z, np.where(kept, 2 * signs, 0))
    np.testing.assert_array_equal(kept[:, :3], kept[:, 3:])
    assert 0.3 < kept.mean() < 0.7


@pytest.mark.parametrize('drops', RULES)
def test_dropout_vanishes_in_evaluation_and_from_bits(drops):
    scheme = dataclasses.replace(bnn.XNOR, dropout=0.5, drops=drops)
    keywords = {'width': 0.3, 'input_shape': (17, 19, 1)}
    model, plain = (
        bnn.models.lenet5(10, scheme=s, rngs=nnx.Rngs(params=0, noise=1), **keywords) for s in (scheme, bnn.XNOR)
    )
    assert len(jax.tree.leaves(nnx.state(model, Noise))) == sum(rate > 0 for rate, _ in rates(model)) > 0
    assert not jax.tree.leaves(nnx.state(plain, Noise))
    nnx.update(plain, nnx.state(model, nnx.Not(Noise)))
    x = images('lenet5')
    expected = np.asarray(bnn.training.logits_of(plain)(x))
    np.testing.assert_array_equal(bnn.training.logits_of(model)(x), expected)
    np.testing.assert_array_equal(evaluated(bnn.convert(model), x), expected)
    model.train()
    call = nnx.jit(lambda model, x: model(x))
    assert (np.asarray(call(model, x)) != np.asarray(call(model, x))).any()
