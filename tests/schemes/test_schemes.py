"""Schemes: scale times signs is the weight, variants by dataclasses.replace, what is refused, and the orders of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnn_jax as bnn
from bnn_jax import quantizers, schemes
from bnn_jax.schemes import (
    Exponential,
    Geometric,
    RSign,
    Scheduled,
    Scheme,
    Trained,
    biased,
    check_scale,
    constant_k,
    flowing_k,
    itself,
    real,
    real_hard_tanh,
    real_input,
    real_unrectified,
    unbiased,
)
from bnn_jax.schemes.dropout import everywhere
from bnn_jax.schemes.initializers import unit_uniform
from bnn_jax.schemes.projections import center_and_clip, clip

SCHEMES = {name: value for name, value in vars(schemes).items() if isinstance(value, Scheme) and name.isupper()}
replace = dataclasses.replace


def test_every_scheme_is_there():
    names = {'FLOAT', 'BC', 'BC_STOCHASTIC', 'BWN', 'BNN', 'XNOR', 'XNOR_K', 'BIREAL', 'DOREFA', 'IRNET', 'RECU'}
    assert names <= SCHEMES.keys()
    for name, scheme in SCHEMES.items():
        assert getattr(bnn, name) is scheme


@pytest.mark.parametrize('scheme', SCHEMES.values(), ids=SCHEMES)
def test_scale_belongs_to_weight(scheme):
    for part in (scheme, scheme.first(scheme), scheme.last(scheme), scheme.shortcut(scheme)):
        check_scale(part)


@pytest.mark.parametrize('scheme', SCHEMES.values(), ids=SCHEMES)
def test_schemes_are_values(scheme):
    twin = replace(scheme)
    assert twin is not scheme
    assert twin == scheme
    assert hash(twin) == hash(scheme)
    assert replace(scheme, eps=0.5) != scheme
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.pad_value = 1


BINARY_WEIGHTS = (quantizers.sign_ste, None, None, clip, real, real, real)
XNOR = (
    quantizers.scaled_sign_ste,
    quantizers.alpha,
    quantizers.sign_ste,
    center_and_clip,
    real,
    real,
    real,
)
# weight, scale, activation, projection, first, last, shortcut
SOURCES = {
    'FLOAT': (None, None, None, None, itself, itself, itself),
    'BC': BINARY_WEIGHTS,
    'BC_STOCHASTIC': BINARY_WEIGHTS,
    'BWN': (quantizers.scaled_sign_ste, quantizers.alpha, *BINARY_WEIGHTS[2:]),
    'BNN': (quantizers.sign_ste, None, quantizers.sign_ste, clip, real_input, itself, itself),
    'XNOR': XNOR,
    'XNOR_K': XNOR,
    'DOREFA': (schemes.one_bit_weight, quantizers.layer_alpha, schemes.one_bit_activation, None, real, real, real),
    'BIREAL': (
        quantizers.scaled_sign_plain_ste,
        quantizers.alpha,
        quantizers.sign_approx,
        clip,
        real_unrectified,
        real,
        real,
    ),
    'IRNET': (
        Scheduled(quantizers.balanced_sign_ede, Geometric(0.1, 10.0)),
        quantizers.power_of_two_scale,
        Scheduled(quantizers.sign_ede, Geometric(0.1, 10.0)),
        None,
        real_hard_tanh,
        real,
        real,
    ),
    'RECU': (
        Scheduled(quantizers.recu_scaled_sign, Exponential(0.85, 0.99)),
        Scheduled(quantizers.recu_scale, Exponential(0.85, 0.99)),
        quantizers.sign_approx_by_image,
        None,
        real_hard_tanh,
        real,
        real,
    ),
}


@pytest.mark.parametrize(('name', 'expected'), SOURCES.items())
def test_what_the_sources_make_binary(name, expected):
    s = SCHEMES[name]
    assert (s.weight, s.scale, s.activation, s.projection, s.first, s.last, s.shortcut) == expected
    assert s.pad_value == 0
    assert s.balance is (quantizers.balanced if name in ('IRNET', 'RECU') else None)
    assert s.training_weight is (quantizers.stochastic_sign_ste if name == 'BC_STOCHASTIC' else None)
    assert s.input_scale is (constant_k if name == 'XNOR_K' else None)


@pytest.mark.parametrize('scheme', SCHEMES.values(), ids=SCHEMES)
def test_schemes_of_the_outer_layers(scheme):
    kept = {'eps': 0.25, 'momentum': 0.5, 'init': jnp.zeros, 'bias': True, 'dropout': 0.5, 'affine': False}
    kept |= {'variance_factor': unbiased, 'gamma_before': clip, 'gamma_init': unit_uniform, 'drops': everywhere}
    variant = replace(scheme, **kept)
    assert itself(variant) is variant
    assert real(variant) == replace(bnn.FLOAT, **kept)
    assert real_unrectified(variant) == replace(real(variant), chain=schemes.product_norm_pool)
    assert real_hard_tanh(variant) == replace(real(variant), chain=schemes.product_pool_norm_hard_tanh)
    assert real_input(variant) == replace(variant, activation=None, input_scale=None)


VARIANTS = {
    'paper gradient': replace(bnn.XNOR, weight=quantizers.scaled_sign_paper),
    'constant alpha': replace(bnn.XNOR, weight=quantizers.scaled_sign_ste_const_alpha),
    'one scale a layer': replace(bnn.XNOR, weight=quantizers.layer_scaled_sign, scale=quantizers.layer_alpha),
    'no scale': replace(bnn.XNOR, weight=quantizers.sign_approx, scale=None),
    'plus one padding': replace(bnn.BNN, pad_value=1),
    'minus one padding': replace(bnn.BNN, pad_value=-1),
}


@pytest.mark.parametrize('scheme', VARIANTS.values(), ids=VARIANTS)
def test_variants_pass(scheme):
    check_scale(scheme)


def test_check_scale_works_inside_a_trace():
    scheme = replace(bnn.BWN, weight=quantizers.scaled_sign_paper)
    wrong = replace(bnn.BWN, weight=quantizers.scaled_sign_paper, scale=quantizers.layer_alpha)

    @jax.jit
    def checked(x):
        check_scale(scheme)
        with pytest.raises(ValueError, match='is not scale'):
            check_scale(wrong)
        return x

    assert checked(jnp.ones(())) == 1


WRONG_SCALES = {
    'alpha forgotten': replace(bnn.XNOR, scale=None),
    'alpha of plain signs': replace(bnn.BC, scale=quantizers.alpha),
    'sign(0) = 0 in the weight only': replace(bnn.BNN, weight=jnp.sign),
    'a scale a filter for one a layer': replace(bnn.XNOR, weight=quantizers.layer_scaled_sign),
    'a scale a layer for one a filter': replace(bnn.XNOR, scale=quantizers.layer_alpha),
    'weights of more than one bit': replace(bnn.XNOR, weight=lambda w: quantizers.dorefa_weights(w, 2), scale=None),
    'real weights': replace(bnn.BWN, weight=lambda w: w),
    'balanced weights without balance': replace(bnn.IRNET, balance=None),
}


@pytest.mark.parametrize('scheme', WRONG_SCALES.values(), ids=WRONG_SCALES)
def test_a_scale_of_another_quantizer_raises(scheme):
    with pytest.raises(ValueError, match=r'weight\(w\) is not scale\(w\) \* sign\(w\)'):
        check_scale(scheme)


BAD_FIELDS = {
    'pad_value 2': (bnn.XNOR, {'pad_value': 2}, r'pad_value: got 2, expected 0, \+1 or -1'),
    'dropout 1': (bnn.XNOR, {'dropout': 1.0}, 'dropout: got 1.0, expected a rate from 0 to below 1'),
    'balance without weight': (bnn.FLOAT, {'balance': quantizers.balanced}, 'without weight'),
    'trained activation with a schedule': (
        bnn.BNN,
        {'activation': Trained(RSign, Geometric(1.0, 2.0))},
        'only trained weights may have one',
    ),
    'before without weight': (bnn.FLOAT, {'before': clip}, 'without weight'),
    'scale without weight': (bnn.FLOAT, {'scale': quantizers.alpha}, 'without weight'),
    'projection without weight': (bnn.FLOAT, {'projection': clip}, 'without weight'),
    'training_weight without weight': (
        bnn.FLOAT,
        {'training_weight': quantizers.stochastic_sign_ste},
        'without weight',
    ),
    'scale with training_weight': (
        bnn.BWN,
        {'training_weight': quantizers.stochastic_sign_ste},
        'both scale and training_weight',
    ),
    'input_scale without activation': (bnn.BWN, {'input_scale': constant_k}, 'input_scale without activation'),
}


@pytest.mark.parametrize(('scheme', 'fields', 'message'), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_bad_combinations_raise(scheme, fields, message):
    with pytest.raises(ValueError, match=message):
        replace(scheme, **fields)


def test_constant_k_passes_no_gradient():
    class Product:
        def input_scale(self, x):
            return jnp.abs(x).mean(-1)

    x = jnp.asarray([[1.0, -3.0], [2.0, 0.5]])
    k, vjp = jax.vjp(lambda x: constant_k(x, Product()), x)
    np.testing.assert_array_equal(k, [2, 1.25])
    np.testing.assert_array_equal(vjp(jnp.ones(2))[0], np.zeros((2, 2)))


# Orders of layers


class Named:
    """Parts that are their own names, numbered by the product they belong to; what a shortcut spans is in brackets."""

    def __init__(self, number=''):
        self.number = number

    def __getattr__(self, part):
        return lambda: [part + self.number]

    def unstrided(self):
        return Named(f'_unstrided{self.number}')

    def around(self, body):
        return [f'[{self.number}', *body, ']']


CHAINS = {
    'FLOAT': ('product norm_out relu pool', 'pool product'),
    'BC': ('product norm_out relu pool', 'pool product'),
    'BC_STOCHASTIC': ('product norm_out relu pool', 'pool product'),
    'BWN': ('product norm_out relu pool', 'pool product'),
    'BNN': ('product pool norm_out', 'pool product norm_out'),
    'XNOR': ('norm_in product pool', 'norm_in relu pool product'),
    'XNOR_K': ('norm_in product pool', 'norm_in relu pool product'),
    'DOREFA': ('norm_in product pool', 'norm_in relu pool product'),
    'BIREAL': ('product norm_out pool', 'pool product'),
    'IRNET': ('product pool norm_out hard_tanh', 'pool norm_in product'),
    'RECU': ('product pool norm_out hard_tanh', 'pool norm_in product'),
}


@pytest.mark.parametrize(('name', 'chain', 'head'), [(name, *orders) for name, orders in CHAINS.items()])
def test_orders_of_chain_and_head(name, chain, head):
    assert schemes.arrange(SCHEMES[name].chain, Named()) == chain.split()
    assert schemes.arrange(SCHEMES[name].head, Named()) == head.split()


@pytest.mark.parametrize(
    ('order', 'expected'),
    [
        (schemes.norm_product_relu_pool, 'norm_in product relu pool'),
        (schemes.feature_norm_product_relu_pool, 'feature_norm_in product relu pool'),
        (schemes.product_pool_norm_relu, 'product pool norm_out relu'),
        (schemes.norm_pool_product, 'norm_in pool product'),
    ],
)
def test_orders_of_variants(order, expected):
    assert schemes.arrange(order, Named()) == expected.split()


def test_variance_factors():
    assert biased(1) == biased(7) == 1
    assert unbiased(5) == 5 / 4
    with pytest.raises(ValueError, match='got 1 value per channel, expected at least 2'):
        unbiased(1)


def test_flowing_k_passes_its_gradient():
    class Product:
        def input_scale(self, x):
            return jnp.abs(x).mean(-1)

    x = jnp.asarray([[1.0, -3.0], [2.0, 0.5]])
    k, vjp = jax.vjp(lambda x: flowing_k(x, Product()), x)
    np.testing.assert_array_equal(k, [2, 1.25])
    np.testing.assert_array_equal(vjp(jnp.ones(2))[0], [[0.5, -0.5], [0.5, 0.5]])


RESIDUALS = {
    'residual_norm_after': '[1 product1 norm_out1 relu1 product2 norm_out2 ] relu2',
    'residual_sign_after': '[1 product1 norm_out1 product2 norm_out2 ]',
    'residual_norm_before': '[1 norm_in1 product1 norm_in2 product2 ]',
    'residuals_norm_after': '[1 product1 norm_out1 ] relu1 [2 product2 norm_out2 ] relu2',
    'residuals_sign_after': '[1 product1 norm_out1 ] [2 product2 norm_out2 ]',
    'residual_hard_tanh': '[1 product1 norm_out1 hard_tanh1 product2 norm_out2 ] hard_tanh2',
    'residuals_hard_tanh': '[1 product1 norm_out1 ] hard_tanh1 [2 product2 norm_out2 ] hard_tanh2',
    'residuals_norm_before': '[1 norm_in1 product1 ] [2 norm_in2 product2 ]',
}
DOWNSAMPLES = {
    'product_norm': 'product norm_out',
    'norm_product': 'norm_in product',
    'subsample_pad': 'subsample pad_channels',
    'average_pad': 'average pad_channels',
    'average_product_norm': 'average product_unstrided norm_out',
}


@pytest.mark.parametrize(('name', 'layers'), RESIDUALS.items())
def test_orders_of_residual_blocks(name, layers):
    assert getattr(schemes, name)(Named('1'), Named('2')) == layers.split()


@pytest.mark.parametrize(('name', 'layers'), DOWNSAMPLES.items())
def test_orders_of_shortcuts(name, layers):
    assert schemes.arrange(getattr(schemes, name), Named()) == layers.split()


@pytest.mark.parametrize(
    ('name', 'residual', 'downsample'),
    [
        ('FLOAT', 'residual_norm_after', 'product_norm'),
        ('BWN', 'residual_norm_after', 'product_norm'),
        ('BNN', 'residual_sign_after', 'product_norm'),
        ('XNOR', 'residual_norm_before', 'product_norm'),
        ('BIREAL', 'residuals_sign_after', 'average_product_norm'),
        ('IRNET', 'residuals_hard_tanh', 'subsample_pad'),
        ('RECU', 'residuals_hard_tanh', 'average_pad'),
    ],
)
def test_what_each_scheme_takes(name, residual, downsample):
    assert SCHEMES[name].residual == getattr(schemes, residual)
    assert SCHEMES[name].downsample == getattr(schemes, downsample)


def test_an_order_may_be_a_function_and_a_misspelled_name_is_refused():
    assert schemes.arrange(lambda parts: [*parts.pool(), *parts.relu()], Named()) == ['pool', 'relu']
    with pytest.raises(ValueError, match=r"got \('norm', 'produkt'\), expected a tuple of product"):
        replace(bnn.XNOR, chain=('norm', 'produkt'))
    with pytest.raises(ValueError, match='expected a tuple'):
        replace(bnn.XNOR, head='product')
