"""ImageNet, ResNet-18: by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 12-13; experiments/imagenet.py lists the choices that the paper leaves open. 58 epochs,
batch 256, short side of 256 to 480, rate divided by 10 after epochs 30 and 40. Shortcut convolutions are real here; the
paper does not say.

Command: python -m experiments.imagenet_resnet18 --scheme=SCHEME --data_dir=FOLDER

58 epochs should take 7.2 hours on one NVIDIA A100. This is computed, not measured, and assumes 20% of the A100's published
TF32 peak (`experiments.imagenet.hours`). The host must decode 2,866 images a second. The rows were not run here.

Published test accuracies of the rows (SGD has momentum 0.9):
- XNOR_PAPER: top-1 51.2%, top-5 73.2%. XNOR-Net as printed: Adam from 1e-3, K included. The paper does not give its block;
  here it is norm, sign, product twice within one shortcut.
- BWN_PAPER: top-1 60.8%, top-5 83.0%. Binary-Weight-Network as printed: SGD from 0.1. At the end of epoch 1 the published
  curve is below 10%, where the drawing begins.
- FLOAT: top-1 69.3%, top-5 89.2%, from the paper's table; no curve. SGD from 0.1; L2 of 1e-4, as in fb.resnet.torch.
"""

from functools import partial

from bnn_jax import FLOAT
from bnn_jax.data import flip, random_crop, resize_short_between
from bnn_jax.models import resnet18
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.presets import BWN_PAPER, XNOR_PAPER
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.imagenet import optimizer_of, row
from experiments.shared import Falls, networks

ANCHORS = {
    'XNOR_PAPER': (
        (1, 0.1045),
        (2, 0.2333),
        (3, 0.2679),
        (4, 0.3011),
        (5, 0.3045),
        (10, 0.3211),
        (15, 0.3149),
        (20, 0.3261),
        (25, 0.3023),
        (30, 0.3172),
        (31, 0.4628),
        (32, 0.4659),
        (35, 0.4692),
        (40, 0.4647),
        (41, 0.5058),
        (42, 0.5146),
        (45, 0.5079),
        (50, 0.5101),
        (53, 0.5196),
        (58, 0.5120),
    ),
    'BWN_PAPER': (
        (2, 0.2432),
        (3, 0.2924),
        (4, 0.3238),
        (5, 0.3203),
        (10, 0.3554),
        (15, 0.3375),
        (20, 0.3558),
        (25, 0.3630),
        (30, 0.3746),
        (31, 0.5273),
        (32, 0.5329),
        (35, 0.5316),
        (40, 0.5309),
        (41, 0.5825),
        (42, 0.5835),
        (45, 0.5909),
        (50, 0.5909),
        (53, 0.6087),
        (58, 0.6083),
    ),
}
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 6 (to about 0.0005)."""


def config(scheme: Scheme, anchors: tuple = ()) -> Config:
    """ResNet-18 by the paper's recipe."""
    return row(
        **networks(partial(resnet18, 1000), scheme),
        **optimizer_of(scheme, decay=1e-4),
        augmentations=(resize_short_between(256, 480), random_crop(224), flip),
        schedule=Falls(58, ((30, 0.1), (40, 0.01))),
        epochs=58,
        batch_size=256,
        anchors=anchors,
    )


RECIPE = Recipe(
    'imagenet_resnet18',
    __doc__,
    rows={
        'XNOR_PAPER': config(XNOR_PAPER, ANCHORS['XNOR_PAPER']),
        'BWN_PAPER': config(BWN_PAPER, ANCHORS['BWN_PAPER']),
        'FLOAT': config(FLOAT),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
