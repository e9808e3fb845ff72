"""ImageNet, AlexNet, BinaryNet: by the paper's recipe.

Source: XNOR-Net, arXiv:1603.05279v4, p. 11-12; choices it leaves open: experiments/imagenet.py.
Command: python -m experiments.imagenet_alexnet_bnn --data_dir=FOLDER
Expected: 16 epochs, 1.2 hours on one NVIDIA A100, computed, not measured: 20% of its published TF32 peak
(`experiments.imagenet.hours`), with 4,580 images decoded a second.
Published: top-1 27.9%, top-5 50.42%; the test curve ends at 25.4%, the training curve at 27.9%. Obtained here: not run.
Adam from 1e-3. The paper does not give its block; here BinaryNet's own order: product, pool, norm, sign, all layers
binary. After epoch 1 the published curve is below 10%, the edge of its drawing.
"""

from bnn_jax import BNN
from bnn_jax.training.experiment import main
from experiments.imagenet import adam, alexnet_row

ANCHORS = (
    (2, 0.1220),
    (3, 0.1436),
    (4, 0.1707),
    (5, 0.1956),
    (6, 0.2275),
    (7, 0.2333),
    (8, 0.2354),
    (9, 0.2426),
    (10, 0.2426),
    (11, 0.2518),
    (12, 0.2529),
    (13, 0.2508),
    (14, 0.2545),
    (15, 0.2532),
    (16, 0.2543),
)
"""Published test top-1 after an epoch, read from the drawing of the paper's Fig. 5 (to about 0.0005)."""

if __name__ == '__main__':
    main('imagenet_alexnet_bnn', __doc__, alexnet_row(BNN, optimizer=adam, learning_rate=1e-3, anchors=ANCHORS))
