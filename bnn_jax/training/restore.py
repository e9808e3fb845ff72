"""From the working directory of a run back to its network, by the recipe that made the run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from bnn_jax.files import read_object
from bnn_jax.nn.containers import Network
from bnn_jax.training.checkpoint import Checkpoints, first_difference
from bnn_jax.training.config import Config, check_description
from bnn_jax.training.recipe import Recipe
from bnn_jax.training.start import beginning
from bnn_jax.training.state import model_of


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run's network as one of its checkpoints has it."""

    # with the options of the run
    config: Config
    # in evaluation mode
    model: Network
    # at which the checkpoint was made
    step: int
    workdir: Path


def trained(recipe: Recipe, workdir: str | Path | None = None, *, best: bool = False, **options: Any) -> TrainedRun:
    """The network of a run: the recipe says how it is built, config.json which row and options, the checkpoint the parameters.

    The checkpoint is checked against the config as `fit` does, so that another experiment's is refused by name. What was
    trained before the run (a teacher, a first stage) is read from the workdir, and trained again where it is gone from there.

    Args:
        recipe: of the module that started the run (`recipe.recipe_of`).
        workdir: the run's folder; by default that of the recipe's default row.
        best: the checkpoint of the best test result, which a run with `keep_best` has; by default the newest one.
        options: fields of the config that decide nothing (`data_dir`, `workers`), in place of the run's.

    Raises:
        ValueError: for a workdir without checkpoints, for a run of another recipe or of an earlier version, and as
            `Checkpoints.restore`.
    """
    folder = Path(workdir or f'runs/{recipe.run_name()}-{recipe.row().seed}').expanduser()
    stated = _stated(folder)
    if stated.get('recipe') != recipe.name:
        raise ValueError(
            f'{folder}: its run is of the recipe {stated.get("recipe") or "?"}, got {recipe.name}; name the module that '
            'started that run'
        )
    config = recipe.prepare(_as_run(recipe.row(_row(stated, folder)), stated | options, folder))
    described = json.loads(json.dumps(config.decisive()))
    if difference := first_difference('', {key: stated.get(key) for key in described}, described):
        key, theirs, ours = difference
        raise ValueError(
            f'{folder}: its run has {key} = {theirs!r}, {recipe.name} now has {ours!r}; restore the recipe as it was, or train '
            'again in another --workdir'
        )
    return _restored(config, folder, best)


def _stated(workdir: Path) -> dict[str, Any]:
    """The config that a run wrote."""
    if not (workdir / 'checkpoints').is_dir():
        raise ValueError(
            f'{workdir} has no checkpoints, expected the folder that a run wrote; name it: --workdir FOLDER'
        )
    stated = read_object(workdir / 'config.json', 'start the run again, it writes it anew')
    check_description(stated, str(workdir), 'train again in another --workdir')
    return stated


def _row(stated: dict[str, Any], workdir: Path) -> str:
    row = stated.get('row', '')
    if not isinstance(row, str):
        raise ValueError(
            f'{workdir}/config.json: row: got {row!r}, expected a name; start the run again, it writes it anew'
        )
    return row


def _as_run(config: Config, stated: dict[str, Any], workdir: Path) -> Config:
    """config with the options of the run in workdir."""
    options = {f.name: stated[f.name] for f in dataclasses.fields(config) if 'help' in f.metadata and f.name in stated}
    try:
        return dataclasses.replace(config, **options | {'workdir': str(workdir)})
    except ValueError as error:
        raise ValueError(f'{workdir}/config.json: {error}; start the run again, it writes it anew') from error


def _restored(config: Config, workdir: Path, best: bool) -> TrainedRun:
    # How many steps a schedule has does not show in the state, and only the data would tell; so many that a warm-up of a
    # part of an epoch leaves some for the schedule.
    state, _ = beginning(config, 1000 * config.epochs)
    folder = workdir / ('best' if best else 'checkpoints')
    if best and not folder.is_dir():
        raise ValueError(f'{folder} is not there, expected that of a run with --keep_best; leave --best out')
    with Checkpoints(folder, config.decisive(), read_only=True) as checkpoints:
        if checkpoints.last() is None:
            raise ValueError(f'{folder} is empty, expected at least one checkpoint; start the run again')
        state = checkpoints.restore(state)
    return TrainedRun(config, model_of(state), int(state.step), workdir)
