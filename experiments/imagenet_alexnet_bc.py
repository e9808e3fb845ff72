"""ImageNet, AlexNet, BinaryConnect: by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 11-12; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_alexnet_bc --data_dir=FOLDER
Expected: 16 epochs, 1.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 35.4%, top-5 61.0%. Obtained here: not run.
SGD 0.9 from 0.1. After epoch 1 the published curve is below 10%, the edge of its drawing.
"""

from bnn_jax import BC
from bnn_jax.training.experiment import main
from experiments.imagenet import alexnet_row

ANCHORS = (
    (2, 0.1154),
    (3, 0.1597),
    (4, 0.1965),
    (5, 0.2279),
    (6, 0.2932),
    (7, 0.3060),
    (8, 0.3133),
    (9, 0.3186),
    (10, 0.3237),
    (11, 0.3419),
    (12, 0.3460),
    (13, 0.3466),
    (14, 0.3473),
    (15, 0.3487),
    (16, 0.3539),
)
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 5 (to about 0.0005)."""

if __name__ == '__main__':
    main('imagenet_alexnet_bc', __doc__, alexnet_row(BC, anchors=ANCHORS))
