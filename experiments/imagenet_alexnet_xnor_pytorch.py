"""ImageNet, AlexNet, XNOR-Net as the PyTorch implementation trains it.

Source: jiecaoyu/XNOR-Net-PyTorch, ImageNet/networks (main.py, README).
Command: python -m experiments.imagenet_alexnet_xnor_pytorch --data_dir=FOLDER
Expected: 100 epochs, 7.8 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 44.87%, top-5 69.70%. Obtained here: not run.
Adam from 1e-3, tenfold less every 30 epochs, batch 256, L2 1e-5. Images scaled to 256 x 256 whatever their shape, crops
of 227, first convolution without padding, 0..255 less the mean: images in another range give a few per cent.
sign(0) = 0 while training; converted with sign(0) = +1 (`presets.deployable`).
"""

from functools import partial

from bnn_jax.data import SubtractMean, centre_crop, flip, random_crop, resize_to
from bnn_jax.models import alexnet
from bnn_jax.schemes.presets import XNOR_PYTORCH_IMAGENET, deployable
from bnn_jax.training.experiment import main
from experiments.imagenet import Falls, adam, row

network = partial(alexnet, 1000, input_shape=(227, 227, 3), padding=0)

CONFIG = row(
    model=partial(network, scheme=XNOR_PYTORCH_IMAGENET),
    deployed=partial(network, scheme=deployable(XNOR_PYTORCH_IMAGENET)),
    standardize=SubtractMean(),
    augmentations=(resize_to(256, 256), random_crop(227), flip),
    evaluation_augmentations=(resize_to(256, 256), centre_crop(227)),
    optimizer=partial(adam, decay=1e-5),
    schedule=Falls(100, ((30, 0.1), (60, 0.01), (90, 0.001))),
    epochs=100,
    batch_size=256,
    learning_rate=1e-3,
)

if __name__ == '__main__':
    main('imagenet_alexnet_xnor_pytorch', __doc__, CONFIG)
