"""CIFAR-10, ResNet-18, FLOAT.

Source: the recipe of htqin/IR-Net for ResNet-20 on CIFAR-10 (arXiv:1909.10788); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_resnet18_float --data_dir=FOLDER
Published: none quoted.
Expected: 400 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.cifar10 import resnet18_row

if __name__ == '__main__':
    main('cifar10_resnet18_float', __doc__, resnet18_row(FLOAT))
