"""Kinds of variables beside nnx.Param and nnx.BatchStat."""

from flax import nnx


class Latent(nnx.Param):
    """Latent (real) weights of a binary layer. Carries the scheme's `projection`, applied after every update, and its
    `before`, applied before every forward pass."""


class Fixed(nnx.Variable):
    """Numbers that are not trained: gamma and beta of a normalization without them."""


class Noise(nnx.Variable):
    """The random key of a layer that draws weights or drops inputs, as raw key data; each training step advances it."""


class Progress(nnx.Variable):
    """How far training has come, from 0 to 1, for quantizers that change with it (`schemes.Scheduled`)."""
