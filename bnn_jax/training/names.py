"""Names of functions and classes in config.json and in checkpoints: public names, whatever module holds the code.

What a package of this library or Optax exports is named after that package: 'quantizers.sign_ste', 'models.nin', 'optax.adam'.
Your own functions and classes get a name with `named`; without one they are described by module and qualified name, so that a
run is refused once they have moved.
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
"""Beginning of a public name -> modules whose functions and classes have it. A module that moves is changed here alone."""

SAVED_AS = {
    'data.center_crop': 'data.centre_crop',
    'schemes.center': 'schemes.centre',
    'schemes.center_and_clip': 'schemes.centre_and_clip',
}
"""Public name -> the name in saved runs, for what was renamed after runs had been saved."""

_DECLARED: dict[Any, str] = {}


def named(name: str) -> Callable[[T], T]:
    """Give a function or class of yours the name under which runs are saved.

    Args:
        name: the name; it stays when the function is renamed or moved.

    Returns:
        A decorator. It returns what it is given.

    Raises:
        ValueError: if another function has this name.

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
    """The declared or public name of a function or class; None if it has none."""
    return _DECLARED.get(value) or _public().get(value)


def name_of(value: Any) -> str:
    """The declared or public name of a function or class, or else its module and qualified name.

    Raises:
        ValueError: for a lambda without a declared name.
    """
    name = public_name(value)
    if name is not None:
        return name
    if '<lambda>' in value.__qualname__:
        raise ValueError(
            f'got a lambda ({_path(value)}), expected a function with a name, by which a run recognizes it when it goes on; '
            "define it with def, or declare a name: bnn_jax.training.named('NAME')(lambda ...)"
        )
    return _path(value)


def _same(one: Any, other: Any) -> bool:
    """Whether both are one definition: a module that is run and imported too makes each of its functions twice."""
    return _path(one) == _path(other)


def _path(value: Any) -> str:
    """Module and qualified name; the module that Python runs under the name by which it would be imported."""
    module = value.__module__
    if module in ('__main__', '__mp_main__'):
        main = sys.modules[module]
        module = main.__spec__.name if main.__spec__ else Path(getattr(main, '__file__', None) or '__main__').stem
    return f'{module}.{value.__qualname__}'


@functools.cache
def _public() -> dict[Any, str]:
    """Function or class -> public name. One of several packages has the name of the first."""
    names: dict[Any, str] = {}
    for prefix, modules in PUBLIC.items():
        for module in modules:
            try:
                exported = _exported(importlib.import_module(module))
            except ModuleNotFoundError as error:
                if error.name == module:
                    raise
                continue  # `data` needs the extra `train`; without it none of its functions is in a config.
            for name, value in exported.items():
                names.setdefault(value, SAVED_AS.get(f'{prefix}.{name}', f'{prefix}.{name}'))
    return names


def _exported(module: ModuleType) -> dict[str, Any]:
    """The functions and classes that a module says it exports; where it does not say, those that it defines."""
    listed = getattr(module, '__all__', None)
    values = {name: value for name, value in vars(module).items() if callable(value) and hasattr(value, '__qualname__')}
    if listed is not None:
        return {name: value for name, value in values.items() if name in listed}
    return {
        name: value
        for name, value in values.items()
        if not name.startswith('_') and value.__module__ == module.__name__
    }
