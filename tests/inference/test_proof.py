"""Proof of conversion: on CPU a packed network of every architecture is the trained network, bit for bit."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from networks import (
    assert_runs_without_jax,
    assert_same,
    build,
    compiled_quickly,
    evaluated,
    images,
    proved,
    randomize_norms,
)

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.data import Standardize, digits, training_batches
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.packed import UnpackedProduct
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window

pytestmark = pytest.mark.as_shipped


# Every architecture, and every scheme that converts bit for bit on several: chains, 1x1 windows, residual blocks.
BINARY = [(a, s) for a in ('mlp', 'lenet5') for s in ('XNOR', 'BNN')]
BINARY += [('alexnet', 'XNOR'), ('extraction', 'XNOR'), ('resnet18', 'XNOR'), ('vgg_small', 'BNN')]
BINARY += [(a, 'BIREAL') for a in ('lenet5', 'nin', 'resnet20')]
BINARY += [('lenet5', 'RECU')]


@pytest.mark.parametrize(('architecture', 'scheme'), BINARY)
def test_binary_logits_are_bit_identical(architecture, scheme):
    model, x = build(architecture, getattr(bnn, scheme)), images(architecture)
    for seed in (None, 0, 1):
        if seed is not None:
            randomize_norms(model, seed)
        proved(model, x)


@pytest.mark.parametrize('scheme', ['BC', 'BC_STOCHASTIC', 'BWN', 'XNOR_K'])
def test_other_logits_agree_within_1e_5_of_their_range(scheme):
    """Float products of real inputs may be summed in another order when compiled with other weights."""
    model = build('lenet5', getattr(bnn, scheme))
    randomize_norms(model)
    x = images('lenet5')
    packed, expected = bnn.convert(model), evaluated(model, x)
    logits = evaluated(packed, x)
    assert np.abs(logits - expected).max() <= 1e-5 * np.ptp(expected)
    assert_runs_without_jax(packed, x, logits)


def test_every_way_to_compile_gives_the_same_bits():
    """Eager, jitted with arguments, jitted over constants: the same logits, before and after conversion."""
    model = build('lenet5', bnn.XNOR)
    randomize_norms(model)
    model.eval()
    packed, x = bnn.convert(model), images('lenet5')
    expected = np.asarray(model(x))
    assert_same(jax.jit(lambda x: model(x))(x), expected)
    assert_same(evaluated(model, x), expected)
    assert_same(packed(x), expected)
    assert_same(jax.jit(packed)(x), expected)
    assert_same(jax.jit(lambda p, x: p(x))(packed, x), expected)


def test_trained_network_is_bit_identical():
    batches, _ = training_batches(digits('train'), batch_size=32, seed=0, standardize=Standardize((0.3,), (0.37,)))
    with compiled_quickly():
        builder = NetworkBuilder((8, 8, 1), scheme=bnn.XNOR, width=1.0, rngs=nnx.Rngs(0))
        builder.conv(12, 3, padding=1)
        builder.conv(20, 3, padding=1, pool=MaxPool(Window.of(2, 2)))
        builder.conv(37, 3, padding=1)
        model = builder.network(10, average=True)
        state = training.init(model, optax.adam(1e-2))
        for step in range(30):
            state, _ = training.train_step(state, batches[step])
    trained, x = training.model_of(state), batches[99]['image']
    expected = evaluated(trained, x)
    assert np.unique(expected.argmax(-1)).size > 2
    assert_same(evaluated(bnn.convert(trained), x), expected)


@pytest.mark.parametrize(('scheme', 'in_order'), [('BNN', True), ('BWN', False), ('BC', False)])
def test_real_inputs_are_added_up_in_the_order_of_training_where_a_sign_follows(scheme, in_order, tmp_path):
    packed = bnn.convert(build('lenet5', getattr(bnn, scheme)))
    for network in (packed, bnn.load(bnn.save(packed, tmp_path / 'network.safetensors'))):
        assert {layer.in_order for layer in network.body.layers if isinstance(layer, UnpackedProduct)} == {in_order}
