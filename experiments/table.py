"""The table of results and one picture of curves, from the working directories of finished runs.

    python -m experiments.table runs/digits_vgg_small_xnor-0 runs/digits_vgg_small_xnor-1 ... --picture=curves.png

It prints Markdown with one row for each experiment, named by its command: mean and range (smallest to largest) over its
runs.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bnn_jax.files import read_object
from bnn_jax.training.metrics import read
from experiments import run_command


def rows(workdirs: Sequence[Path]) -> dict[str, list[dict]]:
    """Results by experiment. Raises FileNotFoundError for a run that has not finished."""
    found = defaultdict(list)
    for workdir in workdirs:
        path = workdir / 'results.json'
        if not path.exists():
            raise FileNotFoundError(f'{workdir} has no results.json, expected a finished run; start it again to go on')
        results = read_object(path, 'start the run again, which writes it again')
        found[results['experiment']].append(results)
    return dict(found)


def markdown(found: dict[str, list[dict]]) -> str:
    """The table."""
    columns = ['experiment', 'seeds', 'epochs', 'test accuracy', 'from bits', 'predictions that differ']
    columns += ['float32 bytes', 'packed bytes', 'minutes a run', 'device', 'jax', 'commit']
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for name, runs in found.items():
        packed = [r for r in runs if r['packed_bytes'] is not None]
        cells = [
            _command(name, runs[0].get('config', {})),
            str(len(runs)),
            _all(str(r['epochs']) for r in runs),
            _spread([r['test_accuracy'] for r in runs]),
            _spread([r['packed_test_accuracy'] for r in packed]) if packed else 'float',
            f'{max(1 - r["prediction_agreement"] for r in packed):.2%}' if packed else '',
            f'{runs[0]["float32_bytes"]:,}',
            f'{packed[0]["packed_bytes"]:,}' if packed else '',
            f'{sum(r["train_seconds"] for r in runs) / len(runs) / 60:.1f}',
            *(
                _all(r['device'] for r in runs),
                _all(r['versions']['jax'] for r in runs),
                _all(r['commit'] for r in runs),
            ),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _command(name: str, config: Mapping[str, str]) -> str:
    """`cifar10_nin --scheme=XNOR`; the experiment's name for a run of no recipe."""
    return f'`{config["recipe"]} --scheme={config["row"]}`' if config.get('recipe') else name


def _all(values: Iterable[str]) -> str:
    return '/'.join(sorted(set(values)))


def _spread(values: Sequence[float]) -> str:
    mean = f'{sum(values) / len(values):.2%}'
    return mean if len(values) == 1 else f'{mean} ({min(values):.2%} to {max(values):.2%})'


def picture(workdirs: Sequence[Path], path: Path) -> None:
    """Test accuracy over epochs: a line for the mean of each experiment's runs, a band from smallest to largest."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curves = defaultdict(list)
    for workdir in workdirs:
        name = read_object(workdir / 'results.json', 'start the run again, which writes it again')['experiment']
        curves[name].append([r['test_accuracy'] for r in read(workdir / 'metrics.jsonl') if 'epoch' in r])
    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    for name, runs in curves.items():
        columns = [[a for a in column if a is not None] for column in itertools.zip_longest(*runs)]
        epochs = range(1, len(columns) + 1)
        (line,) = axes.plot(epochs, [sum(column) / len(column) for column in columns], label=name)
        axes.fill_between(
            epochs,
            [min(column) for column in columns],
            [max(column) for column in columns],
            alpha=0.15,
            color=line.get_color(),
        )
    axes.set(xlabel='epoch', ylabel='test accuracy')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(
    workdirs: Annotated[list[Path], tyro.conf.Positional],
    picture_path: Annotated[Path | None, tyro.conf.arg(name='picture')] = None,
) -> None:
    """Print the table of finished runs.

    Args:
        workdirs: working directories of finished runs.
        picture_path: PNG file for their curves; by default none.
    """
    print(markdown(rows(workdirs)))
    if picture_path:
        picture(workdirs, picture_path)


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'table', __doc__, arguments)


if __name__ == '__main__':
    command()
