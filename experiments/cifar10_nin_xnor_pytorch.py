"""CIFAR-10, network in network, XNOR-Net as the PyTorch implementation trains it.

Source: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10 (main.py, README); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_nin_xnor_pytorch --data_dir=FOLDER
Published: 86.28%, by the PyTorch implementation.
Expected: 320 epochs. Obtained here: experiments/README.md.
sign(0) = 0 while training; converted with sign(0) = +1 (`presets.deployable`).
"""

from functools import partial

from bnn_jax.schemes.presets import XNOR_PYTORCH_CIFAR, deployable
from bnn_jax.training.experiment import main
from experiments.cifar10 import nin_row
from experiments.imagenet import adam

# L2 reaches latent weights, as in the source: their gradient is multiplied by n, beside which it is nothing.
CONFIG = nin_row(XNOR_PYTORCH_CIFAR, deployable(XNOR_PYTORCH_CIFAR), optimizer=partial(adam, decay=1e-5))

if __name__ == '__main__':
    main('cifar10_nin_xnor_pytorch', __doc__, CONFIG)
