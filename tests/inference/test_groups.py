"""Networks with convolutions in groups: the bytes of depthwise layers, files of version 0.1.0, one call a layer."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from networks import evaluated, randomize_norms

import bnn_jax as bnn
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.operations import Convolution
from bnn_jax.nn.packed import PackedProduct
from bnn_jax.ops.windows import Window

GOLDEN = Path(__file__).parents[1] / 'golden'


def grouped(channels, scheme=bnn.XNOR):
    """A stem, a depthwise convolution and one in groups of nine channels or less, a pointwise one, a head."""
    builder = NetworkBuilder((9, 8, 3), scheme=scheme, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(channels, 3, padding=1)
    builder.conv(channels, 3, padding=1, groups=channels)
    builder.conv(channels + 4, 3, strides=2, padding=1, groups=4)
    builder.conv(2 * channels, 1)
    model = builder.network(5, average=True)
    randomize_norms(model)
    return model


def convolutions_in_groups(packed):
    return [
        layer
        for layer in packed.body.layers
        if isinstance(getattr(layer, 'operation', None), Convolution) and layer.operation.groups > 1
    ]


@pytest.mark.parametrize('channels', [8, 36, 64])
@pytest.mark.parametrize('scheme', ['XNOR', 'BNN', 'BWN'])
def test_a_narrow_layer_takes_an_eighth_of_its_floats_and_alpha(channels, scheme, tmp_path):
    model = grouped(channels, getattr(bnn, scheme))
    packed = bnn.convert(model)
    layers = convolutions_in_groups(packed)
    assert len(layers) == 2
    for layer in layers:
        floats = 4 * np.prod(layer.operation.kernel_shape(layer.in_features, layer.out_features))
        alphas = 0 if layer.scale is None else 4 * layer.out_features
        assert layer.words.nbytes + alphas <= floats / 8 + alphas
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    loaded = bnn.load(bnn.save(packed, tmp_path / 'network.safetensors'))
    np.testing.assert_array_equal(evaluated(loaded, x), evaluated(packed, x))
    assert packed.report.bytes == bnn.summarize(model, (1, 9, 8, 3)).packed_bytes
    if scheme != 'BWN':  # BWN's sums of real numbers may have another order.
        np.testing.assert_array_equal(evaluated(packed, x), evaluated(model, x))


def test_a_file_of_version_0_1_0_gives_its_logits(tmp_path):
    """Its words run along the input channels in groups of every size; so they do when it is saved again."""
    network = bnn.load(GOLDEN / 'groups_0.1.0.safetensors')
    with np.load(GOLDEN / 'groups_0.1.0.npz') as file:
        x, logits = file['images'], file['logits']
    np.testing.assert_allclose(evaluated(network, x), logits, rtol=1e-6, atol=1e-6)
    layers = convolutions_in_groups(network)
    assert [layer.words.shape for layer in layers] == [(3, 3, 1, 36), (3, 3, 1, 40), (3, 3, 2, 64)]
    again = bnn.load(bnn.save(network, tmp_path / 'again.safetensors'))
    np.testing.assert_array_equal(evaluated(again, x), evaluated(network, x))
    assert [layer.words.shape for layer in convolutions_in_groups(again)] == [layer.words.shape for layer in layers]


def test_a_depthwise_layer_is_few_equations():
    packed = bnn.convert(grouped(64))
    text = str(jax.make_jaxpr(packed)(jax.ShapeDtypeStruct((1, 9, 8, 3), np.float32)))
    assert text.count(' = ') < 1000


def test_words_that_do_not_run_as_stated_are_refused():
    signs = np.ones((3, 3, 1, 40), np.float32)
    depthwise = Convolution(Window.of(3), groups=40)
    words = depthwise.stored(40, 40).pack_kernel(signs)
    assert words.shape == depthwise.stored(40, 40).words_shape(40, 40) == (3, 3, 1, 2)
    with pytest.raises(ValueError, match=r'words: got uint32\[3, 3, 1, 2\], expected uint32\[3, 3, 1, 40\]'):
        PackedProduct(depthwise, 40, 40, False, words, None, None)
    with pytest.raises(ValueError, match='bits beyond sign 40 are set'):
        PackedProduct(depthwise.stored(40, 40), 40, 40, False, ~words, None, None)
    wrong = Convolution(Window.of(3), filters=40)
    with pytest.raises(
        ValueError, match='filters: got 40 for 40 channels to 40 filters in 1 groups, expected None, or 40'
    ):
        PackedProduct(wrong, 40, 40, False, words, None, None)
