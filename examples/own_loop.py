"""Your own training loop over a generator of batches, without `fit`: python -m examples.own_loop"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optax
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training


def batches(count: int, size: int = 40) -> Iterator[dict]:
    """Images in which the position of a bright line is the class."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        labels = rng.integers(0, 10, size)
        images = rng.normal(size=(size, 16, 16, 3)).astype(np.float32)
        images[np.arange(size), labels, :, 0] += 3
        yield {'image': images, 'label': labels}


def main(file: str = 'runs/own_loop.safetensors', steps: int = 60) -> dict:
    """Train, evaluate in training arithmetic and from bits, save."""
    model = bnn.models.lenet5(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), width=0.4, input_shape=(16, 16, 3))
    state = training.init(model, optax.adam(1e-2))  # Includes the scheme's clipping and centering of latent weights.
    metrics = {}
    for batch in batches(steps):
        state, metrics = training.train_step(state, batch)
    print({name: float(value) for name, value in metrics.items()})
    packed = bnn.convert(training.model_of(state))
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    bnn.save(packed, file)
    return training.evaluate(bnn.load(file), batches(3))


if __name__ == '__main__':
    print(main())
