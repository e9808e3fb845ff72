"""Optimizers: Bop, BinaryConnect's step sizes, one optimizer for each kind of parameter, projections in any training loop."""

from bnn_jax.optim.bop import BopState, Schedule, bop
from bnn_jax.optim.glorot import scale_by_glorot
from bnn_jax.optim.parameter_groups import Kind, biases, by_kind, float_weights, inside, latent_weights, norms, outside
from bnn_jax.optim.projected import projected

__all__ = [
    'BopState',
    'Kind',
    'Schedule',
    'biases',
    'bop',
    'by_kind',
    'float_weights',
    'inside',
    'latent_weights',
    'norms',
    'outside',
    'projected',
    'scale_by_glorot',
]
