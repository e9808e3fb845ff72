"""Handwritten digits (8x8, from scikit-learn), VGG-small at a quarter of its width.

BinaryNet's VGG-small at a quarter of its width on 8x8 images; Adam with cosine decay to 0, batch 64, 30 epochs. Binary
networks need a larger learning rate (1e-2) than the float network (1e-3), because their latent weights have to cross 0.

Command: python -m experiments.digits_vgg_small --scheme=SCHEME

There is no published figure. experiments/README.md has our results.
"""

from functools import partial

from bnn_jax import BC, BNN, BWN, FLOAT, XNOR
from bnn_jax.data import Standardize, digits
from bnn_jax.models import vgg_small
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config, Recipe, named
from bnn_jax.training.experiment import main
from experiments.shared import networks


@named('digits.images')
def source(split: str, data_dir: str):
    """The digits; they need no folder."""
    return digits(split)


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return Config(
        **networks(partial(vgg_small, 10, input_shape=(8, 8, 1)), scheme),
        data=source,
        standardize=Standardize((0.305,), (0.376,)),
        epochs=30,
        batch_size=64,
        learning_rate=1e-3 if scheme == FLOAT else 1e-2,
        width=0.25,
    )


RECIPE = Recipe(
    'digits_vgg_small',
    __doc__,
    rows={'XNOR': config(XNOR), 'BNN': config(BNN), 'BWN': config(BWN), 'BC': config(BC), 'FLOAT': config(FLOAT)},
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
