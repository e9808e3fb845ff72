"""Names functions and classes in config.json and in checkpoints. Public names do not depend on where the code is.

What a package of this library or Optax exports is named after the package: 'quantizers.sign_ste', 'models.nin', 'optax.adam'.
`named` names a function or class of your own. Otherwise its name is its module and qualified name, and after it has moved, runs
that use it cannot be resumed.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar('T')

PUBLIC = {
    'quantizers': ('bnn_jax.quantizers', 'bnn_jax.quantizers.published', 'bnn_jax.quantizers.gradient_factors'),
    'schemes': (
        'bnn_jax.schemes',
        'bnn_jax.schemes.presets',
        'bnn_jax.schemes.projections',
        'bnn_jax.schemes.dropout',
        'bnn_jax.schemes.initializers',
        'bnn_jax.schemes.real_layers',
    ),
    'models': ('bnn_jax.models', 'bnn_jax.models.resnet'),
    'nn': ('bnn_jax.nn', 'bnn_jax.nn.containers'),
    'optim': ('bnn_jax.optim',),
    'training': ('bnn_jax.training', 'bnn_jax.training.two_stage'),
    'data': ('bnn_jax.data',),
    'optax': ('optax',),
}
"""Prefix of a public name -> the modules whose functions and classes have it. If a module moves, only this table changes."""

SAVED_AS = {
    'data.center_crop': 'data.centre_crop',
    'schemes.center': 'schemes.centre',
    'schemes.center_and_clip': 'schemes.centre_and_clip',
}
"""Public name -> the name in saved runs, for functions that were renamed after runs had been saved."""

_DECLARED: dict[Any, str] = {}


def named(name: str) -> Callable[[T], T]:
    """Name a function or class of your own for saved runs.

    Args:
        name: the name, which must stay the same when the function is renamed or moved.

    Returns:
        A decorator that returns the function itself.

    Raises:
        ValueError: another function has this name.

    Example:
        >>> from bnn_jax.training import named
        >>> @named('mine.warm_up')
        ... def schedule(learning_rate, steps):
        ...     return lambda step: learning_rate * min(1, step / steps)
    """

    def declare(value: T) -> T:
        for other, taken in _DECLARED.items():
            if taken == name and not _same(other, value):
                raise ValueError(
                    f'named: {name!r} is the name of {_path(other)}; choose another one for {_path(value)}'
                )
        _DECLARED[value] = name
        return value

    return declare


def public_name(value: Any) -> str | None:
    """The declared or public name of a function or class; None if it has neither."""
    return _DECLARED.get(value) or _public().get(value)


def name_of(value: Any) -> str:
    """The name of a function or class in saved runs.

    Args:
        value: the function or class.

    Returns:
        Its declared or public name, else its module and qualified name.

    Raises:
        ValueError: it is a lambda without a declared name.

    Example:
        >>> import bnn_jax as bnn
        >>> name_of(bnn.quantizers.sign_ste)
        'quantizers.sign_ste'
    """
    name = public_name(value)
    if name is not None:
        return name
    if '<lambda>' in value.__qualname__:
        raise ValueError(
            f'got a lambda ({_path(value)}), expected a function with a name, by which a resumed run can recognize it; '
            "define it with def, or give it a name: bnn_jax.training.named('NAME')(lambda ...)"
        )
    return _path(value)


def _same(one: Any, other: Any) -> bool:
    """Whether both come from one definition. Python runs a module twice if it is started as a program and also imported."""
    return _path(one) == _path(other)


def _path(value: Any) -> str:
    """Module and qualified name. A module started as a program has the name by which it would be imported."""
    module = value.__module__
    if module in ('__main__', '__mp_main__'):
        main = sys.modules[module]
        module = main.__spec__.name if main.__spec__ else Path(getattr(main, '__file__', None) or '__main__').stem
    return f'{module}.{value.__qualname__}'


@functools.cache
def _public() -> dict[Any, str]:
    """Function or class -> public name. Where several packages export it, the first one counts."""
    names: dict[Any, str] = {}
    for prefix, modules in PUBLIC.items():
        for module in modules:
            for name, value in _exported(importlib.import_module(module)).items():
                names.setdefault(value, SAVED_AS.get(f'{prefix}.{name}', f'{prefix}.{name}'))
    return names


def _exported(module: ModuleType) -> dict[str, Any]:
    """The functions and classes in a module's __all__; without one, the public ones that it defines."""
    listed = getattr(module, '__all__', None)
    values = {name: value for name, value in vars(module).items() if callable(value) and hasattr(value, '__qualname__')}
    if listed is not None:
        return {name: value for name, value in values.items() if name in listed}
    return {
        name: value
        for name, value in values.items()
        if not name.startswith('_') and value.__module__ == module.__name__
    }
