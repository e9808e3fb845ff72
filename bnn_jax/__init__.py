"""Binary neural networks in JAX: train with 1-bit weights and activations, convert once, run from bits."""

from bnn_jax import (
    bits,
    dropout,
    exchange,
    factors,
    kernels,
    layers,
    models,
    network,
    presets,
    projections,
    published,
    quantizers,
    schemes,
    stages,
    training,
    variants,
)
from bnn_jax.artifact import load, save
from bnn_jax.bop import bop
from bnn_jax.convert import convert
from bnn_jax.glorot import scale_by_glorot
from bnn_jax.schemes import BC, BC_STOCHASTIC, BIREAL, BNN, BWN, DOREFA, FLOAT, XNOR, XNOR_K
from bnn_jax.summary import summarize

__version__ = '0.1.0'

__all__ = [
    'BC',
    'BC_STOCHASTIC',
    'BIREAL',
    'BNN',
    'BWN',
    'DOREFA',
    'FLOAT',
    'XNOR',
    'XNOR_K',
    'bits',
    'bop',
    'convert',
    'dropout',
    'exchange',
    'factors',
    'kernels',
    'layers',
    'load',
    'models',
    'network',
    'presets',
    'projections',
    'published',
    'quantizers',
    'save',
    'scale_by_glorot',
    'schemes',
    'stages',
    'summarize',
    'training',
    'variants',
]
