"""Fashion-MNIST, LeNet-5, BWN.

Expected: within 0.7 points of the float row after 20 epochs. Obtained: experiments/README.md.
"""

from bnn_jax import BWN
from bnn_jax.training.experiment import main
from experiments.fashion_mnist_lenet5 import config

if __name__ == '__main__':
    main('fashion_mnist_lenet5_bwn', __doc__, config(BWN))
