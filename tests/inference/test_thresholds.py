"""Thresholds: the sign after every integer a product can give, where they apply, and that no answer changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SCHEMES, build, evaluated, images, randomize_norms

import bnn_jax as bnn
from bnn_jax.inference.bisection import bisect
from bnn_jax.inference.description import describe
from bnn_jax.inference.description import stored as stored_in
from bnn_jax.inference.thresholds import Run, in_bits, runs
from bnn_jax.nn.layer import Unchanged
from bnn_jax.nn.names import known_names
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed import (
    FloatProduct,
    PackedBranches,
    PackedNetwork,
    PackedNorm,
    PackedProduct,
    PackedResidual,
    PackedSequential,
)
from bnn_jax.nn.stateless import AvgPool, Flatten, GlobalAveragePool, LeakyRelu, MaxPool, Relu
from bnn_jax.ops.bits import pack
from bnn_jax.ops.deterministic import norm_coefficients
from bnn_jax.ops.windows import Window

pytestmark = pytest.mark.as_shipped

C = 16  # channels of most tests: one shape, one compilation


def float_twin(layer):
    """The same layers without thresholds: every map between two products is computed."""
    match layer:
        case PackedNetwork():
            return PackedNetwork(layer.channels, layer.num_classes, float_twin(layer.body))
        case PackedSequential():
            return PackedSequential(tuple(map(float_twin, layer.layers)))
        case PackedResidual():
            return PackedResidual(float_twin(layer.body), float_twin(layer.shortcut))
        case PackedBranches():
            return PackedBranches(tuple(map(float_twin, layer.branches)))
    return layer


def product(into, out, *, kind=None, use_k=False, scale=None, bias=None, seed=0):
    kind = kind or Dense()
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), size=kind.kernel_shape(into, out))
    scale, bias = (None if array is None else jnp.asarray(array, jnp.float32) for array in (scale, bias))
    return PackedProduct(kind, into, out, use_k, kind.pack_kernel(jnp.asarray(signs)), scale, bias)


def conv(into, out, size=3, padding=((1, 1), (1, 1)), pad_value=0, **keywords):
    return product(into, out, kind=Convolution(Window.of(size, 1, padding), pad_value), **keywords)


def norm(gamma, beta, mean, var):
    coefficients = norm_coefficients(*(jnp.asarray(a, jnp.float32) for a in (gamma, beta, mean, var)), 1e-4)
    return PackedNorm(len(gamma), coefficients)


def random_norm(channels, seed=0):
    """gamma of both signs, zero and tiny."""
    rng = np.random.default_rng(seed)
    gamma = rng.normal(size=channels)
    gamma[::7], gamma[3::11], gamma[5::13] = 0, 1e-30, -1e-6
    return norm(gamma, rng.normal(size=channels), 4 * rng.normal(size=channels), rng.uniform(0.01, 30, channels))


def stateless(*functions):
    return [Unchanged(function) for function in functions]


# The thresholds themselves


@pytest.mark.parametrize('k', [1, 2, 3, 8, 45])
def test_bisection_finds_every_place_of_a_change(k):
    places = np.arange(-k, k + 2, dtype=np.int32)  # below the first: never; below the last: always
    places = np.concatenate([places, places])
    inverted = np.arange(places.size) >= places.size // 2

    def is_negative(integers):
        return (integers < places) ^ inverted

    thresholds, flip = map(np.asarray, bisect(is_negative, k, places.size))
    for integer in range(-k, k + 1):
        np.testing.assert_array_equal((integer < thresholds) ^ flip, is_negative(np.full(places.shape, integer)))
    assert thresholds.min() >= -k and thresholds.max() <= k + 1


def test_bisection_over_a_long_range():
    k = 2**29
    places = jnp.asarray([-k + 1, -12345678, 0, 1, 3**17, k], jnp.int32)
    thresholds, flip = bisect(lambda integers: integers >= places, k, places.size)
    np.testing.assert_array_equal(thresholds, places)
    assert np.asarray(flip).all()


@jax.jit
def signs_in_floats(layers, integers):
    """The output of a chain before its next sign, for integers (n, C)."""
    first, *between = layers
    x = bnn.nn.epilogue(bnn.nn.scaled(integers.astype(jnp.float32), first.scale), None, first.bias)
    for layer in between:
        x = layer(x)
    return pack(x)


def assert_thresholds_are_those_of_the_layers(layers, k):
    """At all integers for a small k; for a large one at many, and around every threshold."""
    run = Run.of(layers, 0, len(layers))
    thresholds = np.asarray(run.thresholds)
    if k <= 2048:
        integers = np.arange(-2048, 2049, dtype=np.int32)
        integers = integers[np.abs(integers) <= k]
        integers = np.resize(integers, 4097)[:, None]  # one shape for all k: the integers again and again
    else:
        integers = np.linspace(-k, k, 4097 - 3 * C).astype(np.int32)
        integers = np.concatenate([integers, thresholds - 1, thresholds, thresholds + 1])[:, None].clip(-k, k)
    integers = jnp.asarray(np.broadcast_to(integers, (4097, C)))
    expected = signs_in_floats(tuple(layers), integers)
    actual = pack(integers - jnp.broadcast_to(run.thresholds, integers.shape))
    np.testing.assert_array_equal(actual ^ jnp.broadcast_to(run.flip, actual.shape), expected)


def magnitudes(rng, low, high, zeros=0.1):
    """C numbers of both signs, spread over the powers of ten, some of them 0."""
    return rng.choice([-1, 1], C) * 10 ** rng.uniform(low, high, C) * (rng.random(C) >= zeros)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 27, 300, 2048, 9216, 2**20]), st.sampled_from([2, 8, 30]))
def test_thresholds_are_those_of_the_layers(seed, k, spread):
    """alpha, bias, gamma, beta, mean and variance of all magnitudes, two normalizations with a leaky ReLU between."""
    rng = np.random.default_rng(seed)
    numbers = [magnitudes(rng, -spread, spread) for _ in range(8)]
    first = product(k, C, scale=numbers[0], bias=numbers[1])
    layers = [first, norm(*numbers[2:5], np.abs(numbers[5])), *stateless(LeakyRelu(0.1))]
    layers += [norm(numbers[6], numbers[7], rng.normal(size=C), rng.uniform(0, 3, C))]
    if all(np.isfinite(layer.coefficients).all() for layer in (layers[1], layers[3])):
        assert_thresholds_are_those_of_the_layers(layers, k)


def separately_rounded(integers, scale, bias, coefficients):
    """The layers in NumPy's float32, and the sign by its definition."""
    x = integers.astype(np.float32) * scale + bias
    x = np.where(coefficients[0] == 0, coefficients[1], (x + coefficients[1]) * coefficients[0])
    return np.where(x >= 0, 1, -1)


@pytest.mark.parametrize('seed', range(5))
def test_thresholds_are_those_of_numpy(seed):
    rng = np.random.default_rng(seed)
    scale, bias = magnitudes(rng, -2, 1, 0), magnitudes(rng, -2, 1)
    layers = [product(300, C, scale=scale, bias=bias), random_norm(C, seed)]
    run = Run.of(layers, 0, 2)
    for integer in range(-300, 301):
        expected = separately_rounded(
            np.full(C, integer), *map(np.float32, (scale, bias)), np.asarray(layers[1].coefficients)
        )
        below = jnp.asarray(integer - np.asarray(run.thresholds))[None]
        np.testing.assert_array_equal(pack(below)[0] ^ run.flip, pack(expected))


def test_a_tie_is_plus_one_and_a_constant_channel_stays_constant():
    """mean = 3, beta = 0: the normalized integer 3 is exactly 0 for gamma of either sign. gamma = 0: the sign of beta."""
    layers = [product(9, 4), norm([1, -1, 0, 0], [0, 0, -1, 0], [3, 3, 0, 0], [1, 1, 1, 1])]
    run = Run.of(layers, 0, 2)
    np.testing.assert_array_equal(run.thresholds, [3, 4, 10, -9])  # -1 below 3; from 4 on; everywhere; nowhere
    np.testing.assert_array_equal(run.flip, pack(np.int32([1, -1, 1, 1])))


# Where they apply

POOL = MaxPool(Window.of(2, 2))
HERE = {
    'nothing between': [],
    'norm': [random_norm(C)],
    'ReLU, pool, norm': [*stateless(Relu(), POOL), random_norm(C)],
    'norm, pool, leaky ReLU, pool, norm, flatten': [
        random_norm(C),
        *stateless(POOL, LeakyRelu(0), MaxPool(Window.of(3, 1, 'SAME'))),
        random_norm(C, 1),
        *stateless(Flatten()),
    ],
    'padded pool': stateless(MaxPool(Window.of(3, 2, ((1, 2), (2, 0))))),
}
NOT_HERE = {
    'average': stateless(AvgPool(Window.of(2, 2))),
    'global average': stateless(GlobalAveragePool()),
    'falling leaky ReLU': stateless(LeakyRelu(-0.1)),
    'norm of features': [*stateless(Flatten()), random_norm(C)],
    'norm of other channels': [random_norm(C + 1)],
    'a real product': [FloatProduct(Dense(), C, C, jnp.ones((C, C)), None)],
    'a shortcut': [PackedResidual(PackedSequential(()), PackedSequential(()))],
    'a chain': [PackedSequential(())],
    'not finite': [PackedNorm(C, jnp.full((2, C), jnp.nan))],
}


@pytest.mark.parametrize('between', HERE.values(), ids=HERE)
def test_where_thresholds_apply(between):
    layers = [random_norm(C), conv(C, C), *between, conv(C, C)]
    assert runs(layers) == [(1, 2 + len(between))]
    assert runs([*layers, random_norm(C)]) == runs(layers)  # nothing reads signs after the last
    assert runs([*layers, *between, conv(C, C)]) == [(1, 2 + len(between)), (2 + len(between), 3 + 2 * len(between))]


@pytest.mark.parametrize('between', NOT_HERE.values(), ids=NOT_HERE)
def test_where_they_do_not(between):
    assert runs([conv(C, C), *between, conv(C, C)]) == []


@pytest.mark.parametrize('window', [Window.of(2, 2, ((2, 0), (0, 0))), Window.of(2, 2, 'VALID', 2)])
def test_a_maximum_of_nothing_is_refused(window):
    with pytest.raises(
        ValueError, match='expected a padding smaller than the window, so that each window sees a pixel'
    ):
        MaxPool(window)


def test_where_a_product_forbids_them():
    assert runs([conv(C, C, use_k=True), conv(C, C)]) == [] == runs([conv(C, C), conv(C, C, use_k=True)])
    assert runs([conv(C, C, scale=np.full(C, np.inf)), conv(C, C)]) == []
    assert runs([]) == [] == runs([conv(C, C)])


# Chains and networks answer as before

OVERLAPPING = Window.of(3, 2, ((1, 1), (1, 0)))
CHAINS = [(32, 0, OVERLAPPING), (32, -1, Window.of(2, 2)), (45, 0, Window.of(2, 2)), (45, 1, OVERLAPPING)]


@pytest.mark.parametrize(('channels', 'pad_value', 'window'), CHAINS)
def test_a_chain_gives_the_same_integers(channels, pad_value, window):
    """Pooling before and after normalization, alpha of both signs, bias, flattening of channels that fill no word."""
    rng = np.random.default_rng(channels)
    pool, pixels = MaxPool(window), np.prod(window.output_size(*window.output_size(9, 8)))
    keywords = {'pad_value': pad_value, 'bias': rng.normal(size=channels)}
    layers = [
        conv(7, channels, scale=rng.normal(size=channels), **keywords),
        *stateless(pool),
        random_norm(channels),
        conv(channels, channels, seed=1, scale=rng.uniform(0, 2, channels), **keywords),
        random_norm(channels, 1),
        *stateless(pool, LeakyRelu(0.1)),
        random_norm(channels, 2),
        *stateless(Flatten()),
        product(channels * pixels, 12, seed=2),
        random_norm(12, 3),
        product(12, 5, seed=3),
    ]
    chain = in_bits(PackedSequential(tuple(layers)))
    assert [(run.start, run.stop) for run in chain.runs] == [(0, 3), (3, 9), (9, 11)]
    x = jnp.asarray(rng.normal(size=(3, 9, 8, 7)), jnp.float32)
    expected = np.asarray(jax.jit(lambda chain, x: chain(x))(float_twin(chain), x))
    assert np.unique(expected).size > 2
    np.testing.assert_array_equal(jax.jit(lambda chain, x: chain(x))(chain, x), expected)


def stored(network) -> tuple:
    """Everything in its file."""
    tensors = {}
    return describe(network, partial(stored_in, tensors=tensors)), {
        name: array.tobytes() for name, array in tensors.items()
    }


@pytest.mark.parametrize(
    ('architecture', 'scheme', 'count'),
    [('lenet5', 'XNOR', 1), ('lenet5', 'XNOR_K', 0), ('lenet5', 'BIREAL', 1), ('lenet5', 'BWN', 0), ('mlp', 'BNN', 2)]
    + [('vgg_small', 'BNN', 7)],
)
def test_networks_give_the_same_logits(architecture, scheme, count, tmp_path):
    model, x = build(architecture, SCHEMES[scheme]), images(architecture)
    randomize_norms(model)
    packed = bnn.convert(model)
    assert len(packed.body.runs) == count
    before = float_twin(packed)
    np.testing.assert_array_equal(evaluated(packed, x), evaluated(before, x), strict=True)
    assert stored(packed) == stored(before)
    loaded = bnn.load(bnn.save(packed, tmp_path / 'network.safetensors'))
    assert len(loaded.body.runs) == count
    np.testing.assert_array_equal(evaluated(loaded, x), evaluated(packed, x), strict=True)


def network(*layers):
    return in_bits(PackedNetwork(C, 5, PackedSequential(layers)))


def test_inside_residual_bodies_and_branches():
    body = PackedSequential((random_norm(C), conv(C, C), random_norm(C, 1), conv(C, C, seed=1)))
    packed = network(PackedResidual(body, PackedSequential(())), PackedBranches((body, PackedSequential(()))))
    assert [len(chain.runs) for chain in (packed.body, packed.body.layers[0].body)] == [0, 1]
    assert len(packed.body.layers[1].branches[0].runs) == 1
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, C)), jnp.float32)
    expected = float_twin(packed).body(x)
    np.testing.assert_array_equal(packed.body(x), expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(packed.body))(x[:, None])[:, 0], expected)
    paths = [row.path for row in packed.report.rows if row.became == 'integer thresholds, bits']
    assert paths == ['0.body.2', '1.branch0.2']


def test_the_report_says_what_is_done_in_bits():
    layers = [
        conv(C, C),
        *stateless(Relu(), LeakyRelu(0.1), POOL),
        random_norm(C),
        *stateless(Flatten()),
        product(C, 5),
    ]
    packed = network(*layers)
    rows = packed.report.rows
    assert [row.became for row in rows] == ['xnor + popcount', *['integer thresholds, bits'] * 5, 'xnor + popcount']
    assert 'compared' in rows[0].reason and 'compared' not in rows[-1].reason and 'AND or OR' in rows[3].reason
    without = float_twin(packed).report
    assert packed.report.bytes == without.bytes and [r.bytes for r in rows] == [r.bytes for r in without.rows]
    assert 'integer thresholds' not in str(without)


def test_an_image_of_another_size_is_refused_as_before():
    packed = network(conv(C, C), random_norm(C), *stateless(Flatten()), product(C * 12, 5))
    assert len(packed.body.runs) == 1 and packed(jnp.zeros((1, 3, 4, C))).shape == (1, 5)
    with pytest.raises(
        ValueError, match=rf'input of shape \(N, {C * 20}\), expected \(N, ..., {C * 12}\); give the model'
    ):
        packed(jnp.zeros((1, 5, 4, C)))


def test_no_file_states_runs(tmp_path):
    packed = network(conv(C, C), random_norm(C), conv(C, 5), *stateless(GlobalAveragePool()))
    described = describe(packed, partial(stored_in, tensors={}))
    assert 'runs' not in described['body'] and 'Run' not in known_names()
