"""Fashion-MNIST, LeNet-5: 20 and 50 filters of 5x5, 500 hidden units, first and last layer float, except in BNN.

Network and recipe follow the PyTorch implementation of XNOR-Net for MNIST: Adam 1e-2, batch 128. Here the learning rate
falls by cosine over 20 epochs; there training takes 60 epochs, and the rate is divided by 10 after every 15 epochs.

Command: python -m experiments.fashion_mnist_lenet5 --scheme=SCHEME --data_dir=FOLDER

There is no published figure. experiments/README.md has our results.

Rows, with the test accuracy expected after 20 epochs:
- XNOR: about 90.5 %.
- XNOR_UNCENTERED: XNOR with latent weights clipped but not centered. In experiments/ablation.py this choice (`clip_only`)
  gained 3.7 points; here it is trained to the end.
- XNOR_K: XNOR with its input scale K (XNOR-Net, eq. 11). In the paper, leaving out K costs less than 1 % on AlexNet.
- BNN, BC: no expectation.
- BWN: within 0.7 points of the float row.
- FLOAT: about 92.2 %.
"""

import dataclasses
from functools import partial

from bnn_jax import BC, BNN, BWN, FLOAT, XNOR, XNOR_K
from bnn_jax.data import Standardize, data_set
from bnn_jax.models import lenet5
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.projections import clip
from bnn_jax.training import Config, Recipe, named
from bnn_jax.training.experiment import main
from experiments.shared import networks


@named('fashion_mnist.images')
def source(split: str, data_dir: str):
    """Fashion-MNIST, decoded once: 60,000 training and 10,000 test images."""
    return data_set('fashion_mnist', split, data_dir)


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return Config(
        **networks(partial(lenet5, 10), scheme),
        data=source,
        standardize=Standardize((0.2860,), (0.3530,)),
        epochs=20,
        batch_size=128,
        learning_rate=1e-2,
    )


RECIPE = Recipe(
    'fashion_mnist_lenet5',
    __doc__,
    rows={
        'XNOR': config(XNOR),
        'XNOR_UNCENTERED': config(dataclasses.replace(XNOR, projection=clip)),
        'XNOR_K': config(XNOR_K),
        'BNN': config(BNN),
        'BWN': config(BWN),
        'BC': config(BC),
        'FLOAT': config(FLOAT),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
