"""CIFAR-10, BinaryNet's network, XNOR.

Source: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py; what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_vgg_small_xnor --data_dir=FOLDER
Published: 89.83%, by arXiv:1603.05279.
Expected: 500 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import XNOR
from bnn_jax.training.experiment import main
from experiments.cifar10 import vgg_small_row

if __name__ == '__main__':
    main('cifar10_vgg_small_xnor', __doc__, vgg_small_row(XNOR))
