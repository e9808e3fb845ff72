"""Training: a state, one step, evaluation, and fit, which puts them together. Importing it needs no extra; `fit` does."""

from bnn_jax.training.fit import Config, Interrupted, NonFiniteLoss, fit
from bnn_jax.training.groups import biases, by_kind, float_weights, latent_weights, norms
from bnn_jax.training.state import TrainState, init, model_of
from bnn_jax.training.step import evaluate, logits_of, train_step

__all__ = [
    'Config',
    'Interrupted',
    'NonFiniteLoss',
    'TrainState',
    'biases',
    'by_kind',
    'evaluate',
    'fit',
    'float_weights',
    'init',
    'latent_weights',
    'logits_of',
    'model_of',
    'norms',
    'train_step',
]
