"""CIFAR-10, network in network.

Source: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10 (main.py, README). experiments/cifar10.py lists the differences.

Command: python -m experiments.cifar10_nin --scheme=SCHEME --data_dir=FOLDER

The published recipe takes 320 epochs. experiments/README.md has our results.

Published test accuracies of the rows:
- XNOR: 86.28%, by the PyTorch implementation, whose arithmetic is that of XNOR_PYTORCH_CIFAR.
- XNOR_PYTORCH_CIFAR: 86.28%, by the PyTorch implementation. The row trains with sign(0) = 0 and is converted with
  sign(0) = +1 (`presets.deployable`).
- BWN: none quoted.
- FLOAT: 89.67%, by the PyTorch implementation.
"""

from collections.abc import Callable
from functools import partial

from bnn_jax import BWN, FLOAT, XNOR
from bnn_jax.models import nin
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.presets import XNOR_PYTORCH_CIFAR
from bnn_jax.training import Config, Recipe
from bnn_jax.training.experiment import main
from experiments.cifar10 import row
from experiments.shared import Falls, adam, l2_then, networks

adam_with_l2 = partial(l2_then, adam, 1e-5)


def config(scheme: Scheme, *, optimizer: Callable = adam_with_l2, learning_rate: float = 1e-2) -> Config:
    """Network in network by the PyTorch implementation's recipe."""
    return row(
        **networks(partial(nin, 10), scheme),
        optimizer=optimizer,
        schedule=Falls(320, ((120, 1e-1), (200, 1e-2), (240, 1e-3), (280, 1e-4))),
        epochs=320,
        batch_size=128,
        learning_rate=learning_rate,
    )


def other(scheme: Scheme) -> Config:
    """The config of a scheme without a row. With binary activations it has XNOR's learning rate."""
    return config(scheme, learning_rate=1e-2 if scheme.activation is None else 1e-3)


RECIPE = Recipe(
    'cifar10_nin',
    __doc__,
    rows={
        'XNOR': config(XNOR, learning_rate=1e-3),
        # L2 acts on latent weights too, as in the source. It is negligible, because their gradient is multiplied by n.
        'XNOR_PYTORCH_CIFAR': config(XNOR_PYTORCH_CIFAR, optimizer=partial(adam, decay=1e-5)),
        'BWN': config(BWN),
        'FLOAT': config(FLOAT),
    },
    other=other,
)

if __name__ == '__main__':
    main(RECIPE)
