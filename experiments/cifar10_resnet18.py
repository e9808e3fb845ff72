"""CIFAR-10, ResNet-18 with a 3x3 stem, a shortcut round every binary convolution.

Source: the recipe of htqin/IR-Net for ResNet-20 on CIFAR-10 (arXiv:1909.10788); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_resnet18 --scheme=SCHEME --data_dir=FOLDER
Expected: 400 epochs. Obtained here: experiments/README.md.
Rows, and what is published:
- XNOR: 91.5%, by IR-Net (arXiv:1909.10788); not XNOR-Net. Its residual is `residuals_norm_before`.
- BIREAL: 91.5%, by IR-Net (arXiv:1909.10788); not Bi-Real Net.
- FLOAT: none quoted.
"""

from functools import partial

from bnn_jax import BIREAL, FLOAT, XNOR
from bnn_jax.models import resnet18, small_stem
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.cifar10 import resnet_row


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return resnet_row(partial(resnet18, 10, stem=small_stem, input_shape=(32, 32, 3)), scheme)


RECIPE = Recipe(
    'cifar10_resnet18',
    __doc__,
    rows={'XNOR': config(XNOR), 'BIREAL': config(BIREAL), 'FLOAT': config(FLOAT)},
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
