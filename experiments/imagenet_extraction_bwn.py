"""ImageNet, GoogLeNet variant (Darknet's Extraction), Binary-Weight-Network as printed.

Source: XNOR-Net, arXiv:1603.05279v4, p. 13; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_extraction_bwn --data_dir=FOLDER
Expected: 80 epochs, 23.3 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 1,220 images decoded a second.
Published: top-1 65.5%, top-5 86.1%; no curve. Obtained here: not run.
The paper names no optimizer: here Darknet's, SGD 0.9 from 0.1.
"""

from bnn_jax.schemes.presets import BWN_PAPER
from bnn_jax.training.experiment import main
from experiments.imagenet import extraction_row

if __name__ == '__main__':
    main('imagenet_extraction_bwn', __doc__, extraction_row(BWN_PAPER))
