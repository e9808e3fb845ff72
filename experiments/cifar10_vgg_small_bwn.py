"""CIFAR-10, BinaryNet's network, BWN.

Source: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py; what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_vgg_small_bwn --data_dir=FOLDER
Published: 90.12%, by arXiv:1603.05279.
Expected: 500 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import BWN
from bnn_jax.training.experiment import main
from experiments.cifar10 import vgg_small_row

if __name__ == '__main__':
    main('cifar10_vgg_small_bwn', __doc__, vgg_small_row(BWN))
