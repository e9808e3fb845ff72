"""From the working directory of a run back to its network, by the module that started the run."""

import contextlib
import dataclasses
import importlib.util
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flax import nnx

from bnn_jax.nn.containers import Network
from bnn_jax.training.checkpoint import Checkpoints, first_difference
from bnn_jax.training.config import Config
from bnn_jax.training.experiment import Answered, asking
from bnn_jax.training.state import init, model_of


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run's network as its newest checkpoint has it, in evaluation mode, its config, and the step it was made at."""

    config: Config
    model: Network
    step: int
    workdir: Path


def trained(module: str, workdir: str | Path | None = None) -> Trained:
    """The network of a run: `module` says how it is built, config.json with which options, the checkpoint the parameters.

    The module is run as `python -m module` is, up to where it would train (`experiment.main` or `with_options`). workdir:
    None for the module's own default. The checkpoint is checked against the config as `fit` does, so that another
    experiment's is refused by name. What was trained before the run (a teacher, a first stage) is read from the workdir, and
    trained again where it is gone from there.
    Raises ValueError for a module that is not there or starts no run, for a workdir without checkpoints, and as `restore`.
    """

    def answer(name: str, config: Config, prepare: Callable[[Config], Config]) -> Trained:
        folder = Path(workdir or f'runs/{name}-{config.seed}').expanduser()
        stated = _stated(folder)
        config = prepare(_as_run(config, stated, folder))
        difference = first_difference(
            '', *({key: c.get(key) for key in config.decisive()} for c in (stated, _json(config)))
        )
        if difference:
            key, theirs, ours = difference
            raise ValueError(
                f'{folder}: its run has {key} = {theirs!r}, {module} has {ours!r}; name the module that started that run'
            )
        return _restored(config, folder)

    return _ask(module, answer)


def _stated(workdir: Path) -> dict[str, Any]:
    """The config that a run wrote."""
    if not (workdir / 'checkpoints').is_dir():
        raise ValueError(
            f'{workdir} has no checkpoints, expected the folder that a run wrote; name it: --workdir FOLDER'
        )
    try:
        return dict(json.loads((workdir / 'config.json').read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f'{workdir}/config.json cannot be read ({error}); start the run again, it writes it anew'
        ) from error


def _as_run(config: Config, stated: dict[str, Any], workdir: Path) -> Config:
    """config with the options of the run in workdir."""
    options = {f.name: stated[f.name] for f in dataclasses.fields(config) if 'help' in f.metadata and f.name in stated}
    return dataclasses.replace(config, **options | {'workdir': str(workdir)})


def _json(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(config.described()))


def _restored(config: Config, workdir: Path) -> Trained:
    model = config.model(rngs=nnx.Rngs(config.seed), width=config.width)
    # How many steps a schedule has does not show in the state, and only the data would tell.
    tx = config.optimizer(config.schedule(config.learning_rate, config.epochs))
    state = init(model, tx, config.loss(), operands=config.operands())
    with Checkpoints(workdir / 'checkpoints', config.decisive()) as checkpoints:
        if checkpoints.last() is None:
            raise ValueError(f'{workdir}/checkpoints is empty, expected at least one checkpoint; start the run again')
        state = checkpoints.restore(state)
    return Trained(config, model_of(state), int(state.step), workdir)


def _ask(module: str, answer: Callable[..., Any]) -> Any:
    """answer(name, config, prepare) of the run that a module starts, in place of that run."""
    with _as_started(module):
        try:
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(f'No module named {module!r}')
        except (ModuleNotFoundError, ValueError) as error:
            raise ValueError(
                f'{module}: there is no such module ({error}); expected the one that started the run, such as '
                'experiments.digits_vgg_small_xnor, from the folder where `python -m` finds it'
            ) from error
        with asking(answer):
            try:
                runpy.run_module(module, run_name='__main__', alter_sys=True)
            except Answered as answered:
                return answered.value
            except ImportError as error:
                raise ValueError(
                    f'{module} cannot be run ({error}); expected what `python -m {module}` runs'
                ) from error
    raise ValueError(f'{module} starts no run, expected a module that calls bnn_jax.training.experiment.main')


@contextlib.contextmanager
def _as_started(module: str) -> Iterator[None]:
    """sys as `python -m module` has it: the present folder is searched, no options, nothing of the module imported."""
    arguments, path, imported = sys.argv, list(sys.path), sys.modules.pop(module, None)
    sys.argv = [module]
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = arguments, path
        if imported is not None:
            sys.modules[module] = imported
