"""Training: a state, one step, evaluation, and `fit`, which combines them. Only `fit` and `run` need the extra `train`."""

from bnn_jax.optim.parameter_groups import biases, by_kind, float_weights, inside, latent_weights, norms, outside
from bnn_jax.optim.projected import projected
from bnn_jax.training import two_stage
from bnn_jax.training.config import Config
from bnn_jax.training.distillation import Distillation, distillation, soft_cross_entropy
from bnn_jax.training.evaluation import evaluate, logits_of
from bnn_jax.training.experiment import run
from bnn_jax.training.fit import Interrupted, OutOfTime, fit
from bnn_jax.training.loss import CrossEntropy, Loss, SquaredHinge, cross_entropy, squared_hinge
from bnn_jax.training.measures import accuracies, gradient_norm
from bnn_jax.training.names import named
from bnn_jax.training.recipe import Recipe
from bnn_jax.training.records import NonFiniteLoss
from bnn_jax.training.schedules import constant
from bnn_jax.training.state import TrainState, init, model_of
from bnn_jax.training.step import train_step

__all__ = [
    'two_stage',
    'Config',
    'CrossEntropy',
    'Distillation',
    'Interrupted',
    'Loss',
    'NonFiniteLoss',
    'OutOfTime',
    'Recipe',
    'SquaredHinge',
    'TrainState',
    'accuracies',
    'biases',
    'by_kind',
    'constant',
    'cross_entropy',
    'distillation',
    'evaluate',
    'fit',
    'float_weights',
    'gradient_norm',
    'init',
    'inside',
    'latent_weights',
    'logits_of',
    'model_of',
    'named',
    'norms',
    'outside',
    'projected',
    'run',
    'soft_cross_entropy',
    'squared_hinge',
    'train_step',
]
