"""ImageNet, AlexNet, XNOR-Net as the published Lua code trains it.

Source: allenai/XNOR-Net, Lua (train.lua, opts.lua, README).
Command: python -m experiments.imagenet_alexnet_xnor_lua --data_dir=FOLDER
Expected: 52 epochs, 4.0 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 43.3% (the pretrained network). Obtained here: not run.
Adam from 1e-3, batch 800 (there on four GPUs), all gradients times 10^9, L2 5e-4 until 29/55 of the run. The code's 55
"epochs" are of 1,500 batches, 51.5 times all images: here 52 epochs, with its falls at the same shares of the run.
Differs, beside the preset: every image once an epoch, where the code draws classes, then images, with replacement; mean
and deviation are ImageNet's, the code's those of 10,000 images.
sign(0) = 0 while training; converted with sign(0) = +1 (`presets.deployable`).
"""

from functools import partial

import optax

from bnn_jax.models import alexnet
from bnn_jax.schemes.presets import XNOR_LUA, deployable
from bnn_jax.training.experiment import main
from experiments.imagenet import LUA_FALLS, lua_decay, row


def optimizer(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam on 10^9 times the gradient, and L2, which that leaves without effect."""
    return optax.chain(optax.scale(1e9), lua_decay(schedule), optax.adam(schedule))


CONFIG = row(
    model=partial(alexnet, 1000, scheme=XNOR_LUA),
    deployed=partial(alexnet, 1000, scheme=deployable(XNOR_LUA)),
    optimizer=optimizer,
    schedule=LUA_FALLS,
    epochs=52,
    batch_size=800,
    learning_rate=1e-3,
)

if __name__ == '__main__':
    main('imagenet_alexnet_xnor_lua', __doc__, CONFIG)
