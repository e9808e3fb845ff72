"""CIFAR-10, VGG-small as in most papers: six convolutions and one dense layer.

Source: htqin/IR-Net, CIFAR-10/VGG-Small (arXiv:1909.10788), and z-hXu/ReCU (arXiv:2103.12369).
experiments/cifar10.py lists the differences.

Command: python -m experiments.cifar10_vgg_small_one_dense --scheme=SCHEME --data_dir=FOLDER

The published recipe takes 300 epochs (RECU: 600 epochs). experiments/README.md has our results.

Published test accuracies of the rows:
- IRNET: 90.4%, by arXiv:1909.10788, whose code this row follows.
- RECU: 92.2%, by z-hXu/ReCU (arXiv:2103.12369), whose code this row follows; fine-tuned 93.3%.
"""

import dataclasses
from functools import partial

from bnn_jax import IRNET
from bnn_jax.models import vgg_small_one_dense
from bnn_jax.schemes import Scheme, orders
from bnn_jax.schemes.initializers import he_normal_fan_out
from bnn_jax.schemes.presets import RECU_PYTORCH
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.cifar10 import ir_net_row, recu_row

MODEL = partial(vgg_small_one_dense, 10)
# The flattened map goes into the dense layer as it is.
OWN = {'head': orders.pool_product, 'init': he_normal_fan_out}


def config(scheme: Scheme) -> Config:
    """The row of one scheme, by IR-Net's recipe."""
    return ir_net_row(MODEL, scheme, epochs=300, learning_rate=0.007)


RECIPE = Recipe(
    'cifar10_vgg_small_one_dense',
    __doc__,
    rows={
        'IRNET': config(dataclasses.replace(IRNET, **OWN)),
        'RECU': recu_row(MODEL, dataclasses.replace(RECU_PYTORCH, **OWN)),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
