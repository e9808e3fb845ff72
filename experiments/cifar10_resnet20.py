"""CIFAR-10, ResNet-20, a shortcut round every binary convolution.

Source: htqin/IR-Net, CIFAR-10 (arXiv:1909.10788); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_resnet20 --scheme=SCHEME --data_dir=FOLDER
Expected: 400 epochs. Obtained here: experiments/README.md.
Rows, and what is published:
- XNOR: 86.5%, by IR-Net (arXiv:1909.10788) with such shortcuts; not XNOR-Net. Its residual is `residuals_norm_before`.
- BIREAL: 86.5%, by IR-Net (arXiv:1909.10788) with such shortcuts; not Bi-Real Net.
- FLOAT: none quoted.
"""

from functools import partial

from bnn_jax import BIREAL, FLOAT, XNOR
from bnn_jax.models import resnet20
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.cifar10 import resnet_row


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return resnet_row(partial(resnet20, 10), scheme)


RECIPE = Recipe(
    'cifar10_resnet20',
    __doc__,
    rows={'XNOR': config(XNOR), 'BIREAL': config(BIREAL), 'FLOAT': config(FLOAT)},
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
