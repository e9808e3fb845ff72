"""The NumPy program of docs/: it reads what `save` writes, sees what the library computes, and shares no code with it."""

import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from networks import build, evaluated, images, randomize_norms

import bnn_jax as bnn
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.packed import PackedSequential
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window

PATH = Path(__file__).parents[2] / 'docs' / 'read_packed.py'
program = runpy.run_path(str(PATH))


def network(architecture: str, scheme):
    return packed_exactly(build(architecture, scheme))


def packed_exactly(model):
    """A packed network whose first product, of images in eighths, is exact in any order of its sum."""
    randomize_norms(model)
    rng = np.random.default_rng(3)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, bnn.nn.Product):
            module.kernel[...] = (rng.integers(-64, 65, module.kernel.shape) / 128).astype(np.float32)
            if module.kernel.shape[:2] == (1, 1):  # A real shortcut, whose inputs are no eighths: one channel a filter.
                *_, channels, filters = module.kernel.shape
                module.kernel[...] = np.eye(channels, dtype=np.float32)[rng.integers(channels, size=filters)].T[
                    None, None
                ]
            if module.bias is not None:
                module.bias[...] = rng.normal(size=module.out_features).astype(np.float32)
    return bnn.convert(model)


def eighths(architecture: str) -> np.ndarray:
    return np.round(8 * images(architecture)) / np.float32(8)


@pytest.mark.parametrize(('architecture', 'scheme'), [('lenet5', 'BNN'), ('resnet20', 'BNN')])
def test_a_binary_network_to_its_last_bit(architecture, scheme, tmp_path):
    packed, x = network(architecture, getattr(bnn, scheme)), eighths(architecture)
    logits = program['logits'](*program['read'](bnn.save(packed, tmp_path / 'network.safetensors')), x)
    np.testing.assert_array_equal(logits, evaluated(packed, x), strict=True)


def test_dilated_windows_to_the_last_bit(tmp_path):
    builder = NetworkBuilder((11, 12, 3), scheme=bnn.BNN, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(36, 3, dilation=2)
    builder.conv(40, 3, padding=2, dilation=2, pool=MaxPool(Window.of(2, 2)))
    packed = packed_exactly(builder.network(5))
    x = np.round(8 * np.random.default_rng(0).normal(size=(2, 11, 12, 3))).astype(np.float32) / 8
    logits = program['logits'](*program['read'](bnn.save(packed, tmp_path / 'network.safetensors')), x)
    np.testing.assert_array_equal(logits, evaluated(packed, x), strict=True)


@pytest.mark.parametrize(
    ('architecture', 'scheme'), [('lenet5', 'XNOR_K'), ('resnet18', 'XNOR'), ('resnet20', 'IRNET')]
)
def test_all_before_a_real_head_to_the_last_bit(architecture, scheme, tmp_path):
    """K; the README's ResNet-18; HardTanh and PadChannels of IR-Net's."""
    packed, x = network(architecture, getattr(bnn, scheme)), eighths(architecture)
    tree, tensors = program['read'](bnn.save(packed, tmp_path / 'network.safetensors'))
    # The head is one product of real numbers, summed in another order.
    assert tree['body']['layers'].pop()['kind'] == 'FloatProduct'
    headless = PackedSequential(packed.body.layers[:-1])
    found = jax.jit(lambda chain, x: chain(x))(headless, x)
    np.testing.assert_array_equal(program['logits'](tree, tensors, x), found, strict=True)


@pytest.mark.parametrize('scheme', ['BC', 'BWN'])
def test_real_inputs_to_the_rounding_of_sums(scheme, tmp_path):
    packed, x = network('vgg_small', getattr(bnn, scheme)), eighths('vgg_small')
    logits = program['logits'](*program['read'](bnn.save(packed, tmp_path / 'network.safetensors')), x)
    # No sign follows a sum: each layer adds its own rounding, none is amplified.
    np.testing.assert_allclose(logits, evaluated(packed, x), rtol=1e-4, atol=1e-4 * np.abs(logits).max())


def test_a_layer_of_a_users_own_is_refused_by_name():
    layer = {'kind': 'KeptModule', 'name': 'mine.Swish', 'fields': {}, 'arrays': {}}
    with pytest.raises(SystemExit, match='KeptModule .*mine.Swish.* is not covered'):
        program['applied'](layer, {}, np.zeros((1, 3), np.float32))


def test_the_command(tmp_path):
    path = bnn.save(network('mlp', bnn.BNN), tmp_path / 'network.safetensors')
    np.save(tmp_path / 'images.npy', eighths('mlp'))
    done = subprocess.run(
        [sys.executable, PATH, path, tmp_path / 'images.npy'], capture_output=True, text=True, check=True
    )
    tree, tensors = program['read'](path)
    assert done.stdout.strip() == str(program['logits'](tree, tensors, eighths('mlp')))


def test_it_imports_numpy_alone_and_is_short():
    text = PATH.read_text()
    assert {line.split()[1] for line in text.splitlines() if line.startswith(('import ', 'from '))} == {
        *('base64', 'json', 'sys', 'zlib', 'pathlib', 'numpy')
    }
