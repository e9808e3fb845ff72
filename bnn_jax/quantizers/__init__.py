"""Quantizers: pure functions to signs, scaled signs or a few values, each with its own gradient; and their scales."""

from bnn_jax.quantizers import gradient_factors, published
from bnn_jax.quantizers.balanced import balanced, balanced_sign_ede, power_of_two_scale, sign_ede
from bnn_jax.quantizers.dorefa import dorefa_activations, dorefa_weights, layer_alpha, layer_scaled_sign
from bnn_jax.quantizers.input_scale import input_scale
from bnn_jax.quantizers.recu import recu_scale, recu_scaled_sign, recu_sign, sign_approx_by_image
from bnn_jax.quantizers.scaled import alpha, scaled_sign_ste
from bnn_jax.quantizers.scaled_otherwise import scaled_sign_paper, scaled_sign_plain_ste, scaled_sign_ste_const_alpha
from bnn_jax.quantizers.signs import sign, sign_approx, sign_ste, sign_swish, stochastic_sign_ste
from bnn_jax.quantizers.straight_through import with_gradient

__all__ = [
    'alpha',
    'balanced',
    'balanced_sign_ede',
    'dorefa_activations',
    'dorefa_weights',
    'gradient_factors',
    'input_scale',
    'layer_alpha',
    'layer_scaled_sign',
    'power_of_two_scale',
    'published',
    'recu_scale',
    'recu_scaled_sign',
    'recu_sign',
    'scaled_sign_paper',
    'scaled_sign_plain_ste',
    'scaled_sign_ste',
    'scaled_sign_ste_const_alpha',
    'sign',
    'sign_approx',
    'sign_approx_by_image',
    'sign_ede',
    'sign_ste',
    'sign_swish',
    'stochastic_sign_ste',
    'with_gradient',
]
