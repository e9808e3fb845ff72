"""The CIFAR-10 rows: each is what its source says, its training step traces, and what it trains converts."""

import dataclasses
import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import presets
from bnn_jax.data import PlusMinusOne, Standardize, crop, flip
from bnn_jax.schemes import residuals_norm_before
from bnn_jax.training import Config, CrossEntropy, SquaredHinge, experiment, init
from bnn_jax.training.step import update
from experiments import cifar10

ROOT = Path(__file__).parent.parent

SHORTCUTS = dataclasses.replace(bnn.XNOR, residual=residuals_norm_before)
NIN = (320, 128, 1e-2, {0: 1, 120 / 320: 0.1, 200 / 320: 0.01, 240 / 320: 1e-3, 280 / 320: 1e-4})
BINARYNET = (500, 50, 1e-3, {0: 1, 0.5: 0.5, 1: 0})
BOP = (500, 50, 1e-4, {0: 1, 0.2: 0.1, 0.4: 0.01, 0.6: 1e-3, 0.8: 1e-4})
IRNET = (400, 128, 0.1, {0: 1, 0.5: 0.5, 1: 0})

ROWS = {
    # scheme, (epochs, batch, largest rate, rate by share of the run)
    'nin_float': (bnn.FLOAT, NIN),
    'nin_bwn': (bnn.BWN, NIN),
    'nin_xnor': (bnn.XNOR, NIN),
    'nin_xnor_pytorch': (presets.XNOR_PYTORCH_CIFAR, NIN),
    'vgg_small_float': (bnn.FLOAT, BINARYNET),
    'vgg_small_bc': (bnn.BC, BINARYNET),
    'vgg_small_bwn': (bnn.BWN, BINARYNET),
    'vgg_small_bnn': (bnn.BNN, BINARYNET),
    'vgg_small_bnn_bop': (bnn.BNN, BOP),
    'vgg_small_xnor': (bnn.XNOR, BINARYNET),
    'resnet20_float': (bnn.FLOAT, IRNET),
    'resnet20_bireal': (bnn.BIREAL, IRNET),
    'resnet20_xnor': (SHORTCUTS, IRNET),
    'resnet18_float': (bnn.FLOAT, IRNET),
    'resnet18_bireal': (bnn.BIREAL, IRNET),
    'resnet18_xnor': (SHORTCUTS, IRNET),
}
STEPS = 16_000
"""Of a whole run, in these tests."""


@pytest.fixture
def row(request, monkeypatch) -> tuple[str, str, Config]:
    """Name, description and config that the command of a row runs."""
    name, called = f'cifar10_{request.param}', []
    monkeypatch.setattr(experiment, 'main', lambda *arguments: called.append(arguments))
    monkeypatch.delitem(sys.modules, f'experiments.{name}', raising=False)
    runpy.run_module(f'experiments.{name}', run_name='__main__')
    ((stated, description, config),) = called
    assert stated == name
    return request.param, description, config


each_row = pytest.mark.parametrize('row', ROWS, indirect=True)


def test_every_row_is_here():
    names = {path.stem.removeprefix('cifar10_') for path in (ROOT / 'experiments').glob('cifar10_*.py')}
    assert names - {'upscaled_alexnet_xnor'} == set(ROWS)


@each_row
def test_a_row_is_what_its_source_says(row):
    name, text, config = row
    scheme, (epochs, batch_size, rate, rates) = ROWS[name]
    assert config.model.keywords['scheme'] == scheme
    assert (config.epochs, config.batch_size, config.learning_rate) == (epochs, batch_size, rate)
    with jax.numpy_dtype_promotion('standard'):
        schedule = config.schedule(rate, STEPS)
        for share, factor in rates.items():
            np.testing.assert_allclose(schedule(round(share * STEPS)), rate * factor, rtol=1e-4, atol=1e-9)
    plain = name.startswith('vgg_small') and not name.endswith('bop')
    assert config.augmentations == (() if plain else (crop(4), flip)) and config.evaluation_augmentations == ()
    assert config.loss is (SquaredHinge if plain else CrossEntropy)
    standard = Standardize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert config.standardize == (PlusMinusOne() if name.startswith('vgg_small') else standard)
    for part in ('Source: ', f'python -m experiments.cifar10_{name} --data_dir=FOLDER', f'{epochs} epochs'):
        assert part in text
    published = re.findall(r'(\d\d\.\d+)(?:%| to)', text.partition('Published: ')[2].partition('\n')[0])
    line = next(s for s in (ROOT / 'experiments' / 'README.md').read_text().splitlines() if f'| cifar10_{name} ' in s)
    assert all(figure in line for figure in published)


@each_row
def test_its_training_step_traces(row):
    """At a small width and without an array: model, optimizer, schedule, loss and images fit one another."""
    _, _, config = row
    tx = config.optimizer(config.schedule(config.learning_rate, STEPS))

    def step():
        state = init(config.model(rngs=nnx.Rngs(0), width=1 / 16), tx, loss=config.loss())
        image = config.standardize(np.zeros((32, 32, 3), np.uint8))
        return state.params, update(state, {'image': np.stack([image] * 2), 'label': np.zeros(2, np.int32)})

    before, (state, metrics) = jax.eval_shape(step)
    assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, state.params)
    assert state.num_classes == 10 and metrics['loss'].shape == ()


@pytest.mark.parametrize('row', ['nin_xnor_pytorch', 'resnet20_bireal', 'resnet18_xnor'], indirect=True)
def test_what_it_trains_converts(row):
    config = dataclasses.replace(row[2], width=1 / 16)
    model = config.model(rngs=nnx.Rngs(0), width=config.width)
    model.eval()
    packed = bnn.convert(experiment.deployed(config, model))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    if row[0] != 'nin_xnor_pytorch':  # whose sign(0) is another one while it trains
        np.testing.assert_array_equal(packed(images), model(images))
    assert packed.report.bytes < bnn.summarize(model, (1, 32, 32, 3)).bytes


def test_multiply_adds():
    """By hand: output pixels, window, channels in and out; shortcuts of 1x1; the head."""
    nin = 32**2 * (75 * 192 + 192 * 160 + 160 * 96) + 16**2 * (25 * 96 * 192 + 2 * 192**2) + 8**2 * (10 * 192**2 + 1920)
    vgg = 32**2 * 9 * (3 * 128 + 128**2) + 16**2 * 9 * (128 * 256 + 256**2) + 8**2 * 9 * (256 * 512 + 512**2)
    vgg += 8192 * 1024 + 1024**2 + 10240
    resnet20 = 32**2 * 9 * (3 * 16 + 6 * 16**2) + 16**2 * (9 * (16 * 32 + 5 * 32**2) + 16 * 32)
    resnet20 += 8**2 * (9 * (32 * 64 + 5 * 64**2) + 32 * 64) + 640
    resnet18 = 32**2 * 9 * (3 * 64 + 4 * 64**2)
    for size, into in ((16, 64), (8, 128), (4, 256)):
        resnet18 += size**2 * (9 * (2 * into**2 + 3 * (2 * into) ** 2) + 2 * into**2)
    assert (nin, vgg, resnet20, resnet18 + 5120) == (
        cifar10.NIN_MACS,
        cifar10.VGG_SMALL_MACS,
        cifar10.RESNET20_MACS,
        cifar10.RESNET18_MACS,
    )


def test_steps_of_latent_weights_are_scaled():
    """Adam's first step is the rate, for latent weights by sqrt((fan in + fan out) / 1.5) longer."""
    model = bnn.models.mlp(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), input_shape=(2, 2, 3), hidden=(12, 18))
    state = init(model, optax.identity())
    with jax.numpy_dtype_promotion('standard'):
        tx = cifar10.binary_adam(lambda step: 0.01)
        ones = jax.tree.map(np.ones_like, state.params)
        updates, _ = tx.update(ones, tx.init(state.params), state.params)
    found = {variable.shape: np.unique(np.asarray(variable[...])) for _, variable in nnx.to_flat_state(updates)}
    np.testing.assert_allclose(found[12, 18], [-0.01 * np.sqrt(30 / 1.5)], rtol=1e-5)
    np.testing.assert_allclose(found[18, 10], [-0.01], rtol=1e-5)
