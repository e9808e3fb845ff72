"""An experiment from the command line to its results: fit, convert, compare, write down."""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from bnn_jax import command
from bnn_jax.files import write
from bnn_jax.training.compilation_cache import compilation_cache
from bnn_jax.training.config import Config
from bnn_jax.training.devices import Hosts, is_first_host, no_host_waits
from bnn_jax.training.fit import fit
from bnn_jax.training.memory import allocate_for_training
from bnn_jax.training.metrics import read
from bnn_jax.training.options import option
from bnn_jax.training.plots import plot, plot_watch
from bnn_jax.training.recipe import Recipe, unprepared
from bnn_jax.training.results import device, results_of
from bnn_jax.training.state import model_of
from bnn_jax.training.workdir import held


def main(recipe: Recipe, arguments: Sequence[str] | None = None) -> None:
    """Run a row of a recipe with the options of the command line, and print its results.

    --scheme chooses the row, every scalar field of its config is an option, and an unknown option is refused. An error
    ends with its message and exit status 1, an interruption with 128 + the signal's number (`bnn_jax.command`).

    Args:
        recipe: what to run.
        arguments: the options; by default those of this process.
    """
    if arguments is None:
        command.begin()
    with command.one_line():
        name, config, asked = chosen(recipe, arguments)
        if asked.evaluate:
            options = _given(config, EVALUATED_WITH, sys.argv[1:] if arguments is None else arguments)
            folders = [Path(each.workdir).expanduser() for each in seeds_of(config, asked.seeds)]
            results = [evaluated(name, recipe, folder, **options) for folder in folders]
        else:
            results = [run_or_exit(name, each, recipe.prepare) for each in seeds_of(config, asked.seeds)]
        if not is_first_host():
            return
        for result in results:
            print(json.dumps({k: v for k, v in result.items() if k not in ('config', 'versions')}, indent=2))
        if len(results) > 1:
            print(over_seeds(name, results))


EVALUATED_WITH = 'data_dir', 'workers'
"""Options of a run that --evaluate takes from the command line where they are given there."""


def _given(config: Config, names: Sequence[str], arguments: Sequence[str]) -> dict[str, Any]:
    """Those of these options that the command line names, with their values."""
    there = {argument.partition('=')[0].replace('-', '_') for argument in arguments}
    return {name: getattr(config, name) for name in names if f'__{name}' in there}


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line asks for beside a config."""

    seeds: int = option(
        1, 'so many runs, of seeds from --seed on, each in its own folder; at the end their mean and range'
    )
    evaluate: bool = option(False, 'train nothing: evaluate the newest checkpoint in --workdir')

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f'seeds: got {self.seeds}, expected at least 1')


def seeds_of(config: Config, count: int) -> Iterator[Config]:
    """The config with `count` seeds from its own on; of several, each in a workdir of its own, WORKDIR-SEED."""
    if count == 1:
        yield config
        return
    root = config.workdir.removesuffix(f'-{config.seed}')
    seeds = range(config.seed, config.seed + count)
    for seed in seeds:
        yield dataclasses.replace(config, seed=seed, workdir=f'{root}-{seed}')


def over_seeds(name: str, results: Sequence[dict[str, Any]]) -> str:
    """A sentence: mean and range of the accuracies of several runs."""
    parts = []
    for key, what in (('test_accuracy', 'test accuracy'), ('packed_test_accuracy', 'from bits')):
        if values := [result[key] for result in results if result[key] is not None]:
            parts.append(f'{what} {statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})')
    return f'{name}, {len(results)} seeds: {", ".join(parts)}'


def chosen(recipe: Recipe, arguments: Sequence[str] | None = None) -> tuple[str, Config, Command]:
    """Name and config of the run that the command line asks for, and what is to be done with it.

    Exits as `with_options`, and for an unknown scheme.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('--scheme', '--preset', dest='scheme', default=recipe.default)
    row = first.parse_known_args(arguments)[0].scheme
    with command.one_line():
        config = recipe.row(row)
    text = f'a row ({", ".join(recipe.rows)})'
    text += ', or any scheme of bnn_jax.schemes or preset of bnn_jax.presets' if recipe.other else ''
    name = recipe.run_name(row)
    asked: list[Command] = []
    config = with_options(
        recipe.name, recipe.description, config, arguments, run_name=name, scheme=(row, text), asked=asked
    )
    return name, config, asked[0]


def with_options(
    name: str,
    description: str | None,
    config: Config,
    arguments: Sequence[str] | None = None,
    *,
    run_name: str = '',
    scheme: tuple[str, str] | None = None,
    asked: list[Command] | None = None,
) -> Config:
    """config with the options of the command line. Where they name a coordinator, this process joins the others of the run.

    Args:
        name: of the module that is run, for the usage line.
        description: what --help says.
        config: what the options replace the scalar fields of.
        arguments: the options; by default those of this process.
        run_name: the default workdir is runs/RUN_NAME-SEED; by default the name.
        scheme: value and help of the option --scheme, where there is one. It is shown here and read before (`chosen`).
        asked: where the options of `Command` go; by default there are none.
    """
    import tyro

    parts = (config, Hosts()) if asked is None else (config, Command(), Hosts())
    fields = [field for part in parts for field in dataclasses.fields(part) if 'help' in field.metadata]
    options: list[tuple[str, Any, Any]] = [
        (
            field.name,
            Annotated[field.type, tyro.conf.arg(help=field.metadata['help'])],
            dataclasses.field(default=value),
        )
        for field in fields
        for value in [getattr(config, field.name, field.default)]
    ]
    if scheme is not None:
        shown = Annotated[str, tyro.conf.arg(help=scheme[1], aliases=['--preset'])]
        options.insert(0, ('scheme', shown, dataclasses.field(default=scheme[0])))
    # Tyro makes an option of each field of a dataclass.
    kind = dataclasses.make_dataclass('Options', options, frozen=True)
    # The usage line shows the command by which this process was started.
    started = sys.modules['__main__'].__spec__
    module = started.name if started and started.name.rpartition('.')[2] == name else f'experiments.{name}'
    values = dataclasses.asdict(tyro.cli(kind, prog=f'python -m {module}', description=description, args=arguments))
    values.pop('scheme', None)
    with command.one_line():
        Hosts(**{field.name: values.pop(field.name) for field in dataclasses.fields(Hosts)}).join()
        if asked is not None:
            asked.append(Command(**{field.name: values.pop(field.name) for field in dataclasses.fields(Command)}))
        config = dataclasses.replace(config, **values)
    return dataclasses.replace(config, workdir=config.workdir or f'runs/{run_name or name}-{config.seed}')


def run_or_exit(name: str, config: Config, prepare: Callable[[Config], Config] = unprepared) -> dict[str, Any]:
    """`run` of what `prepare` makes of config; an error becomes its message and exit status 1.

    This process allocates as training on CPU wants it from then on (`memory.allocate_for_training`), and compiled programs are
    kept on disk meanwhile (`compilation_cache`).
    """
    began = time.monotonic()
    with command.one_line():
        allocate_for_training()
        with no_host_waits(), compilation_cache():
            config = prepare(config)
            if config.max_minutes:  # of all stages together
                left = config.max_minutes - (time.monotonic() - began) / 60
                config = dataclasses.replace(config, max_minutes=max(left, 1e-9))
            return run(name, config)


def run(name: str, config: Config) -> dict[str, Any]:
    """fit, then everything a run leaves: curves.png, watch.png, the packed model, results.json; returns the results.

    A network without binary weights is not converted: its packed results are None. So are those of one that `convert` refuses;
    the reason is then printed and stands under 'not_converted'. On several hosts the first one does all this after `fit`; the
    others return no results.

    Args:
        name: of the run, in its results and pictures.
        config: what to run; without a workdir, in runs/NAME-SEED.

    Returns:
        What results.json holds, docs/results.schema.json.

    Example:
        >>> results = bnn.training.run('mine', config)  # doctest: +SKIP
        >>> results['packed_test_accuracy']  # doctest: +SKIP
        0.931
    """
    config = dataclasses.replace(config, workdir=config.workdir or f'runs/{name}-{config.seed}')
    if is_first_host():
        print(f'{name}: {device()}, in {config.workdir}; reading the data, then compiling', file=sys.stderr, flush=True)
    with held(config) as workdir:
        model = model_of(fit(config))
        if not is_first_host():
            return {}
        records = _records(workdir)
        plot(workdir / 'curves.png', name, records)
        plot_watch(workdir / 'watch.png', name, records)
        results = results_of(name, config, model, records)
        write(workdir / 'results.json', json.dumps(results, indent=2) + '\n')
        return results


def _records(workdir: Path) -> list[dict]:
    records = read(workdir / 'metrics.jsonl')
    if not records:
        raise ValueError(
            f'{workdir}/metrics.jsonl is gone, expected the records of this run; delete {workdir} to train again'
        )
    return records


def evaluated(name: str, recipe: Recipe, workdir: Path, **options: Any) -> dict[str, Any]:
    """The results of the newest checkpoint in workdir; nothing is trained, and results.json stays as it is.

    packed.safetensors and report.txt are those of this checkpoint afterwards; options: as `trained`. On several hosts the first
    one does this, the others return no results.
    """
    from bnn_jax.training.restore import trained

    found = trained(recipe, workdir, **options)
    if not is_first_host():
        return {}
    return results_of(name, found.config, found.model, _records(workdir)) | {'step': found.step}
