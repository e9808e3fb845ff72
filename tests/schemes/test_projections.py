"""Projections: clip and center against NumPy and golden weights; `project` as the last link of an optax chain."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bnn_jax.schemes.projections import (
    AtLeast,
    center,
    center_and_clip,
    clip,
    in_place,
    initial,
    project,
    project_before,
)

DATA = Path(__file__).parents[1] / 'golden'
EPS = np.finfo(np.float32).eps
weight_shapes = pytest.mark.parametrize('shape', [(3, 3, 5, 7), (20, 6)], ids=['HWIO', 'dense'])


def weights(shape, seed=0):
    return 2 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def filters_last(w):
    """OIHW -> HWIO, (out, in) -> (in, out)."""
    return np.transpose(w, (2, 3, 1, 0) if w.ndim == 4 else None)


@pytest.mark.parametrize('projection', [clip, center_and_clip])
def test_initial_weights_keep_their_sharding(projection):
    w = weights((3, 3, 4, 5))
    expected = np.asarray(jax.jit(projection)(w))
    # On a mesh of one device: whether the weights stay on it is a matter of types.
    sharding = NamedSharding(
        jax.make_mesh((1,), ('filters',), axis_types=(AxisType.Auto,)), P(None, None, None, 'filters')
    )
    for array in (w, jnp.asarray(w), jax.device_put(w, sharding)):
        ours = initial(projection, array)
        np.testing.assert_array_equal(ours, expected)
        assert isinstance(ours, jax.Array)
    assert ours.committed and ours.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_array_equal(jax.jit(partial(initial, projection))(w), expected)


@weight_shapes
def test_clip(shape):
    w = weights(shape)
    np.testing.assert_array_equal(clip(jnp.asarray(w)), np.clip(w, -1, 1))


@weight_shapes
def test_center(shape):
    w = weights(shape)
    wide = w.astype(np.float64)
    # A float32 mean of at most 20 numbers below 8: some roundings of numbers of that size.
    np.testing.assert_allclose(center(jnp.asarray(w)), wide - wide.mean(-2, keepdims=True), atol=16 * EPS, rtol=0)


@pytest.mark.parametrize('shape', [(3, 3, 1, 7), (1, 6)], ids=['HWIO', 'dense'])
def test_center_does_not_change_a_single_input_channel(shape):
    w = weights(shape)
    np.testing.assert_array_equal(center(jnp.asarray(w)), w)


def test_center_comes_before_clip():
    w = jnp.asarray([[3.0, 5.0], [1.0, -1.0]])
    np.testing.assert_array_equal(center_and_clip(w), [[1, 1], [-1, -1]])
    np.testing.assert_array_equal(center(clip(w)), [[0, 1], [0, -1]])  # the other order


@pytest.mark.parametrize('projection', [clip, center, center_and_clip])
def test_dtype_and_jit(projection):
    w = jnp.asarray(weights((3, 3, 4, 2)))
    assert projection(w.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    # A mean taken in another order: some roundings of numbers below 8.
    np.testing.assert_allclose(jax.jit(projection)(w), projection(w), atol=16 * EPS, rtol=0)


with np.load(DATA / 'binop_forward.npz') as file:
    FORWARD = dict(file)


@pytest.mark.parametrize('case', sorted({key.split('/')[0] for key in FORWARD}))
def test_golden_center_and_clip(case):
    """REFERENCE: latent weights as the PyTorch implementation centers and clamps them."""
    w, centered, latent = (filters_last(FORWARD[f'{case}/{name}']) for name in ('w_in', 'w_centered', 'w_latent'))
    # Both means are float32 sums of at most 257 numbers below 3, each in an order of its own.
    np.testing.assert_allclose(center(w), centered, atol=4 * EPS, rtol=0)
    projected = np.asarray(center_and_clip(w))
    np.testing.assert_allclose(projected, latent, atol=4 * EPS, rtol=0)
    np.testing.assert_array_equal(np.abs(projected) == 1, np.abs(latent) == 1)
    np.testing.assert_array_equal(projected == 0, latent == 0)


def test_golden_clip():
    """DERIVED: BinaryConnect's clipping."""
    with np.load(DATA / 'derived_bc_bnn.npz') as file:
        np.testing.assert_array_equal(clip(file['w'].astype(np.float32)), file['w_clip'].astype(np.float32))


# project

PARAMS = {
    'binary': [jnp.asarray(weights((3, 3, 4, 2)) / 4), {'bias': jnp.asarray([2.0, -3.0])}],
    'real': jnp.full(3, 7.0),
}
GRADIENTS = jax.tree.map(lambda p: jnp.cos(37 * p), PARAMS)
PROJECTIONS = {'binary': [center_and_clip, {'bias': None}], 'real': None}


def stepped(tx, params=PARAMS):
    updates, _ = tx.update(GRADIENTS, tx.init(params), params)
    return optax.apply_updates(params, updates)


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['eager', 'jit'])
def test_project_changes_only_parameters_with_a_projection(wrap):
    sgd = optax.sgd(1.0, momentum=0.9)
    plain, projected = (wrap(lambda tx=tx: stepped(tx))() for tx in (sgd, optax.chain(sgd, project(PROJECTIONS))))
    assert (jnp.abs(plain['binary'][0]) > 1).any()
    # p + (projected - p), numbers below 4, means in another order under jit.
    np.testing.assert_allclose(projected['binary'][0], center_and_clip(plain['binary'][0]), atol=8 * EPS, rtol=0)
    np.testing.assert_array_equal(projected['binary'][1]['bias'], plain['binary'][1]['bias'])
    np.testing.assert_array_equal(projected['real'], plain['real'])


def test_project_takes_a_prefix_of_the_parameters():
    params = {'latent': {'a': jnp.asarray([0.5, -2.0]), 'b': jnp.asarray([3.0])}, 'real': {'c': jnp.asarray([4.0])}}
    tx = project({'latent': clip, 'real': None})
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    expected = {'latent': {'a': np.float32([1, -1]), 'b': np.float32([1])}, 'real': {'c': np.float32([5])}}
    chex.assert_trees_all_equal(moved, expected)


LATENT = arrays(np.float32, 8, elements=st.floats(-1, 1, width=32, allow_subnormal=False))
ANY = arrays(np.float32, 8, elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False))
CLIPPED = project(clip)


def updated(w, u):
    return optax.apply_updates(jnp.asarray(w), CLIPPED.update(jnp.asarray(u), CLIPPED.init(w), jnp.asarray(w))[0])


@settings(max_examples=100, deadline=None)
@given(LATENT, ANY)
def test_latent_weights_stay_within_1(w, u):
    assert (jnp.abs(updated(w, u)) <= 1).all()


@settings(max_examples=100, deadline=None)
@given(ANY, ANY)
def test_latent_weights_come_within_1(w, u):
    """A weight far outside (a fresh one) is subtracted from 1 and loses its low bits; the second update is exact."""
    u = np.where(u == 0, np.float32(1), u)  # Without an update a weight stays.
    once = updated(w, u)
    assert (jnp.abs(once) <= 1 + EPS * np.abs(w)).all()
    assert (jnp.abs(updated(once, np.full_like(u, 2.0**-60))) <= 1).all()


@pytest.mark.parametrize('projection', [clip, center_and_clip])
def test_what_gets_no_update_stays(projection):
    """One filter, single weights, a whole tensor; the others are projected."""
    w = jnp.asarray(weights((3, 3, 4, 2)) / 8)
    u = jnp.ones_like(w).at[..., 0].set(0).at[0, 0, 1, 1].set(-0.0)
    tx = project(projection)
    moved = optax.apply_updates(w, tx.update(u, tx.init(w), w)[0])
    np.testing.assert_array_equal(moved[u == 0], w[u == 0])
    np.testing.assert_allclose(moved[u != 0], projection(w + u)[u != 0], atol=8 * EPS, rtol=0)
    far, nothing = 8 * w, jnp.zeros_like(w)
    assert (jnp.abs(far) > 1).any()
    np.testing.assert_array_equal(tx.update(nothing, tx.init(far), far)[0], nothing)
    assert tx.update(None, tx.init(w), w)[0] is None


def test_what_gets_no_update_stays_before_a_step():
    frozen = optax.set_to_zero()
    chex.assert_trees_all_equal(
        optax.apply_updates(
            PARAMS, project_before(frozen, PROJECTIONS).update(GRADIENTS, frozen.init(PARAMS), PARAMS)[0]
        ),
        PARAMS,
    )


@pytest.mark.parametrize('projections', [None, {}, {'a': None, 'b': [None]}])
def test_nothing_to_project_raises(projections):
    with pytest.raises(ValueError, match='project: got no latent weight to project'):
        project(projections)


@pytest.mark.parametrize('link', [project(PROJECTIONS), project_before(optax.sgd(1.0), PROJECTIONS)])
def test_missing_params_raise(link):
    with pytest.raises(ValueError, match='got no params'):
        link.update(GRADIENTS, link.init(PARAMS))


# Before a step


def test_in_place_is_outside_the_differentiated_graph():
    w = jnp.asarray([[3.0, 5.0], [1.0, -1.0]])
    y, vjp = jax.vjp(lambda w: in_place(center_and_clip, w), w)
    np.testing.assert_array_equal(y, center_and_clip(w))
    np.testing.assert_array_equal(vjp(jnp.full((2, 2), 7.0))[0], np.full((2, 2), 7.0))


def test_at_least():
    np.testing.assert_array_equal(AtLeast(0.5)(jnp.asarray([-1.0, 0.25, 0.5, 2.0])), [0.5, 0.5, 0.5, 2])


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['eager', 'jit'])
def test_project_before_is_the_chain_on_projected_parameters(wrap):
    """q = projection(p), then q + tx's update at q: decay sees q, and the result is not projected."""
    tx = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.5, momentum=0.9))
    projected = jax.tree.map(
        lambda f, p: p if f is None else f(p), PROJECTIONS, PARAMS, is_leaf=lambda leaf: leaf is None
    )
    expected = wrap(lambda: stepped(tx, projected))()
    actual = wrap(lambda: stepped(project_before(tx, PROJECTIONS)))()
    # q - p + u + p against q + u, numbers below 4.
    chex.assert_trees_all_close(actual, expected, atol=8 * EPS, rtol=0)
    assert (jnp.abs(actual['binary'][0]) > 1).any()
    chex.assert_trees_all_equal(actual['real'], expected['real'])


def test_project_before_hands_extra_arguments_on():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    tx = project_before(optax.GradientTransformationExtraArgs(lambda p: (), update), PROJECTIONS)
    tx.update(GRADIENTS, tx.init(PARAMS), PARAMS, value=3)
    assert seen == {'value': 3}


def test_nothing_to_project_before_raises():
    with pytest.raises(ValueError, match='project_before: got no parameter to project'):
        project_before(optax.sgd(1.0), {'a': None})
