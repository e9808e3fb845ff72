"""What the CIFAR-10 recipes share: data, and how the recipes differ from their sources.

--data_dir=FOLDER holds FOLDER/cifar10, prepared by TFDS as ArrayRecord, or the unpacked binary or python version of the
authors. There are 50,000 training and 10,000 test images; none is held back. A run reports the network of the last epoch.
XNOR-Net-PyTorch and ReCU report the best epoch on the test set, and IR-Net's code keeps the network of that epoch.

Recipes, their sources, and where they differ:
- nin: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10. Adam from 1e-2, divided by 10 after epochs 120, 200, 240 and 280 of 320; batch
  128, L2 1e-5. Here images are standardized, cropped and flipped; that code whitens them and neither crops nor
  flips. Only
  XNOR_PYTORCH_CIFAR, whose gradients are multiplied by n, has L2 on latent weights. XNOR itself starts from 1e-3:
  docs/what_trains.md has the short runs at other rates.
- vgg_small: MatthieuCourbariaux/BinaryNet, Train-time/cifar10.py. Adam from 1e-3, batch 50, 500 epochs, squared hinge loss,
  pixels in [-1, 1], no augmentation; the steps of latent weights are scaled by `scale_by_glorot`. Here the rate falls by
  cosine to 0, which suits runs of any length; in that code it falls exponentially to 3e-7. Here training uses all 50,000
  images, there 45,000. Here latent weights start near 0 (He), where the first steps choose the signs; there they start
  uniform in [-1, 1]. That code has biases in all layers and normalizes the logits under every scheme. Here
  only real last layers have a bias, and only BNN normalizes the logits.
- vgg_small_one_dense: the network that most papers call VGG-small, with one dense layer, trained as IR-Net and ReCU do.
- resnet20: htqin/IR-Net, CIFAR-10. SGD with momentum 0.9 from 0.1, cosine to 0 over 400 epochs, batch 128, crop and flip;
  L2 1e-4, not on latent weights, as in Bi-Real Net's code (BIREAL_L2: 5e-4, on latent weights too). As there, a shortcut
  spans every binary convolution. Here real 1x1 convolutions change the shape, no hard tanh follows the sums, and mean and
  deviation are CIFAR-10's, not ImageNet's.
- resnet18: the same recipe. For ResNet-18, that repository has the network but no recipe.
- IRNET, in every recipe that has this row: htqin/IR-Net as in its code, with L2 on latent weights, parameter-free
  shortcuts, hard tanh and ImageNet's mean and deviation. ResNet-20: 400 epochs from 0.1, t from 0.001. VGG-small: 300
  epochs from 0.007, t from 0.1. Both: SGD with momentum 0.9, cosine to 0, batch 128, L2 1e-4.
- RECU, in every recipe that has this row: z-hXu/ReCU as in its code. For all its networks: SGD with momentum 0.9, a rate
  that rises from 0.02 to 0.1 in 4 epochs and then falls by cosine to 0, 600 epochs, batch 256, L2 5e-4 on everything,
  latent weights and trained scales too, and ImageNet's mean and deviation.

In the codes of IR-Net and ReCU, rates, t and tau change once an epoch; here they change in every step. A dense head's bias
starts at 0 here. VGG-small's dense head starts from He's weights; in those codes it starts from N(0, 0.01²).

For a shorter run, use the same command with a smaller --width and fewer --epochs. The rates fall at the same fractions of
the run.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from bnn_jax.data import ArraySource, Standardize, crop, data_set, flip
from bnn_jax.schemes import (
    Scheme,
    residual_norm_after,
    residual_norm_before,
    residual_sign_after,
    residuals_norm_after,
    residuals_norm_before,
    residuals_sign_after,
)
from bnn_jax.training import Config, named
from experiments import print_help
from experiments.shared import WarmUp, l2_then, networks, sgd

STANDARD = Standardize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and deviation of the training images' channels."""


IMAGENET = Standardize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The means and deviations with which IR-Net's and ReCU's codes standardize CIFAR-10."""


@named('cifar10.images')
def source(split: str, data_dir: str) -> ArraySource:
    """CIFAR-10, decoded once."""
    return data_set('cifar10', split, data_dir)


row = partial(Config, data=source, standardize=STANDARD, augmentations=(crop(4), flip))
"""A Config on CIFAR-10, images padded by 4 and cropped, and flipped."""


def ir_net_row(model: Callable, scheme: Scheme, *, epochs: int, learning_rate: float) -> Config:
    """A network by the recipe of IR-Net's own code."""
    return row(
        **networks(model, scheme),
        standardize=IMAGENET,
        optimizer=partial(sgd, decay=1e-4),
        epochs=epochs,
        batch_size=128,
        learning_rate=learning_rate,
    )


def recu_row(model: Callable, scheme: Scheme) -> Config:
    """A network by the recipe of ReCU's own code."""
    return row(
        **networks(model, scheme),
        standardize=IMAGENET,
        optimizer=partial(sgd, decay=5e-4),
        schedule=WarmUp(600, 4),
        epochs=600,
        batch_size=256,
        learning_rate=0.1,
    )


def with_shortcuts(scheme: Scheme) -> Scheme:
    """The scheme with a shortcut round every binary convolution; itself if no activation is binary."""
    if scheme.activation is None:
        return scheme
    around_each: dict[Callable, Callable] = {
        residual_norm_after: residuals_norm_after,
        residual_norm_before: residuals_norm_before,
        residual_sign_after: residuals_sign_after,
    }
    return dataclasses.replace(scheme, residual=around_each.get(scheme.residual, scheme.residual))


def resnet_row(model: Callable, scheme: Scheme) -> Config:
    """A ResNet by IR-Net's recipe, with a shortcut round every binary convolution."""
    return row(
        **networks(model, with_shortcuts(scheme)),
        optimizer=partial(l2_then, sgd, 1e-4),
        epochs=400,
        batch_size=128,
        learning_rate=0.1,
    )


if __name__ == '__main__':
    print_help(__doc__)
