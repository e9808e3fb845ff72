"""Quantizers: pure functions from real numbers to signs, each with its own gradient."""

from bnn_jax.quantizers import gradient_factors, published
from bnn_jax.quantizers.standard import (
    alpha,
    dorefa_activations,
    dorefa_weights,
    input_scale,
    layer_alpha,
    layer_scaled_sign,
    scaled_sign_paper,
    scaled_sign_plain_ste,
    scaled_sign_ste,
    scaled_sign_ste_const_alpha,
    sign,
    sign_approx,
    sign_ste,
    sign_swish,
    stochastic_sign_ste,
)

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
]
