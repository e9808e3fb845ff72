"""CIFAR-10, BinaryNet's network.

Source: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py. experiments/cifar10.py lists the differences.

Command: python -m experiments.cifar10_vgg_small --scheme=SCHEME --data_dir=FOLDER

The published recipe takes 500 epochs. experiments/README.md has our results.

Published test accuracies of the rows:
- XNOR: 89.83%, by arXiv:1603.05279.
- BNN: 88.60 to 89.85%, by arXiv:1602.02830 (Theano and Torch).
- BNN_BOP: 91.3%, by arXiv:1906.02107. BNN trained with Bop. Source: plumerai/rethinking-bnn-optimization
  (arXiv:1906.02107, section 5.2): gamma from 1e-4, divided by 10 every 100 epochs, threshold 1e-8; Adam 1e-2 for all
  parameters that are not weights; batch 50, cross-entropy. Only this row crops and flips its images.
- BWN: 90.12%, by arXiv:1603.05279.
- BC: 91.73%, by arXiv:1511.00363, for its stochastic version with all layers binary, on whitened images.
- FLOAT: none quoted.
"""

import dataclasses
from functools import partial

import optax

from bnn_jax import BC, BNN, BWN, FLOAT, XNOR
from bnn_jax.data import PlusMinusOne, crop, flip
from bnn_jax.models import vgg_small
from bnn_jax.optim.bop import bop
from bnn_jax.optim.glorot import scale_by_glorot
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config, CrossEntropy, Recipe, SquaredHinge, by_kind, latent_weights, named
from bnn_jax.training.experiment import main
from experiments.cifar10 import row
from experiments.shared import Falls, networks, others


@named('cifar10.binary_adam')
def binary_adam(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam; `scale_by_glorot` scales the steps of latent weights."""
    return by_kind({latent_weights: optax.chain(optax.adam(schedule), scale_by_glorot()), others: optax.adam(schedule)})


@named('cifar10.bop_and_adam')
def bop_and_adam(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Bop, with this schedule for gamma; Adam 1e-2 for the other parameters."""
    return by_kind({latent_weights: bop(schedule, 1e-8), others: optax.adam(1e-2)})


def config(scheme: Scheme) -> Config:
    """BinaryNet's network and recipe; plain Adam if the scheme has no latent weights."""
    return row(
        **networks(partial(vgg_small, 10), scheme),
        standardize=PlusMinusOne(),
        augmentations=(),
        optimizer=optax.adam if scheme.weight is None else binary_adam,
        loss=SquaredHinge,
        epochs=500,
        batch_size=50,
        learning_rate=1e-3,
    )


def with_bop(config: Config) -> Config:
    """The same network with Bop's recipe."""
    return dataclasses.replace(
        config,
        optimizer=bop_and_adam,
        augmentations=(crop(4), flip),
        schedule=Falls(500, ((100, 1e-1), (200, 1e-2), (300, 1e-3), (400, 1e-4))),
        loss=CrossEntropy,
        learning_rate=1e-4,
    )


RECIPE = Recipe(
    'cifar10_vgg_small',
    __doc__,
    rows={
        'XNOR': config(XNOR),
        'BNN': config(BNN),
        'BNN_BOP': with_bop(config(BNN)),
        'BWN': config(BWN),
        'BC': config(BC),
        'FLOAT': config(FLOAT),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
