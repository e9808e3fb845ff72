"""Fashion-MNIST, LeNet-5, XNOR.

Expected about 90.5 % after 20 epochs. Obtained: experiments/README.md.
"""

from bnn_jax import XNOR
from bnn_jax.training.experiment import main
from experiments.fashion_mnist_lenet5 import config

if __name__ == '__main__':
    main('fashion_mnist_lenet5_xnor', __doc__, config(XNOR))
