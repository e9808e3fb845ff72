"""The ablation: variants are what they say, runs are started once, and the table is what was computed by hand."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import bnn_jax as bnn
from bnn_jax import quantizers, schemes
from bnn_jax.nn.variables import Latent
from bnn_jax.quantizers import published
from bnn_jax.schemes import projections
from bnn_jax.training import NonFiniteLoss, experiment, init
from bnn_jax.training.step import update
from experiments import ablation

ONE_CHANGE = {
    'base': {},
    'alpha_constant': {'weight': quantizers.scaled_sign_ste_const_alpha},
    'gradient_paper': {'weight': quantizers.scaled_sign_paper},
    'gradient_identity': {'weight': published.scaled_sign_identity},
    'clip_only': {'projection': projections.clip},
    'centre_only': {'projection': projections.center},
    'no_projection': {'projection': None},
    'k_constant': {'input_scale': schemes.constant_k},
    'k_flowing': {'input_scale': schemes.flowing_k},
    'pad_plus': {'pad_value': 1},
    'pad_minus': {'pad_value': -1},
    'relu': {'chain': schemes.norm_product_relu_pool, 'head': schemes.norm_pool_product},
    'sign_approx': {'activation': quantizers.sign_approx},
    'momentum_0.99': {'momentum': 0.99},
    'momentum_0.5': {'momentum': 0.5},
}
"""Fields of XNOR's scheme that a variant changes, and nothing else of the config."""


def differing(value, base) -> dict:
    """Fields that are not the base's."""
    pairs = {field.name: (getattr(value, field.name), getattr(base, field.name)) for field in dataclasses.fields(base)}
    return {name: ours for name, (ours, theirs) in pairs.items() if ours != theirs and name not in ('model', 'data')}


def scheme_of(name: str):
    return ablation.VARIANTS[name][1].model.keywords['scheme']


def test_every_variant_is_checked_below():
    assert set(ablation.VARIANTS) == {*ONE_CHANGE, 'l2', 'decoupled', 'faster', 'faster_unclipped', 'bnn', 'float'}


@pytest.mark.parametrize('name', ONE_CHANGE)
def test_a_variant_changes_one_choice_of_the_scheme(name):
    assert differing(scheme_of(name), bnn.XNOR) == ONE_CHANGE[name]
    assert differing(ablation.VARIANTS[name][1], ablation.config()) == {}


@pytest.mark.parametrize('name', ['l2', 'decoupled'])
def test_a_decay_changes_the_optimizer_alone(name):
    assert scheme_of(name) == bnn.XNOR
    assert set(differing(ablation.VARIANTS[name][1], ablation.config())) == {'optimizer'}


def test_the_faster_ones_differ_in_clipping():
    assert scheme_of('faster') == bnn.XNOR
    assert differing(scheme_of('faster_unclipped'), bnn.XNOR) == {'projection': projections.center}
    for name in ('faster', 'faster_unclipped'):
        assert set(differing(ablation.VARIANTS[name][1], ablation.config())) == {'optimizer'}


def test_the_variants_bnn_and_float():
    assert scheme_of('bnn') == bnn.BNN and differing(ablation.VARIANTS['bnn'][1], ablation.config()) == {}
    assert scheme_of('float') == bnn.FLOAT
    assert differing(ablation.VARIANTS['float'][1], ablation.config()) == {'learning_rate': 1e-3}


@pytest.mark.parametrize('name', ablation.VARIANTS)
def test_a_step_of_every_variant_is_traced(name):
    config = ablation.VARIANTS[name][1]

    def step(images, labels):
        # A shorter network than the recipe's: the variants differ in scheme and optimizer alone.
        model = bnn.models.lenet5(
            *config.model.args, **config.model.keywords, width=1 / 16, input_shape=(32, 32, 3), rngs=nnx.Rngs(0)
        )
        state = init(model, config.optimizer(config.schedule(config.learning_rate, 10)))
        return state, *update(state, {'image': images, 'label': labels})

    images, labels = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    before, after, metrics = jax.eval_shape(step, images, labels)
    assert metrics['loss'].shape == ()
    assert jax.tree.map(jnp.shape, before.params) == jax.tree.map(jnp.shape, after.params)


@pytest.mark.parametrize('name', ['l2', 'decoupled'])
def test_only_latent_weights_decay(name):
    model = bnn.models.mlp(10, scheme=bnn.XNOR, width=1 / 512, input_shape=(2, 2, 1), rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    tx = ablation.VARIANTS[name][1].optimizer(optax.constant_schedule(0.01))
    zeros = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion('standard'):  # optax needs it, and the training step allows it
        updates, _ = tx.update(zeros, tx.init(params), params)
    updates, latents = dict(nnx.to_flat_state(updates)), 0
    for path, parameter in nnx.to_flat_state(params):
        w, u = np.asarray(parameter[...]), np.asarray(updates[path][...])
        if not isinstance(parameter, Latent):
            np.testing.assert_array_equal(u, 0)
            continue
        latents += 1
        # Adam's first step on a gradient d is -rate d / (|d| + 1e-8).
        d = 1e-4 * w
        np.testing.assert_allclose(
            u, -0.01 * 0.1 * w if name == 'decoupled' else -0.01 * d / (abs(d) + 1e-8), rtol=1e-3
        )
    assert latents


@pytest.mark.parametrize('name', ['faster', 'faster_unclipped'])
def test_only_latent_weights_are_faster(name):
    """Adam's first step on ones is the rate."""
    model = bnn.models.mlp(10, scheme=bnn.XNOR, width=1 / 512, input_shape=(2, 2, 1), rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    tx = ablation.VARIANTS[name][1].optimizer(optax.constant_schedule(0.01))
    with jax.numpy_dtype_promotion('standard'):  # optax needs it, and the training step allows it
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    updates = dict(nnx.to_flat_state(updates))
    kinds = {isinstance(parameter, Latent) for _, parameter in nnx.to_flat_state(params)}
    assert kinds == {True, False}
    for path, parameter in nnx.to_flat_state(params):
        expected = -0.1 if isinstance(parameter, Latent) else -0.01
        np.testing.assert_allclose(updates[path][...], expected, rtol=1e-5)


# Runs.


def start(*options) -> None:
    """Run `python -m experiments.ablation options` in this process."""
    ablation.command([*map(str, options)])


def leave(workdir, name: str, seed: int, accuracy: float, **changes) -> None:
    """Write the files of a finished run that the ablation reads."""
    folder = workdir / f'{name}-{seed}'
    config = dataclasses.replace(ablation.VARIANTS[name][1], seed=seed, workdir=str(folder), **changes)
    folder.mkdir(parents=True)
    (folder / 'results.json').write_text(json.dumps({'test_accuracy': accuracy, 'config': config.described()}))


@pytest.fixture
def ran(monkeypatch):
    """Configs of the runs that were started; none is trained."""
    configs = []

    def run(name, config):
        configs.append(config)
        return {'test_accuracy': 0.5, 'train_seconds': 1.0}

    monkeypatch.setattr(experiment, 'run', run)
    return configs


def test_every_variant_and_seed_has_its_folder(monkeypatch, tmp_path, ran):
    start(f'--workdir={tmp_path}', '--data_dir=there')
    assert [config.workdir for config in ran] == [
        f'{tmp_path}/{name}-{seed}' for seed in (0, 1, 2) for name in ablation.VARIANTS
    ]
    assert [config.seed for config in ran] == [seed for seed in (0, 1, 2) for _ in ablation.VARIANTS]
    assert {config.data_dir for config in ran} == {'there'}


def test_a_finished_run_is_not_started_again(monkeypatch, capsys, tmp_path, ran):
    leave(tmp_path, 'base', 0, 0.4)
    start(f'--workdir={tmp_path}', '--variants', 'base', 'relu', '--seeds', '0', '1')
    assert [config.workdir for config in ran] == [f'{tmp_path}/{run}' for run in ('relu-0', 'base-1', 'relu-1')]
    assert f'{tmp_path}/base-0: finished before' in capsys.readouterr().out


def test_a_finished_run_of_another_recipe_is_refused(monkeypatch, tmp_path, ran):
    leave(tmp_path, 'base', 0, 0.4)
    with pytest.raises(SystemExit, match='^error: .*results.json is of a run with another epochs; choose'):
        start(f'--workdir={tmp_path}', '--variants', 'base', '--epochs=17')
    assert not ran


def test_a_run_that_diverges_stops_no_other(monkeypatch, capsys, tmp_path):
    def run(name, config):
        Path(config.workdir).mkdir()
        raise NonFiniteLoss(f'step 3 of {name}')

    monkeypatch.setattr(experiment, 'run', run)
    start(f'--workdir={tmp_path}', '--variants', 'base', 'relu', '--seeds', '0')
    assert capsys.readouterr().out == f'{tmp_path}/base-0: step 3 of base\n{tmp_path}/relu-0: step 3 of relu\n'


def test_a_diverged_run_is_not_started_again_but_is_in_the_table(monkeypatch, capsys, tmp_path):
    calls = []

    def run(name, config):
        calls.append(name)
        Path(config.workdir).mkdir()
        raise NonFiniteLoss(f'step 3 of {name}')

    monkeypatch.setattr(experiment, 'run', run)
    for _ in range(2):
        start(f'--workdir={tmp_path}', '--variants', 'l2', 'relu', '--seeds', '1')
    assert calls == ['l2', 'relu']
    leave(tmp_path, 'base', 0, 0.4)
    leave(tmp_path, 'l2', 0, 0.5)
    (tmp_path / 'docs').mkdir()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    start('--table', f'--workdir={tmp_path}')
    _, _, base, l2, relu = capsys.readouterr().out.splitlines()
    assert '| 1 |' in base and '| 1 and 1 diverged | 50.00 |' in l2
    assert relu.startswith('| `relu` |') and '| 1 diverged | |' in relu


def test_the_table_refuses_runs_of_another_recipe_than_the_files(monkeypatch, tmp_path):
    leave(tmp_path, 'base', 0, 0.4)
    leave(tmp_path, 'l2', 0, 0.5, learning_rate=0.5)
    with pytest.raises(SystemExit, match='^error: .* has a run of l2 with another learning_rate; delete it'):
        start('--table', f'--workdir={tmp_path}')


def test_an_unknown_variant_is_refused(monkeypatch, tmp_path, ran):
    with pytest.raises(SystemExit, match='^error: variants: got relo, expected some of base, alpha_constant, '):
        start(f'--workdir={tmp_path}', '--variants', 'base', 'relo')
    assert not ran


# The table.


def test_the_table_agrees_with_a_computation_by_hand(monkeypatch, capsys, tmp_path):
    for name, accuracies in {
        'base': (0.40, 0.41, 0.45),  # mean 42, range 5
        'relu': (0.36, 0.37, 0.38),  # mean 37: 5 below, not beyond 5
        'pad_plus': (0.30, 0.31, 0.35),  # mean 32: 10 below
        'l2': (0.42, 0.52),  # mean 47: 5 above, range 10
        'float': (0.60,),
    }.items():
        for seed, accuracy in enumerate(accuracies):
            leave(tmp_path / 'runs', name, seed, accuracy)
    (tmp_path / 'runs' / 'bnn-0').mkdir()  # not finished
    (tmp_path / 'docs').mkdir()
    monkeypatch.chdir(tmp_path)
    start('--table', '--workdir=runs')
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
    assert [[row[0], *row[2:]] for row in cells] == [
        ['`base`', '3', '42.00', '40.00 to 45.00', '', ''],
        ['`pad_plus`', '3', '32.00', '30.00 to 35.00', '-10.00', 'yes'],
        ['`relu`', '3', '37.00', '36.00 to 38.00', '-5.00', 'no'],
        ['`l2`', '2', '47.00', '42.00 to 52.00', '+5.00', 'no'],
        ['`float`', '1', '60.00', '60.00 to 60.00', '+18.00', ''],
    ]
    with Image.open(tmp_path / 'docs' / 'ablation.png') as picture:
        assert picture.format == 'PNG' and picture.width > 600


def test_the_table_needs_the_base(monkeypatch, tmp_path):
    leave(tmp_path, 'relu', 0, 0.4)
    with pytest.raises(SystemExit, match='^error: .* has no finished run of base'):
        start('--table', f'--workdir={tmp_path}')


@pytest.mark.parametrize('other', [{'epochs': 17}, {'width': 1.0}, {'data': partial(ablation.source, 10)}])
def test_the_table_mixes_no_recipes(other, monkeypatch, tmp_path):
    leave(tmp_path, 'base', 0, 0.4)
    leave(tmp_path, 'relu', 0, 0.4, **other)
    with pytest.raises(SystemExit, match='^error: .* has runs that differ in data, epochs, width'):
        start('--table', f'--workdir={tmp_path}')
