"""Three plots of finished runs: accuracy against bytes, flips, and histograms.

    python -m experiments.pictures runs/digits_vgg_small_float-0 runs/digits_vgg_small_xnor-0 ... --folder=docs --name=digits

- NAME_bytes.png: test accuracy against bytes.
- NAME_flips.png: the share of signs that flip in a step.
- NAME_histograms.png: latent weights, and inputs of binary activations.

docs/accuracy_and_bytes.md explains the first, docs/training.md the other two.
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from flax import nnx

from bnn_jax.nn.containers import Network
from bnn_jax.nn.places import Place, observe, walk
from bnn_jax.nn.product import Product
from bnn_jax.training.images import test_batches
from bnn_jax.training.metrics import read
from bnn_jax.training.restore import TrainedRun, trained
from experiments import recipes, run_command
from experiments.table import rows

IMAGES, COLUMNS = 256, 4
"""In the histograms: the number of test images that give the inputs, and the largest number of layers."""

WEIGHTS, INPUTS = np.arange(-20.5, 21) * 0.05, np.arange(-20, 21) * 0.2
"""Edges of the bars. The outermost bars also count all values beyond them; those of weights have -1 and 1 at their middles."""

Runs = dict[str, list[tuple[Path, dict[str, Any]]]]  # Experiment -> working directory and results of each of its runs.
Looks = dict[str, tuple[str, str]]  # Experiment -> label and color.


@dataclasses.dataclass(frozen=True)
class Layer:
    """The histograms of a product of a trained network."""

    # The share of the latent weights in each bar, before and after training; None if the weights are real.
    weights: tuple[np.ndarray, ...] | None = None
    # The share of the inputs of the sign in each bar; None if the product does not binarize its input.
    inputs: np.ndarray | None = None
    # The share of these inputs in [-1, 1].
    inside: float | None = None


def by_experiment(workdirs: Iterable[Path]) -> Runs:
    """The runs in the order given. Raises FileNotFoundError for one that has not finished."""
    runs = defaultdict(list)
    for workdir in workdirs:
        ((name, (results,)),) = rows([workdir]).items()
        runs[name].append((workdir, results))
    return dict(runs)


def binary(runs: Runs) -> Runs:
    """The runs with a packed network. Raises ValueError if there are none."""
    found = {name: ours for name, ours in runs.items() if ours[0][1]['packed_bytes'] is not None}
    if not found:
        raise ValueError(f'got runs of {", ".join(runs)}, expected at least one with a packed network')
    return found


def looks_of(names: Sequence[str]) -> Looks:
    """A label and a color for each name. The label leaves out the words with which all names begin."""
    start = os.path.commonprefix(names).rpartition('_')[0] + '_'
    return {name: (name.removeprefix(start), f'C{i % 10}') for i, name in enumerate(names)}


def sizes(runs: Runs) -> dict[str, tuple[int, list[float]]]:
    """Experiment -> bytes, and the test accuracy of each run: of the packed network, or in float32 if there is none."""
    found = {}
    for name, ours in runs.items():
        packed = ours[0][1]['packed_bytes'] is not None
        size, accuracy = ('packed_bytes', 'packed_test_accuracy') if packed else ('float32_bytes', 'test_accuracy')
        found[name] = ours[0][1][size], [results[accuracy] for _, results in ours]
    return found


def flips(runs: Runs) -> dict[str, dict[int, float]]:
    """Experiment -> step -> share of signs that flip in it: the mean over binary layers, then over runs.

    Raises ValueError for a run that did not watch its layers.
    """
    found = {}
    for name, ours in binary(runs).items():
        steps = defaultdict(list)
        for workdir, _ in ours:
            records = [r for r in read(workdir / 'metrics.jsonl') if any(key.startswith('flips/') for key in r)]
            if not records:
                raise ValueError(
                    f'{workdir} has no records of signs that flip: it ran with --watch_every=0 or too few steps; run it again'
                )
            for record in records:
                steps[record['step']].append(np.mean([record[key] for key in record if key.startswith('flips/')]))
        found[name] = {step: float(np.mean(shares)) for step, shares in sorted(steps.items())}
    return found


def first_run(name: str, runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[Layer]:
    """The layers of the run with the smallest seed, from its newest checkpoint.

    Raises ValueError if its recipe is not in experiments/.
    """
    workdir, results = min(runs, key=lambda one: one[1]['config']['seed'])
    recipe = recipes().get(results['config'].get('recipe'))
    if recipe is None:
        raise ValueError(
            f'{workdir}: the recipe of {name} is not in experiments/, expected one of {", ".join(recipes())}; train it again '
            'with one of them'
        )
    run = trained(recipe, workdir)
    config = dataclasses.replace(run.config, batch_size=IMAGES, accumulate=1, workers=0)
    with closing(test_batches(config, config.data('test', config.data_dir))) as batches:
        return layers(run, next(batches)['image'])


def layers(run: TrainedRun, images: np.ndarray) -> list[Layer]:
    """The histograms of every product of the network, in order. The inputs are those of these images in evaluation mode."""
    seen = inputs_of_signs(run.model, images)
    untrained, found = run.config.model(rngs=nnx.Rngs(run.config.seed), width=run.config.width), []
    for before, after in zip(_products(untrained), _products(run.model), strict=True):
        binarized, x = after.layer.scheme.weight is not None, seen.get(after.path)
        latent = (np.asarray(place.layer.latent()) for place in (before, after))
        weights = tuple(bars(w, WEIGHTS) for w in latent) if binarized else None
        found.append(Layer(weights) if x is None else Layer(weights, bars(x, INPUTS), float((np.abs(x) <= 1).mean())))
    return found


def _products(model: Network) -> list[Place]:
    return [place for place in walk(model) if isinstance(place.layer, Product)]


def inputs_of_signs(model: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    """Name of a product -> the inputs of its binary activation for these images."""
    model, seen = nnx.merge(*nnx.split(model), copy=True), {}

    def see(place: Place, x: jax.Array, _: jax.Array) -> None:
        if isinstance(place.layer, Product) and place.layer.activation is not None:
            seen[place.path] = np.asarray(x)

    observe(model, see)
    model(images)
    return seen


def bars(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the values between each two edges; the outermost bars also count the values beyond them."""
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / values.size


def draw_sizes(axes, looks: Looks, found: dict[str, tuple[int, list[float]]]) -> None:
    """For each experiment, its mean, a line from smallest to largest, and a label with its name and bytes."""
    means = {name: float(np.mean(accuracies)) for name, (_, accuracies) in found.items()}
    apart, height = 0.06 * max(0.01, max(means.values()) - min(means.values())), -1.0
    for name in sorted(found, key=means.__getitem__):
        (size, accuracies), (label, color) = found[name], looks[name]
        axes.plot([size] * 3, [min(accuracies), means[name], max(accuracies)], 'o-', color=color, markevery=[1])
        height = max(means[name], height + apart)  # Labels of close points are stacked.
        axes.annotate(f'{label}, {size / 1000:,.0f} kB', (1.1 * size, height), color=color, va='center')
    stored = [size for size, _ in found.values()]
    axes.set(xlabel='size as stored', ylabel='test accuracy', xscale='log', xlim=(min(stored) / 2, 3 * max(stored)))
    axes.margins(y=0.12)
    axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes.xaxis.set_major_formatter(lambda value, _: f'{value / 1000:,g} kB')
    axes.xaxis.set_minor_formatter('')
    axes.yaxis.set_major_formatter(lambda value, _: f'{100 * value:.4g}%')
    axes.grid(alpha=0.3)


def draw_flips(axes, looks: Looks, found: dict[str, dict[int, float]]) -> None:
    """A line for each experiment. A step in which no sign flips has no point on the logarithmic axis."""
    for name, steps in found.items():
        label, color = looks[name]
        axes.plot(list(steps), [share or np.nan for share in steps.values()], color=color, label=label)
    axes.set(xlabel='step', ylabel='share of signs that flip in one step', xlim=(0, None), yscale='log')
    axes.grid(alpha=0.3)
    axes.legend()


def draw_weights(axes, layer: Layer, color: str) -> None:
    """Shares of latent weights, on a logarithmic axis."""
    assert layer.weights is not None
    axes.stairs(layer.weights[1], WEIGHTS, fill=True, color=color, alpha=0.5, label='filled: trained')
    axes.stairs(layer.weights[0], WEIGHTS, color='0.2', label='weights, untrained')
    axes.vlines([-1, 1], 1e-4, 1, color='0.2', linestyle=':', label='weights: the clip, ±1')
    axes.set(yscale='log', ylim=(1e-4, 1), xticks=(-1, 0, 1))


def draw_inputs(axes, layer: Layer, color: str) -> None:
    """Shares of inputs, with the share inside the window as text."""
    axes.axvspan(-1, 1, color='0.88', linewidth=0, label='inputs: the window, |x| ≤ 1')
    axes.stairs(layer.inputs, INPUTS, fill=True, color=color, alpha=0.5)
    axes.text(0.98, 0.93, f'{layer.inside:.0%} inside', fontsize=8, ha='right', va='top', transform=axes.transAxes)
    axes.set(ylim=(0, 1.3 * axes.get_ylim()[1]), xticks=(-4, -1, 1, 4), yticks=())


def draw_real(axes, layer: Layer, color: str) -> None:
    """The word "real", for weights or inputs that are not binarized."""
    axes.text(0.5, 0.5, 'real', color='0.6', ha='center', va='center', transform=axes.transAxes)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)


def draw_histograms(figure, looks: Looks, found: dict[str, list[Layer]]) -> None:
    """Rows: latent weights and binarized inputs of each experiment. Columns: layers with binary weights in any experiment."""
    places = sorted({i for ours in found.values() for i, layer in enumerate(ours) if layer.weights is not None})
    places = [places[round(i)] for i in np.linspace(0, len(places) - 1, min(COLUMNS, len(places)))]
    kinds = ('weights', 'inputs')
    lines = [(n, kind) for n in found for kind in kinds if any(getattr(one, kind) is not None for one in found[n])]
    figure.set_size_inches(2.3 * len(places) + 0.6, 1.2 * len(lines) + 1)
    grid = figure.subplots(len(lines), len(places), squeeze=False)
    for (name, kind), row in zip(lines, grid, strict=True):
        row[0].set_ylabel(f'{looks[name][0]}\n{kind}')
        for i, axes in zip(places, row, strict=True):
            layer = found[name][i] if i < len(found[name]) else Layer()
            draw = draw_real if getattr(layer, kind) is None else draw_weights if kind == 'weights' else draw_inputs
            draw(axes, layer, looks[name][1])
    for i, axes in zip(places, grid[0], strict=True):
        axes.set_title(f'layer {i + 1}', fontsize='medium')
    legends = [axes.get_legend_handles_labels() for axes in grid.flat]
    handles = {label: handle for both in legends for handle, label in zip(*both, strict=True)}
    figure.legend(handles.values(), handles, loc='outside upper center', ncols=len(places), frameon=False)


def main(workdirs: Annotated[list[Path], tyro.conf.Positional], folder: Path, name: str) -> None:
    """Draw finished runs.

    Args:
        workdirs: working directories of finished runs.
        folder: folder of the pictures.
        name: first part of their file names.
    """
    from matplotlib.figure import Figure

    runs = by_experiment(workdirs)
    looks, flipping = looks_of(list(runs)), flips(runs)
    histograms = {experiment: first_run(experiment, ours) for experiment, ours in binary(runs).items()}
    figures = {what: Figure(figsize=(7.5, 4.2), layout='constrained') for what in ('bytes', 'flips', 'histograms')}
    draw_sizes(figures['bytes'].subplots(), looks, sizes(runs))
    draw_flips(figures['flips'].subplots(), looks, flipping)
    draw_histograms(figures['histograms'], looks, histograms)
    folder.mkdir(parents=True, exist_ok=True)
    for what, figure in figures.items():
        path = folder / f'{name}_{what}.png'
        figure.savefig(path, dpi=110)
        print(f'{path}: {path.stat().st_size:,} bytes')


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'pictures', __doc__, arguments)


if __name__ == '__main__':
    command()
