"""CIFAR-10, ResNet-18 with a 3x3 stem and a shortcut around every binary convolution (RECU: around every two).

Source: the recipe of htqin/IR-Net for ResNet-20 on CIFAR-10 (arXiv:1909.10788), and z-hXu/ReCU (arXiv:2103.12369).
experiments/cifar10.py lists the differences.

Command: python -m experiments.cifar10_resnet18 --scheme=SCHEME --data_dir=FOLDER

The published recipe takes 400 epochs (RECU: 600 epochs). experiments/README.md has our results.

Published test accuracies of the rows:
- XNOR: 91.5%, which IR-Net reaches (arXiv:1909.10788); none of XNOR-Net. The row has `residuals_norm_before`.
- BIREAL: 91.5%, which IR-Net reaches (arXiv:1909.10788); none of Bi-Real Net.
- RECU: 92.8%, by z-hXu/ReCU (arXiv:2103.12369), whose code this row follows; fine-tuned 93.2%. One shortcut spans two
  convolutions, and no hard tanh follows the stem.
- FLOAT: none quoted.
"""

import dataclasses
from functools import partial

from bnn_jax import BIREAL, FLOAT, XNOR
from bnn_jax.models import resnet18, small_stem
from bnn_jax.schemes import Scheme, real_unrectified, residual_hard_tanh
from bnn_jax.schemes.presets import RECU_PYTORCH
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.cifar10 import recu_row, resnet_row

SMALL_RESNET18 = partial(resnet18, 10, stem=small_stem, input_shape=(32, 32, 3))
RECU_ONE_SHORTCUT = dataclasses.replace(RECU_PYTORCH, residual=residual_hard_tanh, first=real_unrectified)


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return resnet_row(SMALL_RESNET18, scheme)


RECIPE = Recipe(
    'cifar10_resnet18',
    __doc__,
    rows={
        'XNOR': config(XNOR),
        'BIREAL': config(BIREAL),
        'RECU': recu_row(SMALL_RESNET18, RECU_ONE_SHORTCUT),
        'FLOAT': config(FLOAT),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
