"""Proof of conversion: on CPU packed blocks of every kind are the trained blocks, bit for bit."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import (
    SMALL,
    assert_runs_without_jax,
    assert_same,
    build,
    compiled_quickly,
    evaluated,
    images,
    proved,
    randomize_norms,
    two_modules,
)

import bnn_jax as bnn
from bnn_jax import schemes
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Branches, Residual
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.packed import PackedProduct
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import LeakyRelu, MaxPool, Relu
from bnn_jax.ops.windows import Window
from bnn_jax.quantizers import sign

pytestmark = pytest.mark.as_shipped


def no_relu_before_a_sign(layers, rectified: bool) -> bool:
    """Asserts it of these layers, whose input is rectified or not; returns whether their output is."""
    for layer in layers:
        if isinstance(layer, Residual):
            no_relu_before_a_sign(layer.body.layers, rectified)
            no_relu_before_a_sign(layer.shortcut.layers, rectified)
            rectified = False
        elif isinstance(layer, Branches):
            rectified = any([no_relu_before_a_sign(branch.layers, rectified) for branch in layer.branches])
        elif isinstance(layer, Product):
            assert not (rectified and layer.scheme.activation is not None)
            rectified = False
        elif isinstance(layer, Relu | LeakyRelu):
            rectified = True
        elif isinstance(layer, Norm):
            rectified = False
    return rectified


@pytest.mark.parametrize('architecture', SMALL)
@pytest.mark.parametrize('scheme', ['BNN', 'XNOR', 'XNOR_K', 'BIREAL'])
def test_no_relu_right_before_a_sign(architecture, scheme):
    """It would make every bit +1, silently."""
    model = nnx.eval_shape(lambda: build(architecture, getattr(bnn, scheme)))
    no_relu_before_a_sign(model.body.layers, False)


@compiled_quickly()
def two_blocks(scheme, seed=0):
    """A stem, a residual block that keeps its shape and one that changes it, from an odd width; a head."""
    builder = NetworkBuilder((13, 14, 3), scheme=scheme, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(20, 3)
    builder.residual(20)
    builder.residual(37, strides=2)
    model = builder.network(5, average=True)
    randomize_norms(model, seed)
    return model


BLOCKS = {
    'XNOR, a shortcut round every product': replace(bnn.XNOR, residual=schemes.residuals_norm_before),
    'XNOR, binary shortcuts': replace(bnn.XNOR, shortcut=schemes.itself, downsample=schemes.norm_product),
    'XNOR, averaged shortcuts': replace(bnn.XNOR, downsample=schemes.average_product_norm, pad_value=1),
    'BNN': bnn.BNN,
    'BNN, a shortcut round every product': replace(bnn.BNN, residual=schemes.residuals_sign_after),
    'BNN, averaged real shortcuts': replace(bnn.BNN, shortcut=schemes.real, downsample=schemes.average_product_norm),
    'BIREAL': bnn.BIREAL,
    'BIREAL, one shortcut a block': replace(bnn.BIREAL, residual=schemes.residual_sign_after, pad_value=-1),
    'BIREAL, binary averaged shortcuts': replace(bnn.BIREAL, shortcut=schemes.itself),
    'IRNET': bnn.IRNET,
    'RECU, one shortcut a block': replace(bnn.RECU, residual=schemes.residual_hard_tanh),
    'BIREAL, strided shortcuts': replace(bnn.BIREAL, downsample=schemes.product_norm),
}
RECTIFIED = {
    'BWN, a shortcut round every product': replace(bnn.BWN, residual=schemes.residuals_norm_after),
    'XNOR_K': bnn.XNOR_K,
    'BC, binary averaged shortcuts': replace(bnn.BC, shortcut=schemes.itself, downsample=schemes.average_product_norm),
}


@pytest.mark.parametrize('scheme', BLOCKS.values(), ids=BLOCKS)
def test_every_reading_of_a_residual_block_is_bit_identical(scheme, tmp_path):
    model = two_blocks(scheme)
    x = np.random.default_rng(0).normal(size=(2, 13, 14, 3)).astype(np.float32)
    packed, expected = proved(model, x)
    assert_same(evaluated(bnn.load(bnn.save(packed, tmp_path / 'network.safetensors')), x), expected)
    no_relu_before_a_sign(model.body.layers, False)


@pytest.mark.parametrize('scheme', ['XNOR', 'BNN'])
def test_inception_modules_are_bit_identical(scheme, tmp_path):
    """Branches in both arithmetics and in a file; the auxiliary head is gone from the packed network."""
    model = two_modules(getattr(bnn, scheme))
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    for seed in (0, 1):
        randomize_norms(model, seed)
        packed, expected = proved(model, x)
    loaded = bnn.load(bnn.save(packed, tmp_path / 'network.safetensors'))
    assert_same(evaluated(loaded, x), expected)
    summary = bnn.summarize(model, (1, 9, 8, 3))
    assert loaded.report == packed.report and packed.report.bytes == summary.packed_bytes
    assert [row.path for row in packed.report.rows] == [layer.path for layer in summary.layers]
    no_relu_before_a_sign(model.body.layers, False)


@compiled_quickly()
def atrous(scheme):
    """A stem, dilated binary convolutions with and without a pooling, a head."""
    builder = NetworkBuilder((13, 14, 3), scheme=scheme, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(36, 3)
    builder.conv(40, 3, padding=2, dilation=2, pool=MaxPool(Window.of(2, 2)))
    builder.conv(33, 3, padding='SAME', dilation=3)
    builder.conv(70, 2, padding=1, strides=2, dilation=2)
    model = builder.network(5, average=True)
    randomize_norms(model)
    return model


@compiled_quickly()
def grouped(scheme):
    """Groups whose channels or filters share words, and some that do not; the last convolution dilated as well."""
    builder = NetworkBuilder((13, 14, 3), scheme=scheme, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(60, 3)
    builder.conv(64, 3, padding=1, groups=2, pool=MaxPool(Window.of(2, 2)))
    builder.conv(60, 3, padding=1, groups=2)
    builder.conv(42, 2, padding=1, groups=3, dilation=2)
    model = builder.network(5, average=True)
    randomize_norms(model)
    return model


@pytest.mark.parametrize(
    ('network', 'scheme', 'pad_value'),
    [(atrous, 'XNOR', 0), (atrous, 'XNOR', -1), (atrous, 'BNN', 1)]
    + [(grouped, 'XNOR', 1), (grouped, 'BNN', 0), (grouped, 'BNN', -1)],
)
def test_dilated_and_grouped_convolutions_are_bit_identical(network, scheme, pad_value, tmp_path):
    model = network(replace(getattr(bnn, scheme), pad_value=pad_value))
    x = np.random.default_rng(0).normal(size=(2, 13, 14, 3)).astype(np.float32)
    packed, expected = proved(model, x)
    loaded = bnn.load(bnn.save(packed, tmp_path / 'network.safetensors'))
    assert_same(evaluated(loaded, x), expected)
    assert loaded.report == packed.report and packed.report.bytes == bnn.summarize(model, (1, 13, 14, 3)).packed_bytes
    assert len(packed.body.runs) == 2  # In integers and bits from each of these convolutions to the next.


@pytest.mark.parametrize('scheme', RECTIFIED.values(), ids=RECTIFIED)
def test_residual_blocks_of_real_input_agree_within_1e_5(scheme):
    model = two_blocks(scheme)
    x = np.random.default_rng(0).normal(size=(2, 13, 14, 3)).astype(np.float32)
    packed, expected = bnn.convert(model), evaluated(model, x)
    logits = evaluated(packed, x)
    assert np.abs(logits - expected).max() <= 1e-5 * np.ptp(expected)
    assert_runs_without_jax(packed, x, logits)


@pytest.mark.parametrize(('pad_value', 'scheme'), [(0, 'XNOR'), (-1, 'XNOR'), (0, 'BNN'), (1, 'BNN')])
def test_integers_and_bits_of_every_block(scheme, pad_value):
    """(1) Integer products are equal; (2) each packed layer gives its own training layer's output on the same input."""
    model = build('vgg_small', replace(getattr(bnn, scheme), pad_value=pad_value))
    randomize_norms(model)
    model.eval()
    packed, x, products = bnn.convert(model), jnp.asarray(images('vgg_small')), 0
    for layer, twin in zip(model.body.layers, packed.body.layers, strict=True):
        y = layer(x)
        assert_same(twin(x), y)
        if isinstance(twin, PackedProduct):
            products += 1
            signs = sign(x)
            integers = layer.operation(signs, sign(layer.kernel[...]))
            assert_same(integers, np.round(integers))
            words = bnn.bits.pack(x)
            assert_same(
                twin.operation.packed(words, twin.words, twin.in_features, twin.tap_sums), integers.astype(jnp.int32)
            )
            assert_same(bnn.bits.unpack(words, twin.in_features), signs)
        x = y
    assert products >= 6
