"""Read PyTorch weights and other libraries' packed words, and export networks to C, ONNX and StableHLO."""

from bnn_jax.interop import bit_layouts, torch
from bnn_jax.interop.c_source import Library, c_library
from bnn_jax.interop.exported import stablehlo
from bnn_jax.interop.onnx import onnx_model, qonnx_model

__all__ = ['Library', 'bit_layouts', 'c_library', 'onnx_model', 'qonnx_model', 'stablehlo', 'torch']
