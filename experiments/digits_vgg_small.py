"""What the rows on the embedded digits share: data, size, recipe.

BinaryNet's VGG-small at a quarter of its width on 8x8 images, Adam with cosine decay to 0, batch 64, 30 epochs. Binary
networks want a larger learning rate (1e-2) than the float one (1e-3): their latent weights have to cross 0.
"""

from functools import partial

from bnn_jax.data import Standardize, digits
from bnn_jax.models import vgg_small
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config


def source(split: str, data_dir: str):
    """The digits; they need no folder."""
    return digits(split)


def config(scheme: Scheme, learning_rate: float = 1e-2) -> Config:
    """The row of one scheme."""
    return Config(
        model=partial(vgg_small, 10, scheme=scheme, input_shape=(8, 8, 1)),
        data=source,
        standardize=Standardize((0.305,), (0.376,)),
        epochs=30,
        batch_size=64,
        learning_rate=learning_rate,
        width=0.25,
    )
