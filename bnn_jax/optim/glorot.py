"""The step sizes of BinaryConnect and BinaryNet: each weight tensor's update is multiplied by a factor of its own."""

import math

import jax
import optax


def scale_by_glorot() -> optax.GradientTransformation:
    """An Optax transformation that divides each update by half of Glorot's bound.

    u <- u sqrt((fan_in + fan_out) / 1.5), with fan_in = kh kw in and fan_out = kh kw out.

    The factor is 1 / H, where H = sqrt(1.5 / (fan_in + fan_out)) is half of the bound of Glorot's uniform initialization. Put
    the transformation after Adam in the chain, for latent weights alone (`by_kind`).

    Returns:
        A transformation without state. Its `update` raises ValueError for a parameter of rank below 2.

    Source: W_LR_scale of the published implementations of arXiv:1511.00363 and arXiv:1602.02830.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> tx = bnn.scale_by_glorot()
        >>> tx.update(np.ones((3, 3)), tx.init(None))[0][0].tolist()  # sqrt((3 + 3) / 1.5)
        [2.0, 2.0, 2.0]
    """

    def scaled(u):
        if u.ndim < 2:
            raise ValueError(
                f'scale_by_glorot: got a parameter of shape {u.shape}, expected weights (..., in, out); use another '
                'optimizer for this parameter (by_kind)'
            )
        return u * math.sqrt((u.size // u.shape[-1] + u.size // u.shape[-2]) / 1.5)

    return optax.stateless(lambda updates, params: jax.tree.map(scaled, updates))
