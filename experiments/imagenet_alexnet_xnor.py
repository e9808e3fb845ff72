"""ImageNet, AlexNet, XNOR-Net as printed: the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 11-12; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_alexnet_xnor --data_dir=FOLDER
Expected: 16 epochs, 1.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 44.2%, top-5 69.2% (the curve is at 45.9% after epoch 10). Obtained here: not run.
Adam from 1e-3, K included. The published codes' recipes: imagenet_alexnet_xnor_lua, imagenet_alexnet_xnor_pytorch.
"""

from bnn_jax.schemes.presets import XNOR_PAPER
from bnn_jax.training.experiment import main
from experiments.imagenet import adam, alexnet_row

ANCHORS = (
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
)
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 5 (to about 0.0005)."""

if __name__ == '__main__':
    main('imagenet_alexnet_xnor', __doc__, alexnet_row(XNOR_PAPER, optimizer=adam, learning_rate=1e-3, anchors=ANCHORS))
