"""Networks as C99: compiled without a warning, the runtime's logits to the bit."""

import ctypes
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from networks import contents
from sklearn.datasets import load_digits

import bnn_jax as bnn
from bnn_jax import runtime
from bnn_jax.data import Standardize
from bnn_jax.interop import c_library

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / 'runtime'), str(HERE.parent / 'inference')]
import foreign  # noqa: E402
import packed_files  # noqa: E402


def compiled(folder: Path) -> ctypes.CDLL:
    """All of a folder's libraries, as strictly as a compiler can."""
    flags = ['-std=c99', '-Wall', '-Wextra', '-pedantic', '-Werror', '-O1', '-fPIC', '-shared', '-o', 'all.so']
    sources = sorted(path.name for path in folder.glob('*.c'))
    subprocess.run(['cc', *flags, *sources], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / 'all.so'))


def logits_of(function, images: np.ndarray, classes: int, scratch: int) -> np.ndarray:
    """One image after the other, the scratch memory full of what does not matter."""
    logits = np.empty((len(images), classes), np.float32)
    room = np.full(scratch, 0xFF, np.uint8)
    for image, row in zip(np.ascontiguousarray(images), logits, strict=True):
        function(*(ctypes.c_void_p(array.ctypes.data) for array in (image, row, room)))
    return logits


def test_every_kind_of_layer_to_the_bit(tmp_path):
    files = {make.__name__: (foreign.written(make(0)), foreign.images()) for make in foreign.NETWORKS}
    files |= {f'windows{seed}': (foreign.written(foreign.any_windows(seed)), foreign.images()) for seed in (0, 4, 8)}
    files['every_kind'] = packed_files.of_every_kind(), packed_files.numbers(2, *packed_files.EVERY_IMAGE)
    files['groups'] = packed_files.GOLDEN.read_bytes(), packed_files.numbers(2, *packed_files.GOLDEN_IMAGE)
    made = {
        name: c_library(bnn.load(io.BytesIO(content)), tmp_path, x.shape[1:], name=name)
        for name, (content, x) in files.items()
    }
    library = compiled(tmp_path)
    for name, (content, x) in files.items():
        expected = runtime.load(io.BytesIO(content))(x)
        actual = logits_of(getattr(library, name), x, expected.shape[1], made[name].scratch)
        np.testing.assert_array_equal(actual, expected, name)


@pytest.mark.parametrize(
    ('architecture', 'scheme', 'sizes'),
    [('resnet20', bnn.XNOR, {'width': 0.5, 'blocks': (1, 1, 1)}), ('vgg_small', bnn.BNN, {'width': 0.1})],
)
def test_every_image_of_the_digits_to_the_bit(architecture, scheme, sizes, tmp_path):
    build = getattr(bnn.models, architecture)
    model = build(10, scheme=scheme, rngs=nnx.Rngs(0), input_shape=(8, 8, 1), **sizes)
    packed, normalization = bnn.convert(model), Standardize((0.3,), (0.4,))
    images = (load_digits().images * 15.9375).astype(np.uint8)[..., None]
    made = c_library(packed, tmp_path, (8, 8, 1), normalization=normalization)
    library = compiled(tmp_path)
    x = np.stack([normalization(image) for image in images])
    expected = runtime.load(io.BytesIO(contents(packed)))(x)
    np.testing.assert_array_equal(logits_of(library.network_bytes, images, 10, made.scratch), expected)
    np.testing.assert_array_equal(logits_of(library.network, x[:9], 10, made.scratch), expected[:9])
    assert len(np.unique(expected, axis=0)) > 100 and len(images) == 1797


def test_what_cannot_be_exported_is_refused(tmp_path):
    network = bnn.load(packed_files.GOLDEN)
    for name in ('a b', 'load', 'int', 'a0', 'int32_t'):
        with pytest.raises(ValueError, match=f"got '{name}', expected a C identifier"):
            c_library(network, tmp_path, (9, 8, 3), name=name)
    with pytest.raises(ValueError, match='expected 3 channels'):
        c_library(network, tmp_path, (9, 8, 1))
    with pytest.raises(ValueError, match='got a Chain|got PackedSequential, expected a PackedNetwork'):
        c_library(network.body, tmp_path, (9, 8, 3))
