"""Restore the network of a run from its working directory and its recipe."""

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
    """The network of a run at a checkpoint."""

    # The config, with the options of the run.
    config: Config
    # The network, in evaluation mode.
    model: Network
    # The step of the checkpoint.
    step: int
    # The folder of the run.
    workdir: Path


def trained(recipe: Recipe, workdir: str | Path | None = None, *, best: bool = False, **options: Any) -> TrainedRun:
    """The network of a run: its structure from the recipe, its options from config.json, its parameters from a checkpoint.

    As in `fit`, a checkpoint of another config is refused. What was trained before the run (a teacher, a first stage) is read
    from the workdir, and trained again if it is missing there.

    Args:
        recipe: the recipe of the module that started the run (`recipe.recipe_of`).
        workdir: the folder of the run; by default that of the recipe's default row.
        best: take the checkpoint of the best test result, which a run with `keep_best` has; by default the newest one.
        options: new values for fields that do not change the result, such as `data_dir` and `workers`.

    Returns:
        The network, and the config and step of its checkpoint.

    Raises:
        ValueError: workdir has no such checkpoint, the run is of another recipe or an earlier version, or the recipe
            has changed since; or as `Checkpoints.restore`.
    """
    folder = Path(workdir or f'runs/{recipe.run_name()}-{recipe.row().seed}').expanduser()
    stated = _stated(folder)
    if stated.get('recipe') != recipe.name:
        raise ValueError(
            f'{folder}: its run is of the recipe {stated.get("recipe") or "?"}, got {recipe.name}; give the module that '
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
    """The config.json of a run."""
    if not (workdir / 'checkpoints').is_dir():
        raise ValueError(f'{workdir} has no checkpoints, expected the folder of a run; give it as --workdir FOLDER')
    stated = read_object(workdir / 'config.json', 'start the run again, which writes it again')
    check_description(stated, str(workdir), 'train again in another --workdir')
    return stated


def _row(stated: dict[str, Any], workdir: Path) -> str:
    """The row of the recipe in config.json."""
    row = stated.get('row', '')
    if not isinstance(row, str):
        raise ValueError(
            f'{workdir}/config.json: row: got {row!r}, expected a name; start the run again, which writes it again'
        )
    return row


def _as_run(config: Config, stated: dict[str, Any], workdir: Path) -> Config:
    """A config with the options in config.json."""
    options = {f.name: stated[f.name] for f in dataclasses.fields(config) if 'help' in f.metadata and f.name in stated}
    try:
        return dataclasses.replace(config, **options | {'workdir': str(workdir)})
    except ValueError as error:
        raise ValueError(f'{workdir}/config.json: {error}; start the run again, which writes it again') from error


def _restored(config: Config, workdir: Path, best: bool) -> TrainedRun:
    # The true number of steps is known only from the data, but parameters and statistics do not depend on it. This number is
    # large enough that even a warm-up of almost the whole run leaves steps for the schedule.
    state, _ = beginning(config, 1000 * config.epochs)
    folder = workdir / ('best' if best else 'checkpoints')
    if best and not folder.is_dir():
        raise ValueError(
            f'{folder} is missing, expected the folder that a run with --keep_best writes; leave --best out'
        )
    with Checkpoints(folder, config.decisive(), read_only=True) as checkpoints:
        if checkpoints.last() is None:
            raise ValueError(f'{folder} is empty, expected at least one checkpoint; start the run again')
        state = checkpoints.restore(state)
    return TrainedRun(config, model_of(state), int(state.step), workdir)
