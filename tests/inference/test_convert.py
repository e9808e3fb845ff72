"""convert: its report, its refusals, and what a packed network is in JAX's eyes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import SCHEMES, SMALL, build, images

import bnn_jax as bnn
from bnn_jax.nn.product import Product


def test_report_names_every_layer():
    model = build('resnet18', bnn.XNOR)
    packed = bnn.convert(model)
    summary = bnn.summarize(model, SMALL['resnet18'][1])
    assert [row.path for row in packed.report.rows] == [layer.path for layer in summary.layers]
    assert [row.bytes for row in packed.report.rows] == [layer.packed_bytes for layer in summary.layers]
    became = [row.became for row in packed.report.rows]
    assert became.count('xnor + popcount') == 10
    assert became.count('float32') == 5  # first, last, three shortcuts
    assert all('real' in row.reason for row in packed.report.rows if row.became == 'float32')
    assert 'xnor + popcount' in str(packed.report) and f'{packed.report.bytes:,}' in str(packed.report)


@pytest.mark.parametrize(('scheme', 'products'), [('BC', 2), ('BWN', 2), ('BC_STOCHASTIC', 2)])
def test_binary_weights_with_real_input_are_stored_as_bits(scheme, products):
    rows = bnn.convert(build('lenet5', SCHEMES[scheme])).report.rows
    stored = [row for row in rows if row.became == '1-bit storage, float product']
    assert len(stored) == products and all('its input is real' in row.reason for row in stored)


def test_packed_is_callable_hashable_and_a_pytree():
    packed, x = bnn.convert(build('lenet5', bnn.XNOR)), images('lenet5')
    other = bnn.convert(build('lenet5', bnn.XNOR))
    assert hash(packed) == hash(packed) and packed != other and len({packed, other}) == 2
    expected = np.asarray(packed(x))
    np.testing.assert_array_equal(jax.jit(packed)(x), expected)
    calls = []

    @jax.jit
    def apply(p, x):
        calls.append(1)
        return p(x)

    np.testing.assert_array_equal(apply(packed, x), expected)
    np.testing.assert_array_equal(apply(other, x), expected)
    assert len(calls) == 1  # weights are arguments, not constants
    copied = jax.tree.map(jnp.array, packed)
    assert copied.report == packed.report
    np.testing.assert_array_equal(jax.vmap(copied)(x[:, None])[:, 0], expected)


def test_convert_changes_nothing():
    model = build('lenet5', bnn.XNOR)
    model.train()
    before = jax.tree.map(np.array, nnx.state(model))
    bnn.convert(model)
    assert model.body.layers[1].use_running_average is False
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def first_binary(model) -> Product:
    return next(m for _, m in nnx.iter_modules(model) if isinstance(m, Product) and m.scheme.weight is not None)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('place', ['kernel', 'norm', 'float bias'])
def test_parameters_that_are_not_finite_are_refused(value, place):
    model = build('lenet5', bnn.XNOR)
    if place == 'kernel':
        layer = first_binary(model)
        layer.kernel[...] = layer.kernel[...].at[0, 0, 0, 0].set(value)
    elif place == 'norm':
        norm = next(m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm))
        norm.var[...] = norm.var[...].at[0].set(value)
    else:
        last = model.body.layers[-1]
        last.bias[...] = last.bias[...].at[3].set(value)
    with pytest.raises(ValueError, match='1 of .* values are NaN or infinite.*last good checkpoint'):
        bnn.convert(model)


def test_a_normalization_that_overflows_is_refused():
    for name, value in (('var', -1.0), ('scale', 3e38)):
        model = build('lenet5', bnn.XNOR)
        norm = next(m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm))
        norm.var[...] = jnp.full_like(norm.var[...], 1e-4)
        variable = getattr(norm, name)
        variable[...] = variable[...].at[0].set(value)
        with pytest.raises(ValueError, match='normalization gives a scale or shift that is not finite'):
            bnn.convert(model)


def test_parameters_of_another_dtype_are_refused():
    model = build('lenet5', bnn.XNOR)
    layer = first_binary(model)
    layer.kernel = type(layer.kernel)(layer.kernel[...].astype(jnp.bfloat16))
    with pytest.raises(ValueError, match='kernel: got dtype bfloat16, expected float32'):
        bnn.convert(model)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match='without binary weights'):
        bnn.convert(build('lenet5', bnn.FLOAT))
    with pytest.raises(TypeError, match='got int, expected a Network'):
        bnn.convert(3)
    with pytest.raises(TypeError, match='layer 0 is a int'):
        bnn.convert(bnn.nn.Network([3], channels=3, num_classes=4))
    with pytest.raises(ValueError, match='without binary weights'):
        bnn.convert(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match='without binary weights'):
        bnn.convert(bnn.nn.Network([nnx.Linear(3, 4, rngs=nnx.Rngs(0))], channels=3, num_classes=4))


def parity_sign(x):
    """sign(0) = 0, as in the Lua and PyTorch codes."""
    return jnp.sign(x)


def two_bits(x):
    return bnn.quantizers.dorefa_activations(x, 2)


def test_quantizers_that_are_not_signs_are_refused():
    for activation in (parity_sign, two_bits):
        model = build('lenet5', dataclasses.replace(bnn.XNOR, activation=activation))
        with pytest.raises(ValueError, match='layer .*activation quantizer is not a sign'):
            bnn.convert(model)
    model = build('lenet5', dataclasses.replace(bnn.BNN, weight=parity_sign, sign=parity_sign))
    with pytest.raises(ValueError, match=r'has sign\(0\) = 0, expected \+1.*presets.deployable'):
        bnn.convert(model)  # whether or not a weight is 0 today


def test_negative_zero_weights_are_plus_one():
    model = build('lenet5', bnn.BNN)
    layer = first_binary(model)
    layer.kernel[...] = jnp.full_like(layer.kernel[...], -0.0)
    packed = bnn.convert(model)
    assert not np.asarray(packed.body.layers[0].words).any()
