"""CIFAR-10's photographs enlarged from 32 x 32 to 256 x 256, AlexNet at a sixteenth of its width.

A small version of the ImageNet row `imagenet_alexnet --scheme=XNOR_PAPER`, for use without ImageNet.

The same: the network at 224 x 224, preset, augmentations, normalization, Adam from 1e-3 with a rate that is divided by 10
in steps.

Smaller: 10 classes, the first 10,000 training and 2,000 test photographs, a sixteenth of the filters, batch 50, 2 epochs;
the rate falls once, after the first. The photographs are real, but have only the detail of 32 x 32 pixels.

Command: python -m experiments.cifar10_upscaled_alexnet --scheme=SCHEME --data_dir=FOLDER

There is no published figure. Here XNOR_PAPER reached 33.35 %, from bits and in training arithmetic alike:
experiments/README.md.
"""

from functools import partial

from bnn_jax.data import ArraySource, tfds_source
from bnn_jax.models import alexnet
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.presets import XNOR_PAPER
from bnn_jax.training import Config, Recipe, named
from bnn_jax.training.experiment import main
from experiments.imagenet import optimizer_of, row
from experiments.shared import Falls, networks

FIRST = {'train': 'train[:10000]', 'test': 'test[:2000]'}


@named('cifar10.first_images')
def source(split: str, data_dir: str) -> ArraySource:
    """The first images of CIFAR-10's split, decoded once; enlarged when read, by the row's augmentations."""
    return tfds_source('cifar10', FIRST[split], data_dir).in_memory()


def config(scheme: Scheme) -> Config:
    """The row of one scheme."""
    return row(
        **networks(partial(alexnet, 10), scheme),
        **optimizer_of(scheme),
        data=source,
        schedule=Falls(2, ((1, 0.1),)),
        epochs=2,
        batch_size=50,
        width=0.0625,
        workers=0,
    )


RECIPE = Recipe('cifar10_upscaled_alexnet', __doc__, rows={'XNOR_PAPER': config(XNOR_PAPER)}, other=config)

if __name__ == '__main__':
    main(RECIPE)
