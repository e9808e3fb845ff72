"""Recipes: each trains one network on one data set, with a row for each scheme. `python -m experiments` lists them."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence

from bnn_jax.command import one_line
from bnn_jax.training import Recipe


def recipes() -> dict[str, Recipe]:
    """Every recipe by its name: what the modules of this package hold as RECIPE."""
    modules = [importlib.import_module(f'{__name__}.{module.name}') for module in _modules()]
    found = (getattr(module, 'RECIPE', None) for module in modules)
    return {recipe.name: recipe for recipe in found if recipe is not None}


def commands() -> dict[str, str]:
    """The other commands: name of a module with a function `command` -> its docstring."""
    modules = {module.name: importlib.import_module(f'{__name__}.{module.name}') for module in _modules()}
    return {name: module.__doc__ or '' for name, module in modules.items() if hasattr(module, 'command')}


def _modules() -> list[pkgutil.ModuleInfo]:
    return [module for module in pkgutil.iter_modules(__path__) if module.name != '__main__']


def print_help(text: str | None) -> None:
    """Print the docstring of a module that has nothing to run, and where to find what runs.

    Args:
        text: its docstring.
    """
    print(f'{text}\nNothing to run here; `python -m experiments` lists what can be run.')


def run_command(main: Callable, name: str, description: str | None, arguments: Sequence[str] | None) -> None:
    """Call main with the options of the command line. After an error, print its message and exit with status 1.

    Args:
        main: its parameters are the options.
        name: of the module, as `python -m experiments.NAME` runs it.
        description: what --help says.
        arguments: the options; by default those of this process.
    """
    import tyro

    with one_line():
        tyro.cli(main, prog=f'python -m experiments.{name}', description=description, args=arguments)
