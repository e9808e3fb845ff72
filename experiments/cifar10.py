"""What the CIFAR-10 rows share: data and recipes of four networks.

--data_dir=FOLDER holds FOLDER/cifar10, prepared by TFDS as ArrayRecord or by `python -m bnn_jax.data.prepare cifar10`.
50,000 training and 10,000 test images; no image is held back, and the last epoch's network is the one reported, where the
PyTorch implementation and IR-Net report the best epoch on the test set.

- nin: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10. Adam from 1e-2, tenfold less after epochs 120, 200, 240 and 280 of 320, batch
  128, L2 1e-5. Here images are standardised, not whitened, and cropped and flipped, as that code does not. Only
  nin_xnor_pytorch, whose gradients are multiplied by n, has L2 on latent weights; XNOR itself starts from 1e-3: at full
  width 300 steps took it to 42.8 % from there, and to chance from 1e-2 (docs/what_trains.md).
- vgg_small: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py. Adam from 1e-3, batch 50, 500 epochs, squared hinge loss,
  pixels in [-1, 1], no augmentation; the steps of latent weights are scaled by `scale_by_glorot`. Here the rate falls by
  cosine to 0, which suits runs of any length, where that code's falls exponentially to 3e-7, and all 50,000 images are
  seen, not 45,000. Its latent weights start uniform in [-1, 1], here near 0 (He), where the first steps choose the
  signs; it has biases, and normalises the logits whatever the scheme, here BNN alone does.
- resnet20: htqin/IR-Net, CIFAR-10. SGD with momentum 0.9 from 0.1, cosine to 0 over 400 epochs, batch 128, L2 1e-4 (not on
  latent weights, as in Bi-Real Net's code), crop and flip. Here with a shortcut round every binary convolution and real 1x1
  convolutions where the shape changes, and CIFAR-10's own mean and deviation, not ImageNet's. IR-Net itself (balanced
  weights, a gradient that sharpens) is not here.
- resnet18: the same recipe; for ResNet-18 that repository has the network only.
A reduced run is the same command with a smaller --width and fewer --epochs; rates fall at the same shares of it.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import optax
from flax import nnx

from bnn_jax.data import ArraySource, PlusMinusOne, Standardize, crop, flip, tfds_source
from bnn_jax.models import nin, resnet18, resnet20, small_stem, vgg_small
from bnn_jax.optim.glorot import scale_by_glorot
from bnn_jax.schemes import XNOR, Scheme, residuals_norm_before
from bnn_jax.training import Config, SquaredHinge, by_kind, latent_weights
from experiments.imagenet import Falls, adam, l2_except_latent, sgd

STANDARD = Standardize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and deviation of the training images' channels."""


def source(split: str, data_dir: str) -> ArraySource:
    """CIFAR-10, decoded once."""
    return tfds_source('cifar10', split, data_dir).in_memory()


row = partial(Config, data=source, standardize=STANDARD, augmentations=(crop(4), flip))
"""A Config on CIFAR-10, images padded by 4 and cropped, and flipped."""


def l2_then(
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation], decay: float, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """L2 of every parameter but latent weights, added to the gradient, then the optimizer."""
    return optax.chain(l2_except_latent(decay), optimizer(schedule))


adam_with_l2 = partial(l2_then, adam, 1e-5)


def nin_row(
    scheme: Scheme,
    deployed: Scheme | None = None,
    *,
    optimizer: Callable = adam_with_l2,
    learning_rate: float = 1e-2,
) -> Config:
    """Network in network by the PyTorch implementation's recipe. deployed: the scheme converted, where it is another one."""
    return row(
        model=partial(nin, 10, scheme=scheme),
        deployed=deployed and partial(nin, 10, scheme=deployed),
        optimizer=optimizer,
        schedule=Falls(320, ((120, 1e-1), (200, 1e-2), (240, 1e-3), (280, 1e-4))),
        epochs=320,
        batch_size=128,
        learning_rate=learning_rate,
    )


def others(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """All parameters but latent weights."""
    return not latent_weights(path, variable, params)


def binary_adam(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam, the steps of latent weights scaled by `scale_by_glorot`."""
    return by_kind({latent_weights: optax.chain(optax.adam(schedule), scale_by_glorot()), others: optax.adam(schedule)})


def vgg_small_row(scheme: Scheme, optimizer: Callable = binary_adam) -> Config:
    """BinaryNet's network by its recipe."""
    return row(
        model=partial(vgg_small, 10, scheme=scheme),
        standardize=PlusMinusOne(),
        augmentations=(),
        optimizer=optimizer,
        loss=SquaredHinge,
        epochs=500,
        batch_size=50,
        learning_rate=1e-3,
    )


XNOR_SHORTCUTS = dataclasses.replace(XNOR, residual=residuals_norm_before)
"""XNOR-Net with a shortcut round every binary convolution."""


def _resnet_row(model: Callable) -> Config:
    return row(
        model=model,
        optimizer=partial(l2_then, sgd, 1e-4),
        epochs=400,
        batch_size=128,
        learning_rate=0.1,
    )


def resnet20_row(scheme: Scheme) -> Config:
    """ResNet-20 by IR-Net's recipe."""
    return _resnet_row(partial(resnet20, 10, scheme=scheme))


def resnet18_row(scheme: Scheme) -> Config:
    """ResNet-18 with a 3x3 stem by IR-Net's recipe."""
    return _resnet_row(partial(resnet18, 10, scheme=scheme, stem=small_stem, input_shape=(32, 32, 3)))
