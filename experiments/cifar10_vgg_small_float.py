"""CIFAR-10, BinaryNet's network, FLOAT.

Source: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py; what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_vgg_small_float --data_dir=FOLDER
Published: none quoted.
Expected: 500 epochs. Obtained here: experiments/README.md.
"""

import optax

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.cifar10 import vgg_small_row

if __name__ == '__main__':
    main('cifar10_vgg_small_float', __doc__, vgg_small_row(FLOAT, optax.adam))
