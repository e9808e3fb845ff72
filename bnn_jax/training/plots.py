"""Plots of a run: its records over epochs and over steps."""

import io
import re
from pathlib import Path

from bnn_jax.files import write

PANELS = {
    'flips': ('Share of signs that flip in one step', 'log'),
    'at_clip': ('Share of latent weights at the clip, |w| ≥ 1', 'linear'),
    'in_window': ('Share of inputs inside the window\nin which the sign lets gradients through', 'linear'),
    'alpha': ('Alpha, the scale of a filter: mean over filters', 'linear'),
    'alpha_over_start': ('Alpha over its value at the start', 'linear'),
}
"""Quantity that `watch` records for each layer -> the title of its panel, and the scale of its axis."""

RUN_PANELS = {
    'Share of images whose logits are all equal': {
        'equal_logits': 'training batch',
        'running_statistics/equal_logits': 'test, running statistics',
        'batch_statistics/equal_logits': 'test, batch statistics',
    },
    'Accuracy on the same test images': {
        'running_statistics/accuracy': 'running statistics',
        'batch_statistics/accuracy': 'batch statistics',
    },
}
"""Title of a panel for the whole network -> the quantities that it shows, each with its label."""

LEGEND = 12
"""The largest number of layers in a legend."""


def plot(path: Path, title: str, records: list[dict]) -> None:
    """Draw curves.png: loss and accuracy over epochs, in training (mean over the epoch, training mode) and test.

    Args:
        path: where to write it.
        title: the title of the picture.
        records: the records of the run, from `metrics.read`.
    """
    from matplotlib.figure import Figure

    epochs = [record for record in records if 'epoch' in record]
    names = [name for name in ('loss', 'accuracy') if all(f'test_{name}' in record for record in epochs)]
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        for split, style in (('train', '--'), ('test', '-')):
            known = [record for record in epochs if f'{split}_{name}' in record]
            if known:
                values = [record[f'{split}_{name}'] for record in known]
                axes.plot([record['epoch'] for record in known], values, style, label=split, marker='.')
        axes.set(xlabel='epoch', ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    _write(path, figure)


def plot_watch(path: Path, title: str, records: list[dict]) -> None:
    """Draw watch.png: what a run watched, over steps. If it watched nothing, no file is written.

    Each layer is a line, dark to light from the first to the last. The axis of flips is logarithmic, so a step without flips
    has no point.

    Args:
        path: where to write it.
        title: the title of the picture.
        records: the records of the run, from `metrics.read`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    series, of_run = _series(records), _series_of_run(records)
    if not series and not of_run:
        return
    panels = [name for name in PANELS if name in series]
    layers = sorted({layer for lines in series.values() for layer in lines}, key=_in_order)
    # Not up to 1, because the yellow at the end is hard to see on white.
    colors = dict(zip(layers, colormaps['viridis']([0.9 * i / len(layers) for i in range(len(layers))]), strict=True))
    rows = (len(panels) + len(of_run) + 1) // 2
    figure = Figure(figsize=(10, 0.8 + 3 * rows), layout='constrained')
    grid = iter(figure.subplots(rows, 2, squeeze=False).flat)
    for name, axes in zip(panels, grid, strict=False):
        for layer in sorted(series[name], key=_in_order):
            axes.plot(*zip(*series[name][layer], strict=True), color=colors[layer], marker='.', label=layer)
        description, scale = PANELS[name]
        axes.set_title(description, fontsize='medium')
        some = any(value > 0 for points in series[name].values() for _, value in points)
        axes.set(xlabel='step', xlim=(0, None), yscale=scale if some else 'linear')
        if name in ('at_clip', 'alpha_over_start'):
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for description, axes in zip(of_run, grid, strict=False):
        for label, points in of_run[description].items():
            axes.plot(*zip(*points, strict=True), marker='.', label=label)
        axes.set_title(description, fontsize='medium')
        axes.set(xlabel='step', xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    # An odd number of panels leaves a place empty.
    for axes in grid:
        axes.set_axis_off()
    if layers:
        _legend(figure, layers, colors)
    figure.suptitle(f'{title}: what was watched while it trained')
    _write(path, figure)


def _series(records: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Quantity -> layer -> (step, value)."""
    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        for key, value in record.items():
            quantity, _, layer = key.partition('/')
            if quantity in PANELS and layer:
                # A logarithmic axis cannot show 0; NaN leaves a gap.
                shown = float('nan') if quantity == 'flips' and value == 0 else value
                series.setdefault(quantity, {}).setdefault(layer, []).append((record['step'], shown))
    return series


def _series_of_run(records: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Panel -> label -> (step, value)."""
    panels = {}
    for description, lines in RUN_PANELS.items():
        points = {label: [(r['step'], r[key]) for r in records if key in r] for key, label in lines.items()}
        points = {label: some for label, some in points.items() if some}
        if points:
            panels[description] = points
    return panels


def _legend(figure, layers: list[str], colors: dict) -> None:
    from matplotlib.lines import Line2D

    count = min(LEGEND, len(layers))
    named = [layers[round(i * (len(layers) - 1) / max(1, count - 1))] for i in range(count)]
    lines = [Line2D([], [], color=colors[layer], marker='.', label=layer) for layer in named]
    figure.legend(handles=lines, title='layer, first to last', loc='outside right upper', fontsize='small')


def _in_order(layer: str) -> tuple[list[int], str]:
    """A sort key that puts layer 9 before layer 10."""
    return [int(number) for number in re.findall('[0-9]+', layer)], layer


def _write(path: Path, figure) -> None:
    # `write` leaves no half-written picture after an interruption.
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=120)
    write(path, picture.getvalue())
