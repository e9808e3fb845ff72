"""ImageNet, GoogLeNet variant (Darknet's Extraction), float: by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 13; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_extraction_float --data_dir=FOLDER
Expected: 80 epochs, 23.3 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 1,220 images decoded a second.
Published: top-1 71.3%, top-5 90.0%; no curve. Obtained here: not run.
The paper names no optimizer: here Darknet's, SGD 0.9 from 0.1, with its L2 of 5e-4.
"""

from functools import partial

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.imagenet import extraction_row, sgd

if __name__ == '__main__':
    main('imagenet_extraction_float', __doc__, extraction_row(FLOAT, optimizer=partial(sgd, decay=5e-4)))
