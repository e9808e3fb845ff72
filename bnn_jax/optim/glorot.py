"""The step size of BinaryConnect and BinaryNet: every weight tensor's update times a factor of its own."""

import math

import jax
import optax


def scale_by_glorot() -> optax.GradientTransformation:
    """An optax link: u <- u sqrt((fan_in + fan_out) / 1.5), fans counted with the window: kh kw in, kh kw out.

    It is 1/H, H the bound of Glorot's uniform initialization without its factor 2; put it behind Adam, for latent weights
    only (`training.by_kind`). Raises ValueError for a parameter of rank < 2.
    Source: W_LR_scale of the published code of arXiv:1511.00363 and arXiv:1602.02830.
    """

    def scaled(u):
        if u.ndim < 2:
            raise ValueError(f'scale_by_glorot: got a parameter of shape {u.shape}, expected weights (..., in, out)')
        return u * math.sqrt((u.size // u.shape[-1] + u.size // u.shape[-2]) / 1.5)

    return optax.stateless(lambda updates, params: jax.tree.map(scaled, updates))
