"""Handwritten digits (8x8, embedded), VGG-small at a quarter of its width, FLOAT.

No published figure to compare with. Obtained: experiments/README.md.
"""

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.digits_vgg_small import config

if __name__ == '__main__':
    main('digits_vgg_small_float', __doc__, config(FLOAT, 1e-3))
