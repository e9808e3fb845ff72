"""ImageNet, AlexNet: by the paper's recipe, and as published codes train it.

Source: XNOR-Net, arXiv:1603.05279v4, p. 11-12; experiments/imagenet.py lists the choices that the paper leaves open. 16 epochs,
batch 512, rate divided by 10 every 4 epochs. XNOR_LUA and BWN_LUA follow allenai/XNOR-Net, Lua (train.lua, opts.lua,
README). XNOR_PYTORCH_IMAGENET follows jiecaoyu/XNOR-Net-PyTorch, ImageNet/networks (main.py, README).

Command: python -m experiments.imagenet_alexnet --scheme=SCHEME --data_dir=FOLDER

16 epochs should take 1.2 hours on one NVIDIA A100. This is computed, not measured, and assumes 20% of the A100's published
TF32 peak (`experiments.imagenet.hours`). The host must decode 4,580 images a second. The rows were not run here.

Published test accuracies of the rows (SGD has momentum 0.9):
- XNOR_PAPER: top-1 44.2%, top-5 69.2% (the curve is at 45.9% after epoch 10). XNOR-Net as printed: Adam from 1e-3, K
  included.
- BNN: top-1 27.9%, top-5 50.42%; the test curve ends at 25.4%, the training curve at 27.9%. Adam from 1e-3. The paper does
  not give its block; here BinaryNet's own order: product, pool, norm, sign, all layers binary. At the end of epoch 1 the
  published curve is below 10%, where the drawing begins.
- BWN_PAPER: top-1 56.8%, top-5 79.4%; the curve ends at 53.8%, the result of an older version. Binary-Weight-Network as
  printed: SGD from 0.1. Others who followed the text got about 45%; the recipe of the published code is BWN_LUA.
- BC: top-1 35.4%, top-5 61.0%. SGD from 0.1. At the end of epoch 1 the published curve is below 10%, where the drawing begins.
- FLOAT: top-1 56.6%, top-5 80.2%; no curve. SGD from 0.1; L2 of 5e-4, as in the published Lua code.
- XNOR_LUA: top-1 43.3% (the pretrained network). 52 epochs, 4.0 hours. Adam from 1e-3, batch 800 (there on four GPUs), all
  gradients times 10^9, L2 5e-4 until 29/55 of the run. The code's 55 "epochs" are of 1,500 batches each, 51.5 times all
  images. Here the run has 52 epochs, and the rate falls at the same fractions of it.
- BWN_LUA: top-1 56.8% (the pretrained network). 55 epochs, 4.3 hours. SGD from 1e-2, batch 128, L2 5e-4 until epoch 29.
  The code's 55 "epochs" are of 2,500 batches by default, a quarter of the images. Its author advises 10,000 batches, all
  images, as chosen here.
- XNOR_PYTORCH_IMAGENET: top-1 44.87%, top-5 69.70%. 100 epochs, 7.8 hours. Adam from 1e-3, divided by 10 every 30 epochs,
  batch 256, L2 1e-5. Images are scaled to 256 x 256 whatever their shape, crops have 227 x 227 pixels, the first
  convolution has no padding, and pixels are 0..255 minus the mean. Images in another range give an accuracy of a few
  percent.

The Lua rows differ from the code in two more ways. Here every image is used once an epoch; the code draws classes, then
images, with replacement. Mean and deviation are ImageNet's; the code estimates them from 10,000 images.

The rows of published codes train with sign(0) = 0 and are converted with sign(0) = +1 (`presets.deployable`).
"""

from functools import partial

import jax.numpy as jnp
import optax

from bnn_jax import BC, BNN, FLOAT
from bnn_jax.data import SubtractMean, center_crop, flip, random_crop, resize_to
from bnn_jax.models import alexnet
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.presets import BWN_LUA, BWN_PAPER, XNOR_LUA, XNOR_PAPER, XNOR_PYTORCH_IMAGENET
from bnn_jax.training import Config, Recipe, named
from bnn_jax.training.experiment import main
from experiments.imagenet import optimizer_of, row
from experiments.shared import Falls, adam, networks, sgd

ANCHORS = {
    'XNOR_PAPER': (
        (1, 0.2009),
        (2, 0.2665),
        (3, 0.3132),
        (4, 0.3297),
        (5, 0.4158),
        (6, 0.4446),
        (7, 0.4345),
        (8, 0.4277),
        (9, 0.4546),
        (10, 0.4591),
        (11, 0.4517),
        (12, 0.4506),
        (13, 0.4437),
        (14, 0.4471),
        (15, 0.4432),
        (16, 0.4420),
    ),
    'BNN': (
        (2, 0.1220),
        (3, 0.1436),
        (4, 0.1707),
        (5, 0.1956),
        (6, 0.2275),
        (7, 0.2333),
        (8, 0.2354),
        (9, 0.2426),
        (10, 0.2426),
        (11, 0.2518),
        (12, 0.2529),
        (13, 0.2508),
        (14, 0.2545),
        (15, 0.2532),
        (16, 0.2543),
    ),
    'BWN_PAPER': (
        (1, 0.2730),
        (2, 0.3476),
        (3, 0.3624),
        (4, 0.3878),
        (5, 0.4929),
        (6, 0.5017),
        (7, 0.5038),
        (8, 0.5063),
        (9, 0.5298),
        (10, 0.5298),
        (11, 0.5321),
        (12, 0.5325),
        (13, 0.5377),
        (14, 0.5394),
        (15, 0.5377),
        (16, 0.5382),
    ),
    'BC': (
        (2, 0.1154),
        (3, 0.1597),
        (4, 0.1965),
        (5, 0.2279),
        (6, 0.2932),
        (7, 0.3060),
        (8, 0.3133),
        (9, 0.3186),
        (10, 0.3237),
        (11, 0.3419),
        (12, 0.3460),
        (13, 0.3466),
        (14, 0.3473),
        (15, 0.3487),
        (16, 0.3539),
    ),
}
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 5 (to about 0.0005)."""


def config(scheme: Scheme, anchors: tuple = ()) -> Config:
    """AlexNet by the paper's recipe."""
    return row(
        **networks(partial(alexnet, 1000), scheme),
        **optimizer_of(scheme, decay=5e-4),
        schedule=Falls(16, ((4, 0.1), (8, 0.01), (12, 0.001))),
        epochs=16,
        batch_size=512,
        anchors=anchors,
    )


def lua_decay(schedule: optax.Schedule) -> optax.GradientTransformation:
    """The Lua code's L2: 5e-4 during the first two learning rates (1 and 1/2 of the largest), then none."""
    largest = jnp.asarray(schedule(0))
    return optax.add_decayed_weights(lambda count: jnp.where(jnp.asarray(schedule(count)) > 0.3 * largest, 5e-4, 0.0))


@named('imagenet.lua_sgd')
def lua_sgd(schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum 0.9 on gradient and L2."""
    return optax.chain(lua_decay(schedule), sgd(schedule))


@named('imagenet.lua_adam')
def lua_adam(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam on the sum of 10^9 times the gradient and L2. The factor makes L2 negligible."""
    return optax.chain(optax.scale(1e9), lua_decay(schedule), optax.adam(schedule))


LUA_FALLS = Falls(55, ((18, 0.5), (29, 0.1), (43, 0.05), (52, 0.01)))
"""The Lua code's falls, both of BWN (from 1e-2) and of XNOR (from 1e-3)."""

lua_row = partial(row, schedule=LUA_FALLS)

RECIPE = Recipe(
    'imagenet_alexnet',
    __doc__,
    rows={
        'XNOR_PAPER': config(XNOR_PAPER, ANCHORS['XNOR_PAPER']),
        'BNN': config(BNN, ANCHORS['BNN']),
        'BWN_PAPER': config(BWN_PAPER, ANCHORS['BWN_PAPER']),
        'BC': config(BC, ANCHORS['BC']),
        'FLOAT': config(FLOAT),
        'XNOR_LUA': lua_row(
            **networks(partial(alexnet, 1000), XNOR_LUA),
            optimizer=lua_adam,
            epochs=52,
            batch_size=800,
            learning_rate=1e-3,
        ),
        'BWN_LUA': lua_row(
            **networks(partial(alexnet, 1000), BWN_LUA),
            optimizer=lua_sgd,
            epochs=55,
            batch_size=128,
            learning_rate=1e-2,
        ),
        'XNOR_PYTORCH_IMAGENET': row(
            **networks(partial(alexnet, 1000, input_shape=(227, 227, 3), padding=0), XNOR_PYTORCH_IMAGENET),
            standardize=SubtractMean(),
            augmentations=(resize_to(256, 256), random_crop(227), flip),
            evaluation_augmentations=(resize_to(256, 256), center_crop(227)),
            optimizer=partial(adam, decay=1e-5),
            schedule=Falls(100, ((30, 0.1), (60, 0.01), (90, 0.001))),
            epochs=100,
            batch_size=256,
            learning_rate=1e-3,
        ),
    },
    other=config,
)

if __name__ == '__main__':
    main(RECIPE)
