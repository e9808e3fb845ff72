"""Names of functions in a config: their own, whatever module holds the code, and the same from version to version."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import bnn_jax as bnn
from bnn_jax.data import Standardize, flip
from bnn_jax.training import Config, named
from bnn_jax.training.names import name_of
from bnn_jax.training.recipe import public_schemes
from experiments import ablation, cifar10, digits_vgg_small, recipes, shared

ROOT = Path(__file__).parents[2]

NAMES = """
ablation.decoupled ablation.faster ablation.images ablation.l2
cifar10.binary_adam cifar10.bop_and_adam cifar10.first_images cifar10.images
data.PlusMinusOne data.Standardize data.SubtractMean data.centre_crop data.crop data.flip data.random_crop data.resize_short
data.resize_short_between data.resize_to digits.images
experiments.Falls experiments.WarmUp experiments.adam experiments.l2_then experiments.sgd fashion_mnist.images
imagenet.images imagenet.lua_adam imagenet.lua_sgd imagenet.polynomial
models.alexnet models.extraction models.lenet5 models.nin models.resnet18 models.resnet20 models.small_stem models.vgg_small
models.vgg_small_one_dense
optax.adam optax.cosine_decay_schedule
"""
"""Names in the saved runs of the recipes. A run becomes unreadable if a name disappears, so keep each one with `named`."""


def names_in(described) -> set[str]:
    if isinstance(described, dict):
        return set().union(*map(names_in, described.values()))
    if isinstance(described, list):
        return set().union(*map(names_in, described))
    return {described} if isinstance(described, str) else set()


def test_the_names_of_the_recipes_are_kept():
    """All names in the configs of recipes and of public schemes are listed above or public."""
    configs = [recipe.row(row) for recipe in recipes().values() for row in recipe.rows]
    configs += [config for _, config in ablation.VARIANTS.values()]
    configs += [digits_vgg_small.config(scheme) for scheme in public_schemes().values()]
    described = [dataclasses.replace(config, recipe='', row='', data_dir='').described() for config in configs]
    found = {name for name in names_in(described) if '.' in name}  # the others are parts of an order, as 'norm'
    kinds = ('quantizers.', 'schemes.', 'training.')
    assert {name for name in found if not name.startswith(kinds)} == set(NAMES.split())
    assert all(len(name.split('.')) == 2 for name in found), 'a name of another form is the path of a module'
    assert 'schemes.centre_and_clip' in found  # Its name before the spelling changed.
    for name in found:
        if name.startswith('training.'):
            assert hasattr(bnn.training, name.removeprefix('training.'))


def test_a_function_that_moves_or_is_renamed_keeps_its_name(monkeypatch):
    config = cifar10.resnet_row(functools.partial(bnn.models.vgg_small, 10), bnn.XNOR)
    config = dataclasses.replace(config, schedule=shared.Falls(2, ((1, 0.1),)))
    before = json.dumps(config.decisive())
    assert 'models.vgg_small' in before and 'experiments.sgd' in before and 'experiments.Falls' in before
    scheme = config.model.keywords['scheme']
    functions = (bnn.models.vgg_small, cifar10.source, shared.sgd, flip, scheme.weight, scheme.activation, scheme.init)
    for function in functions:
        monkeypatch.setattr(function, '__module__', 'elsewhere')
        monkeypatch.setattr(function, '__qualname__', 'Renamed.function')
    monkeypatch.setattr(shared.Falls, '__module__', 'elsewhere')
    assert json.dumps(config.decisive()) == before


def of_mine(learning_rate, steps):
    return learning_rate


class Mine:
    @staticmethod
    def schedule(learning_rate, steps):
        return learning_rate


def test_what_has_no_public_name_has_that_of_its_module():
    assert name_of(of_mine) == f'{__name__}.of_mine'
    assert name_of(Mine.schedule) == f'{__name__}.Mine.schedule'


def test_a_declared_name():
    assert named('mine.schedule')(of_mine_too) is of_mine_too
    assert name_of(of_mine_too) == 'mine.schedule'
    assert named('mine.schedule')(of_mine_too) is of_mine_too
    with pytest.raises(
        ValueError, match="named: 'mine.schedule' is the name of .*of_mine_too; choose another one for .*Mine"
    ):
        named('mine.schedule')(Mine)
    assert name_of(named('mine.lambda')(lambda image: image)) == 'mine.lambda'


def of_mine_too(learning_rate, steps):
    return learning_rate


def base(**changes) -> Config:
    model = functools.partial(bnn.models.mlp, 10, scheme=bnn.BNN)
    return Config(model=model, data=of_mine, standardize=Standardize((0.5,), (0.5,)), **changes)


def test_two_closures_are_told_apart_by_their_variables():
    def scaled(factor):
        def schedule(learning_rate, steps):
            return factor * learning_rate

        return schedule

    one, other, again = (base(schedule=scaled(factor)).described()['schedule'] for factor in (1, 2, 1))
    assert one != other and one == again


def test_lambdas_are_named_by_their_code():
    def of(value):
        return base(augmentations=(functools.partial(value, y=1), flip)).described()['augmentations']

    one, again, other, inner = (
        (lambda x, y: x + y),
        (lambda x, y: x + y),
        (lambda x, y: x + 2),
        (lambda x, y: [x for x in y]),
    )
    assert of(one) == of(again) != of(other) != of(inner) == of(inner)
    assert of(one)[1] == 'data.flip' and of(one)[0]['function']['function'].endswith('<lambda>')
    scaled = [lambda x, factor=factor, y=0: factor * x for factor in (1, 2)]
    assert of(scaled[0]) != of(scaled[1])
    with pytest.raises(ValueError, match='got a lambda .*, expected a function with a name'):
        name_of(one)


MAIN = """
import sys
from bnn_jax.training import named
from bnn_jax.training.names import name_of

@named('mine.images')
def source(split, data_dir):
    return None

def other():
    return None

if __name__ == '__main__':
    import started
    print(name_of(source), name_of(started.source), name_of(other), name_of(started.other))
"""


def test_names_are_the_same_for_run_and_imported_modules(tmp_path):
    (tmp_path / 'started.py').write_text(MAIN)
    command = [sys.executable, '-m', 'started']
    environment = {'PYTHONPATH': f'{tmp_path}:{ROOT}', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ['mine.images', 'mine.images', 'started.other', 'started.other'], done.stderr
