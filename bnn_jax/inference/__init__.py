"""Packed networks: converted once, saved, loaded, run from bits."""

from bnn_jax.inference import packed, thresholds
from bnn_jax.inference.converter import convert
from bnn_jax.inference.float_twin import SignProduct, float_twin
from bnn_jax.inference.report import Report, Row
from bnn_jax.inference.serialization import load, preprocessing_of, save

__all__ = [
    'Report',
    'Row',
    'SignProduct',
    'convert',
    'float_twin',
    'load',
    'packed',
    'preprocessing_of',
    'save',
    'thresholds',
]
