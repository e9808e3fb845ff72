"""Networks small enough for tests, with normalization as training never leaves it: gamma negative, zero, tiny."""

import base64
import contextlib
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bnn_jax as bnn
from bnn_jax.models.googlenet import inception
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.training import logits_of

SCHEMES = {
    name: getattr(bnn, name)
    for name in ('FLOAT', 'BC', 'BC_STOCHASTIC', 'BWN', 'BNN', 'XNOR', 'XNOR_K', 'BIREAL', 'IRNET', 'RECU')
}

# Architecture -> keywords and the shape of a batch: odd sizes, channels that are not multiples of 32.
SMALL = {
    'mlp': ({'width': 45 / 4096, 'input_shape': (5, 7, 3)}, (2, 5, 7, 3)),
    'lenet5': ({'width': 0.7, 'input_shape': (17, 19, 1)}, (2, 17, 19, 1)),
    'vgg_small': ({'width': 0.27, 'input_shape': (11, 9, 3)}, (2, 11, 9, 3)),
    'alexnet': ({'width': 0.11, 'input_shape': (67, 71, 3)}, (1, 67, 71, 3)),
    'nin': ({'width': 0.17, 'input_shape': (13, 10, 3)}, (2, 13, 10, 3)),
    'extraction': ({'width': 0.07, 'input_shape': (67, 65, 3)}, (2, 67, 65, 3)),
    'resnet20': ({'width': 0.9, 'blocks': (1, 1, 1), 'input_shape': (9, 11, 3)}, (2, 9, 11, 3)),
    'resnet18': ({'width': 0.55, 'blocks': (1, 2, 1, 1), 'input_shape': (35, 37, 3)}, (2, 35, 37, 3)),
}


@contextlib.contextmanager
def compiled_quickly():
    """Without XLA's optimizations: what is made for a test, not what it looks at. A decorator too."""
    name = 'jax_disable_most_optimizations'
    before = jax.config.read(name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def rngs_to_trace() -> nnx.Rngs:
    """For a constructor inside a trace. Flax takes milliseconds to increase a traced count of keys, so NumPy counts."""
    rngs = nnx.Rngs(0)
    rngs.default.count.set_value(np.zeros((), np.uint32))
    return rngs


def abstract(make, **keywords):
    """make(rngs=..., **keywords) with shapes in place of arrays."""
    return nnx.eval_shape(lambda: make(rngs=rngs_to_trace(), **keywords))


@compiled_quickly()
def build(architecture: str, scheme, num_classes: int = 10, **keywords):
    return getattr(bnn.models, architecture)(
        num_classes, scheme=scheme, rngs=nnx.Rngs(0), **{**SMALL[architecture][0], **keywords}
    )


@compiled_quickly()
def two_modules(scheme):
    """GoogLeNet in small: a stem, two Inception modules with an auxiliary head after the first, a head."""
    builder = NetworkBuilder((9, 8, 3), scheme=scheme, width=1.0, rngs=nnx.Rngs(0))
    builder.conv(20, 3, padding=1, pool=MaxPool(Window.of(2, 2)))
    inception(builder, 5, 3, 7, 2, 4, 33)
    builder.auxiliary(0.3, 5, lambda branch: branch.dense(11))
    inception(builder, 8, 1, 6, 3, 9, 10)
    return builder.network(5, average=True)


def images(architecture: str, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SMALL[architecture][1]).astype(np.float32)


def randomize_norms(model, seed: int = 0) -> None:
    """gamma and beta of both signs, gamma 0 and tiny in some channels, statistics far from their initial values."""
    rng = np.random.default_rng(seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            n = module.num_features
            gamma = rng.normal(size=n)
            gamma[::7], gamma[3::11], gamma[5::13] = 0, 1e-30, -1e-6
            values = {'scale': gamma, 'bias': rng.normal(size=n), 'mean': 2 * rng.normal(size=n)}
            values['var'] = rng.uniform(0.01, 30, size=n)
            for name, value in values.items():
                getattr(module, name)[...] = jnp.asarray(value, jnp.float32)


def evaluated(model, x) -> np.ndarray:
    """Logits in evaluation mode, jitted, parameters as arguments; compiled once for networks of one structure."""
    return np.asarray(logits_of(model)(x))


def assert_same(actual, expected) -> None:
    """Equal to the bit, of one shape and dtype."""
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), strict=True)


def proved(model, x: np.ndarray):
    """The packed network and its logits, after the proof that they are the model's to the bit, in JAX and in the runtime."""
    packed, expected = bnn.convert(model), evaluated(model, x)
    assert np.isfinite(expected).all() and np.unique(expected).size > 2
    assert_same(evaluated(packed, x), expected)
    assert_runs_without_jax(packed, x, expected)
    return packed, expected


def contents(packed) -> bytes:
    """The file of a packed network."""
    return bnn.save(packed, io.BytesIO()).getvalue()


def tree_of(content: bytes) -> dict[str, Any]:
    """The tree in a file (docs/format.md)."""
    start = 8 + int.from_bytes(content[:8], 'little')
    return json.loads(zlib.decompress(base64.b64decode(json.loads(content[8:start])['__metadata__']['network'])))


def _has_open_sums(tree: Any) -> bool:
    """Whether a product of real numbers is added up in an order that docs/format.md leaves to XLA or to the batch."""
    nodes = list(_nodes(tree))
    binary = any(node.get('kind') == 'PackedProduct' for node in nodes)
    return any(
        'groups' in node['product']
        or 'dilation' in node['product'].get('window', {})
        or (node['product']['kind'] == 'Dense' and not binary)
        for node in nodes
        if node.get('kind') in ('FloatProduct', 'UnpackedProduct')
    )


def _nodes(tree: Any) -> Iterator[dict]:
    if isinstance(tree, dict):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(inner)


def assert_runs_without_jax(packed, x: np.ndarray, logits: np.ndarray) -> None:
    """The runtime gives these logits of the packed network: to the bit, or to 4e-6 of the largest where an order is open."""
    content = contents(packed)
    network = bnn.runtime.load(io.BytesIO(content))
    actual = network(x)
    tolerance = 4e-6 * np.abs(logits).max() if _has_open_sums(tree_of(content)) else 0
    np.testing.assert_allclose(actual, logits, rtol=0, atol=tolerance, strict=True)
    # Whatever the batch and the threads.
    one_by_one = np.concatenate([network(image[None], threads=3) for image in x])
    np.testing.assert_array_equal(one_by_one, actual)
