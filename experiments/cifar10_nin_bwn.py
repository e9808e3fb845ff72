"""CIFAR-10, network in network, BWN.

Source: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10 (main.py, README); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_nin_bwn --data_dir=FOLDER
Published: none quoted.
Expected: 320 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import BWN
from bnn_jax.training.experiment import main
from experiments.cifar10 import nin_row

if __name__ == '__main__':
    main('cifar10_nin_bwn', __doc__, nin_row(BWN))
