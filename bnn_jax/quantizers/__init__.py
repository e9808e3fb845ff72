"""Quantizers: pure functions from real numbers to signs, each with its own gradient."""

from bnn_jax.quantizers import gradient_factors, published
from bnn_jax.quantizers.dorefa import dorefa_activations, dorefa_weights, layer_alpha, layer_scaled_sign
from bnn_jax.quantizers.input_scale import input_scale
from bnn_jax.quantizers.scaled import (
    alpha,
    scaled_sign_paper,
    scaled_sign_plain_ste,
    scaled_sign_ste,
    scaled_sign_ste_const_alpha,
)
from bnn_jax.quantizers.signs import sign, sign_approx, sign_ste, sign_swish, stochastic_sign_ste
from bnn_jax.quantizers.straight_through import with_gradient

__all__ = [
    'alpha',
    'dorefa_activations',
    'dorefa_weights',
    'gradient_factors',
    'input_scale',
    'layer_alpha',
    'layer_scaled_sign',
    'published',
    'scaled_sign_paper',
    'scaled_sign_plain_ste',
    'scaled_sign_ste',
    'scaled_sign_ste_const_alpha',
    'sign',
    'sign_approx',
    'sign_ste',
    'sign_swish',
    'stochastic_sign_ste',
    'with_gradient',
]
