"""Binary neural networks in JAX: train with 1-bit weights and activations, convert once, run from bits."""

from bnn_jax import command

command.begin_if_started_as('bnn_jax', 'experiments', 'benchmarks')  # before JAX, which takes a second to import

with command.quiet_interrupt():
    from bnn_jax import inference, interop, kernels, models, nn, optim, quantizers, schemes, training
    from bnn_jax.inference import convert, load, save
    from bnn_jax.nn.summary import summarize
    from bnn_jax.ops import bits
    from bnn_jax.optim import bop, scale_by_glorot
    from bnn_jax.schemes import BC, BC_STOCHASTIC, BIREAL, BNN, BWN, DOREFA, FLOAT, IRNET, RECU, XNOR, XNOR_K, presets

__version__ = '0.1.0'

__all__ = [
    'BC',
    'BC_STOCHASTIC',
    'BIREAL',
    'BNN',
    'BWN',
    'DOREFA',
    'FLOAT',
    'IRNET',
    'RECU',
    'XNOR',
    'XNOR_K',
    'bits',
    'bop',
    'convert',
    'inference',
    'interop',
    'kernels',
    'load',
    'models',
    'nn',
    'optim',
    'presets',
    'quantizers',
    'save',
    'scale_by_glorot',
    'schemes',
    'summarize',
    'training',
]
