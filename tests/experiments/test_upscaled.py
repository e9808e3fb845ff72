"""The run on enlarged photographs is the row for ImageNet, reduced."""

import types

import numpy as np

from bnn_jax.schemes import presets
from experiments import cifar10_upscaled_alexnet as upscaled
from experiments import imagenet_alexnet


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
