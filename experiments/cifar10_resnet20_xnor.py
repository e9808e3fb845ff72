"""CIFAR-10, ResNet-20, XNOR with a shortcut round every convolution.

Source: htqin/IR-Net, CIFAR-10 (arXiv:1909.10788); what is chosen: experiments/cifar10.py.
Command: python -m experiments.cifar10_resnet20_xnor --data_dir=FOLDER
Published: 86.5%, by IR-Net (arXiv:1909.10788) with such shortcuts; not XNOR-Net.
Expected: 400 epochs. Obtained here: experiments/README.md.
"""

from bnn_jax.training.experiment import main
from experiments.cifar10 import XNOR_SHORTCUTS, resnet20_row

if __name__ == '__main__':
    main('cifar10_resnet20_xnor', __doc__, resnet20_row(XNOR_SHORTCUTS))
