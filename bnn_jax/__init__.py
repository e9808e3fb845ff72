"""Binary neural networks in JAX: train with 1-bit weights and activations, convert once, run from bits."""

from importlib import import_module
from typing import TYPE_CHECKING

from bnn_jax import command

command.begin_if_started_as('bnn_jax', 'experiments', 'benchmarks')  # before JAX, which takes a second to import

__version__ = '0.1.0'

__all__ = [
    'BC',
    'BC_STOCHASTIC',
    'BIREAL',
    'BNN',
    'BWN',
    'DOREFA',
    'FLOAT',
    'IRNET',
    'RECU',
    'XNOR',
    'XNOR_K',
    'bits',
    'bop',
    'convert',
    'inference',
    'interop',
    'kernels',
    'load',
    'models',
    'nn',
    'ops',
    'optim',
    'presets',
    'quantizers',
    'runtime',
    'save',
    'scale_by_glorot',
    'schemes',
    'summarize',
    'training',
]

# The module of each name is imported at the first use of the name, so that `import bnn_jax.runtime` imports no JAX.
_SUBPACKAGES = (
    'inference',
    'interop',
    'kernels',
    'models',
    'nn',
    'ops',
    'optim',
    'quantizers',
    'runtime',
    'schemes',
    'training',
)
_PLACES = {
    **dict.fromkeys(('convert', 'load', 'save'), 'inference'),
    'summarize': 'nn.summary',
    'bits': 'ops',
    **dict.fromkeys(('bop', 'scale_by_glorot'), 'optim'),
    **dict.fromkeys((*(name for name in __all__ if name.isupper()), 'presets'), 'schemes'),
}

if TYPE_CHECKING:
    from bnn_jax import inference, interop, kernels, models, nn, ops, optim, quantizers, runtime, schemes, training
    from bnn_jax.inference import convert, load, save
    from bnn_jax.nn.summary import summarize
    from bnn_jax.ops import bits
    from bnn_jax.optim import bop, scale_by_glorot
    from bnn_jax.schemes import BC, BC_STOCHASTIC, BIREAL, BNN, BWN, DOREFA, FLOAT, IRNET, RECU, XNOR, XNOR_K, presets
else:

    def __getattr__(name: str):
        with command.quiet_interrupt():
            if name in _SUBPACKAGES:
                return import_module(f'bnn_jax.{name}')
            if name in _PLACES:
                value = getattr(import_module(f'bnn_jax.{_PLACES[name]}'), name)
                globals()[name] = value
                return value
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return [*__all__, '__version__']
