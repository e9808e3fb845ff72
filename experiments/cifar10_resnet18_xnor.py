"""CIFAR-10, ResNet-18, XNOR with a shortcut round every convolution.

Source: the recipe of htqin/IR-Net for ResNet-20 on CIFAR-10 (arXiv:1909.10788); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_resnet18_xnor --data_dir=FOLDER
Published: 91.5%, by IR-Net (arXiv:1909.10788); not XNOR-Net.
Expected: 400 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax.training.experiment import main
from experiments.cifar10 import XNOR_SHORTCUTS, resnet18_row

if __name__ == '__main__':
    main('cifar10_resnet18_xnor', __doc__, resnet18_row(XNOR_SHORTCUTS))
