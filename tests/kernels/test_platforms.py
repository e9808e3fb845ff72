"""Packed products on the platforms that are not here: what they lower to for CUDA and TPU, exports, batches on 8 devices.

That an operation lowers does not show that a device's compiler takes it, nor that it runs.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from bnn_jax.kernels import BACKENDS, native, packed_conv2d, packed_matmul

ROOT = Path(__file__).parents[2]
PLATFORMS = ('cpu', 'cuda', 'tpu')
WORDS = {
    'matmul': [jax.ShapeDtypeStruct(shape, np.uint32) for shape in ((300, 40), (70, 40))],
    'conv2d': [jax.ShapeDtypeStruct(shape, np.uint32) for shape in ((8, 7, 9, 2), (3, 3, 2, 5))],
}


def call(kind: str, backend: str):
    """The product of the shapes in WORDS."""
    if kind == 'matmul':
        return jax.jit(partial(packed_matmul, k=1270, backend=backend))
    return jax.jit(partial(packed_conv2d, channels=50, padding='SAME', strides=2, backend=backend))


def random_words(kind: str) -> list[np.ndarray]:
    """Words whose tail bits are 0."""
    rng, tail = np.random.default_rng(0), np.uint32((1 << (1270 % 32 if kind == 'matmul' else 50 % 32)) - 1)
    x, w = (rng.integers(0, 2**32, of.shape, np.uint32) for of in WORDS[kind])
    x[..., -1] &= tail
    w[(..., -1) if kind == 'matmul' else (slice(None), slice(None), -1)] &= tail
    return [x, w]


@contextlib.contextmanager
def abstract_gpu():
    """From jax 0.11 on, Pallas wants to know for which GPU it lowers."""
    if jax.__version_info__ < (0, 11):
        yield
        return
    device = jax.sharding.AbstractDevice(device_kind='NVIDIA H200', num_cores=None, platform='cuda')
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ('x',), abstract_device=device)):
        yield


def lowered(kind: str, backend: str, platform: str) -> str:
    with abstract_gpu() if platform == 'cuda' else contextlib.nullcontext():
        return call(kind, backend).trace(*WORDS[kind]).lower(lowering_platforms=(platform,)).as_text()


# Triton is deprecated from jax 0.11 on.
@pytest.mark.filterwarnings('ignore:.*Triton:DeprecationWarning')
@pytest.mark.parametrize('kind', WORDS)
@pytest.mark.parametrize('platform', PLATFORMS)
@pytest.mark.parametrize('backend', [*sorted({*BACKENDS} - {'native'}), 'auto'])
def test_every_backend_lowers_for_every_platform(backend, platform, kind):
    """Pallas becomes its device's call on its own platform, and plain operations elsewhere; 'auto' calls C++ on CPU."""
    text = lowered(kind, backend, platform)
    expected = {
        ('pallas_tpu', 'tpu'): {'tpu_custom_call'},
        ('pallas_gpu', 'cuda'): {'__gpu$xla.gpu.triton'},
        ('auto', 'cpu'): {'bnn_jax_product' if kind == 'matmul' else 'bnn_jax_convolution'},
    }
    device = '_'.join(backend.split('_')[:2])
    assert set(re.findall(r'custom_call\s*@([\w$.]+)', text)) == expected.get((device, platform), set())


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_what_dense_cannot_add_up_calls_no_c_plus_plus_on_accelerators(platform):
    words = jax.ShapeDtypeStruct((2, 2**19 + 1), np.uint32)
    matmul = jax.jit(partial(packed_matmul, k=2**24 + 1))
    assert 'custom_call' not in matmul.trace(words, words).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize('backend', ['dense', 'auto'])
@pytest.mark.parametrize(('platform', 'sums'), [('cuda', 'f32'), ('tpu', 'i32')])
def test_dense_convolutions_on_accelerators(backend, platform, sums):
    """8-bit operands; cuDNN has no such convolution with 32-bit integers out."""
    operands = r'\(tensor<[\dx]+xi8>, tensor<[\dx]+xi8>\)'
    assert re.search(
        rf'stablehlo\.convolution.*{operands} -> tensor<[\dx]+x{sums}>', lowered('conv2d', backend, platform)
    )


def test_dense_on_cpu_is_float32():
    for kind in WORDS:
        assert 'xi8>' not in lowered(kind, 'dense', 'cpu')


@pytest.mark.parametrize('kind', WORDS)
def test_export_for_each_platform_and_for_all(kind):
    for platforms in [*((platform,) for platform in PLATFORMS), PLATFORMS]:
        checks = native.DISABLED_CHECKS if 'cpu' in platforms else ()
        exported = jax.export.export(call(kind, 'auto'), platforms=platforms, disabled_checks=checks)(*WORDS[kind])
        assert exported.platforms == platforms
        if 'cpu' in platforms:
            words = random_words(kind)
            np.testing.assert_array_equal(jax.jit(exported.call)(*words), call(kind, 'reference')(*words))


def test_export_for_any_number_of_rows():
    rows, words = jax.export.symbolic_shape('rows')[0], random_words('matmul')
    abstract = [jax.ShapeDtypeStruct((rows, 40), np.uint32), WORDS['matmul'][1]]
    exported = jax.export.export(call('matmul', 'xla'))(*abstract)
    np.testing.assert_array_equal(exported.call(*words), call('matmul', 'reference')(*words))


@pytest.mark.filterwarnings('ignore:.*Triton:DeprecationWarning')
@pytest.mark.parametrize(('backend', 'platform'), [('pallas_tpu', 'tpu'), ('pallas_gpu', 'cuda')])
def test_export_of_pallas_for_its_platform(backend, platform):
    # JAX promises no compatibility of Triton's call between versions: such an export must be asked for.
    checks = [jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')] if platform == 'cuda' else []
    with abstract_gpu() if platform == 'cuda' else contextlib.nullcontext():
        export = jax.export.export(call('conv2d', backend), platforms=(platform,), disabled_checks=checks)
        assert export(*WORDS['conv2d']).platforms == (platform,)


# A batch on 8 devices.


def eight() -> dict:
    """Whether images of 8 devices are convolved exactly, and what is gathered, under jit alone and in shard_map."""
    mesh = jax.make_mesh((8,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
    batch, whole = (jax.sharding.PartitionSpec(*axes) for axes in (('batch',), ()))
    shardings = [jax.sharding.NamedSharding(mesh, spec) for spec in (batch, whole)]
    x, w = random_words('conv2d')
    expected = np.asarray(call('conv2d', 'reference')(x, w))
    placed = [jax.device_put(a, sharding) for a, sharding in zip((x, w), shardings, strict=True)]
    found = {'devices': jax.device_count()}
    for backend in ('auto', 'xla', 'dense', 'pallas_tpu', 'pallas_gpu_popcount'):
        one = call('conv2d', backend)
        ways = {
            'shard_map': jax.jit(
                jax.shard_map(one, mesh=mesh, in_specs=(batch, whole), out_specs=batch, check_vma=False)
            )
        }
        if backend in ('xla', 'dense'):
            ways['jit'] = jax.jit(one, in_shardings=shardings, out_shardings=shardings[0])
        for way, of in ways.items():
            compiled = of.lower(*placed).compile()
            exact = bool((np.asarray(compiled(*placed)) == expected).all())
            found[f'{backend}, {way}'] = [exact, re.findall(r' (all-\w+|collective-permute)\(', compiled.as_text())]
    return found


def test_a_batch_on_eight_devices():
    """Every device convolves its own images: nothing is sent. (C++ and Pallas need shard_map: XLA cannot look inside.)"""
    environment = {
        **os.environ,
        'JAX_NUM_CPU_DEVICES': '8',
        'PYTHONPATH': os.pathsep.join((str(ROOT), str(ROOT / 'tests'))),
    }
    line = [sys.executable, '-W', 'error', __file__]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop('devices') == 8 and len(found) == 7
    assert found == dict.fromkeys(found, [True, []])


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    print(json.dumps(eight()))
