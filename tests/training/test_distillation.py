"""Distillation: value and gradient against NumPy, a step against its closed form, the teacher untouched, runs resumed."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import Standardize, digits
from bnn_jax.nn.containers import Auxiliary, Network, Sequential
from bnn_jax.nn.operations import Dense
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import Flatten
from bnn_jax.training import Config, CrossEntropy, distillation, fit, init, model_of, soft_cross_entropy, train_step
from bnn_jax.training.loss import cross_entropy
from bnn_jax.training.metrics import MetricsLog

RNG = np.random.default_rng(0)
S, T = 3 * RNG.normal(size=(5, 4)), 3 * RNG.normal(size=(5, 4))


def mlp(scheme=bnn.FLOAT, seed=0, hidden=(16,), num_classes=10, input_shape=(8, 8, 1)):
    return bnn.models.mlp(num_classes, scheme=scheme, rngs=nnx.Rngs(seed), input_shape=input_shape, hidden=hidden)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def soft(s, t, temperature):
    """The definition, image by image and class by class."""
    losses = []
    for one, other in zip(s, t, strict=True):
        p, q = softmax(other / temperature), softmax(one / temperature)
        losses.append(-(temperature**2) * sum(p[c] * np.log(q[c]) for c in range(len(p))))
    return np.array(losses)


def arrays(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(arrays(ours), arrays(theirs), strict=True))


# The soft cross-entropy.


@pytest.mark.parametrize('temperature', [0.5, 1, 4.0, 1000.0])
@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-5), ('float64', 1e-12), ('bfloat16', 1e-5)])
def test_value_and_gradient(dtype, tolerance, temperature):
    """bfloat16 logits are widened before anything is computed; only their gradient is rounded to bfloat16 again."""
    with jax.enable_x64(dtype == 'float64'):
        s, t = jnp.asarray(S, dtype), jnp.asarray(T, dtype)
        exact_s, exact_t = np.asarray(s, np.float64), np.asarray(t, np.float64)
        value, vjp = jax.vjp(lambda s, t: soft_cross_entropy(s, t, temperature), s, t)
        assert value.shape == (5,) and value.dtype == ('float64' if dtype == 'float64' else 'float32')
        expected = soft(exact_s, exact_t, temperature)
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        g = np.arange(1.0, 6)
        to_s, to_t = vjp(jnp.asarray(g, value.dtype))
    assert to_s.dtype == to_t.dtype == dtype
    expected = g[:, None] * temperature * (softmax(exact_s / temperature) - softmax(exact_t / temperature))
    atol = temperature * (2**-8 if dtype == 'bfloat16' else tolerance) * 5
    np.testing.assert_allclose(np.asarray(to_s, np.float64), expected, rtol=0, atol=atol)
    assert not np.asarray(to_t, np.float64).any()


def test_the_least_value_is_the_entropy_of_the_targets():
    p = softmax(T / 2)
    least = soft_cross_entropy(jnp.asarray(T, jnp.float32), jnp.asarray(T, jnp.float32), 2.0)
    np.testing.assert_allclose(least, -4 * (p * np.log(p)).sum(-1), rtol=1e-5)


def test_large_logits_stay_finite():
    s, t = jnp.asarray([[1e4, -1e4]], jnp.float32), jnp.asarray([[-1e4, 1e4]], jnp.float32)
    np.testing.assert_allclose(soft_cross_entropy(s, t, 1.0), [2e4])
    np.testing.assert_array_equal(soft_cross_entropy(s, s, 1.0), [0])


@pytest.mark.parametrize('shape', [(5, 1), (5, 3), (1, 4), (4,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r'got logits \(5, 4\) and \(.*\) of the teacher, expected the same'):
        soft_cross_entropy(jnp.zeros((5, 4)), jnp.zeros(shape), 1.0)


# The loss.


IMAGES = RNG.normal(size=(6, 8, 8, 1)).astype(np.float32)
LABELS = np.array([3, 0, 9, 9, 1, 5])


def test_shares():
    teacher, logits = mlp(seed=1), jnp.asarray(RNG.normal(size=(6, 10)), jnp.float32)
    teacher.eval()
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    hard, softened = cross_entropy(logits, labels), soft(np.asarray(logits), np.asarray(teacher(images)), 3.0)
    for share in (0, 0.25, 1):
        loss = distillation(teacher, temperature=3, share=share)(images, logits, labels)
        np.testing.assert_allclose(loss, (1 - share) * hard + share * softened, rtol=1e-5)
    assert np.array_equal(distillation(teacher, share=0)(images, logits, labels), hard)
    assert np.array_equal(CrossEntropy()(images, logits, labels), hard)


@pytest.mark.parametrize('share', [0, 0.5, 1])
def test_a_label_that_is_not_a_class_is_nan(share):
    loss = distillation(mlp(), share=share)
    values = loss(jnp.asarray(IMAGES), jnp.zeros((6, 10)), jnp.asarray([0, 10, -1, 9, 2, 3]))
    assert np.isnan(values).tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize('temperature', [0, -1.0, float('inf'), float('nan')])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match='got temperature .*, expected a positive number'):
        distillation(mlp(), temperature=temperature)


@pytest.mark.parametrize('share', [-0.1, 1.1, float('nan')])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(ValueError, match='got share .*, expected 0 to 1'):
        distillation(mlp(), share=share)


def test_a_teacher_is_a_network_for_the_same_images_and_classes():
    with pytest.raises(TypeError, match='distillation: got str, expected a Network'):
        distillation('teacher')  # pyright: ignore[reportArgumentType]
    for other in (mlp(num_classes=9), mlp(input_shape=(8, 8, 2))):
        with pytest.raises(ValueError, match='got a teacher of . channels and .* classes, expected the 1 and 10'):
            init(mlp(), optax.sgd(0.1), distillation(other))
    state = init(mlp(), optax.sgd(0.1), distillation(mlp(input_shape=(9, 8, 1))))
    with pytest.raises(ValueError, match='give the model the image size'):
        train_step(state, {'image': IMAGES, 'label': LABELS})


# A step.


def linear(seed):
    """One dense layer of 4 pixels and 3 classes, and an auxiliary head of the same form, weight 0.3."""
    rngs = nnx.Rngs(seed)
    head, out = (Product(Dense(), 4, 3, scheme=bnn.FLOAT, use_bias=True, rngs=rngs) for _ in range(2))
    return Network([Auxiliary(Sequential([Flatten(), head]), 0.3), Flatten(), out], channels=1, num_classes=3)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_step_is_its_closed_form(dtype):
    """SGD on (1 - a) hard + a soft, and 0.3 times the hard loss of the auxiliary head, which no teacher has."""
    student, teacher, temperature, share = linear(0), linear(1), 2.5, 0.7
    x, labels = RNG.normal(size=(5, 2, 2, 1)).astype(dtype), np.array([0, 2, 1, 1, 2])
    flat, onehot = x.reshape(5, 4).astype(np.float64), np.eye(3)[labels]
    w, head, taught = (
        np.asarray(layer.kernel[...], np.float64)
        for layer in (student.body.layers[2], student.body.layers[0].head.layers[1], teacher.body.layers[2])
    )
    p, q, q_soft = softmax(flat @ taught / temperature), softmax(flat @ w), softmax(flat @ w / temperature)
    q_head = softmax(flat @ head)
    hard = -np.log(q[onehot == 1])
    loss = ((1 - share) * hard + share * soft(flat @ w, flat @ taught, temperature)).mean()
    loss += 0.3 * -np.log(q_head[onehot == 1]).mean()
    error = ((1 - share) * (q - onehot) + share * temperature * (q_soft - p)) / 5
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    with jax.enable_x64(dtype == np.float64):
        state = init(student, optax.sgd(1.5), distillation(teacher, temperature=temperature, share=share))
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), dtype), state.params)
        state = dataclasses.replace(state, params=params)
        state, metrics = train_step(state, {'image': x, 'label': labels})
        layers = model_of(state).body.layers
        np.testing.assert_allclose(metrics['loss'], loss, rtol=tolerance)
        np.testing.assert_allclose(layers[2].kernel[...], w - 1.5 * flat.T @ error, rtol=0, atol=tolerance)
        np.testing.assert_allclose(layers[2].bias[...], -1.5 * error.sum(0), rtol=0, atol=tolerance)
        expected = head - 1.5 * 0.3 * flat.T @ (q_head - onehot) / 5
        np.testing.assert_allclose(layers[0].head.layers[1].kernel[...], expected, rtol=0, atol=tolerance)
        assert metrics['accuracy'] == ((flat @ w).argmax(-1) == labels).mean()


def test_the_teacher_answers_in_evaluation_mode_and_stays_as_it_is():
    teacher = mlp(seed=1)
    teacher.train()
    before = arrays(nnx.state(teacher))
    loss = distillation(teacher, temperature=2.0)
    state = init(mlp(bnn.XNOR), optax.sgd(0.1), loss)
    after, metrics = jax.jit(train_step.__globals__['update'], donate_argnums=0)(
        state, {'image': jnp.asarray(IMAGES), 'label': jnp.asarray(LABELS)}
    )
    assert same(after.loss, loss) and same(loss.state, before) and same(nnx.state(teacher), before)
    assert not any(norm.use_running_average for _, norm in nnx.iter_modules(teacher) if isinstance(norm, nnx.BatchNorm))
    student = mlp(bnn.XNOR)
    student.train()
    teacher.eval()
    expected = soft(np.asarray(student(IMAGES)), np.asarray(teacher(IMAGES)), 2.0).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)


def test_one_compilation_for_every_teacher_of_one_structure():
    traces = []

    def traced(x):
        traces.append(x.shape)
        return bnn.quantizers.sign_ste(x)

    student = mlp(dataclasses.replace(bnn.XNOR, activation=traced), hidden=(16, 16))
    state, batch, losses = init(student, optax.sgd(0.0), distillation(mlp())), {'image': IMAGES, 'label': LABELS}, []
    counts = []
    for factor in (1, 1, 2):
        changed = dataclasses.replace(state, loss=jax.tree.map(partial(jnp.multiply, factor), state.loss))
        losses.append(float(train_step(changed, batch)[1]['loss']))
        counts.append(len(traces))
    assert counts[0] > 0 and counts == counts[:1] * 3
    assert losses[0] == losses[1] != losses[2]


# A run.


def sgd(schedule):
    return optax.sgd(0.1)


def source(split, data_dir):
    return digits(split)


CONFIG = Config(
    model=partial(bnn.models.mlp, 10, scheme=bnn.XNOR, input_shape=(8, 8, 1), hidden=(16, 16)),
    data=source,
    standardize=Standardize((0.305,), (0.376,)),
    optimizer=sgd,
    epochs=1,
    checkpoint_every=5,
)


def test_a_run_with_a_teacher_is_resumed_to_the_same_result(tmp_path, monkeypatch):
    """Its teacher is in the checkpoint: that of the start counts, whatever another start brings; others are refused."""

    def config(workdir, teacher=None, **options):
        loss = partial(distillation, teacher or mlp(seed=1), **{'temperature': 2.0, 'share': 0.5} | options)
        return dataclasses.replace(CONFIG, loss=loss, workdir=str(tmp_path / workdir))

    whole = fit(config('whole'))
    assert not same(whole.params, fit(dataclasses.replace(CONFIG, workdir=str(tmp_path / 'alone'))).params)
    original = MetricsLog.write

    def killed(self, **record):
        original(self, **record)
        if record['step'] == 13:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, 'write', killed)
    with pytest.raises(KeyboardInterrupt):
        fit(config('part'))
    monkeypatch.undo()
    for change in ({'temperature': 3.0}, {'share': 0.25}, {'teacher': mlp(hidden=(8,))}):
        with pytest.raises(ValueError, match='use another --workdir'):
            fit(config('part', **change))
    assert same(fit(config('part', teacher=mlp(seed=2))), whole)
