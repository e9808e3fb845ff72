"""CIFAR-10, BinaryNet's network, BNN.

Source: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py; what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_vgg_small_bnn --data_dir=FOLDER
Published: 88.60 to 89.85%, by arXiv:1602.02830 (Theano and Torch).
Expected: 500 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import BNN
from bnn_jax.training.experiment import main
from experiments.cifar10 import vgg_small_row

if __name__ == '__main__':
    main('cifar10_vgg_small_bnn', __doc__, vgg_small_row(BNN))
