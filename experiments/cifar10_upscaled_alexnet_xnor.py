"""CIFAR-10's photographs enlarged from 32 x 32 to 256 x 256, AlexNet at a fraction of its width, XNOR-Net as printed.

The ImageNet row imagenet_alexnet_xnor in small, where no ImageNet is at hand: the same network at 224 x 224, preset,
augmentations, normalisation, Adam from 1e-3 with the rate falling tenfold by steps. Reduced: 10 classes, the first 10,000
photographs (2,000 of the test set), a sixteenth of the filters, batch 50, 2 epochs, one fall, after the first. The photographs
are real, their detail is that of 32 x 32.
Command: python -m experiments.cifar10_upscaled_alexnet_xnor --data_dir=FOLDER
No published figure to compare with. Obtained: 33.35 % from bits as in training; experiments/README.md.
"""

from functools import partial

from bnn_jax.data import ArraySource, tfds_source
from bnn_jax.models import alexnet
from bnn_jax.schemes.presets import XNOR_PAPER
from bnn_jax.training.experiment import main
from experiments.imagenet import Falls, adam, row

FIRST = {'train': 'train[:10000]', 'test': 'test[:2000]'}


def source(split: str, data_dir: str) -> ArraySource:
    """The first images of CIFAR-10's split, decoded once; enlarged when read, by the row's augmentations."""
    return tfds_source('cifar10', FIRST[split], data_dir).in_memory()


CONFIG = row(
    model=partial(alexnet, 10, scheme=XNOR_PAPER),
    data=source,
    optimizer=adam,
    schedule=Falls(2, ((1, 0.1),)),
    epochs=2,
    batch_size=50,
    learning_rate=1e-3,
    width=0.0625,
    workers=0,
)

if __name__ == '__main__':
    main('cifar10_upscaled_alexnet_xnor', __doc__, CONFIG)
