"""Config: everything that decides a run, and its description in JSON."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from bnn_jax.nn.containers import Network
from bnn_jax.training.loss import CrossEntropy, Loss
from bnn_jax.training.names import name_of, public_name
from bnn_jax.training.options import option

if TYPE_CHECKING:
    from bnn_jax.data import Source

DESCRIPTION = 2
"""The form in which configs are described; another one is refused (`check_description`)."""

PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run. Scalars can be set on the command line; the rest is the recipe's."""

    # (rngs=, width=) -> network
    model: Callable[..., Network]
    # (split, data_dir) -> source; the splits are 'train' and 'test'
    data: Callable[[str, str], 'Source']
    # image -> what the network sees of it, see `bnn_jax.data`
    standardize: Callable[[np.ndarray], np.ndarray]
    # schedule -> optax chain, without the projection of latent weights, which `init` takes from the scheme
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam
    # (learning_rate, total steps) -> optax schedule
    schedule: Callable[..., optax.Schedule] = optax.cosine_decay_schedule
    # of training images, see `bnn_jax.data`; images that no step sizes are scaled to the model's input_shape (`sized`)
    augmentations: tuple = ()
    # of test images; deterministic
    evaluation_augmentations: tuple = ()
    # as model, with the same parameters: what a run converts, where `convert` refuses model; None: model
    deployed: Callable[..., Network] | None = None
    # makes what is minimized; partial(distillation, teacher) for a teacher
    loss: Callable[[], Loss] = CrossEntropy
    # (epoch, test accuracy from 0 to 1) as published, shown beside what a run of the same epochs and width 1 gets
    anchors: tuple[tuple[int, float], ...] = ()
    # the recipe and its row that this config comes from; `Recipe.row` says them
    recipe: str = ''
    row: str = ''
    # options of the command line
    epochs: int = option(10, 'how often every training image is seen')
    batch_size: int = option(64, 'images a step')
    learning_rate: float = option(1e-3, 'largest learning rate of the schedule')
    width: float = option(1.0, "factor on the architecture's filters")
    seed: int = option(0, 'of initialization, shuffling and augmentation')
    checkpoint_every: int = option(500, 'steps between checkpoints; one is always written at the end of an epoch')
    accumulate: int = option(1, 'parts of a batch that are computed one after another, to need less memory')
    precision: str = option('float32', 'to which training rounds the operands of products: float32 or bfloat16')
    watch_every: int = option(
        100,
        'steps between records of sign flips, clipping, STE window, alpha, alpha over its start and images with equal '
        'logits; at epochs, batch beside running statistics; 0: never',
    )
    on_device: bool | None = option(
        None, 'images lie on the devices, where batches are made; None: on accelerators, where they fit'
    )
    max_minutes: float = option(
        0.0, 'after so many a run saves and ends with status 75, to be started again; 0: no limit'
    )
    evaluate_every: int = option(1, 'epochs between evaluations on the test images; the last is always evaluated')
    workers: int = option(0, 'processes that decode and augment images; 0: two threads. The batches are the same')
    workdir: str = option('', 'where the run keeps all it writes; by default runs/<experiment>-<seed>')
    data_dir: str = option('~/tensorflow_datasets', 'where TFDS data sets are prepared')

    def __post_init__(self):
        for name in ('epochs', 'batch_size', 'checkpoint_every', 'accumulate', 'evaluate_every'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected at least 1')
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f'learning_rate: got {self.learning_rate}, expected a positive number')
        for name in ('seed', 'workers', 'watch_every', 'max_minutes'):
            if not getattr(self, name) >= 0:
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

    def sized(self, augmentations: tuple) -> tuple:
        """The augmentations, after one that scales images to the model's `input_shape` where nothing else gives them a size.

        The model says it as a keyword: partial(bnn.models.resnet18, 2, input_shape=(64, 64, 3)).
        """
        shape = getattr(self.model, 'keywords', {}).get('input_shape')
        if shape is None:
            return augmentations
        from bnn_jax.data.augmentations import scaled_first

        return scaled_first(augmentations, shape)

    def described(self) -> dict[str, Any]:
        """All fields as JSON, the same in every process: functions by their names, partials and dataclasses by their parts.

        Raises:
            ValueError: for a lambda, which has no name (`names.named` gives it one).
        """
        fields = {}
        for field in dataclasses.fields(self):
            try:
                fields[field.name] = _described(getattr(self, field.name))
            except ValueError as error:
                raise ValueError(f'{field.name}: {error}') from None
        return {'description': DESCRIPTION, **fields}

    def decisive(self) -> dict[str, Any]:
        """What must not change between two starts of one run: all that decides its parameters or their evaluation."""
        decisive = {k: v for k, v in self.described().items() if k not in NOT_DECISIVE}
        if not self.on_device:  # Batches that the host makes are those of runs from before there was a choice.
            del decisive['on_device']
        return decisive


NOT_DECISIVE = (
    *('workdir', 'data_dir', 'checkpoint_every', 'watch_every', 'workers', 'anchors', 'deployed'),
    *('max_minutes', 'evaluate_every'),
    *('recipe', 'row'),
)


def check_description(described: dict[str, Any], what: str, remedy: str) -> None:
    """Raises ValueError for a config that an earlier version described, whose names cannot be compared with these.

    Args:
        described: what config.json or a checkpoint holds.
        what: the run, for the message.
        remedy: what to do, for the message.
    """
    got = described.get('description', 1)
    if got != DESCRIPTION:
        raise ValueError(
            f'{what}: its config is written in form {got}, expected form {DESCRIPTION} (form 1 names functions by their '
            f'modules, which have moved since); go on with the version of bnn_jax that wrote it, or {remedy}'
        )


def _described(value) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_described(inner) for inner in value]
    if isinstance(value, functools.partial):
        arguments = {str(i): argument for i, argument in enumerate(value.args)} | value.keywords
        return {'function': _described(value.func)} | {k: _described(v) for k, v in arguments.items()}
    if isinstance(value, type) or hasattr(value, '__qualname__'):
        name = name_of(value)
        cells = getattr(value, '__closure__', None) if public_name(value) is None else None  # a public name says it all
        variables = [_described(cell.cell_contents) for cell in cells or ()]
        return {'function': name, 'variables': variables} if variables else name
    if isinstance(described := getattr(value, 'described', None), Callable):
        return _described(described())
    if isinstance(value, dict):
        return {str(key): _described(inner) for key, inner in value.items()}
    kind = name_of(type(value))
    if dataclasses.is_dataclass(value):
        return {'kind': kind} | {f.name: _described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return kind
