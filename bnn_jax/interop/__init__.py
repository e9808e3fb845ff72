"""Read weights and bits of other programs, and write networks as programs."""

from bnn_jax.interop import bit_layouts, torch
from bnn_jax.interop.c_source import Library, c_library
from bnn_jax.interop.exported import stablehlo
from bnn_jax.interop.onnx import onnx_model, qonnx_model

__all__ = ['Library', 'bit_layouts', 'c_library', 'onnx_model', 'qonnx_model', 'stablehlo', 'torch']
