"""Proof of conversion: on CPU the packed network is the trained network, bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import SMALL, build, evaluated, images, randomise_norms

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.data import Standardize, digits, training_batches
from bnn_jax.layers import Product, Residual, Sequential
from bnn_jax.packed import PackedProduct
from bnn_jax.quantizers import sign


def assert_same(actual, expected):
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), strict=True)


@pytest.mark.parametrize('scheme', ['XNOR', 'BNN'])
@pytest.mark.parametrize('architecture', SMALL)
def test_binary_logits_are_bit_identical(architecture, scheme):
    model, x = build(architecture, getattr(bnn, scheme)), images(architecture)
    for seed in (None, 0, 1):
        if seed is not None:
            randomise_norms(model, seed)
        expected = evaluated(model, x)
        assert np.isfinite(expected).all() and np.unique(expected).size > 2
        assert_same(evaluated(bnn.convert(model), x), expected)


@pytest.mark.parametrize('scheme', ['BC', 'BC_STOCHASTIC', 'BWN', 'XNOR_K'])
@pytest.mark.parametrize('architecture', ['lenet5', 'resnet18'])
def test_other_logits_agree_within_1e_5_of_their_range(architecture, scheme):
    """Float products of real inputs may be summed in another order when compiled with other weights."""
    model = build(architecture, getattr(bnn, scheme))
    randomise_norms(model)
    x = images(architecture)
    expected = evaluated(model, x)
    difference = np.abs(evaluated(bnn.convert(model), x) - expected).max()
    assert difference <= 1e-5 * np.ptp(expected)


def test_every_way_to_compile_gives_the_same_bits():
    """Eager, jitted with arguments, jitted over constants: the same logits, before and after conversion."""
    model = build('vgg_small', bnn.XNOR)
    randomise_norms(model)
    model.eval()
    packed, x = bnn.convert(model), images('vgg_small')
    expected = np.asarray(model(x))
    assert_same(jax.jit(lambda x: model(x))(x), expected)
    assert_same(evaluated(model, x), expected)
    assert_same(packed(x), expected)
    assert_same(jax.jit(packed)(x), expected)
    assert_same(jax.jit(lambda p, x: p(x))(packed, x), expected)


def test_trained_network_is_bit_identical():
    batches, _ = training_batches(digits('train'), batch_size=32, seed=0, standardize=Standardize((0.3,), (0.37,)))
    model = bnn.models.vgg_small(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), width=0.1, input_shape=(8, 8, 1))
    state = training.init(model, optax.adam(1e-2))
    for step in range(30):
        state, _ = training.train_step(state, batches[step])
    trained, x = training.model_of(state), batches[99]['image']
    expected = evaluated(trained, x)
    assert np.unique(expected.argmax(-1)).size > 2
    assert_same(evaluated(bnn.convert(trained), x), expected)


@pytest.mark.parametrize('scheme', ['XNOR', 'BNN'])
@pytest.mark.parametrize('pad_value', [0, 1, -1])
def test_integers_and_bits_of_every_block(scheme, pad_value):
    """(1) Integer products are equal; (2) each packed layer gives its own training layer's output on the same input."""
    model = build('vgg_small', dataclasses.replace(getattr(bnn, scheme), pad_value=pad_value))
    randomise_norms(model)
    model.eval()
    packed, x, products = bnn.convert(model), jnp.asarray(images('vgg_small')), 0
    for layer, twin in zip(model.body.layers, packed.body.layers, strict=True):
        y = layer(x)
        assert_same(twin(x), y)
        if isinstance(twin, PackedProduct):
            products += 1
            signs = sign(x)
            integers = layer.product(signs, sign(layer.kernel[...]))
            assert_same(integers, np.round(integers))
            words = bnn.bits.pack(x)
            assert_same(twin.product.packed(words, twin.words, twin.into, twin.border), integers.astype(jnp.int32))
            assert_same(bnn.bits.unpack(words, twin.into), signs)
        x = y
    assert products >= 6


@pytest.mark.parametrize('architecture', SMALL)
@pytest.mark.parametrize('scheme', ['BNN', 'XNOR', 'XNOR_K'])
def test_no_relu_right_before_a_sign(architecture, scheme):
    """It would make every bit +1, silently."""

    def walk(layers, rectified):
        for layer in layers:
            if isinstance(layer, Residual):
                walk(layer.body.layers, rectified)
                rectified = False
            elif isinstance(layer, Sequential):
                rectified = walk(layer.layers, rectified)
            elif isinstance(layer, Product):
                assert not (rectified and layer.scheme.activation is not None)
                rectified = False
            elif type(layer).__name__ == 'Relu':
                rectified = True
            elif type(layer).__name__ == 'Norm':
                rectified = False
        return rectified

    walk(build(architecture, getattr(bnn, scheme)).body.layers, False)
