"""ImageNet, ResNet-18, float: the baseline of the binary rows, by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 12-13; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_resnet18_float --data_dir=FOLDER
Expected: 58 epochs, 7.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 2,866 images decoded a second.
Published: top-1 69.3%, top-5 89.2%, those of fb.resnet.torch; no curve. Obtained here: not run.
SGD 0.9 from 0.1; L2 of 1e-4, fb.resnet.torch's.
"""

from functools import partial

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.imagenet import resnet18_row, sgd

if __name__ == '__main__':
    main('imagenet_resnet18_float', __doc__, resnet18_row(FLOAT, optimizer=partial(sgd, decay=1e-4)))
