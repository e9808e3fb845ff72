"""Optimizers with the projections of latent weights, in loops of one's own: against NumPy, and against train_step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.nn import Latent
from bnn_jax.optim import by_kind, latent_weights, norms, projected
from bnn_jax.schemes.projections import center_and_clip, clip, of, project
from bnn_jax.training import biases, float_weights

W = np.linspace(-0.9, 0.9, 6, dtype=np.float32).reshape(3, 2)
G = np.float32([[1, -1], [0.5, -2], [-1, 0.25]])


def parameters(projection=clip):
    return nnx.State({'bias': nnx.Param(jnp.full(2, 3.0)), 'kernel': Latent(jnp.asarray(W), projection=projection)})


def gradients():
    return jax.tree.unflatten(jax.tree.structure(parameters()), [jnp.ones(2), jnp.asarray(G)])


def stepped(tx, params, steps):
    state = tx.init(params)
    with jax.numpy_dtype_promotion('standard'):
        for _ in range(steps):
            updates, state = tx.update(gradients(), state, params)
            params = optax.apply_updates(params, updates)
    return params, state


def test_the_projection_is_the_last_link():
    tx = projected(optax.sgd(0.5), parameters())
    params, _ = stepped(tx, parameters(), 1)
    np.testing.assert_allclose(params['kernel'][...], np.clip(W - 0.5 * G, -1, 1), rtol=1e-6)
    np.testing.assert_array_equal(params['bias'][...], [2.5, 2.5])
    by_hand = optax.chain(optax.sgd(0.5), project(of(parameters())))
    np.testing.assert_array_equal(stepped(by_hand, parameters(), 1)[0]['kernel'][...], params['kernel'][...])


def test_nothing_to_project_leaves_the_optimizer():
    tx = optax.sgd(0.5)
    assert projected(tx, parameters(projection=None)) is tx


def test_multi_steps_move_at_their_steps_only():
    tx = projected(optax.MultiSteps(optax.sgd(0.5), 3), parameters(center_and_clip))
    np.testing.assert_array_equal(stepped(tx, parameters(), 2)[0]['kernel'][...], W)
    assert not np.array_equal(stepped(tx, parameters(), 3)[0]['kernel'][...], W)


def test_the_average_of_schedule_free_is_one_of_projected_weights():
    """z <- clip(z - lr g), x the mean of all z, y = 0.1 z + 0.9 x: what is trained is y, what is evaluated is x."""
    steps, tx = 5, optax.contrib.schedule_free_sgd(0.5, b1=0.9)
    params, (state, _) = stepped(projected(tx, parameters()), parameters(), steps)
    z, zs = W, []
    for _ in range(steps):
        z = np.clip(z - 0.5 * G, -1, 1)
        zs.append(z)
    x = np.mean(zs, axis=0)
    np.testing.assert_allclose(params['kernel'][...], 0.1 * z + 0.9 * x, atol=1e-5)
    evaluated = optax.contrib.schedule_free_eval_params(state, params)
    np.testing.assert_allclose(evaluated['kernel'][...], x, atol=1e-5)
    np.testing.assert_array_equal(state.z['bias'][...], [0.5, 0.5])


def test_an_average_of_the_weights_is_projected():
    def update(updates, average, params):
        return updates, jax.tree.map(lambda a, p, u: 0.5 * a + 0.5 * (p + u), average, params, updates)

    average = optax.chain(optax.sgd(4.0), optax.GradientTransformation(lambda params: params, update))
    _, (state, _) = stepped(projected(average, parameters()), parameters(), 1)
    np.testing.assert_allclose(state[1]['kernel'][...], np.clip(W - 2 * G, -1, 1), rtol=1e-6)
    np.testing.assert_array_equal(state[1]['bias'][...], [1, 1])


@pytest.mark.parametrize(
    ('tx', 'name'),
    [
        (optax.lookahead(optax.sgd(0.1), 5, 0.5), 'LookaheadState'),
        (optax.contrib.mechanize(optax.sgd(0.1)), 'MechanicState'),
        (optax.contrib.cocob(), 'COCOBState'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_optimizers_that_forget_a_projection_are_refused(tx, name):
    with pytest.raises(ValueError, match=f'optimizer: got one with a {name}'), jax.numpy_dtype_promotion('standard'):
        projected(tx, parameters())


def test_no_optimizer():
    with pytest.raises(TypeError, match='optimizer: got .*expected an optax chain such as'):
        projected(optax.adam, parameters())
    with pytest.raises(ValueError, match='got 1 parameters, expected 2'):
        projected(optax.sgd(0.1), parameters()).update({'kernel': W}, optax.sgd(0.1).init(W), {'kernel': W})


# Whole loops.

X, Y = np.random.default_rng(0).normal(size=(8, 2, 2, 1)).astype(np.float32), np.arange(8) % 3
RULES = {
    latent_weights: optax.sgd(3.0),
    norms: optax.sgd(0.1),
    float_weights: optax.sgd(0.1),
    biases: optax.sgd(0.2),
}


def model(scheme=bnn.XNOR):
    return bnn.models.mlp(3, scheme=scheme, rngs=nnx.Rngs(0), hidden=(6, 6), input_shape=(2, 2, 1))


def latents(params) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.filter_state(params, Latent))]


def loss(m):
    return training.cross_entropy(m(X), jnp.asarray(Y)).mean()


def with_flax(tx, steps):
    trained = model()
    optimizer = nnx.Optimizer(trained, tx, wrt=nnx.Param)

    @nnx.jit
    def step(trained, optimizer):
        optimizer.update(trained, nnx.grad(loss)(trained))

    for _ in range(steps):
        step(trained, optimizer)
    return nnx.state(trained, nnx.Param)


def test_loops_of_flax_and_of_this_library_agree():
    """Two steps with an optimizer by kind, whose learning rate drives latent weights to their bounds."""
    tx, state = by_kind(RULES), training.init(model(), by_kind(RULES))
    for _ in range(2):
        state, _ = training.train_step(state, (X, Y))
    ours = latents(state.params)
    assert max(np.abs(w).max() for w in ours) == 1
    for w, theirs in zip(ours, latents(with_flax(projected(tx, model()), 2)), strict=True):
        np.testing.assert_allclose(w, theirs, atol=1e-5)
    # Without the projections weights are kept within their bounds all the same.
    assert max(np.abs(w).max() for w in latents(with_flax(optax.sgd(3.0), 1))) <= 1


def test_kinds_come_from_variables():
    tx = by_kind({latent_weights: bnn.bop(0.5), biases: optax.sgd(0.5)})
    params = parameters()
    plain, state = nnx.as_pure(params), nnx.as_pure(tx.init(params))
    with pytest.raises(TypeError, match='by_kind: got parameters that are plain arrays'):
        tx.init(plain)
    updates, _ = tx.update(nnx.as_pure(gradients()), state, plain)
    np.testing.assert_array_equal(updates['bias'], [-0.5, -0.5])
    flipped = np.where(W < 0, -1, 1) * np.where(W * G > 0, -1, 1)
    np.testing.assert_allclose(plain['kernel'] + updates['kernel'], flipped, rtol=1e-6)
    with pytest.raises(ValueError, match='by_kind: got 1 parameters, expected 2'):
        tx.update({'bias': jnp.ones(2)}, state, {'bias': jnp.ones(2)})


def test_a_gradient_of_none_moves_nothing():
    params = {'a': jnp.asarray(W), 'b': jnp.asarray(W)}
    for tx in (bnn.bop(0.5), optax.chain(optax.sgd(0.5), project({'a': clip, 'b': clip}))):
        updates, _ = tx.update({'a': jnp.asarray(G), 'b': None}, tx.init(params), params)
        assert updates['b'] is None and updates['a'].shape == W.shape
    assert training.gradient_norm({'a': jnp.asarray([3.0, 4.0]), 'b': None}) == 5


def test_the_same_optimizer_is_compiled_once():
    """The structure of a state, its optimizer included, is what a compiled step is found by."""
    tx = optax.adam(1e-2)
    one, other = (jax.tree.structure(training.init(model(), tx)) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    multi = optax.MultiSteps(tx, 2)
    assert projected(multi, model()) is projected(multi, model())


def test_norms_stay_as_the_user_set_them():
    frozen = model()
    for _, layer in nnx.iter_modules(frozen):
        if isinstance(layer, bnn.nn.Norm):
            layer.eval()
    for start, moves in ((frozen, False), (training.model_of(training.init(model(), optax.sgd(0.1))), True)):
        state, _ = training.train_step(training.init(start, optax.sgd(0.1)), (X, Y))
        pairs = zip(
            *(jax.tree.leaves(nnx.state(m, nnx.BatchStat)) for m in (start, training.model_of(state))), strict=True
        )
        assert {bool((a != b).any()) for a, b in pairs} == {moves}
