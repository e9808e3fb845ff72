"""CIFAR-10, BinaryNet's network, BNN, its signs flipped by Bop.

Source: plumerai/rethinking-bnn-optimization (arXiv:1906.02107, section 5.2): gamma from 1e-4, tenfold less every 100 epochs,
threshold 1e-8, Adam 1e-2 for what is no weight, batch 50, cross-entropy, crop and flip, as no other row of this network has.
Command: python -m experiments.cifar10_vgg_small_bnn_bop --data_dir=FOLDER
Published: 91.3%, by arXiv:1906.02107.
Expected: 500 epochs. Obtained here: experiments/README.md.
"""

import dataclasses

import optax

from bnn_jax import BNN
from bnn_jax.data import crop, flip
from bnn_jax.optim.bop import bop
from bnn_jax.training import CrossEntropy, by_kind, latent_weights
from bnn_jax.training.experiment import main
from experiments.cifar10 import others, vgg_small_row
from experiments.imagenet import Falls


def bop_and_adam(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Bop with this schedule of gamma, and Adam at 1e-2."""
    return by_kind({latent_weights: bop(schedule, 1e-8), others: optax.adam(1e-2)})


CONFIG = dataclasses.replace(
    vgg_small_row(BNN, bop_and_adam),
    augmentations=(crop(4), flip),
    schedule=Falls(500, ((100, 1e-1), (200, 1e-2), (300, 1e-3), (400, 1e-4))),
    loss=CrossEntropy,
    learning_rate=1e-4,
)

if __name__ == '__main__':
    main('cifar10_vgg_small_bnn_bop', __doc__, CONFIG)
