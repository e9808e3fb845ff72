"""CIFAR-10, ResNet-20 with a shortcut around every binary convolution.

Source: htqin/IR-Net, CIFAR-10 (arXiv:1909.10788), and z-hXu/ReCU (arXiv:2103.12369). experiments/cifar10.py lists the
differences.

Command: python -m experiments.cifar10_resnet20 --scheme=SCHEME --data_dir=FOLDER

The published recipe takes 400 epochs (RECU: 600 epochs). experiments/README.md has our results.

Published test accuracies of the rows:
- XNOR: 86.5%, which IR-Net reaches with such shortcuts (arXiv:1909.10788); none of XNOR-Net. The row has
  `residuals_norm_before`.
- BIREAL: 86.5%, which IR-Net reaches with such shortcuts (arXiv:1909.10788); none of Bi-Real Net.
- BIREAL_L2: 86.5%, which IR-Net reaches. BIREAL with L2 5e-4 on everything, latent weights too, because BIREAL underfits
  (docs/what_trains.md). IR-Net's code has 1e-4 on everything.
- IRNET: 86.5%, by arXiv:1909.10788, whose code this row follows. t starts from 0.001; IR-Net's other networks start from
  0.1.
- RECU: 87.5%, by z-hXu/ReCU (arXiv:2103.12369), whose code this row follows; fine-tuned 88.0%.
- FLOAT: none quoted.
"""

import dataclasses
from functools import partial

from bnn_jax import BIREAL, FLOAT, IRNET, XNOR, quantizers
from bnn_jax.models import resnet20
from bnn_jax.schemes import Geometric, Scheduled, Scheme
from bnn_jax.schemes.presets import RECU_PYTORCH
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.cifar10 import ir_net_row, recu_row, resnet_row
from experiments.shared import sgd

# IR-Net's code for ResNet-20 has T_min = 1e-3, so the gradient stays near the identity's for longer than from 0.1.
_T = Geometric(1e-3, 10.0)
IRNET_FROM_A_THOUSANDTH = dataclasses.replace(
    IRNET, weight=Scheduled(quantizers.balanced_sign_ede, _T), activation=Scheduled(quantizers.sign_ede, _T)
)


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return resnet_row(partial(resnet20, 10), scheme)


RECIPE = Recipe(
    'cifar10_resnet20',
    __doc__,
    rows={
        'XNOR': config(XNOR),
        'BIREAL': config(BIREAL),
        'BIREAL_L2': dataclasses.replace(config(BIREAL), optimizer=partial(sgd, decay=5e-4)),
        'IRNET': ir_net_row(partial(resnet20, 10), IRNET_FROM_A_THOUSANDTH, epochs=400, learning_rate=0.1),
        'RECU': recu_row(partial(resnet20, 10), RECU_PYTORCH),
        'FLOAT': config(FLOAT),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
