"""ImageNet, AlexNet, float: the baseline of the binary rows, by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 11-12; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_alexnet_float --data_dir=FOLDER
Expected: 16 epochs, 1.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 56.6%, top-5 80.2%; no curve. Obtained here: not run.
SGD 0.9 from 0.1; L2 of 5e-4, the published Lua code's.
"""

from functools import partial

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.imagenet import alexnet_row, sgd

if __name__ == '__main__':
    main('imagenet_alexnet_float', __doc__, alexnet_row(FLOAT, optimizer=partial(sgd, decay=5e-4)))
