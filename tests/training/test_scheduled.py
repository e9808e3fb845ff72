"""A quantizer that sees the progress of training, in a whole run: resumed and restored, it is told what it had reached."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import ArraySource, Standardize
from bnn_jax.schemes import Scheduled
from bnn_jax.training import Config, Recipe, fit, named
from bnn_jax.training.restore import trained

pytestmark = pytest.mark.usefixtures('compiled_quickly')


@named('test_scheduled.sharpening')
def sharpening(x, progress):
    return bnn.quantizers.sign_ste(x * (1 + 9 * progress))


@named('test_scheduled.images')
def images(split, data_dir):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), dtype=np.uint8)
    return ArraySource(pixels, np.arange(8) % 3)


@named('test_scheduled.sgd')
def sgd(schedule):
    return optax.sgd(0.1)


SCHEME = dataclasses.replace(bnn.BIREAL, activation=Scheduled(sharpening), last=bnn.schemes.itself)
CONFIG = Config(
    model=functools.partial(bnn.models.mlp, 3, scheme=SCHEME, input_shape=(2, 2, 1), hidden=()),
    data=images,
    standardize=Standardize((0.5,), (0.5,)),
    optimizer=sgd,
    epochs=4,
    batch_size=8,
    watch_every=0,
)


def progress_of(model) -> float:
    (reached,) = jax.tree.leaves(nnx.state(model, bnn.nn.Progress))
    return float(reached)


def test_a_run_tells_its_progress_and_goes_on_from_it(tmp_path):
    recipe = Recipe(
        'test_scheduled', 'One dense layer.', rows={'ONE': dataclasses.replace(CONFIG, workdir=str(tmp_path))}
    )
    whole = fit(recipe.row())
    ended = trained(recipe, tmp_path)
    assert (ended.step, progress_of(ended.model)) == (4, 1.0)  # 4 steps of one epoch each: 0, 1/3, 2/3, 1
    shutil.rmtree(tmp_path / 'checkpoints' / '4')
    middle = trained(recipe, tmp_path)
    assert middle.step == 3 and np.isclose(progress_of(middle.model), 2 / 3)
    for ours, theirs in zip(jax.tree.leaves(fit(recipe.row())), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
