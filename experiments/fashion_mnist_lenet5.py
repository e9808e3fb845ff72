"""What the Fashion-MNIST LeNet-5 rows share: data, recipe, size.

Network and recipe after the PyTorch implementation of XNOR-Net for MNIST: 20 and 50 filters of 5x5, 500 hidden units,
first and last layer float, Adam 1e-2, batch 128. Here the learning rate falls by cosine instead of tenfold every 15 of
60 epochs, over 20 epochs.
"""

from functools import partial

from bnn_jax.data import Standardize, tfds_source
from bnn_jax.models import lenet5
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config


def source(split: str, data_dir: str):
    """Fashion-MNIST, decoded once: 60,000 training and 10,000 test images."""
    return tfds_source('fashion_mnist', split, data_dir).in_memory()


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return Config(
        model=partial(lenet5, 10, scheme=scheme),
        data=source,
        standardize=Standardize((0.2860,), (0.3530,)),
        epochs=20,
        batch_size=128,
        learning_rate=1e-2,
    )
