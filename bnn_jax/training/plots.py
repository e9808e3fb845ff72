"""Pictures of a run: what its records say over epochs and over steps."""

import io
import re
from pathlib import Path

from bnn_jax.files import write

PANELS = {
    'flips': ('Share of signs that flip in one step', 'log'),
    'at_clip': ('Share of latent weights at the clip, |w| ≥ 1', 'linear'),
    'in_window': ('Share of inputs inside the window\nin which the sign lets gradients through', 'linear'),
    'alpha': ('Alpha, the scale of a filter: mean over filters', 'linear'),
}
"""What `watch` sees of every layer: what a picture says of it, and its axis."""

LEGEND = 12
"""Layers named in a legend, at most."""


def plot(path: Path, title: str, records: list[dict]) -> None:
    """curves.png: loss and accuracy over epochs, training (mean over the epoch, training mode) and test."""
    from matplotlib.figure import Figure

    epochs = [record for record in records if 'epoch' in record]
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, name in zip(figure.subplots(1, 2), ('loss', 'accuracy'), strict=True):
        for split, style in (('train', '--'), ('test', '-')):
            values = [record[f'{split}_{name}'] for record in epochs]
            axes.plot([record['epoch'] for record in epochs], values, style, label=split, marker='.')
        axes.set(xlabel='epoch', ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    _write(path, figure)


def plot_watch(path: Path, title: str, records: list[dict]) -> None:
    """watch.png: what `watch` saw over steps, one line a layer, dark to light from first to last; no file if nothing.

    On the axis of flips, which is logarithmic, a step without any has no point.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    series = _series(records)
    if not series:
        return
    panels = [name for name in PANELS if name in series]
    layers = sorted({layer for lines in series.values() for layer in lines}, key=_in_order)
    colours = dict(zip(layers, colormaps['viridis']([0.9 * i / len(layers) for i in range(len(layers))]), strict=True))
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10, 0.8 + 3 * rows), layout='constrained')
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for axes, name in zip(grid, panels, strict=False):
        for layer in sorted(series[name], key=_in_order):
            axes.plot(*zip(*series[name][layer], strict=True), color=colours[layer], marker='.', label=layer)
        description, scale = PANELS[name]
        axes.set_title(description, fontsize='medium')
        some = any(value > 0 for points in series[name].values() for _, value in points)
        axes.set(xlabel='step', xlim=(0, None), yscale=scale if some else 'linear')
        if name == 'at_clip':
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for axes in list(grid):
        axes.set_axis_off()
    _legend(figure, layers, colours)
    figure.suptitle(f'{title}: what its binary layers do while it trains')
    _write(path, figure)


def _series(records: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Quantity -> layer -> (step, value)."""
    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        for key, value in record.items():
            quantity, _, layer = key.partition('/')
            if quantity in PANELS:
                shown = float('nan') if quantity == 'flips' and value == 0 else value
                series.setdefault(quantity, {}).setdefault(layer, []).append((record['step'], shown))
    return series


def _legend(figure, layers: list[str], colours: dict) -> None:
    from matplotlib.lines import Line2D

    count = min(LEGEND, len(layers))
    named = [layers[round(i * (len(layers) - 1) / max(1, count - 1))] for i in range(count)]
    lines = [Line2D([], [], color=colours[layer], marker='.', label=layer) for layer in named]
    figure.legend(handles=lines, title='layer, first to last', loc='outside right upper', fontsize='small')


def _in_order(layer: str) -> tuple[list[int], str]:
    """Sorts names as the layers stand in the network: 9 before 10."""
    return [int(number) for number in re.findall('[0-9]+', layer)], layer


def _write(path: Path, figure) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=120)
    write(path, picture.getvalue())
