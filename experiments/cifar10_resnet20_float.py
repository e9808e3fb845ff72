"""CIFAR-10, ResNet-20, FLOAT.

Source: htqin/IR-Net, CIFAR-10 (arXiv:1909.10788); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_resnet20_float --data_dir=FOLDER
Published: none quoted.
Expected: 400 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.cifar10 import resnet20_row

if __name__ == '__main__':
    main('cifar10_resnet20_float', __doc__, resnet20_row(FLOAT))
