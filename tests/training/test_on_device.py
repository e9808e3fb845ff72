"""Images on the devices: what is drawn there, against NumPy; a run of many steps a call, stopped and gone on, is one run."""

import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnn_jax as bnn
from bnn_jax.data import (
    ArraySource,
    PlusMinusOne,
    Standardize,
    crop,
    cutout,
    digits,
    evaluation_batches,
    flip,
    random_crop,
    resize_short,
    resize_to,
)
from bnn_jax.training import Config, Interrupted, NonFiniteLoss, OutOfTime, evaluate, fit, model_of
from bnn_jax.training.devices import all_devices
from bnn_jax.training.images import HostImages, images_of
from bnn_jax.training.metrics import MetricsLog, read
from bnn_jax.training.on_device import Draw, batched, pixel_table, reason_against

# What is drawn. Every pixel says which image it is of, its line and its column, from 1; 0 is padding or a hole.

NUMBER, HEIGHT, WIDTH, BATCH, EPOCHS = 64, 6, 5, 10, 40
EPOCH = NUMBER // BATCH
CODED = np.zeros((NUMBER, HEIGHT, WIDTH, 3), np.uint8)
CODED[..., 0] = 1 + np.arange(NUMBER)[:, None, None]
CODED[..., 1] = 1 + np.arange(HEIGHT)[:, None]
CODED[..., 2] = 1 + np.arange(WIDTH)
LYING = {
    'image': CODED,
    'label': np.arange(NUMBER, dtype=np.int32),
    'table': np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1),
}


class Negative:
    """An augmentation of one's own."""

    def __call__(self, image, rng):
        return 255 - image

    def on_device(self, images, key):
        return 255 - images


def drawn(*augmentations) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all steps of some epochs, (steps, BATCH, ...)."""
    draw = Draw(3, BATCH, NUMBER, tuple(map(batched, augmentations)))
    batches = jax.jit(jax.vmap(functools.partial(draw.batch, jax.tree.map(jnp.asarray, LYING))))
    batch = batches(jnp.arange(EPOCHS * EPOCH, dtype=jnp.int32))
    return np.asarray(batch['image']), np.asarray(batch['label'])


def even(counts, draws: int) -> bool:
    """Whether counts of equally likely outcomes are: chi squared within five deviations of its mean."""
    expected = draws / len(counts)
    chi = sum((count - expected) ** 2 / expected for count in counts)
    return draws == sum(counts) and abs(chi - (len(counts) - 1)) < 5 * np.sqrt(2 * (len(counts) - 1))


def unrelated(*columns) -> bool:
    """Whether the numbers of no two columns are correlated: within five deviations of 0."""
    matrix = np.corrcoef(np.array(columns, float)) - np.eye(len(columns))
    return bool(np.abs(matrix).max() < 5 / np.sqrt(len(columns[0])))


def test_every_epoch_is_shuffled_anew_and_drops_other_images():
    images, labels = drawn(Negative())
    np.testing.assert_array_equal(images, 255.0 - CODED[labels])
    epochs = labels.reshape(EPOCHS, -1)
    assert all(len(set(epoch)) == EPOCH * BATCH for epoch in epochs)
    dropped = [label for epoch in epochs for label in set(range(NUMBER)) - set(epoch.tolist())]
    assert even(np.bincount(dropped, minlength=NUMBER), 4 * EPOCHS)
    assert unrelated(*epochs[:8, : EPOCH * BATCH])
    orders = [np.asarray(Draw(seed, BATCH, NUMBER).order(jnp.int32(0))) for seed in (3, 4)]
    np.testing.assert_array_equal(orders[0][: EPOCH * BATCH], epochs[0])
    assert unrelated(*orders)


def test_crops_and_flips_are_numpys_at_places_that_are_even_and_unrelated():
    padding = 2
    images, labels = drawn(crop(padding), flip)
    padded = np.pad(CODED, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = {
        (top, left, mirrored): padded[:, top : top + HEIGHT, left : left + WIDTH][:, :, :: -1 if mirrored else 1]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for mirrored in (False, True)
    }
    places = []
    for image, label in zip(images.reshape(-1, HEIGHT, WIDTH, 3), labels.reshape(-1), strict=True):
        (place,) = [place for place, window in windows.items() if np.array_equal(image, window[label])]
        places.append(place)
    assert even([places.count(place) for place in windows], len(places))
    tops, lefts, mirrored = np.array(places).T
    before = np.roll(tops, 1), np.roll(lefts, 1), np.roll(tops, BATCH)  # of the neighbor, and of the step before
    assert unrelated(tops, lefts, mirrored, *before, labels.reshape(-1))


def test_windows_and_holes_are_numpys():
    images, labels = drawn(random_crop(4))
    corners = [(top, left) for top in range(HEIGHT - 3) for left in range(WIDTH - 3)]
    seen = [(int(image[0, 0, 1]) - 1, int(image[0, 0, 2]) - 1) for image in images.reshape(-1, 4, 4, 3)]
    assert even([seen.count(corner) for corner in corners], len(seen))
    for image, label, (top, left) in zip(images.reshape(-1, 4, 4, 3), labels.reshape(-1), seen, strict=True):
        np.testing.assert_array_equal(image, CODED[label, top : top + 4, left : left + 4])

    images, labels = drawn(cutout(3))
    holes = {}
    for middle in np.ndindex(HEIGHT, WIDTH):
        hole = np.zeros((HEIGHT, WIDTH), bool)
        for y, x in np.ndindex(HEIGHT, WIDTH):
            hole[y, x] = abs(y - middle[0]) <= 1 and abs(x - middle[1]) <= 1
        holes[hole.tobytes()] = hole
    assert len(holes) == HEIGHT * WIDTH
    rng = np.random.default_rng(0)
    on_host = [(cutout(3)(CODED[0], rng)[..., 0] == 0).tobytes() for _ in range(2000)]
    assert even([on_host.count(hole) for hole in holes], len(on_host))
    images = images.reshape(-1, HEIGHT, WIDTH, 3)
    seen = [(image[..., 0] == 0).tobytes() for image in images]
    assert even([seen.count(hole) for hole in holes], len(seen))
    for image, label, hole in zip(images, labels.reshape(-1), seen, strict=True):
        np.testing.assert_array_equal(image, np.where(holes[hole][..., None], 0, CODED[label]))


def test_a_table_is_the_normalization_to_the_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 7, 5, 3)).astype(np.uint8)
    for standardize in (Standardize((0.1, 0.5, 0.7), (0.2, 0.25, 0.3)), PlusMinusOne()):
        table = pixel_table(standardize, pixels)
        assert table is not None
        for image in pixels:
            np.testing.assert_array_equal(table[image, np.arange(3)], standardize(image))
    assert pixel_table(lambda image: (image - image.mean()).astype(np.float32), pixels) is None


# Runs.


def source(split, data_dir):
    return digits(split)


CONFIG = Config(
    model=functools.partial(bnn.models.mlp, 10, scheme=bnn.BC_STOCHASTIC, input_shape=(8, 8, 1), hidden=(16, 16)),
    data=source,
    standardize=Standardize((0.305,), (0.376,)),
    augmentations=(crop(1),),
    epochs=2,
    batch_size=64,
    learning_rate=1e-2,
    checkpoint_every=15,
    watch_every=9,
    on_device=True,
)
LAST = 44


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run without interruption, its workdir and its last state."""
    workdir = tmp_path_factory.mktemp('finished')
    return workdir, fit(dataclasses.replace(CONFIG, workdir=str(workdir)))


def same(ours, theirs) -> bool:
    return all(
        np.array_equal(np.array(a), np.array(b))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    )


def records(workdir) -> list[dict]:
    times = ('seconds', 'images_per_second')
    return [{k: v for k, v in record.items() if k not in times} for record in read(workdir / 'metrics.jsonl')]


def test_the_records_of_a_run(finished):
    workdir, state = finished
    log = records(workdir)
    steps, epochs = [r for r in log if 'epoch' not in r], [r for r in log if 'epoch' in r]
    assert [record['step'] for record in steps] == list(range(1, LAST + 1))
    assert [r['step'] for r in steps if 'flips' in r] == [9, 18, 27, 36]
    for record in steps:
        rate = 1e-2 * (1 + np.cos(np.pi * (record['step'] - 1) / LAST)) / 2
        assert record['learning_rate'] == pytest.approx(rate, rel=1e-5)
    assert epochs[1]['test_loss'] < epochs[0]['test_loss']
    seconds = [record['seconds'] for record in read(workdir / 'metrics.jsonl')]
    assert seconds == sorted(seconds)
    assert json.loads((workdir / 'config.json').read_text())['on_device'] is True
    test = evaluation_batches(digits('test'), batch_size=64, standardize=CONFIG.standardize)
    expected = evaluate(model_of(state), test)
    assert [r['epoch'] for r in epochs] == [1, 2]
    assert epochs[-1]['test_accuracy'] == expected['accuracy']
    assert epochs[-1]['test_loss'] == pytest.approx(expected['loss'], rel=1e-5)
    assert epochs[-1].keys() >= {'running_statistics/accuracy', 'batch_statistics/accuracy'}
    assert all(record['images_per_second'] > 0 for record in read(workdir / 'metrics.jsonl') if 'epoch' in record)


def test_a_run_stopped_by_time_and_by_a_signal_resumes(finished, tmp_path, monkeypatch, capfd):
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path))
    with pytest.raises(OutOfTime) as error:
        fit(dataclasses.replace(config, max_minutes=1e-9))
    assert error.value.code == 75
    assert 'stopped at step 1 after 1e-09 minutes, saved; start again to go on' in capfd.readouterr().err

    write = MetricsLog.write

    def write_and_stop(self, **record):
        write(self, **record)
        if record['step'] == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsLog, 'write', write_and_stop)
    with pytest.raises(Interrupted) as error:
        fit(dataclasses.replace(config, on_device=None))
    assert error.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert 12 <= records(tmp_path)[-1]['step'] < 22
    assert 'resuming from step 1 of 44' in capfd.readouterr().err
    with pytest.raises(ValueError, match='was made with on_device = True, this run has None; use another --workdir'):
        fit(dataclasses.replace(config, on_device=False))
    assert same(fit(dataclasses.replace(config, on_device=None, checkpoint_every=4)), finished[1])
    assert records(tmp_path) == records(finished[0])


def test_the_last_epoch_is_evaluated_whatever_evaluate_every_says(finished, tmp_path):
    state = fit(dataclasses.replace(CONFIG, workdir=str(tmp_path), evaluate_every=5, watch_every=0))
    assert same(state, finished[1])
    assert [record['epoch'] for record in records(tmp_path) if 'epoch' in record] == [2]


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(tmp_path):
    def schedule(learning_rate, steps):
        return lambda count: jnp.where(count == 7, jnp.inf, learning_rate)

    with pytest.raises(NonFiniteLoss, match='^step 9: '):
        fit(dataclasses.replace(CONFIG, workdir=str(tmp_path), schedule=schedule, watch_every=0))
    assert [record['step'] for record in records(tmp_path)] == list(range(1, 9))


def whitened(image):
    return (image - image.mean()).astype(np.float32)


def of_its_own_size(image):
    return PlusMinusOne()(image) * {(8, 8, 1): np.float32(1)}[image.shape]


def halved(image, rng):
    return image / 2


def in_color(image, rng):
    return np.repeat(image, 3, axis=-1)


class Inverted(ArraySource):
    def __getitem__(self, index: int) -> dict:
        return {'image': 255 - self.images[index], 'label': int(self.labels[index])}


def in_its_own_way(split, data_dir):
    return Inverted(digits(split).images, digits(split).labels)


def labels_in_a_list(split, data_dir):
    source = digits(split)
    source.labels = source.labels.tolist()
    return source


def from_disk(split, data_dir):
    return [{'image': np.zeros((8, 8, 1), np.uint8), 'label': 0}]


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (
            {'augmentations': (flip, resize_short(8))},
            r'the augmentation resize_short\(size=8\) has no method on_device',
        ),
        ({'standardize': whitened}, 'the normalization .*whitened.* mixes pixels or channels'),
        ({'standardize': of_its_own_size}, 'the normalization .* fails on 256 x 1 pixels'),
        ({'data': from_disk}, 'the training images are not held in memory as uint8'),
        ({'data': in_its_own_way}, 'Inverted reads the training images by a __getitem__ of its own'),
        ({'data': labels_in_a_list}, 'the labels of the training images are not classes'),
        ({'evaluation_augmentations': (halved,)}, r'a test image becomes float64\[8, 8, 1\]'),
        ({'evaluation_augmentations': (in_color,)}, r'a test image becomes uint8\[8, 8, 3\]'),
    ],
)
def test_images_that_cannot_lie_on_the_devices(tmp_path, change, reason):
    with pytest.raises(ValueError, match=f'on_device: got True, but {reason}'):
        fit(dataclasses.replace(CONFIG, workdir=str(tmp_path), **change))


def test_nothing_is_asked_where_images_stay_on_the_host_anyway():
    def never(image):
        raise AssertionError('no image is read yet')

    config = dataclasses.replace(CONFIG, on_device=None, data=labels_in_a_list, standardize=never)
    images, remark = images_of(config, all_devices())
    images.check(10)
    assert (type(images), remark) == (HostImages, '')


def test_images_must_fit_the_memory_of_the_device(monkeypatch):
    class Small:
        def memory_stats(self):
            return {'bytes_limit': 8 * 1797 * 64}

    monkeypatch.setattr(jax, 'local_devices', lambda: [Small()])
    of_a_run = functools.partial(reason_against, digits('train'), digits('test'), PlusMinusOne())
    assert of_a_run((), ()) is None
    for augmentations in (((resize_to(16, 16),), ()), ((), (resize_to(32, 32),))):
        assert 'GB, more than 25%' in of_a_run(*augmentations)


def test_labels_that_are_no_classes(tmp_path):
    def data(split, data_dir):
        return ArraySource(digits(split).images, digits(split).labels + (split == 'train'))

    with pytest.raises(ValueError, match='expected 0 to 9; is num_classes that of the data set'):
        fit(dataclasses.replace(CONFIG, workdir=str(tmp_path), data=data))
