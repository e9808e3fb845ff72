"""Fashion-MNIST, LeNet-5, FLOAT.

Expected about 92.2 % after 20 epochs. Obtained: experiments/README.md.
"""

from bnn_jax import FLOAT
from bnn_jax.training.experiment import main
from experiments.fashion_mnist_lenet5 import config

if __name__ == '__main__':
    main('fashion_mnist_lenet5_float', __doc__, config(FLOAT))
