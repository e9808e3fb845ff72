"""Fashion-MNIST, LeNet-5, XNOR with its input scale K (XNOR-Net, eq. 11).

No figure is published; on AlexNet the paper loses less than 1 % without K. Obtained: experiments/README.md.
"""

from bnn_jax import XNOR_K
from bnn_jax.training.experiment import main
from experiments.fashion_mnist_lenet5 import config

if __name__ == '__main__':
    main('fashion_mnist_lenet5_xnor_k', __doc__, config(XNOR_K))
