"""Packed networks: convert a trained network once, save it, load it, run it from bits."""

from typing import TYPE_CHECKING

from bnn_jax.inference import thresholds
from bnn_jax.inference.float_twin import float_twin
from bnn_jax.inference.serialization import load, preprocessing_of, save
from bnn_jax.nn.packed import PackedNetwork
from bnn_jax.nn.report import Report, Row

__all__ = ['PackedNetwork', 'Report', 'Row', 'convert', 'float_twin', 'load', 'preprocessing_of', 'save', 'thresholds']

if TYPE_CHECKING:
    from bnn_jax.inference.converter import convert
else:

    def __getattr__(name: str):
        # `convert` needs Flax. A packed network needs it only if it keeps Flax modules, so it is not imported here.
        if name != 'convert':
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        from bnn_jax.inference.converter import convert

        globals()['convert'] = convert
        return convert
