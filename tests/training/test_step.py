"""Training: one step against its closed form in NumPy, projections, statistics, noise, evaluation, and refused batches."""

import dataclasses
import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import Standardize, digits, training_batches
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.product import Product
from bnn_jax.nn.variables import Latent, Noise
from bnn_jax.schemes import BC, BC_STOCHASTIC, BNN, BWN, FLOAT, XNOR, XNOR_K, itself
from bnn_jax.schemes.projections import center_and_clip
from bnn_jax.training import CrossEntropy, SquaredHinge, evaluate, init, logits_of, model_of, squared_hinge, train_step
from bnn_jax.training.evaluation import evaluation_loss, have_cross_entropy

SCHEMES = {
    'FLOAT': FLOAT,
    'BC': BC,
    'BC_STOCHASTIC': BC_STOCHASTIC,
    'BWN': BWN,
    'BNN': BNN,
    'XNOR': XNOR,
    'XNOR_K': XNOR_K,
}
BINARY = [name for name in SCHEMES if name != 'FLOAT']
CENTERED = ['XNOR', 'XNOR_K']
EPS = np.finfo(np.float32).eps


def mlp(scheme, hidden=(16, 16)):
    return bnn.models.mlp(10, scheme=scheme, rngs=nnx.Rngs(0), input_shape=(8, 8, 1), hidden=hidden)


batches, _ = training_batches(digits('train'), batch_size=64, seed=0, standardize=Standardize((0.305,), (0.376,)))
BATCHES = [batches[step] for step in range(23)]
TX = optax.sgd(lambda count: jnp.where(count == 0, 0.0, jnp.where(count < 20, 1.0, 300.0)))
"""First a step of length 0, then 19 of length 1, then some that drive latent weights to their bounds."""
LONG = 20


@cache
def course(name: str) -> tuple[list, list[float]]:
    """The states of an mlp under TX, from the first to the last, and the losses."""
    states, losses = [init(mlp(SCHEMES[name]), TX)], []
    for batch in BATCHES:
        state, metrics = train_step(states[-1], batch)
        states.append(state)
        losses.append(float(metrics['loss']))
    return states, losses


def arrays(tree) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def same(ours, theirs) -> bool:
    """Bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(arrays(ours), arrays(theirs), strict=True))


def pointers(tree) -> set[int]:
    return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}


def latents(state) -> list[np.ndarray]:
    leaves = jax.tree.leaves(state.params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return [np.array(leaf[...]) for leaf in leaves if isinstance(leaf, Latent)]


def modules(model, kind) -> list:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


# The state.


def test_init_neither_changes_nor_shares_the_model():
    model = mlp(XNOR)
    model.eval()
    before = arrays(nnx.state(model))
    state = init(model, TX)
    assert int(state.step) == 0
    assert same(nnx.state(model), before)
    assert all(norm.use_running_average for norm in modules(model, Norm))
    assert not pointers(state) & pointers(nnx.state(model))  # So the state's memory may be given away.


def test_init_refuses_a_function():
    with pytest.raises(TypeError, match='got function, expected a Network'):
        init(lambda x: x, optax.sgd(0.1))


def test_model_of_is_an_independent_model_in_evaluation_mode():
    state = course('BC_STOCHASTIC')[0][1]
    before = arrays(state)
    model = model_of(state)
    assert same(nnx.state(model, nnx.Param), state.params)
    assert same(nnx.state(model, nnx.Not(nnx.Param)), state.rest)
    assert not pointers(state) & pointers(nnx.state(model))
    assert all(norm.use_running_average for norm in modules(model, Norm))
    assert all(product.deterministic for product in modules(model, Product))
    nnx.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model)))
    assert same(state, before)
    assert same(nnx.state(model_of(state), nnx.Param), state.params)


# One step is what its formula says. x: (N, 2, 2, 1), 3 classes, one dense layer.


def sign(w):
    return np.where(w >= 0, 1.0, -1.0)


def real_weights(w):
    return w, lambda g: g


def plain_signs(w):
    return sign(w), lambda g: g * (np.abs(w) <= 1)


def signs_times_alpha(w):
    """The gradient of alpha sign(W), alpha = mean |W| a filter, with the straight-through estimator for sign."""
    alpha = np.abs(w).mean(0)
    return alpha * sign(w), lambda g: alpha * g * (np.abs(w) <= 1) + sign(w) / len(w) * (g * sign(w)).sum(0)


def softmax_step(quantize, project, x, labels, w, b, learning_rate):
    """One SGD step on the mean cross-entropy of x @ quantized(w) + b, float64: w, b, metrics."""
    quantized, gradient = quantize(w)
    logits = x @ quantized + b
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    rows = np.arange(len(x))
    error = probabilities.copy()
    error[rows, labels] -= 1
    error /= len(x)
    w_gradient, b_gradient = gradient(x.T @ error), error.sum(0)
    metrics = {
        'loss': -np.log(probabilities[rows, labels]).mean(),
        'accuracy': (logits.argmax(-1) == labels).mean(),
        'gradient_norm': np.sqrt((w_gradient**2).sum() + (b_gradient**2).sum() * (b is not ZERO)),
    }
    return project(w - learning_rate * w_gradient), b - learning_rate * b_gradient, metrics


ZERO = np.zeros(3)
"""The bias of a layer that has none."""

CLOSED_FORMS = {
    'FLOAT': (FLOAT, real_weights, lambda w: w),
    'BC': (dataclasses.replace(BC, last=itself), plain_signs, lambda w: np.clip(w, -1, 1)),
    'BWN': (dataclasses.replace(BWN, last=itself), signs_times_alpha, lambda w: np.clip(w, -1, 1)),
    'BWN, centered': (
        dataclasses.replace(BWN, last=itself, projection=center_and_clip),
        signs_times_alpha,
        lambda w: np.clip(w - w.mean(0), -1, 1),
    ),
}


@pytest.mark.parametrize('name', CLOSED_FORMS)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_step_is_its_closed_form(name, dtype):
    """Two steps, within 1e-5 in float32 and 1e-13 in float64 (values are about 1, sums have at most 20 terms)."""
    scheme, quantize, project = CLOSED_FORMS[name]
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(5, 2, 2, 1)).astype(dtype), np.array([0, 2, 1, 1, 2])
    learning_rate, tolerance = 1.5, 1e-5 if dtype == np.float32 else 1e-13
    model = bnn.models.mlp(3, scheme=scheme, rngs=nnx.Rngs(1), input_shape=(2, 2, 1), hidden=())
    (layer,) = modules(model, Product)
    layer.kernel[...] = jnp.asarray(rng.uniform(-2, 2, (4, 3)), jnp.float32)
    w, b = np.asarray(layer.kernel[...], np.float64), ZERO if layer.bias is None else np.zeros(3)

    with jax.enable_x64(dtype == np.float64):
        state = init(model, optax.sgd(learning_rate))
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), dtype), state.params)
        state = dataclasses.replace(state, params=params, opt_state=state.tx.init(params))
        clipped = False
        for _ in range(2):
            w, new_b, expected = softmax_step(quantize, project, x.reshape(5, 4), labels, w, b, learning_rate)
            b = ZERO if b is ZERO else new_b
            clipped |= np.abs(w).max() == 1
            state, metrics = train_step(state, {'image': x, 'label': labels})
            assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)} == {np.dtype(dtype).name}
            (trained,) = modules(model_of(state), Product)
            np.testing.assert_allclose(trained.kernel[...], w, rtol=0, atol=tolerance)
            if b is not ZERO:
                np.testing.assert_allclose(trained.bias[...], b, rtol=0, atol=tolerance)
            assert metrics.keys() == expected.keys()
            for key in metrics:
                np.testing.assert_allclose(metrics[key], expected[key], rtol=0, atol=tolerance, err_msg=key)
    assert clipped or not scheme.projection
    assert int(state.step) == 2


def test_batch_norm_statistics_are_moving_averages():
    """running <- 0.9 running + 0.1 batch, from mean 0 and variance 1; the batch's variance is the mean square."""
    x = np.random.default_rng(0).normal(2, 3, (6, 2, 2, 1)).astype(np.float32)
    model = bnn.models.mlp(3, scheme=XNOR, rngs=nnx.Rngs(0), input_shape=(2, 2, 1), hidden=())
    state, mean, var = init(model, optax.sgd(0.1)), 0.0, 1.0
    for _ in range(2):
        state, _ = train_step(state, {'image': x, 'label': np.zeros(6, np.int32)})
        mean, var = 0.9 * mean + 0.1 * x.mean(), 0.9 * var + 0.1 * x.var()
        (norm,) = modules(model_of(state), Norm)
        np.testing.assert_allclose(norm.mean[...], [mean], rtol=1e-5)
        np.testing.assert_allclose(norm.var[...], [var], rtol=1e-5)
    trained = model_of(state)
    before = arrays(nnx.state(trained))
    evaluate(trained, [{'image': x, 'label': np.zeros(6, np.int32)}])
    trained(x)
    assert same(nnx.state(trained), before)


# Many steps.


@pytest.mark.parametrize('name', SCHEMES)
def test_the_loss_falls(name):
    losses = course(name)[1][:LONG]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_steps_are_counted():
    assert [int(state.step) for state in course('XNOR')[0]] == list(range(len(BATCHES) + 1))


@pytest.mark.parametrize('name', SCHEMES)
def test_a_step_of_length_0_leaves_every_parameter(name):
    state, after = course(name)[0][:2]
    assert bool(latents(state)) == (name != 'FLOAT')
    assert same(state.params, after.params)


@pytest.mark.parametrize('name', BINARY)
def test_initial_weights_are_projected(name):
    for w in latents(course(name)[0][0]):
        assert np.abs(w).max() <= 1
        if name in CENTERED:
            np.testing.assert_allclose(w.mean(-2, dtype=np.float64), 0, atol=2 * EPS)


@pytest.mark.parametrize('name', BINARY)
def test_latent_weights_stay_where_the_projection_puts_them(name):
    """All lie in [-1, 1]. If no weight is clipped, XNOR's means over input channels are 0 up to a few roundings."""
    inside = clipped = 0
    for state in course(name)[0]:
        for w in latents(state):
            assert np.abs(w).max() <= 1
            edge = np.abs(w) == 1
            clipped += edge.sum()
            if name in CENTERED:
                free = ~edge.any(-2)
                inside += free.sum()
                assert np.abs(w.mean(-2, dtype=np.float64))[free].max(initial=0) <= 2 * EPS
    assert clipped
    assert inside or name not in CENTERED


def test_a_step_leaves_its_state_usable():
    state = init(mlp(BC_STOCHASTIC), TX)
    before = arrays(state)
    first = train_step(state, BATCHES[0])
    assert same(state, before)
    assert same(first, train_step(state, BATCHES[0]))


def test_one_compilation():
    traces = []

    def traced(x):
        traces.append(x.shape)
        return bnn.quantizers.sign_ste(x)

    state, counts = init(mlp(dataclasses.replace(XNOR, activation=traced)), TX), []
    for batch in BATCHES[:4]:
        state, _ = train_step(state, batch)
        counts.append(len(traces))
    assert counts[0] > 0 and counts == counts[:1] * 4
    model = model_of(state)
    evaluate(model, BATCHES[:2])
    assert len(traces) > counts[0]
    counts = len(traces)
    evaluate(model, [BATCHES[0], {key: value[:7] for key, value in BATCHES[1].items()}])
    assert len(traces) == counts, 'a smaller last batch was compiled anew'


# Stochastic weights.


def noise(state) -> list[np.ndarray]:
    return arrays(nnx.state(nnx.merge(state.graphdef, state.params, state.rest, copy=True), Noise))


def test_stochastic_weights_are_drawn_anew_each_step_and_never_in_evaluation():
    batch = BATCHES[0]
    states, losses = [init(mlp(BC_STOCHASTIC), TX)], []
    for _ in range(4):
        state, metrics = train_step(states[-1], batch)
        states.append(dataclasses.replace(state, opt_state=states[0].opt_state))  # Another step of length 0.
        losses.append(float(metrics['loss']))
    assert same(states[-1].params, states[0].params)
    assert len(set(losses)) == 4
    keys = [tuple(key.tolist()) for state in states for key in noise(state)]
    assert len(keys) == len(set(keys)) == 5
    model = model_of(states[-1])
    assert evaluate(model, [batch]) == evaluate(model, [batch])
    assert same(nnx.state(model, Noise), noise(states[-1]))
    signs = mlp(BC)
    nnx.update(signs, nnx.state(model, nnx.Not(Noise)))
    signs.eval()
    assert np.array_equal(signs(batch['image']), model(batch['image']))


def test_layers_draw_independently():
    keys = noise(init(mlp(BC_STOCHASTIC, hidden=(16, 16, 16)), TX))
    assert len(keys) == 2 and not np.array_equal(*keys)


# Evaluation.


@pytest.fixture(scope='module')
def trained():
    return model_of(course('XNOR')[0][LONG])


@pytest.fixture(scope='module')
def test_images():
    source = digits('test')
    return source.images[:100] / np.float32(255), source.labels[:100]


@pytest.mark.parametrize('splits', [[100], [64, 36], [7, 64, 29]], ids=str)
@pytest.mark.parametrize('arithmetic', [lambda model: model, bnn.convert], ids=['training', 'packed'])
def test_evaluate_is_the_mean_over_all_images(trained, test_images, splits, arithmetic):
    images, labels = test_images
    logits = np.asarray(logits_of(trained)(images), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(100), labels]
    ends = np.cumsum([0, *splits])
    batches = ({'image': images[a:b], 'label': labels[a:b]} for a, b in itertools.pairwise(ends))
    result = evaluate(arithmetic(trained), batches)
    assert result['count'] == 100
    assert result['accuracy'] == (logits.argmax(-1) == labels).mean()
    larger = (logits > logits[np.arange(100), labels][:, None]).sum(-1)
    assert result['accuracy'] < result['top5_accuracy'] == (larger < 5).mean() < 1
    np.testing.assert_allclose(result['loss'], losses.mean(), rtol=1e-6)


def test_evaluate_changes_neither_mode_nor_numbers(trained, test_images):
    images, labels = test_images
    batch = {'image': images, 'label': labels}
    model = nnx.merge(*nnx.split(trained), copy=True)
    model.eval()
    expected = evaluate(model, [batch])
    model.train()
    before = arrays(nnx.state(model))
    assert evaluate(model, [batch]) == expected
    assert np.array_equal(logits_of(model)(images), logits_of(trained)(images))
    assert same(nnx.state(model), before)
    assert not any(norm.use_running_average for norm in modules(model, Norm))


@pytest.mark.parametrize('arithmetic', [lambda model: model, bnn.convert], ids=['training', 'packed'])
def test_evaluate_refuses_no_images_and_bad_labels(trained, test_images, arithmetic):
    images, labels = test_images
    model = arithmetic(trained)
    with pytest.raises(ValueError, match='evaluate: got no images'):
        evaluate(model, [])
    with pytest.raises(ValueError, match='labels: got values from 10 to 10, expected 0 to 9'):
        evaluate(model, [{'image': images[:1], 'label': np.array([10])}])
    with pytest.raises(ValueError, match='expected one label per image'):
        evaluate(model, [{'image': images[:2], 'label': labels[:3]}])


def test_the_squared_hinge_is_the_mean_over_classes():
    """Value and gradient by its formula, on both sides of the hinge and on it."""
    logits, labels = np.float32([[0.5, -2, 1], [-1, 0, 3]]), np.array([2, 0])
    targets = np.float32([[-1, -1, 1], [1, -1, -1]])
    below = np.maximum(1 - targets * logits, 0)
    assert (below == 0).sum() == 2
    value, vjp = jax.vjp(lambda logits: squared_hinge(logits, jnp.asarray(labels)), jnp.asarray(logits))
    np.testing.assert_allclose(value, (below**2).mean(-1), rtol=1e-6)
    np.testing.assert_allclose(vjp(jnp.ones(2))[0], -2 * targets * below / 3, rtol=1e-6)
    np.testing.assert_array_equal(SquaredHinge()(None, jnp.asarray(logits), jnp.asarray(labels)), value)


@pytest.mark.parametrize('label', [-1, 3])
def test_the_squared_hinge_of_a_label_that_is_not_a_class_is_nan(label):
    assert np.isnan(squared_hinge(jnp.zeros((2, 3)), jnp.asarray([label, 1]))).tolist() == [True, False]


# Batches that are refused, or turn the loss into NaN.


@pytest.fixture(scope='module')
def fresh():
    return course('XNOR')[0][0]


IMAGES, LABELS = np.zeros((4, 8, 8, 1), np.float32), np.arange(4)


@pytest.mark.parametrize(
    ('batch', 'kind', 'message'),
    [
        (
            {'image': IMAGES, 'label': LABELS - 1},
            ValueError,
            'got values from -1 to 2, expected 0 to 9; is num_classes',
        ),
        ({'image': IMAGES, 'label': LABELS + 7}, ValueError, 'got values from 7 to 10, expected 0 to 9'),
        (
            {'image': IMAGES, 'label': LABELS.astype(np.float32)},
            TypeError,
            'labels of dtype float32, expected integers',
        ),
        ({'image': IMAGES, 'label': jnp.zeros(4)}, TypeError, 'labels of dtype float32, expected integers'),
        ({'image': IMAGES, 'label': LABELS > 0}, TypeError, 'labels of dtype bool, expected integers'),
        ({'image': IMAGES, 'label': LABELS[:3]}, ValueError, r'labels \(3,\), expected one label per image'),
        ({'image': IMAGES}, ValueError, r"got keys \['image'\], expected image and label"),
        ({'images': IMAGES, 'label': LABELS}, ValueError, r"got keys \['images', 'label'\]"),
        ({'image': IMAGES[..., 0], 'label': LABELS}, ValueError, r'got shape \(4, 8, 8\), expected \(N, H, W, 1\)'),
        ({'image': IMAGES.repeat(3, -1), 'label': LABELS}, ValueError, r'got shape \(4, 8, 8, 3\), expected'),
        ({'image': IMAGES.repeat(2, 1), 'label': LABELS}, ValueError, '64'),
        ({'image': IMAGES.astype(np.uint8), 'label': LABELS}, TypeError, 'got dtype uint8, expected floating'),
        ({'image': IMAGES[:0], 'label': LABELS[:0]}, ValueError, 'empty batch'),
    ],
    ids=lambda value: '' if isinstance(value, (dict, type)) else value[:20],
)
def test_refused_batches(fresh, batch, kind, message):
    with pytest.raises(kind, match=message):
        train_step(fresh, batch)


@pytest.mark.parametrize(
    'batch',
    [
        {'image': IMAGES, 'label': jnp.asarray(LABELS + 7)},
        {'image': IMAGES, 'label': jnp.asarray(LABELS - 1)},
        {'image': np.full_like(IMAGES, np.nan), 'label': LABELS},
    ],
    ids=['label 10 on the device', 'label -1 on the device', 'NaN images'],
)
def test_what_cannot_be_refused_shows_in_the_loss(fresh, batch):
    _, metrics = train_step(fresh, batch)
    assert np.isnan(metrics['loss'])


def test_other_keys_of_a_batch_are_ignored(fresh):
    batch = BATCHES[0]
    other = batch | {'name': np.array(['x'])}
    assert same(train_step(fresh, other), train_step(fresh, batch))


def test_evaluation_uses_a_users_own_loss():
    classes, shares = np.array([0, 1]), np.eye(2, dtype=np.float32)
    assert evaluation_loss(SquaredHinge(), classes) == CrossEntropy()
    assert evaluation_loss(SquaredHinge(), shares) == SquaredHinge()
    assert evaluation_loss(optax.l2_loss, classes) is optax.l2_loss


def test_integers_that_count_have_no_cross_entropy():
    batch = {'image': np.zeros((3, 2), np.float32), 'label': np.array([0, 7, 2], np.int32)}
    one, three = (nnx.Linear(2, width, rngs=nnx.Rngs(0)) for width in (1, 3))
    found = [have_cross_entropy(*case) for case in ((one, batch, optax.l2_loss), (three, batch, optax.l2_loss))]
    assert found == [False, True]
    assert have_cross_entropy(three, batch, CrossEntropy())
    assert not have_cross_entropy(three, batch | {'label': np.ones((3, 3), np.float32)}, CrossEntropy())
