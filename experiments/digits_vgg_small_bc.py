"""Handwritten digits (8x8, embedded), VGG-small at a quarter of its width, BC.

No published figure to compare with. Obtained: experiments/README.md.
"""

from bnn_jax import BC
from bnn_jax.training.experiment import main
from experiments.digits_vgg_small import config

if __name__ == '__main__':
    main('digits_vgg_small_bc', __doc__, config(BC))
