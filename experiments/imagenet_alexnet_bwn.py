"""ImageNet, AlexNet, Binary-Weight-Network as printed: the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 11-12; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_alexnet_bwn --data_dir=FOLDER
Expected: 16 epochs, 1.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 56.8%, top-5 79.4%; the curve ends at 53.8%, an older version's result. Obtained here: not run.
SGD 0.9 from 0.1. Others who followed the text got about 45%; the published code's recipe is imagenet_alexnet_bwn_lua.
"""

from bnn_jax.schemes.presets import BWN_PAPER
from bnn_jax.training.experiment import main
from experiments.imagenet import alexnet_row

ANCHORS = (
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
)
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 5 (to about 0.0005)."""

if __name__ == '__main__':
    main('imagenet_alexnet_bwn', __doc__, alexnet_row(BWN_PAPER, anchors=ANCHORS))
