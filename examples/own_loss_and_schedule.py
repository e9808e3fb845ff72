"""Your own loss, schedule and optimizer, in a Config: python -m examples.own_loss_and_schedule"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

import bnn_jax as bnn
from bnn_jax.data import Standardize
from bnn_jax.training import Config, run
from examples.own_network import images


def focal(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The focal loss, which gives less weight to examples that are classified well: -(1 - p)^2 log p for the label's class."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -jnp.square(1 - jnp.exp(chosen)) * chosen


def one_cycle(learning_rate: float, steps: int) -> optax.Schedule:
    """Rises over the first third of the run, then falls to almost 0."""
    return optax.cosine_onecycle_schedule(steps, learning_rate)


def main(workdir: str = 'runs/own_loss', epochs: int = 10) -> dict:
    """Train LeNet-5 on digits of 8 x 8 pixels, scaled to 16 x 16."""
    config = Config(
        model=partial(bnn.models.lenet5, 10, scheme=bnn.BNN, input_shape=(16, 16, 1)),
        data=images,
        standardize=Standardize((0.305,), (0.376,)),
        loss=focal,
        schedule=one_cycle,
        optimizer=partial(optax.adamw, weight_decay=0.0),
        epochs=epochs,
        learning_rate=1e-2,
        width=0.4,
        workdir=workdir,
    )
    return run('own_loss_and_schedule', config)


if __name__ == '__main__':
    print(main()['packed_test_accuracy'])
