"""Networks and bits of other programs."""

from bnn_jax.interop import bit_layouts, torch

__all__ = ['bit_layouts', 'torch']
