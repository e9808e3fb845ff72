"""From two NumPy arrays to a trained, packed, saved network with curves: python -m examples.arrays"""

from functools import partial

import numpy as np

import bnn_jax as bnn
from bnn_jax.data import ArraySource, PlusMinusOne, Splits
from bnn_jax.training import Config, run


def main(workdir: str = 'runs/arrays', epochs: int = 4) -> dict:
    """Train on images in which the position of a bright line is the class. Returns the results."""
    labels = np.arange(400) % 10
    images = np.random.default_rng(0).integers(0, 60, (400, 16, 16, 3), dtype=np.uint8)
    images[np.arange(400), labels, :, 0] += 150

    config = Config(
        model=partial(bnn.models.lenet5, 10, scheme=bnn.XNOR, input_shape=(16, 16, 3)),
        data=Splits.held_out(ArraySource(images, labels)),
        standardize=PlusMinusOne(),
        epochs=epochs,
        batch_size=40,
        learning_rate=1e-2,
        width=0.4,
        workdir=workdir,
    )
    return run('arrays', config)  # workdir/packed.safetensors, curves.png, results.json


if __name__ == '__main__':
    print(main()['packed_test_accuracy'])
