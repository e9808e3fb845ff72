"""Networks as ONNX models: what ONNX Runtime makes of them, beside the runtime's logits."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import bnn_jax as bnn
from bnn_jax import runtime
from bnn_jax.interop import onnx_model, qonnx_model
from bnn_jax.nn.layer import Unchanged

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / 'runtime'), str(TESTS / 'inference')]
import foreign  # noqa: E402
import packed_files  # noqa: E402

# The tolerance, as a share of the largest logit. Real products in these networks are exact or come after the last sign.
# Engines compute means, K and scales in other orders than docs/format.md, with a few roundings (6e-8) each.
ROUNDINGS = 1e-6

IMAGES = np.concatenate([foreign.images(seed) for seed in range(50)])
FILES = {make.__name__: (foreign.written(make(0)), IMAGES) for make in foreign.NETWORKS}
FILES |= {f'windows{seed}': (foreign.written(foreign.any_windows(seed)), IMAGES) for seed in (0, 8, 23, 30)}
FILES['every_kind'] = packed_files.of_every_kind(), packed_files.numbers(2, *packed_files.EVERY_IMAGE)
FILES['groups'] = packed_files.GOLDEN.read_bytes(), packed_files.numbers(2, *packed_files.GOLDEN_IMAGE)


def answers(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Logits in ONNX Runtime, with its default optimizations."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return np.asarray(session.run(['logits'], {'images': images})[0])


def with_quantizers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with QONNX's definition of its operator: x >= 0 gives the scale, everything else its negative."""
    nodes = [
        helper.make_node('Constant', [], ['zero'], value_float=0.0),
        helper.make_node('GreaterOrEqual', ['x', 'zero'], ['above']),
        helper.make_node('Neg', ['scale'], ['below']),
        helper.make_node('Where', ['above', 'scale', 'below'], ['y']),
    ]
    opsets = [helper.make_opsetid('', 19)]
    definition = helper.make_function('qonnx.custom_op.general', 'BipolarQuant', ['x', 'scale'], ['y'], nodes, opsets)
    model.functions.append(definition)
    return model


@pytest.mark.parametrize('name', FILES)
def test_every_kind_of_layer(name):
    content, x = FILES[name]
    network, expected = bnn.load(io.BytesIO(content)), runtime.load(io.BytesIO(content))(x)
    for model in (onnx_model(network, x.shape[1:]), with_quantizers(qonnx_model(network, x.shape[1:]))):
        actual = answers(model, x)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDINGS * np.abs(expected).max(), strict=True)
        np.testing.assert_array_equal(actual.argmax(1), expected.argmax(1))
        assert {node.domain for node in model.graph.node} <= {'', 'qonnx.custom_op.general'}


def test_weights_stay_bits_and_the_file_says_how_images_were_prepared():
    content, _ = FILES['every_kind']
    model = onnx_model(
        bnn.load(io.BytesIO(content)), packed_files.EVERY_IMAGE, preprocessing={'input_shape': [11, 9, 3]}
    )
    assert len(model.SerializeToString()) < 1.1 * len(content)
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(described['preprocessing']) == {'input_shape': [11, 9, 3]}


def test_an_image_that_is_not_finite_has_nan_logits():
    content, x = FILES['dense_network']
    images = np.concatenate([x, x])
    images[0, 2, 1, 0], images[2, 0, 0, 2] = np.nan, -np.inf
    actual = answers(onnx_model(bnn.load(io.BytesIO(content)), x.shape[1:]), images)
    assert np.isnan(actual[[0, 2]]).all() and np.isfinite(actual[[1, 3]]).all()


def test_what_cannot_be_exported_is_refused():
    network = bnn.load(packed_files.GOLDEN)
    with pytest.raises(ValueError, match='expected 3 channels'):
        onnx_model(network, (9, 8, 1))
    with pytest.raises(TypeError, match='got PackedSequential, expected a PackedNetwork'):
        onnx_model(network.body, (9, 8, 3))

    def halved(x):
        return x / 2

    own = dataclasses.replace(network.body, layers=(Unchanged(halved), *network.body.layers))
    own = dataclasses.replace(network, body=own)
    for make, language in ((onnx_model, 'ONNX'), (qonnx_model, 'QONNX')):
        with pytest.raises(ValueError, match=f'no {language} is written for halved, a layer of your own'):
            make(own, (9, 8, 3))
