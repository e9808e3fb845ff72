"""Networks under JAX's own transformations, and on meshes of every kind: the same numbers as without."""

import dataclasses
import threading
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.nn import Flatten, GlobalAveragePool, MaxPool, Network, Norm, Product, Window
from bnn_jax.ops.deterministic import ordered_mean

X, Y = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32), np.arange(4) % 3


def build():
    """Every operation with arrays of its own: convolutions, a norm, poolings, dense layers."""
    rngs, scheme = nnx.Rngs(0), bnn.XNOR_K
    conv = bnn.nn.Convolution(Window.of(3, 1, 'SAME'))
    layers = [
        Norm(3, scheme=scheme, rngs=rngs),
        Product(conv, 3, 8, scheme=scheme, use_bias=False, rngs=rngs),
        MaxPool(Window.of(2, 2)),
        Product(conv, 8, 8, scheme=bnn.FLOAT, use_bias=False, rngs=rngs),
        GlobalAveragePool(),
        Flatten(),
        Product(bnn.nn.Dense(), 8, 3, scheme=scheme, use_bias=True, rngs=rngs),
    ]
    return Network(layers, channels=3, num_classes=3)


@cache
def model():
    model = build()
    model.eval()
    return model


@cache
def parameters():
    return nnx.state(model(), nnx.Param)


def logits(params, images):
    graphdef, _, rest = nnx.split(model(), nnx.Param, ...)
    return nnx.merge(graphdef, params, rest, copy=True)(images)


def loss(params, images):
    return jnp.square(logits(params, images)).mean()


@cache
def expected():
    return jax.jit(jax.value_and_grad(loss))(parameters(), X)


@cache
def packed():
    return bnn.convert(model())


@cache
def answers():
    return np.asarray(jax.jit(packed())(X))


class Own(nnx.Module):
    """A module of the user's own."""

    def __init__(self):
        self.norm = Norm(3, scheme=bnn.XNOR, rngs=nnx.Rngs(0))
        self.dense = bnn.nn.Linear(3, 2, scheme=bnn.XNOR, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dense(self.norm(x))


@cache
def own():
    own = Own()
    own.eval()
    return own


def assert_close(ours, theirs):
    # A sum over the batch in another order: some roundings of numbers of about 1.
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_meshes_that_the_user_set(kind):
    """One device is enough, because only the types of arrays depend on the mesh."""
    plain, metrics = training.train_step(training.init(build(), optax.sgd(0.1)), (X, Y))
    own_answers = np.asarray(own()(X))
    expected(), answers()  # Computed once for all tests, so before a mesh is set.
    mesh = jax.make_mesh((1,), ('data',), axis_types=(kind,))
    with jax.set_mesh(mesh):
        images, labels = (jax.device_put(a, NamedSharding(mesh, P('data'))) for a in (X, Y))
        state, ours = training.train_step(training.init(build(), optax.sgd(0.1)), (images, labels))
        assert_close(jax.jit(jax.value_and_grad(loss))(parameters(), images), expected())
        np.testing.assert_array_equal(jax.jit(packed())(images), answers())
        evaluated = training.evaluate(model(), [(images, labels)])
        for module in (own(), bnn.convert(own())):
            np.testing.assert_array_equal(module(images), own_answers)
    assert_close((state.params, ours), (plain.params, metrics))
    assert evaluated['count'] == 4


def test_shard_map_with_its_checks():
    mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,))
    specs = {'mesh': mesh, 'in_specs': P('data'), 'out_specs': P('data')}
    np.testing.assert_array_equal(jax.jit(jax.shard_map(packed(), **specs))(X), answers())
    means = jax.shard_map(ordered_mean, mesh=mesh, in_specs=P(None, 'data'), out_specs=P('data'))
    np.testing.assert_allclose(jax.jit(means)(X[0, 0]), X[0, 0].mean(0), rtol=1e-6)


def test_vmap_scan_and_remat():
    parts = X.reshape(2, 2, *X.shape[1:])
    np.testing.assert_array_equal(np.concatenate(jax.jit(jax.vmap(packed()))(parts)), answers())
    np.testing.assert_array_equal(np.concatenate(jax.lax.scan(lambda c, x: (c, packed()(x)), 0, parts)[1]), answers())
    assert_close(jax.jit(jax.value_and_grad(jax.checkpoint(loss)))(parameters(), X), expected())
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(parameters(), parts)
    assert_close(jax.tree.map(lambda g: g.mean(0), each), expected()[1])

    def step(state, batch):
        return training.step.update(state, {'image': batch, 'label': jnp.asarray(Y[:2])})

    state = training.init(build(), optax.sgd(0.1))
    scanned, _ = jax.jit(lambda state: jax.lax.scan(step, state, parts))(state)
    for part in parts:
        state, _ = training.train_step(state, (part, Y[:2]))
    assert_close(scanned.params, state.params)


def test_threads():
    call, results = jax.jit(packed()), []
    threads = [threading.Thread(target=lambda: results.append(np.asarray(call(X)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(result, answers()) for result in results)


def test_an_export_may_leave_the_batch_open():
    (batch,) = jax.export.symbolic_shape('b')
    shape = jax.ShapeDtypeStruct((batch, *X.shape[1:]), np.float32)
    exported = jax.export.export(jax.jit(packed()), disabled_checks=bnn.kernels.native.DISABLED_CHECKS)(shape)
    np.testing.assert_array_equal(exported.call(X), answers())
    np.testing.assert_array_equal(exported.call(X[:3]), answers()[:3])


def test_gradients_in_shard_map_with_its_checks():
    """Weights that all devices share get one gradient, that of the mean over the devices."""
    mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,))
    gradient = jax.grad(lambda params, images: jax.lax.pmean(loss(params, images), 'data'))
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P('data')), out_specs=P())
    assert_close(jax.jit(mapped)(parameters(), X), expected()[1])


def test_a_mesh_that_nobody_set():
    """Evaluation leaves the model as it was: on no mesh."""
    mesh, fresh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Explicit,)), build()
    fresh.eval()
    images = jax.device_put(X, NamedSharding(mesh, P('data')))
    for call in (fresh, jax.jit(packed())):
        np.testing.assert_array_equal(call(images), answers())
    assert all(not jax.typeof(leaf).sharding.mesh.explicit_axes for leaf in jax.tree.leaves(nnx.state(fresh)))


def test_a_projected_gamma_is_kept_on_explicit_axes():
    norm = Norm(3, scheme=dataclasses.replace(bnn.FLOAT, gamma_before=jnp.abs), rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.asarray([-2.0, 0.5, -0.25])
    mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Explicit,))
    norm(jax.device_put(X, NamedSharding(mesh, P('data'))))
    np.testing.assert_array_equal(norm.scale[...], [2, 0.5, 0.25])
