"""ImageNet, ResNet-18, XNOR-Net as printed: the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 12-13; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_resnet18_xnor --data_dir=FOLDER
Expected: 58 epochs, 7.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 2,866 images decoded a second.
Published: top-1 51.2%, top-5 73.2%. Obtained here: not run.
Adam from 1e-3, K included; the paper does not give its block: here norm, sign, product twice within one shortcut,
shortcut convolutions real.
"""

from bnn_jax.schemes.presets import XNOR_PAPER
from bnn_jax.training.experiment import main
from experiments.imagenet import adam, resnet18_row

ANCHORS = (
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
)
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 6 (to about 0.0005)."""

if __name__ == '__main__':
    main(
        'imagenet_resnet18_xnor', __doc__, resnet18_row(XNOR_PAPER, optimizer=adam, learning_rate=1e-3, anchors=ANCHORS)
    )
