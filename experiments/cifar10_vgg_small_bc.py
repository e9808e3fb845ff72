"""CIFAR-10, BinaryNet's network, BC.

Source: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py; what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_vgg_small_bc --data_dir=FOLDER
Published: 91.73%, by arXiv:1511.00363, of the stochastic version, all layers binary, on whitened images.
Expected: 500 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import BC
from bnn_jax.training.experiment import main
from experiments.cifar10 import vgg_small_row

if __name__ == '__main__':
    main('cifar10_vgg_small_bc', __doc__, vgg_small_row(BC))
