"""ImageNet, AlexNet, Binary-Weight-Network as the published Lua code trains it.

Source: allenai/XNOR-Net, Lua (train.lua, opts.lua, README).
Command: python -m experiments.imagenet_alexnet_bwn_lua --data_dir=FOLDER
Expected: 55 epochs, 4.3 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 56.8% (the pretrained network). Obtained here: not run.
SGD 0.9 from 1e-2, batch 128, L2 5e-4 until epoch 29. The code's 55 "epochs" are of 2,500 batches by default, a quarter of
the images; its author advises 10,000, all of them, which is chosen here.
Differs, beside the preset: every image once an epoch, where the code draws classes, then images, with replacement; mean
and deviation are ImageNet's, the code's those of 10,000 images.
sign(0) = 0 while training; converted with sign(0) = +1 (`presets.deployable`).
"""

from functools import partial

import optax

from bnn_jax.models import alexnet
from bnn_jax.schemes.presets import BWN_LUA, deployable
from bnn_jax.training.experiment import main
from experiments.imagenet import LUA_FALLS, lua_decay, row, sgd


def optimizer(schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum 0.9 on gradient and L2."""
    return optax.chain(lua_decay(schedule), sgd(schedule))


CONFIG = row(
    model=partial(alexnet, 1000, scheme=BWN_LUA),
    deployed=partial(alexnet, 1000, scheme=deployable(BWN_LUA)),
    optimizer=optimizer,
    schedule=LUA_FALLS,
    epochs=55,
    batch_size=128,
    learning_rate=1e-2,
)

if __name__ == '__main__':
    main('imagenet_alexnet_bwn_lua', __doc__, CONFIG)
