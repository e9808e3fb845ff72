"""What training adds to a step: mixed and cut batches, clipped gradients, warm-up, averages; each against NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import PlusMinusOne
from bnn_jax.nn.variables import Progress
from bnn_jax.schemes import Scheduled
from bnn_jax.training import Config, constant, model_of
from bnn_jax.training.metrics import MetricsLog
from bnn_jax.training.mixing import Mixing
from bnn_jax.training.start import beginning, check_extension, rates, step_of

IMAGES = np.random.default_rng(0).normal(size=(6, 5, 7, 2)).astype(np.float32)
LABELS = np.arange(6) % 3


def sgd(schedule):
    return optax.sgd(schedule)


def no_data(split, data_dir):
    raise AssertionError('no data are needed')


CONFIG = Config(
    model=functools.partial(bnn.models.mlp, 3, scheme=bnn.XNOR, input_shape=(5, 7, 2), hidden=(4, 4)),
    data=no_data,
    standardize=PlusMinusOne(),
    optimizer=sgd,
    schedule=constant,
    learning_rate=0.1,
    batch_size=6,
    epochs=4,
)


def changed(step=0, **options):
    batch = {'image': jnp.asarray(IMAGES), 'label': jnp.asarray(LABELS)}
    return jax.tree.map(np.asarray, Mixing(**options)(batch, jnp.int32(step), 3))


def test_a_square_is_cut_out_of_each_image_anew():
    places = set()
    for step in range(40):
        batch = changed(step, cutout=3)
        np.testing.assert_array_equal(batch['label'], LABELS)
        for before, after in zip(IMAGES, batch['image'], strict=True):
            rows, columns = np.nonzero((after == 0).all(-1))
            top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
            expected = before.copy()
            expected[top : bottom + 1, left : right + 1] = 0
            np.testing.assert_array_equal(after, expected)
            # A side is shorter than 3 only where the border cuts it, around a pixel of the image.
            for first, last, extent in ((top, bottom, 5), (left, right, 7)):
                assert last - first == 2 or (last - first == 1 and (first == 0 or last == extent - 1))
            places.add((top, bottom, left, right))
    assert len(places) == 5 * 7


def test_images_and_labels_are_mixed_by_one_share():
    shares = []
    for step in range(3):
        batch = changed(step, mixup=0.5)
        np.testing.assert_array_equal(batch['image'], changed(step, mixup=0.5)['image'])
        share = float(batch['label'][0, 0])  # labels 0 and 2
        np.testing.assert_allclose(batch['image'], share * IMAGES + (1 - share) * IMAGES[::-1], atol=1e-6)
        one_hot = np.eye(3)[LABELS]
        np.testing.assert_allclose(batch['label'], share * one_hot + (1 - share) * one_hot[::-1], atol=1e-6)
        shares.append(share)
    assert len(set(shares)) == 3 and all(0 <= share <= 1 for share in shares)


def test_labels_are_smoothed():
    batch = changed(label_smoothing=0.3)
    np.testing.assert_array_equal(batch['image'], IMAGES)
    np.testing.assert_allclose(batch['label'], 0.7 * np.eye(3)[LABELS] + 0.1, atol=1e-6)


def test_the_rate_warms_up_and_then_follows_its_schedule():
    def schedule(learning_rate, steps):
        assert (learning_rate, steps) == (0.1, 34)
        return lambda step: 100 + step

    rate = rates(dataclasses.replace(CONFIG, schedule=schedule, warmup_epochs=0.6), 40)
    np.testing.assert_allclose([float(rate(i)) for i in range(7)], [*(np.arange(1, 7) / 7 * 0.1), 100], rtol=1e-6)
    with pytest.raises(ValueError, match='warmup_epochs: got 4, expected 0'):
        dataclasses.replace(CONFIG, warmup_epochs=4)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def without_progress(params, rest):
    return params, nnx.filter_state(rest, nnx.Not(Progress))


def test_gradients_are_clipped_and_an_average_follows():
    """A step of SGD without its projection moves all parameters together by rate times the clipped norm."""
    activation = Scheduled(lambda x, progress: bnn.quantizers.sign_ste(x))
    scheme = dataclasses.replace(bnn.XNOR, projection=None, activation=activation)
    model = functools.partial(CONFIG.model, scheme=scheme)
    config = dataclasses.replace(CONFIG, model=model, clip_gradient=0.25, ema=0.75, label_smoothing=0.1)
    state, _ = beginning(config, 8)
    step, batch = jax.jit(step_of(config)), {'image': IMAGES, 'label': LABELS.astype(np.int32)}
    expected = leaves(without_progress(state.params, state.rest))
    for _ in range(3):
        new, metrics = step(state, batch)
        moved = np.sqrt(
            sum(((a - b) ** 2).sum() for a, b in zip(leaves(new.params), leaves(state.params), strict=True))
        )
        assert metrics['gradient_norm'] > 0.25
        np.testing.assert_allclose(moved, 0.1 * 0.25, rtol=1e-4)
        state = new
        numbers = leaves(without_progress(state.params, state.rest))
        expected = [0.75 * a + 0.25 * b for a, b in zip(expected, numbers, strict=True)]
        for ours, theirs in zip(leaves(without_progress(*state.average)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for reached in leaves(nnx.filter_state(state.average[1], Progress)):
        np.testing.assert_allclose(reached, 2 / 7, rtol=1e-6)  # of the third of eight steps
    for ours, theirs in zip(leaves(nnx.state(model_of(state))), leaves(nnx.state(model_of(state))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    params, _ = state.average
    for ours, theirs in zip(leaves(nnx.state(model_of(state), nnx.Param)), leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_labels_are_not_mixed_without_their_number():
    def model(rngs):
        return nnx.Linear(2, 3, rngs=rngs)

    with pytest.raises(ValueError, match='got a network without num_classes, expected'):
        beginning(dataclasses.replace(CONFIG, model=model, mixup=0.2), 4)


def test_labels_of_another_kind_are_not_mixed():
    config = dataclasses.replace(CONFIG, loss=optax.l2_loss, label_smoothing=0.1)
    state, _ = beginning(config, 4)
    with pytest.raises(
        ValueError, match=r'mixup, label_smoothing: got labels float32\[6, 3\] for 3 logits and a loss of'
    ):
        step_of(config)(state, {'image': IMAGES, 'label': np.ones((6, 3), np.float32)})


def test_an_epoch_without_accuracies_of_steps():
    log = MetricsLog(None, 0)
    for step in (1, 2):
        log.write(step=step, loss=float(step), seconds=step)
    record = log.epoch(2, 2, {'loss': 3.0, 'accuracy': 0.5, 'count': 4}, 2.0, 6)
    assert (record['train_loss'], record['test_accuracy'], 'train_accuracy' in record) == (1.5, 0.5, False)


def test_a_schedule_of_another_length_is_not_extended():
    state, _ = beginning(CONFIG, 40)
    check_extension(CONFIG, 2, 10, 20, state)
    falling = dataclasses.replace(CONFIG, schedule=optax.cosine_decay_schedule)
    with pytest.raises(
        ValueError, match=r'began with 2 and had the learning rate .* at step 2; with 4 it would have been'
    ):
        check_extension(falling, 2, 10, 20, state)
    scheme = dataclasses.replace(bnn.XNOR, activation=Scheduled(lambda x, progress: bnn.quantizers.sign_ste(x)))
    scheduled = dataclasses.replace(CONFIG, model=functools.partial(CONFIG.model, scheme=scheme))
    with pytest.raises(ValueError, match='its quantizers depend on the progress of the whole run'):
        check_extension(scheduled, 2, 10, 20, beginning(scheduled, 40)[0])
