"""The pictures of finished runs: what they draw against NumPy, files that open, runs of which nothing can be drawn."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import optax
import pytest
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image

import bnn_jax as bnn
from bnn_jax.data import digits, evaluation_batches
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import Relu
from bnn_jax.training import Recipe, fit
from bnn_jax.training.restore import trained
from experiments import digits_vgg_small, picture_cifar10, pictures


def sgd(schedule):
    return optax.sgd(schedule)


RECIPE = Recipe(
    'net',
    'A run.',
    rows={
        'XNOR': dataclasses.replace(
            digits_vgg_small.config(bnn.XNOR),
            model=functools.partial(bnn.models.mlp, 10, scheme=bnn.XNOR, input_shape=(8, 8, 1), hidden=(24, 40, 16)),
            optimizer=sgd,
            learning_rate=0.5,
            epochs=1,
            batch_size=256,
            width=1.0,
            watch_every=2,
            seed=5,
        )
    },
)


@pytest.fixture
def listed(monkeypatch):
    """The recipe is one of experiments/."""
    monkeypatch.setattr(pictures, 'recipes', lambda: {'net': RECIPE})


def start(*options) -> None:
    """Run `python -m experiments.pictures options` in this process."""
    pictures.command([*map(str, options)])


def write_results(folder: Path, name: str, accuracy: float, **results) -> None:
    base = {'experiment': name, 'test_accuracy': accuracy, 'float32_bytes': 160_000, 'config': {'seed': 0}}
    base |= {'packed_bytes': None, 'packed_test_accuracy': None}
    (folder / 'results.json').write_text(json.dumps(base | results))


def made_up(folder: Path, name: str, accuracy: float, flips: dict[int, dict[str, float]], **results) -> Path:
    """Write the files of a finished run that two of the plots read. flips: step -> layer -> share."""
    folder.mkdir()
    write_results(folder, name, accuracy, **results)
    records = [{'step': step, 'seconds': 1.0, 'loss': 1.0} for step in range(1, 9)]
    for record in records:
        record |= {f'flips/{layer}': share for layer, share in flips.get(record['step'], {}).items()}
        record |= {'alpha/3': 0.5, 'in_window/3': 0.25} if record['step'] in flips else {}
    records.append({'step': 8, 'seconds': 1.0, 'epoch': 1, 'test_accuracy': accuracy})
    (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(record)}\n' for record in records))
    return folder


FLIPS = np.random.default_rng(0).uniform(0.001, 0.1, size=(2, 3, 4))
"""The share of flips: run, step, layer."""
STEPS, LAYERS = (2, 5, 8), ('2', '4', '6.body.1', '10')


@pytest.fixture
def folders(tmp_path):
    """Two runs with bits and one without."""
    shares = [{s: dict(zip(LAYERS, row, strict=True)) for s, row in zip(STEPS, run, strict=True)} for run in FLIPS]
    return [
        made_up(tmp_path / 'a', 'net_bits', 0.5, shares[0], packed_bytes=8_000, packed_test_accuracy=0.25),
        made_up(tmp_path / 'b', 'net_float', 0.75, {}),
        made_up(tmp_path / 'c', 'net_bits', 0.5, shares[1], packed_bytes=8_000, packed_test_accuracy=0.375),
    ]


# Accuracy against bytes.


def test_sizes_are_of_bits_or_of_floats(folders):
    runs = pictures.by_experiment(folders)
    assert pictures.sizes(runs) == {'net_bits': (8_000, [0.25, 0.375]), 'net_float': (160_000, [0.75])}
    looks = pictures.looks_of(list(runs))
    assert looks == {'net_bits': ('bits', 'C0'), 'net_float': ('float', 'C1')}

    axes = Figure().subplots()
    pictures.draw_sizes(axes, looks, pictures.sizes(runs))
    drawn = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in axes.lines}
    assert drawn == {(8_000,) * 3: (0.25, 0.3125, 0.375), (160_000,) * 3: (0.75,) * 3}
    assert [text.get_text() for text in axes.texts] == ['bits, 8 kB', 'float, 160 kB']
    assert axes.get_xscale() == 'log'


def test_labels_do_not_lie_on_each_other():
    found = {name: (1000, [accuracy]) for name, accuracy in (('a', 0.5), ('b', 0.5), ('c', 0.501), ('d', 0.9))}
    axes = Figure().subplots()
    pictures.draw_sizes(axes, pictures.looks_of('abcd'), found)
    heights = [text.get_position()[1] for text in axes.texts]
    assert (np.diff(heights) > 0.05 * 0.4).all()
    assert (heights[0], heights[3]) == (0.5, 0.9)


@pytest.mark.parametrize(
    ('names', 'labels'),
    [
        (['x_net_xnor', 'x_net_float'], ['xnor', 'float']),
        (['x_net_xnor', 'x_net_xnor_taught'], ['xnor', 'xnor_taught']),
        (['bnn', 'bwn'], ['bnn', 'bwn']),
        (['x_net_xnor'], ['xnor']),
        (['bnn'], ['bnn']),
    ],
)
def test_labels_leave_out_what_all_names_begin_with(names, labels):
    assert [label for label, _ in pictures.looks_of(names).values()] == labels


# Flips.


def test_flips_are_means_over_layers_and_runs(folders):
    runs = pictures.by_experiment(folders)
    found = pictures.flips(runs)
    assert found.keys() == {'net_bits'}
    assert list(found['net_bits']) == list(STEPS)
    np.testing.assert_allclose(list(found['net_bits'].values()), FLIPS.mean((0, 2)), rtol=1e-14)

    axes = Figure().subplots()
    pictures.draw_flips(axes, pictures.looks_of(list(runs)), {'net_bits': found['net_bits'] | {9: 0.0}})
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [*STEPS, 9])
    np.testing.assert_allclose(line.get_ydata(), [*FLIPS.mean((0, 2)), np.nan], rtol=1e-14)
    assert (line.get_label(), axes.get_yscale()) == ('bits', 'log')


# Histograms.


def test_the_outermost_bars_count_the_values_beyond():
    edges = np.array([-1.0, 0.0, 0.5, 1.0])
    values = np.array([[-7, -1, -0.25], [0, 0.25, 0.5], [0.75, 1, 3]], np.float32)
    np.testing.assert_array_equal(pictures.bars(values, edges), np.array([3, 2, 4]) / 9)


def test_the_clip_has_bars_of_its_own():
    centers = (pictures.WEIGHTS[1:] + pictures.WEIGHTS[:-1]) / 2
    np.testing.assert_allclose(centers[[0, 20, -1]], [-1, 0, 1], atol=1e-14)
    assert np.isclose(pictures.INPUTS, -1, atol=1e-14).any() and np.isclose(pictures.INPUTS, 1, atol=1e-14).any()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a short run of the recipe, seed 5."""
    folder = tmp_path_factory.mktemp('runs')
    fit(dataclasses.replace(RECIPE.row(), workdir=str(folder)))
    results = {
        'packed_bytes': 8_000,
        'packed_test_accuracy': 0.25,
        'config': {'seed': 5, 'recipe': 'net', 'row': 'XNOR'},
    }
    write_results(folder, 'net_xnor', 0.25, **results)
    return folder


@pytest.fixture(scope='module')
def images():
    return next(
        evaluation_batches(digits('test'), batch_size=256, standardize=digits_vgg_small.config(bnn.XNOR).standardize)
    )['image']


def forward(model, images: np.ndarray) -> dict[int, np.ndarray]:
    """Number of a product -> what its sign sees, in float64."""
    x, seen, number = images.reshape(len(images), -1).astype(np.float64), {}, 0
    for layer in model.body.layers:
        if isinstance(layer, Norm):
            mean, var, gamma, beta = (
                np.asarray(v[...], np.float64) for v in (layer.mean, layer.var, layer.scale, layer.bias)
            )
            x = gamma * (x - mean) / np.sqrt(var + layer.epsilon) + beta
        elif isinstance(layer, Relu):
            x = np.maximum(x, 0)
        elif isinstance(layer, Product):
            w = np.asarray(layer.kernel[...], np.float64)
            if layer.scheme.activation is not None:
                seen[number], x = x, np.where(x >= 0, 1, -1)
                w = np.abs(w).mean(0) * np.where(w >= 0, 1, -1)
            x = x @ w + (0 if layer.bias is None else np.asarray(layer.bias[...], np.float64))
            number += 1
    return seen


def counted(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    inner = edges[1:-1]
    return np.bincount((values.reshape(-1, 1) >= inner).sum(1), minlength=len(edges) - 1) / values.size


def kernels(model) -> list[np.ndarray]:
    return [np.asarray(layer.kernel[...]) for layer in model.body.layers if isinstance(layer, Product)]


def test_inputs_and_weights_of_an_xnor_network(run, images):
    ours = trained(RECIPE, run)
    expected = forward(ours.model, images)
    assert list(expected) == [1, 2]
    seen = pictures.inputs_of_signs(ours.model, images)
    for mine, theirs in zip(seen.values(), expected.values(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)

    found = pictures.layers(ours, images)
    before, after = kernels(ours.config.model(rngs=nnx.Rngs(5), width=1.0)), kernels(ours.model)
    assert [layer.weights is None for layer in found] == [True, False, False, True]
    for i in (1, 2):
        weights, x = found[i].weights, list(seen.values())[i - 1]
        np.testing.assert_array_equal(weights[0], counted(before[i], pictures.WEIGHTS))
        np.testing.assert_array_equal(weights[1], counted(after[i], pictures.WEIGHTS))
        assert not np.array_equal(*weights)
        np.testing.assert_array_equal(found[i].inputs, counted(x, pictures.INPUTS))
        assert found[i].inside == np.mean(np.abs(x) <= 1)
    assert found[0] == found[3] == pictures.Layer()


def test_nothing_of_the_model_changes(run, images):
    ours = trained(RECIPE, run)
    logits = np.asarray(ours.model(images))
    schemes = [layer.scheme for layer in ours.model.body.layers if isinstance(layer, Product)]
    pictures.inputs_of_signs(ours.model, images)
    assert schemes == [layer.scheme for layer in ours.model.body.layers if isinstance(layer, Product)]
    np.testing.assert_array_equal(ours.model(images), logits)


def test_binary_weights_on_real_inputs(run, images):
    ours = trained(RECIPE, run)
    config = dataclasses.replace(ours.config, model=functools.partial(ours.config.model, scheme=bnn.BC))
    model = config.model(rngs=nnx.Rngs(6), width=1.0)
    found = pictures.layers(dataclasses.replace(ours, config=config, model=model), images)
    assert [layer.weights is None for layer in found] == [True, False, False, True]
    assert all(layer.inputs is None and layer.inside is None for layer in found)


def test_the_run_of_the_smallest_seed_is_taken(run, images, listed):
    runs = [(Path('nowhere'), {'config': {'seed': 6}}), (run, {'config': {'seed': 5, 'recipe': 'net'}})]
    for mine, theirs in zip(
        pictures.first_run('net_xnor', runs),
        pictures.layers(trained(RECIPE, run), images),
        strict=True,
    ):
        assert (mine.inputs is None) == (theirs.inputs is None)
        if mine.inputs is not None:
            np.testing.assert_array_equal(mine.inputs, theirs.inputs)


def some_layer(rng, inputs: bool) -> pictures.Layer:
    weights = tuple(rng.dirichlet(np.ones(len(pictures.WEIGHTS) - 1)) for _ in range(2))
    if not inputs:
        return pictures.Layer(weights)
    return pictures.Layer(weights, rng.dirichlet(np.ones(len(pictures.INPUTS) - 1)), 0.625)


def test_histograms_stand_in_rows_and_columns():
    """Six layers have bits in a, of which four are drawn, from first to last; three in b, none of them with binary inputs."""
    rng = np.random.default_rng(0)
    a = [some_layer(rng, i > 0) for i in range(6)]
    b = [pictures.Layer(), *(some_layer(rng, False) for _ in range(3))]
    figure = Figure()
    pictures.draw_histograms(figure, pictures.looks_of(['a', 'b']), {'a': a, 'b': b})
    axes = np.array(figure.axes).reshape(3, 4)
    drawn = (0, 2, 3, 5)
    assert [ax.get_title() for ax in axes[0]] == [f'layer {i + 1}' for i in drawn]
    assert [row[0].get_ylabel() for row in axes] == ['a\nweights', 'a\ninputs', 'b\nweights']
    rows = ([a[i].weights for i in drawn], [a[i].inputs for i in drawn], [*(b[i].weights for i in (0, 2, 3)), None])
    for cells, values in zip(axes, rows, strict=True):
        for ax, value in zip(cells, values, strict=True):
            steps = [patch.get_data() for patch in ax.patches if hasattr(patch, 'get_data')]
            expected = () if value is None else value[::-1] if isinstance(value, tuple) else (value,)
            for step, shares in zip(steps, expected, strict=True):
                np.testing.assert_array_equal(step.values, shares)
            assert [text.get_text() for text in ax.texts] == (
                ['real'] if value is None else [] if isinstance(value, tuple) else ['62% inside']
            )


# The whole command.


def test_three_pictures(run, folders, listed, tmp_path, capsys):
    start(run, folders[1], f'--folder={tmp_path / "docs"}', '--name=net')
    lines = capsys.readouterr().out.splitlines()
    assert sorted(path.name for path in (tmp_path / 'docs').iterdir()) == [
        'net_bytes.png',
        'net_flips.png',
        'net_histograms.png',
    ]
    for path in (tmp_path / 'docs').iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == 'PNG' and min(image.size) > 200
            assert len(image.convert('RGB').getcolors(1 << 20)) > 10
        assert path.stat().st_size < 150_000
        assert f'{path}: {path.stat().st_size:,} bytes' in lines


def test_a_run_that_has_not_finished_is_named(tmp_path):
    with pytest.raises(SystemExit, match=f'^error: {tmp_path} has no results.json'):
        start(tmp_path, f'--folder={tmp_path}', '--name=x')


def test_a_run_that_was_not_watched_is_named(folders, tmp_path):
    unwatched = made_up(tmp_path / 'd', 'net_bits', 0.5, {}, packed_bytes=8_000, packed_test_accuracy=0.5)
    with pytest.raises(SystemExit, match=f'^error: {unwatched} has no records of signs that flip.*--watch_every=0'):
        start(*folders, unwatched, f'--folder={tmp_path / "docs"}', '--name=x')
    assert not (tmp_path / 'docs').exists()


def test_runs_without_bits_have_nothing_to_show(folders, tmp_path):
    with pytest.raises(SystemExit, match='^error: got runs of net_float, expected at least one with a packed network'):
        start(folders[1], f'--folder={tmp_path / "docs"}', '--name=x')


def test_a_run_of_no_recipe_is_named(run, folders, tmp_path):
    with pytest.raises(
        SystemExit, match=f'^error: {run}: the recipe of net_xnor is not in experiments/, expected one of '
    ):
        start(run, f'--folder={tmp_path}', '--name=x')


def test_published_and_own_accuracies_against_bytes(tmp_path):
    path = tmp_path / 'plot.png'
    picture_cifar10.command([str(path)])
    with Image.open(path) as image:
        image.load()
        assert image.format == 'PNG' and min(image.size) > 100
    words = 9 * (6 * 16 + 6 * 32 + 64 + 5 * 64 * 2)  # One for each tap and filter, two from 64 channels.
    real = 9 * 3 * 16 + 16 * 32 + 32 * 64 + 64 * 10 + 10  # Stem, two shortcuts, head.
    filters, others = 6 * (16 + 32 + 64), 16 + 32 + 64  # Binary ones have alpha and a norm, others a norm.
    assert picture_cifar10.packed_bytes(*picture_cifar10.OURS[0][:2]) == 4 * (words + real + 3 * filters + 2 * others)
