"""CIFAR-10, network in network, FLOAT.

Source: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10 (main.py, README); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_nin_float --data_dir=FOLDER
Published: 89.67%, by the PyTorch implementation.
Expected: 320 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.cifar10 import nin_row

if __name__ == '__main__':
    main('cifar10_nin_float', __doc__, nin_row(FLOAT))
