"""Recipe: the runs of one table as data, each a config; they differ in the scheme and in what depends on it."""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping

from bnn_jax import schemes
from bnn_jax.schemes.scheme import Scheme
from bnn_jax.training.config import Config


def public_schemes() -> dict[str, Scheme]:
    """The schemes of `bnn_jax.schemes` and the presets of `bnn_jax.presets`, by name."""
    modules = (schemes, schemes.presets)
    return {name: value for module in modules for name, value in vars(module).items() if isinstance(value, Scheme)}


def unprepared(config: Config) -> Config:
    """The same config: nothing has to be trained before this run."""
    return config


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The runs of one network on one data set. A module that holds one as RECIPE can be trained, converted and drawn.

    Example:
        >>> RECIPE = Recipe('mine', 'My network.', rows={'XNOR': config(bnn.XNOR)}, other=config)  # doctest: +SKIP
        >>> if __name__ == '__main__':
        ...     main(RECIPE)  # doctest: +SKIP
    """

    # of the module that holds it
    name: str
    # what --help says; its first line stands in the list of experiments
    description: str | None
    # name of a row -> its config; the name is that of a public scheme or preset, which the row has, or another one
    rows: Mapping[str, Config]
    # scheme -> config of a scheme or preset that has no row; None: the rows are all there are
    other: Callable[[Scheme], Config] | None = None
    # config with the options of the command line -> the one to run; trains what goes before (a teacher, a first stage) in a
    # folder inside config.workdir, and so resumes it as `fit` does
    prepare: Callable[[Config], Config] = unprepared

    @property
    def default(self) -> str:
        """The row that runs where none is named: the first."""
        return next(iter(self.rows))

    def row(self, name: str = '') -> Config:
        """The config of a row, or of a public scheme or preset without one; '' for the default row.

        Raises:
            ValueError: for a name that is none of them.
        """
        name = name or self.default
        if name in self.rows:
            config = self.rows[name]
        elif self.other is not None and name in public_schemes():
            config = self.other(public_schemes()[name])
        else:
            more = '' if self.other is None else f', or one of {", ".join(public_schemes())}'
            known = [*self.rows, *(public_schemes() if self.other else ())]
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f' (is it {near[0]}?)' if near else ''
            raise ValueError(f'scheme: got {name!r}{hint}, expected a row of {self.name}: {", ".join(self.rows)}{more}')
        return dataclasses.replace(config, recipe=self.name, row=name)

    def run_name(self, row: str = '') -> str:
        """What a row's runs are called in results and in the names of their folders: cifar10_nin_xnor."""
        return f'{self.name}_{(row or self.default).lower()}'


def recipe_of(module: str) -> Recipe:
    """The recipe that a module holds as RECIPE; the module is imported, not run.

    Raises:
        ValueError: for a module that cannot be imported or holds no recipe.
    """
    try:
        recipe = getattr(importlib.import_module(module), 'RECIPE', None)
    except (Exception, SystemExit) as error:
        reason = error if isinstance(error, ImportError | ValueError) else f'{type(error).__name__}: {error}'
        raise ValueError(
            f'{module} cannot be imported ({reason}); expected the module that started the run, such as '
            'experiments.digits_vgg_small, from the folder where `python -m` finds it'
        ) from error
    if not isinstance(recipe, Recipe):
        raise ValueError(f'{module} holds no recipe, expected one as RECIPE = Recipe(...): bnn_jax.training.Recipe')
    return recipe
