"""Batches, losses and optimizers that train_step and evaluate accept, and the messages for those that they refuse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training
from bnn_jax.training import evaluate, init, model_of, train_step

X = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
Y = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[Y]


def net(outputs=3):
    """A real dense layer: quick to compile."""
    return bnn.models.mlp(outputs, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), input_shape=(2, 2, 1), hidden=())


SGD = optax.sgd(0.5)
STATE = init(net(), SGD)


def kernel_of(state) -> np.ndarray:
    (layer,) = (m for _, m in nnx.iter_modules(model_of(state)) if isinstance(m, bnn.nn.Product))
    return np.asarray(layer.kernel[...])


@functools.cache
def expected():
    return train_step(STATE, {'image': X, 'label': Y})


class Tensor:
    """A stand-in for a PyTorch tensor with a gradient, on another device."""

    def __init__(self, array, state='on a graph'):
        self.array, self.state = array, state

    def detach(self):
        return Tensor(self.array, 'on a device')

    def cpu(self):
        return Tensor(self.array, 'here' if self.state == 'on a device' else self.state)

    def __array__(self, dtype=None, copy=None):
        if self.state != 'here':
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self.array


FORMS = {
    'a tuple': (X, Y),
    'a list': [X, Y],
    'lists of numbers': {'image': X.tolist(), 'label': Y.tolist()},
    'tensors': (Tensor(X), Tensor(Y)),
    'jax arrays': (jnp.asarray(X), jnp.asarray(Y)),
    'int8': (X, Y.astype(np.int8)),
    'uint64': (X, Y.astype(np.uint64)),
    'uint32 on the device': (X, jnp.asarray(Y, jnp.uint32)),
    'int8 on the device': (X, jnp.asarray(Y, jnp.int8)),
    'a column': (X, Y[:, None]),
    'a column on the device': (X, jnp.asarray(Y)[:, None]),
    'other keys': {'image': X, 'label': Y, 'name': ['a'] * 4},
}


@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
def test_forms_of_one_batch(form):
    for ours, theirs in zip(jax.tree.leaves(train_step(STATE, form)), jax.tree.leaves(expected()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_shares_of_classes():
    """One-hot rows are the labels; others have the expectation of the loss."""
    for one_hot in (ONE_HOT, ONE_HOT.astype(int), ONE_HOT > 0, jnp.asarray(ONE_HOT)):
        state, metrics = train_step(STATE, (X, one_hot))
        np.testing.assert_allclose(kernel_of(state), kernel_of(expected()[0]), rtol=1e-6)
        assert np.isclose(metrics['accuracy'], expected()[1]['accuracy'])
    mixed = 0.75 * ONE_HOT + 0.25 * ONE_HOT[::-1]
    losses = [float(train_step(STATE, (X, labels))[1]['loss']) for labels in (mixed, ONE_HOT, ONE_HOT[::-1])]
    assert np.isclose(losses[0], 0.75 * losses[1] + 0.25 * losses[2])
    model = model_of(STATE)
    whole, shares = evaluate(model, (X, Y)), evaluate(model, [(X, ONE_HOT)])
    assert whole['accuracy'] == shares['accuracy'] and np.isclose(whole['loss'], shares['loss'])
    hinge = training.SquaredHinge()
    logits = jnp.asarray(X.reshape(4, 4)[:, :3])
    np.testing.assert_array_equal(hinge(None, logits, jnp.asarray(ONE_HOT)), hinge(None, logits, jnp.asarray(Y)))


def test_a_weight_for_each_image():
    """An image of weight 0 is as if it were not there; only the ratio of weights counts."""
    weight = np.array([1, 3, 0, 0])
    state, metrics = train_step(STATE, (X, Y, weight))
    repeated = [0, 1, 1, 1]
    alone, plain = train_step(STATE, (X[repeated], Y[repeated]))
    np.testing.assert_allclose(kernel_of(state), kernel_of(alone), rtol=1e-5)
    assert np.isclose(metrics['loss'], plain['loss']) and np.isclose(metrics['accuracy'], plain['accuracy'])
    scaled, _ = train_step(STATE, {'image': X, 'label': Y, 'weight': (2.0 * weight)[:, None]})
    np.testing.assert_allclose(kernel_of(scaled), kernel_of(state), rtol=1e-6)
    by_two = training.step.update(STATE, training.batch.as_batch((X, Y, weight), 3), parts=2)[0]
    np.testing.assert_allclose(kernel_of(by_two), kernel_of(state), rtol=1e-5)
    weighted, gathered = (evaluate(model_of(STATE), batch) for batch in ((X, Y, weight), (X[repeated], Y[repeated])))
    assert np.isclose(weighted['loss'], gathered['loss']) and weighted['accuracy'] == gathered['accuracy']


REFUSED = {
    'no dictionary': (np.zeros((4, 2)), TypeError, 'batch: got a ndarray, expected'),
    'one part': ((X,), ValueError, 'batch: got a tuple of 1 parts'),
    'no image': ({'images': X, 'label': Y}, ValueError, r"got keys \['images', 'label'\], expected image and label"),
    'strings': ((X, ['a', 'b', 'a', 'b']), TypeError, r'batch: got label of dtype <U1 and shape \(4,\)'),
    'no array': ((X, object()), TypeError, 'batch: got label of dtype object'),
    'floats': ((X, Y.astype(np.float32)), TypeError, r'labels of dtype float32, expected integers \(N,\), or shares'),
    'another width': ((X, np.eye(4)), ValueError, r'labels of shape \(4, 4\) and dtype float64.*\(N, 3\)'),
    'several labels': ((X, np.ones((4, 3))), ValueError, 'rows that do not sum to 1'),
    'one bad row': ((X, [[1, 0, 0], [2, -1, 0], [0, 1, 0], [0, 0, 1]]), ValueError, r'such as \[2.0, -1.0, 0.0\]'),
    'NaN shares': ((X, np.full((4, 3), np.nan)), ValueError, 'rows that do not sum to 1'),
    'a map of labels': ((X, np.zeros((4, 2, 2), int)), ValueError, r'labels of shape \(4, 2, 2\)'),
    'one label': ((X, 3), ValueError, r'images \(4, 2, 2, 1\) and labels \(\)'),
    'out of range': ((X, Y.astype(np.uint64) + 2**32), ValueError, 'expected 0 to 2'),
    'weights of another length': ((X, Y, np.ones(3)), ValueError, r'weight \(3,\), expected one weight per image'),
    'negative weights': ((X, Y, -np.ones(4)), ValueError, 'weight of dtype float64 from -1.0'),
    'no weight at all': ((X, Y, np.zeros(4)), ValueError, 'not all 0'),
    'no images': ((X[:0], Y[:0]), ValueError, 'batch: got an empty batch'),
}


@pytest.mark.parametrize(('batch', 'kind', 'message'), REFUSED.values(), ids=REFUSED)
def test_refused_batches(batch, kind, message):
    with pytest.raises(kind, match=message):
        train_step(STATE, batch)
    if 'empty' not in message:
        with pytest.raises(kind, match=message):
            evaluate(model_of(STATE), [batch])


def test_labels_beyond_32_bits_on_the_device_show_in_the_loss():
    with jax.enable_x64(True):
        _, metrics = train_step(STATE, (X, jnp.asarray(Y) + 2**32))
    assert np.isnan(metrics['loss'])


# Logits.


class Own(nnx.Module):
    """A module that does not say its number of classes."""

    def __init__(self, call):
        self.layer, self.call = nnx.Linear(4, 3, rngs=nnx.Rngs(0)), call

    def __call__(self, x):
        return self.call(self.layer(x.reshape(len(x), -1)))


def test_logits_that_do_not_fit():
    seven = bnn.nn.Network([bnn.nn.Flatten(), lambda x: x.repeat(2, 1)[:, :7]], channels=1, num_classes=10)
    with pytest.raises(ValueError, match=r'logits: got shape \(4, 7\), expected 10 for each image'):
        train_step(init(seven, SGD), (X, Y))
    with pytest.raises(ValueError, match=r'logits: got shape \(4, 7\), expected 10 for each image'):
        evaluate(seven, (X, Y))
    by_step = Own(lambda y: y[:, None])
    for call in (lambda: train_step(init(by_step, SGD), (X, Y)), lambda: evaluate(by_step, (X, Y))):
        with pytest.raises(ValueError, match=r'logits: got shape \(4, 1, 3\) for images .* expected \(N, classes\)'):
            call()
    with pytest.raises(ValueError, match='expected 0 to 2'):
        train_step(init(Own(lambda y: y), SGD), (X, Y + 1))


# Losses.


def test_a_plain_function_is_a_loss():
    ours, _ = train_step(init(net(), SGD, optax.softmax_cross_entropy_with_integer_labels), (X, Y))
    np.testing.assert_allclose(kernel_of(ours), kernel_of(expected()[0]), rtol=1e-6)
    with_images = init(net(), SGD, lambda images, logits, labels: images.sum((1, 2, 3)) * logits[:, 0])
    _, metrics = train_step(with_images, (X, Y))
    logits = np.asarray(model_of(STATE)(X))
    assert np.isclose(metrics['loss'], (X.sum((1, 2, 3)) * logits[:, 0]).mean(), atol=1e-6)
    assert 'accuracy' in metrics


OWN = {
    'several labels': (3, (X.reshape(4, 4)[:, :3] > 0), lambda z, y: optax.sigmoid_binary_cross_entropy(z, y)),
    'a number': (1, X[:, 0, 0, 0], lambda z, y: jnp.square(z[:, 0] - y)),
    'a column of counts': (1, Y[:, None], lambda z, y: jnp.square(z - y)),
    'counts, one mean': (1, Y, lambda z, y: jnp.square(z[:, 0] - y).mean()),
    'a tree': (3, {'a': Y, 'b': ONE_HOT}, lambda z, y: optax.softmax_cross_entropy(z, y['b']) + 0 * y['a']),
}


@pytest.mark.parametrize(('outputs', 'labels', 'loss'), OWN.values(), ids=OWN)
def test_labels_of_the_losss_own_kind(outputs, labels, loss):
    state = init(net(outputs), SGD, loss)
    _, metrics = train_step(state, (X, labels))
    assert set(metrics) == {'loss', 'gradient_norm'}
    with jax.numpy_dtype_promotion('standard'):
        value = jnp.mean(loss(model_of(state)(X), jax.tree.map(jnp.asarray, labels)))
    assert np.isclose(metrics['loss'], value)
    evaluated = evaluate(model_of(state), [(X, labels)], loss)
    assert set(evaluated) == {'loss', 'count'} and np.isclose(evaluated['loss'], value)


def test_refused_losses():
    for loss in (3, training.CrossEntropy, lambda logits: logits, lambda a, b, c, d: a):
        with pytest.raises(TypeError, match=r'loss: got .*expected a Loss such as CrossEntropy\(\), or a function'):
            init(net(), SGD, loss)
    with pytest.raises(ValueError, match=r'loss: got shape \(4, 4\) .* one for each pair of an image and a label'):
        train_step(init(net(1), SGD, lambda z, y: jnp.square(z - y[None])), (X, X[:, 0, 0, 0]))
    with pytest.raises(ValueError, match=r'loss: got shape \(3,\)'):
        train_step(init(net(), SGD, lambda z, y: z.mean(0)), (X, Y))
    with pytest.raises(ValueError, match='one number for a batch with weights, expected one for each'):
        train_step(init(net(), SGD, lambda z, y: z.mean()), (X, Y, np.ones(4)))
    with pytest.raises(ValueError, match='If they are not classes, give them as floats'):
        train_step(init(net(), SGD, lambda z, y: z.mean(1)), (X, Y + 7))


def test_weights_of_several_bits_train():
    """No sign times a number: multiplied as they are quantized, of which `convert` says that no bit holds them."""
    two_bits = functools.partial(bnn.quantizers.dorefa_weights, bits=2)
    scheme = dataclasses.replace(bnn.BNN, weight=two_bits, scale=None, activation=None, projection=None)
    layer = bnn.nn.Linear(4, 3, scheme=scheme, use_bias=False, rngs=nnx.Rngs(0))
    x = jnp.asarray(X.reshape(4, 4))
    quantized = np.asarray(two_bits(layer.kernel[...]))
    assert len(np.unique(quantized)) > 2
    np.testing.assert_allclose(layer(x), X.reshape(4, 4) @ quantized, rtol=1e-5, atol=1e-6)
    assert bnn.summarize(layer, (4, 4)).binary_params == 0
    with pytest.raises(ValueError, match='more than one bit cannot be packed'):
        bnn.convert(layer)


# Optimizers.


def test_optimizers_get_their_extra_arguments():
    """The loss, functions of the parameters, and whatever the user adds."""
    tx = optax.chain(optax.sgd(0.5), optax.contrib.reduce_on_plateau(patience=1))
    train_step(init(net(), tx), (X, Y))
    searching = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))
    state, metrics = train_step(init(net(), searching), (X, Y))
    assert train_step(state, (X, Y))[1]['loss'] < metrics['loss']

    def update(updates, state, params, *, factor, **_):
        return jax.tree.map(lambda g: factor * g, updates), state

    own = optax.GradientTransformationExtraArgs(lambda params: (), update)
    state, _ = train_step(init(net(), own), (X, Y), factor=-0.5)
    np.testing.assert_allclose(kernel_of(state), kernel_of(expected()[0]), rtol=1e-6)

    # SAM's update takes nothing but grad_fn: here the gradient where it was, so that it is its outer optimizer.
    sam = optax.contrib.sam(optax.sgd(0.5), optax.sgd(0.0), opaque_mode=True)
    state, _ = train_step(init(net(), sam), (X, Y))
    np.testing.assert_allclose(kernel_of(state), kernel_of(expected()[0]), rtol=1e-6)


def test_a_loss_that_returns_no_array():
    with pytest.raises(TypeError, match=r'loss: got a tuple, expected an array of one number for each image, \(4,\)'):
        train_step(init(net(), optax.sgd(0.1), lambda logits, labels: (logits.sum(), logits)), (X, Y))


def test_parameters_of_integers_stay():
    class Table(nnx.Module):
        def __init__(self):
            self.layer, self.table = net(), nnx.Param(jnp.array([2, 0, 1]))

        def __call__(self, x):
            return self.layer(x)[:, self.table[...]]

    model = Table()
    state, _ = train_step(init(model, optax.adamw(0.1)), (X, Y))
    trained = model_of(state)
    assert trained.table[...].tolist() == [2, 0, 1] and trained.table[...].dtype == jnp.int32
    assert not np.array_equal(kernel_of(dataclasses.replace(state)), kernel_of(STATE))
