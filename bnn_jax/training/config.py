"""Config: everything that decides a run, and its description in JSON."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from bnn_jax.nn.containers import Network
from bnn_jax.training.loss import CrossEntropy, Loss
from bnn_jax.training.options import option

if TYPE_CHECKING:
    from bnn_jax.data import Source

PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run. Scalars can be set on the command line; the rest is the experiment's.

    model: (rngs=, width=) -> network. data: (split, data_dir) -> source, splits 'train' and 'test'. standardize,
    augmentations, evaluation_augmentations (deterministic): see `bnn_jax.data`. schedule: (learning_rate, total steps) ->
    optax schedule. optimizer: that schedule -> optax chain, without the projection of latent weights, which `init` takes
    from the scheme. deployed: as model, with the same parameters: what a run converts, where `convert` refuses model; None:
    model. loss: makes what is minimised; partial(distillation, teacher) for a teacher. anchors: (epoch, test accuracy from 0
    to 1) as published, shown beside what a run of the same epochs and width 1 gets.
    """

    model: Callable[..., Network]
    data: Callable[[str, str], 'Source']
    standardize: Callable[[np.ndarray], np.ndarray]
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam
    schedule: Callable[..., optax.Schedule] = optax.cosine_decay_schedule
    augmentations: tuple = ()
    evaluation_augmentations: tuple = ()
    deployed: Callable[..., Network] | None = None
    loss: Callable[[], Loss] = CrossEntropy
    anchors: tuple[tuple[int, float], ...] = ()
    epochs: int = option(10, 'how often every training image is seen')
    batch_size: int = option(64, 'images a step')
    learning_rate: float = option(1e-3, 'largest learning rate of the schedule')
    width: float = option(1.0, "factor on the architecture's filters")
    seed: int = option(0, 'of initialisation, shuffling and augmentation')
    checkpoint_every: int = option(500, 'steps between checkpoints; one is always written at the end of an epoch')
    accumulate: int = option(1, 'parts of a batch that are computed one after another, to need less memory')
    precision: str = option('float32', 'to which training rounds the operands of products: float32 or bfloat16')
    watch_every: int = option(100, 'steps between records of sign flips, clipping, STE window and alpha; 0: never')
    workers: int = option(0, 'processes that decode and augment images; 0: two threads. The batches are the same')
    workdir: str = option('', 'where the run keeps all it writes; by default runs/<experiment>-<seed>')
    data_dir: str = option('~/tensorflow_datasets', 'where TFDS data sets are prepared')

    def __post_init__(self):
        for name in ('epochs', 'batch_size', 'checkpoint_every', 'accumulate'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected at least 1')
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f'learning_rate: got {self.learning_rate}, expected a positive number')
        for name in ('seed', 'workers', 'watch_every'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected 0 or more')
        if self.batch_size % self.accumulate:
            raise ValueError(f'accumulate: got {self.accumulate}, expected a divisor of batch_size {self.batch_size}')
        if self.precision not in PRECISIONS:
            raise ValueError(f'precision: got {self.precision!r}, expected one of {", ".join(PRECISIONS)}')
        for epoch, accuracy in self.anchors:
            if epoch < 1 or not 0 <= accuracy <= 1:
                raise ValueError(f'anchors: got ({epoch}, {accuracy}), expected (epoch from 1, accuracy from 0 to 1)')

    def operands(self) -> DTypeLike | None:
        """The dtype to which training rounds the operands of products; None: they stay as they are."""
        return PRECISIONS[self.precision]

    def comparable_anchors(self) -> tuple[tuple[int, float], ...]:
        """The anchors, if this run is as long as the published one and of full width; its rates fall at other epochs else."""
        same = self.anchors and self.anchors[-1][0] == self.epochs and self.width == 1
        return self.anchors if same else ()

    def described(self) -> dict[str, Any]:
        """All fields as JSON, the same in every process: functions by name, partials and dataclasses by their parts."""
        return {f.name: _described(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def decisive(self) -> dict[str, Any]:
        """What must not change between two starts of one run: all that decides its parameters or their evaluation."""
        free = ('workdir', 'data_dir', 'checkpoint_every', 'watch_every', 'workers', 'anchors', 'deployed')
        return {k: v for k, v in self.described().items() if k not in free}


def _described(value) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_described(inner) for inner in value]
    if isinstance(value, functools.partial):
        arguments = {str(i): argument for i, argument in enumerate(value.args)} | value.keywords
        return {'function': _described(value.func)} | {k: _described(v) for k, v in arguments.items()}
    if isinstance(value, type) or hasattr(value, '__qualname__'):
        return _named(value)
    kind = _described(type(value))
    if dataclasses.is_dataclass(value):
        return {'kind': kind} | {f.name: _described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return kind


def _named(function) -> Any:
    """Module and name of a function or class; a lambda's line and a closure's variables as well."""
    main = sys.modules['__main__']
    started = main.__spec__.name if main.__spec__ else Path(getattr(main, '__file__', None) or '__main__').stem
    module = started if function.__module__ == '__main__' else function.__module__
    name, code = f'{module}.{function.__qualname__}', getattr(function, '__code__', None)
    if code is not None and '<lambda>' in name:
        name += f', line {code.co_firstlineno}'
    variables = [_described(cell.cell_contents) for cell in getattr(function, '__closure__', None) or ()]
    return {'function': name, 'variables': variables} if variables else name
