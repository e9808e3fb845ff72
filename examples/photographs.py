"""From a folder of photographs of any size, FOLDER/<class>/*.jpg, to a packed network that predicts their classes:

python -m examples.photographs FOLDER && bnn-jax predict runs/photographs/packed.safetensors FOLDER
"""

import sys
from functools import partial

import bnn_jax as bnn
from bnn_jax.data import PlusMinusOne, Splits, flip, folder_source
from bnn_jax.training import Config, run


def main(folder: str, workdir: str = 'runs/photographs', epochs: int = 10, size: int = 64) -> dict:
    """Train a small network. One fifth of the photographs are test images."""
    photographs = folder_source(folder, '')
    config = Config(
        model=partial(bnn.models.lenet5, len(photographs.classes), scheme=bnn.XNOR, input_shape=(size, size, 3)),
        data=Splits.held_out(photographs),
        standardize=PlusMinusOne(),
        augmentations=(flip,),  # No augmentation resizes, so images are first resized to input_shape.
        epochs=epochs,
        batch_size=8,
        learning_rate=1e-2,
        width=0.5,
        workdir=workdir,
    )
    return run('photographs', config)


if __name__ == '__main__':
    print(main(sys.argv[1])['packed_test_accuracy'])
