"""ImageNet, GoogLeNet variant (Darknet's Extraction): by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 13; experiments/imagenet.py lists the choices that the paper leaves open. 80 epochs,
batch 128, short side of 256 to 320, polynomial rate. The paper names no optimizer; here it is Darknet's: SGD from 0.1 with
momentum 0.9.

Command: python -m experiments.imagenet_extraction --scheme=SCHEME --data_dir=FOLDER

80 epochs should take 23.3 hours on one NVIDIA A100. This is computed, not measured, and assumes 20% of the A100's published
TF32 peak (`experiments.imagenet.hours`). The host must decode 1,220 images a second. The rows were not run here.

Published test accuracies of the rows:
- BWN_PAPER: top-1 65.5%, top-5 86.1%; no curve. Binary-Weight-Network as printed.
- FLOAT: top-1 71.3%, top-5 90.0%; no curve. L2 of 5e-4, as in Darknet.
"""

from functools import partial

import optax

from bnn_jax import FLOAT
from bnn_jax.data import flip, random_crop, resize_short_between
from bnn_jax.models import extraction
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.presets import BWN_PAPER
from bnn_jax.training import Config, Recipe, named
from bnn_jax.training.experiment import main
from experiments.imagenet import optimizer_of, row
from experiments.shared import networks


@named('imagenet.polynomial')
def polynomial(learning_rate: float, steps: int) -> optax.Schedule:
    """learning_rate (1 - step / steps)^4."""
    return optax.polynomial_schedule(learning_rate, 0.0, power=4, transition_steps=steps)


def config(scheme: Scheme) -> Config:
    """Extraction by the paper's recipe."""
    return row(
        **networks(partial(extraction, 1000), scheme),
        **optimizer_of(scheme, decay=5e-4),
        augmentations=(resize_short_between(256, 320), random_crop(224), flip),
        schedule=polynomial,
        epochs=80,
        batch_size=128,
    )


RECIPE = Recipe(
    'imagenet_extraction',
    __doc__,
    rows={'BWN_PAPER': config(BWN_PAPER), 'FLOAT': config(FLOAT)},
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
