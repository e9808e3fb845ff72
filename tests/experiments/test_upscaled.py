"""The run on enlarged photographs in miniature: what it is, and whole through one interruption, to equal answers from bits."""

import dataclasses
import json
import os
import signal
import types

import jax
import numpy as np
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import ArraySource
from bnn_jax.schemes import presets
from bnn_jax.training import experiment
from bnn_jax.training.metrics import read
from experiments import cifar10_upscaled_alexnet as upscaled
from experiments import imagenet_alexnet

IMAGES, BATCH = 24, 4


def two_classes(count: int) -> ArraySource:
    """Photographs in small, dark or bright."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    return ArraySource(
        (rng.integers(0, 90, (count, 32, 32, 3)) + 160 * labels[:, None, None, None]).astype(np.uint8), labels
    )


class StopsAt:
    """A source that once, when so many images were read, sends this process SIGTERM."""

    def __init__(self, source: ArraySource, reads: int):
        self.source, self.left = source, reads

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.source[index]


def test_it_is_the_imagenet_row_reduced(monkeypatch):
    config, row = upscaled.RECIPE.row('XNOR_PAPER'), imagenet_alexnet.RECIPE.row('XNOR_PAPER')
    assert config.model.keywords['scheme'] == presets.XNOR_PAPER
    for name in ('augmentations', 'evaluation_augmentations', 'standardize', 'optimizer', 'learning_rate'):
        assert getattr(config, name) == getattr(row, name), name
    assert config.model.func is row.model.func and config.model.keywords == row.model.keywords
    assert type(config.schedule) is type(row.schedule)
    asked = []
    prepared = types.SimpleNamespace(in_memory=lambda: 'images')
    monkeypatch.setattr(upscaled, 'tfds_source', lambda *arguments: asked.append(arguments) or prepared)
    assert config.data('test', 'there') == 'images' and asked == [('cifar10', 'test[:2000]', 'there')]
    image = np.zeros((32, 32, 3), np.uint8)
    for augmentation in config.evaluation_augmentations:
        image = augmentation(image, np.random.default_rng(0))
    assert image.shape == (224, 224, 3)


def test_trained_through_an_interruption_and_answered_from_bits(tmp_path):
    train, test = StopsAt(two_classes(IMAGES), IMAGES), two_classes(BATCH + 1)

    def images(split, data_dir):
        return {'train': train, 'test': test}[split]

    config = dataclasses.replace(
        upscaled.RECIPE.row(),
        data=images,
        batch_size=BATCH,
        width=1 / 32,
        workdir=str(tmp_path),
    )
    with jax.numpy_dtype_promotion('standard'):  # optax.adam mixes dtypes.
        with pytest.raises(SystemExit) as stopped:
            experiment.run('miniature', config)
        assert stopped.value.code == 128 + signal.SIGTERM
        steps = read(tmp_path / 'metrics.jsonl')[-1]['step']
        assert 0 < steps < 2 * IMAGES // BATCH and not (tmp_path / 'results.json').exists()
        results = experiment.run('miniature', config)
    records = [record for record in read(tmp_path / 'metrics.jsonl') if 'loss' in record]
    assert [record['step'] for record in records] == list(range(1, 2 * IMAGES // BATCH + 1))
    losses = [record['loss'] for record in records]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert results['packed_test_accuracy'] == results['test_accuracy'] and results['prediction_agreement'] == 1
    assert json.loads((tmp_path / 'results.json').read_text())['epochs'] == 2
    packed = bnn.load(tmp_path / 'packed.safetensors')
    model = config.model(rngs=nnx.Rngs(0), width=config.width)
    assert packed.report.bytes == bnn.summarize(model, (1, 224, 224, 3)).packed_bytes
