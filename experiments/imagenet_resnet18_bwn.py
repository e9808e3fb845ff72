"""ImageNet, ResNet-18, Binary-Weight-Network as printed: the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 12-13; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_resnet18_bwn --data_dir=FOLDER
Expected: 58 epochs, 7.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 2,866 images decoded a second.
Published: top-1 60.8%, top-5 83.0%. Obtained here: not run.
SGD 0.9 from 0.1; shortcut convolutions real, which the paper does not say. After epoch 1 the published curve is below
10%, the edge of its drawing.
"""

from bnn_jax.schemes.presets import BWN_PAPER
from bnn_jax.training.experiment import main
from experiments.imagenet import resnet18_row

ANCHORS = (
    (2, 0.2432),
    (3, 0.2924),
    (4, 0.3238),
    (5, 0.3203),
    (10, 0.3554),
    (15, 0.3375),
    (20, 0.3558),
    (25, 0.3630),
    (30, 0.3746),
    (31, 0.5273),
    (32, 0.5329),
    (35, 0.5316),
    (40, 0.5309),
    (41, 0.5825),
    (42, 0.5835),
    (45, 0.5909),
    (50, 0.5909),
    (53, 0.6087),
    (58, 0.6083),
)
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 6 (to about 0.0005)."""

if __name__ == '__main__':
    main('imagenet_resnet18_bwn', __doc__, resnet18_row(BWN_PAPER, anchors=ANCHORS))
