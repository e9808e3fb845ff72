"""Fashion-MNIST, LeNet-5, BNN.

No published figure to compare with. Obtained: experiments/README.md.
"""

from bnn_jax import BNN
from bnn_jax.training.experiment import main
from experiments.fashion_mnist_lenet5 import config

if __name__ == '__main__':
    main('fashion_mnist_lenet5_bnn', __doc__, config(BNN))
