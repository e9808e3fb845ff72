"""CIFAR-10, network in network, XNOR.

Source: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10 (main.py, README); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_nin_xnor --data_dir=FOLDER
Published: 86.28%, by the PyTorch implementation, whose own network is cifar10_nin_xnor_pytorch.
Expected: 320 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import XNOR
from bnn_jax.training.experiment import main
from experiments.cifar10 import nin_row

if __name__ == '__main__':
    main('cifar10_nin_xnor', __doc__, nin_row(XNOR, learning_rate=1e-3))
