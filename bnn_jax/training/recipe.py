"""A recipe: the configs of all runs of one table, which differ in the scheme and in what depends on it."""

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
    """The config itself: the `prepare` of a recipe that trains nothing first."""
    return config


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The runs of one network on one data set. Commands look for it under the name RECIPE in its module.

    Example:
        >>> import functools, bnn_jax as bnn, numpy as np
        >>> from bnn_jax import data
        >>> from bnn_jax.training import Config, Recipe
        >>> source = data.ArraySource(np.zeros((8, 28, 28, 1), np.uint8), np.arange(8))
        >>> def config(scheme):
        ...     model = functools.partial(bnn.models.lenet5, 10, scheme=scheme)
        ...     return Config(model, data.Splits(source, source), data.PlusMinusOne())
        >>> RECIPE = Recipe('mine', 'LeNet-5 on my images.', rows={'XNOR': config(bnn.XNOR)}, other=config)
        >>> RECIPE.run_name('BNN'), RECIPE.row('BNN').row
        ('mine_bnn', 'BNN')
    """

    # The name of the module that holds the recipe, without its package.
    name: str
    # The text of --help. Its first line is in the list of experiments.
    description: str | None
    # Name of a row -> its config. A row of a public scheme or preset has that scheme's name.
    rows: Mapping[str, Config]
    # Scheme -> the config of a scheme or preset without a row; None: only the rows can be run.
    other: Callable[[Scheme], Config] | None = None
    # Config with the options of the command line -> the config to run. It first trains a teacher or a first stage, if there is
    # one, by `fit` in a folder inside config.workdir, so that this training also resumes after an interruption.
    prepare: Callable[[Config], Config] = unprepared

    @property
    def default(self) -> str:
        """The name of the first row, which runs if no row is named."""
        return next(iter(self.rows))

    def row(self, name: str = '') -> Config:
        """The config of a row, or of a public scheme or preset without a row; '' is the default row.

        Raises:
            ValueError: there is no such row, scheme or preset.
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
        """The name of a row's runs in results and folders, such as cifar10_nin_xnor."""
        return f'{self.name}_{(row or self.default).lower()}'


def recipe_of(module: str) -> Recipe:
    """The RECIPE of a module. The module is imported, not run.

    Args:
        module: its name, such as 'experiments.digits_vgg_small'.

    Raises:
        ValueError: the module cannot be imported, or has no recipe.
    """
    try:
        recipe = getattr(importlib.import_module(module), 'RECIPE', None)
    except (Exception, SystemExit) as error:
        reason = error if isinstance(error, ImportError | ValueError) else f'{type(error).__name__}: {error}'
        raise ValueError(
            f'{module} cannot be imported ({reason}); expected the module that started the run, such as '
            'experiments.digits_vgg_small; run this command in a folder where `python -m` finds that module'
        ) from error
    if not isinstance(recipe, Recipe):
        raise ValueError(f'{module} has no recipe, expected RECIPE = bnn_jax.training.Recipe(...) in the module')
    return recipe
