"""Binary neural networks in JAX: train with 1-bit weights and activations, convert once, run from bits."""

from bnn_jax import bits, kernels, layers, models, projections, quantizers, schemes, training
from bnn_jax.artifact import load, save
from bnn_jax.convert import convert
from bnn_jax.schemes import BC, BC_STOCHASTIC, BIREAL, BNN, BWN, FLOAT, XNOR, XNOR_K
from bnn_jax.summary import summarize

__version__ = '0.1.0'

__all__ = [
    'BC',
    'BC_STOCHASTIC',
    'BIREAL',
    'BNN',
    'BWN',
    'FLOAT',
    'XNOR',
    'XNOR_K',
    'bits',
    'convert',
    'kernels',
    'layers',
    'load',
    'models',
    'projections',
    'quantizers',
    'save',
    'schemes',
    'summarize',
    'training',
]
