"""Networks as StableHLO programs, written, read and run again."""

import io
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bnn_jax as bnn
from bnn_jax import runtime
from bnn_jax.interop import stablehlo

sys.path.append(str(Path(__file__).parents[1] / 'inference'))
import foreign  # noqa: E402

# Real products of these images are exact in any order.
CONTENT, IMAGES = foreign.written(foreign.convolutions(0)), foreign.images()
EXPECTED = runtime.load(io.BytesIO(CONTENT))(IMAGES)


@pytest.mark.parametrize('native', [False, True])
def test_a_program_has_the_logits_of_the_network(native):
    network = bnn.load(io.BytesIO(CONTENT))
    program = jax.export.deserialize(stablehlo(network, IMAGES.shape[1:], native=native).serialize())
    assert ('custom_call @bnn_jax' in program.mlir_module()) == native
    np.testing.assert_array_equal(program.call(IMAGES), EXPECTED)
    assert program.in_avals[0].shape[0] != len(IMAGES)


def test_a_number_of_images():
    network = bnn.load(io.BytesIO(CONTENT))
    assert stablehlo(network, IMAGES.shape[1:], batch=2).out_avals[0].shape == EXPECTED.shape
    with pytest.raises(ValueError, match=r'expected \(N, H, W, 3\)'):
        stablehlo(network, (6, 5, 1))
