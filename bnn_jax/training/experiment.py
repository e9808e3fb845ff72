"""An experiment, from the command line to its results: train, convert, compare, write the results."""

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
from bnn_jax.training.config import NOT_DECISIVE, Config
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
    """Run a row of a recipe as the command line says, and print its results.

    --scheme chooses the row. The other options are those of `Config`, `Command` and `devices.Hosts`. The exit status is
    1 after an error, whose message is printed; 2 if an option cannot be parsed; 128 + its number after a signal
    (`bnn_jax.command`); and 75 if --max_minutes ended the run.

    Args:
        recipe: what to run.
        arguments: the options; by default those of this process.

    Example:
        python -m experiments.digits_vgg_small --scheme=XNOR --epochs=20 --workdir=runs/digits
    """
    if arguments is None:
        command.begin()
    with command.one_line():
        name, config, asked = chosen(recipe, arguments)
        if asked.evaluate:
            options = _given(config, sys.argv[1:] if arguments is None else arguments)
            folders = [Path(each.workdir).expanduser() for each in seeds_of(config, asked.seeds)]
            results = [evaluated(recipe, folder, **options) for folder in folders]
        else:
            results = [run_or_exit(name, each, recipe.prepare) for each in seeds_of(config, asked.seeds)]
        if not is_first_host():
            return
        for result in results:
            print(json.dumps({k: v for k, v in result.items() if k not in ('config', 'versions')}, indent=2))
        if len(results) > 1:
            print(over_seeds(name, results))


EVALUATED_WITH = 'data_dir', 'workers'
"""Options of a run that may have other values in its evaluation."""


def _given(config: Config, arguments: Sequence[str]) -> dict[str, Any]:
    """The values of the options on the command line that decide a run's parameters, and of those in EVALUATED_WITH."""
    there = {argument[2:].partition('=')[0].replace('-', '_') for argument in arguments if argument.startswith('--')}
    there |= {'row'} if there & {'scheme', 'preset'} else set()
    names = {field.name for field in dataclasses.fields(config) if 'help' in field.metadata}
    # Left out: the seed, which has chosen the run's folder, and `on_device`, which the run may have chosen itself.
    names = names.difference(NOT_DECISIVE, ('seed', 'on_device')).union(EVALUATED_WITH, ('row',))
    return {name: getattr(config, name) for name in sorted(names & there)}


@dataclasses.dataclass(frozen=True)
class Command:
    """The options of the command line that belong neither to `Config` nor to `devices.Hosts`."""

    seeds: int = option(
        1,
        'number of runs, with seeds from --seed on, each in its own folder; the mean and range of their accuracies are '
        'printed at the end',
    )
    evaluate: bool = option(False, 'do not train; evaluate the newest checkpoint in --workdir')

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f'seeds: got {self.seeds}, expected at least 1')


def seeds_of(config: Config, count: int) -> Iterator[Config]:
    """The configs of several runs of one experiment.

    Args:
        config: the config of the first run.
        count: how many runs. Several runs have seeds counted from the config's, and each has its own workdir,
            WORKDIR-SEED. If the config's workdir ends with the config's seed, that seed is replaced.
    """
    if count == 1:
        yield config
        return
    root = config.workdir.removesuffix(f'-{config.seed}')
    seeds = range(config.seed, config.seed + count)
    for seed in seeds:
        yield dataclasses.replace(config, seed=seed, workdir=f'{root}-{seed}')


def over_seeds(name: str, results: Sequence[dict[str, Any]]) -> str:
    """The mean and range of the accuracies of several runs, as a sentence.

    Args:
        name: the name of the runs.
        results: the results of each run, as `run` returns them.
    """
    parts = []
    for key, what in (('test_accuracy', 'test accuracy'), ('packed_test_accuracy', 'from bits')):
        if values := [result[key] for result in results if result[key] is not None]:
            parts.append(f'{what} {statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})')
    return f'{name}, {len(results)} seeds: {", ".join(parts) or "no accuracies"}'


def chosen(recipe: Recipe, arguments: Sequence[str] | None = None) -> tuple[str, Config, Command]:
    """The run that the command line asks for.

    Args:
        recipe: the recipe with the rows to choose from.
        arguments: the options; by default those of this process.

    Returns:
        The name of the run, its config, and the other options.

    Raises:
        SystemExit: an option or the scheme is unknown or has a wrong value.
    """
    # --scheme decides the defaults of all other options, so it is read first.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('--scheme', '--preset', dest='scheme', default=recipe.default)
    row = first.parse_known_args(arguments)[0].scheme
    with command.one_line():
        config = recipe.row(row)
    text = f'row of the recipe: {", ".join(recipe.rows)}'
    text += '; or any scheme of bnn_jax.schemes or preset of bnn_jax.presets' if recipe.other else ''
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
    """Set the options of the command line in a config. If they name a coordinator, this process joins the other hosts.

    Args:
        name: the name of the module that runs, for the usage line.
        description: the text of --help.
        config: its values are the defaults of the options.
        arguments: the options; by default those of this process.
        run_name: the default workdir is runs/RUN_NAME-SEED; '' stands for `name`.
        scheme: value and help text of the option --scheme, which `chosen` has read already.
        asked: a list to which a `Command` with its options is appended; None: the command line has no such options.

    Returns:
        The config, with a workdir.

    Raises:
        SystemExit: an option is unknown or has a wrong value, or this process cannot join the other hosts.
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
    # Tyro turns each field of a dataclass into an option.
    kind = dataclasses.make_dataclass('Options', options, frozen=True)
    # The usage line shows the command that started this process.
    main = sys.modules['__main__']
    if main.__spec__ is None and getattr(main, '__file__', '').endswith('.py'):
        program = f'python {sys.argv[0]}'
    elif main.__spec__ is not None and main.__spec__.name.rpartition('.')[2] == name:
        program = f'python -m {main.__spec__.name}'
    else:
        program = f'python -m experiments.{name}'
    values = dataclasses.asdict(tyro.cli(kind, prog=program, description=description, args=arguments))
    values.pop('scheme', None)
    with command.one_line():
        Hosts(**{field.name: values.pop(field.name) for field in dataclasses.fields(Hosts)}).join()
        if asked is not None:
            asked.append(Command(**{field.name: values.pop(field.name) for field in dataclasses.fields(Command)}))
        config = dataclasses.replace(config, **values)
    return dataclasses.replace(config, workdir=config.workdir or f'runs/{run_name or name}-{config.seed}')


def run_or_exit(name: str, config: Config, prepare: Callable[[Config], Config] = unprepared) -> dict[str, Any]:
    """Prepare and run a config. On an error, print its message and exit with status 1.

    From now on the process allocates memory in the way that is fast for training on CPU (`memory.allocate_for_training`).
    Compiled programs are kept on disk (`compilation_cache`).

    Args:
        name: the name of the run.
        config: the config, with the options of the command line.
        prepare: `Recipe.prepare`.

    Returns:
        As `run`.
    """
    began = time.monotonic()
    with command.one_line():
        allocate_for_training()
        with no_host_waits(), compilation_cache():
            config = prepare(config)
            if config.max_minutes:  # The minutes include the preparation.
                left = config.max_minutes - (time.monotonic() - began) / 60
                config = dataclasses.replace(config, max_minutes=max(left, 1e-9))
            return run(name, config)


def run(name: str, config: Config) -> dict[str, Any]:
    """Train with `fit`, convert, evaluate, and write pictures, packed.safetensors, report.txt and results.json.

    The pictures are curves.png and, if anything was watched, watch.png. A network without binary weights is not
    converted: its packed results are None. The same holds if `convert` refuses the network; the reason is printed and
    stored under 'not_converted'. All hosts train. Then the first one does the rest, and the others return {}.

    Args:
        name: the name of the run, in its results and pictures.
        config: what to run. Without a workdir it runs in runs/NAME-SEED.

    Returns:
        What results.json holds (docs/results.schema.json).

    Raises:
        ValueError: metrics.jsonl has no records. Other errors are those of `fit`.

    Example:
        >>> import bnn_jax as bnn
        >>> def accuracy_from_bits(config: bnn.training.Config) -> float:
        ...     return bnn.training.run('mine', config)['packed_test_accuracy']
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
            f'{workdir}/metrics.jsonl has no records, expected those of this run; delete {workdir} to train again'
        )
    return records


def evaluated(recipe: Recipe, workdir: Path, **options: Any) -> dict[str, Any]:
    """The results of the newest checkpoint of a run, without training. results.json is not changed.

    If the network is converted, packed.safetensors and report.txt are those of this checkpoint afterward. On several
    hosts the first one does this; the others return {}.

    Args:
        recipe: the recipe of the run.
        workdir: the workdir of the run.
        options: `best`, `data_dir` and `workers` as for `restore.trained`; any other field must have the value of the run.

    Returns:
        As `run`, and the step of the checkpoint.

    Raises:
        ValueError: an option other than `best`, `data_dir` and `workers` differs from the run's value; or metrics.jsonl has
            no records; or as `restore.trained`.
    """
    from bnn_jax.training.restore import trained

    found = trained(
        recipe, workdir, **{name: options.pop(name) for name in ('best', *EVALUATED_WITH) if name in options}
    )
    for name, value in options.items():
        theirs = getattr(found.config, name)
        if value != theirs:
            option = 'scheme' if name == 'row' else name
            raise ValueError(
                f'{option}: got {value!r} for an evaluation, expected {theirs!r}, with which {workdir} was trained; leave out '
                f'--{option}'
            )
    if not is_first_host():
        return {}
    return results_of(recipe.run_name(found.config.row), found.config, found.model, _records(workdir)) | {
        'step': found.step
    }
