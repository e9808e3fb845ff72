"""Config: everything that decides a run, and its description in JSON."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax.training.described import described
from bnn_jax.training.loss import CrossEntropy
from bnn_jax.training.memory import check_fits
from bnn_jax.training.options import check_types, option

if TYPE_CHECKING:
    from bnn_jax.data import Source

DESCRIPTION = 2
"""The form in which configs are described; another one is refused (`check_description`)."""

WIDEST = 1000
"""Of `Config.width`."""

PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run. Scalars can be set on the command line; the rest is the recipe's."""

    # (rngs=, width=) -> network; any `nnx.Module` that is called with images, whose maker may do without a width
    model: Callable[..., Any]
    # (split, data_dir) -> source; the splits are 'train' and 'test'; `data.Splits` makes one of two sources
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
    deployed: Callable[..., Any] | None = None
    # makes what is minimized; partial(distillation, teacher) for a teacher; or itself a function of images, logits and labels
    loss: Callable[..., Any] = CrossEntropy
    # (epoch, test accuracy from 0 to 1) as published, shown beside what a run of the same epochs and width 1 gets
    anchors: tuple[tuple[int, float], ...] = ()
    # the recipe and its row that this config comes from; `Recipe.row` says them
    recipe: str = ''
    row: str = ''
    # options of the command line; those of training today are off at 0
    epochs: int = option(10, 'how often every training image is seen')
    batch_size: int = option(64, 'images a step')
    learning_rate: float = option(1e-3, 'largest learning rate of the schedule')
    width: float = option(1.0, "factor on the architecture's filters")
    seed: int = option(0, 'of initialization, shuffling and augmentation')
    checkpoint_every: int = option(500, 'steps between checkpoints; one is always written at the end of an epoch')
    accumulate: int = option(1, 'parts of a batch that are computed one after another, to need less memory')
    precision: str = option(
        'float32', 'to which training rounds operands of products and what lies between layers: float32 or bfloat16'
    )
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
    label_smoothing: float = option(0.0, 'share of a label that is spread over all classes')
    mixup: float = option(0.0, 'alpha of mixup: images and labels are mixed in pairs by shares from Beta(alpha, alpha)')
    cutout: int = option(0, 'side in pixels of a square of each training image that becomes 0')
    warmup_epochs: float = option(
        0.0, 'epochs over which the learning rate rises from near 0, before the schedule begins'
    )
    clip_gradient: float = option(
        0.0, 'largest norm of the gradient of all parameters together; a longer one is scaled'
    )
    ema: float = option(
        0.0, 'decay of a moving average of parameters and statistics, which is evaluated and packed, such as 0.999'
    )
    keep_best: bool = option(False, 'keep the checkpoint of the best test accuracy too, in WORKDIR/best')
    patience: int = option(0, 'evaluations without a better test accuracy after which a run ends')
    workers: int = option(0, 'processes that decode and augment images; 0: two threads. The batches are the same')
    workdir: str = option('', 'where the run keeps all it writes; by default runs/<experiment>-<seed>')
    data_dir: str = option('~/tensorflow_datasets', 'where TFDS data sets are prepared')

    def __post_init__(self):
        check_types(self)
        for name in ('epochs', 'batch_size', 'checkpoint_every', 'accumulate', 'evaluate_every'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected at least 1')
        if not self.learning_rate > 0:
            raise ValueError(f'learning_rate: got {self.learning_rate}, expected a positive number')
        if not 0 < self.width <= WIDEST:
            raise ValueError(f'width: got {self.width}, expected a number above 0 and at most {WIDEST}')
        for name in ('seed', 'workers', 'watch_every', 'max_minutes', 'mixup', 'cutout', 'clip_gradient', 'patience'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected 0 or more')
        if self.batch_size % self.accumulate:
            raise ValueError(f'accumulate: got {self.accumulate}, expected a divisor of batch_size {self.batch_size}')
        if self.precision not in PRECISIONS:
            raise ValueError(f'precision: got {self.precision!r}, expected one of {", ".join(PRECISIONS)}')
        for name, below in (('label_smoothing', 1), ('ema', 1), ('warmup_epochs', self.epochs)):
            if not 0 <= getattr(self, name) < below:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected 0 (off) or more, and less than {below}')
        self._check_functions()
        for epoch, accuracy in self.anchors:
            if epoch < 1 or not 0 <= accuracy <= 1:
                raise ValueError(f'anchors: got ({epoch}, {accuracy}), expected (epoch from 1, accuracy from 0 to 1)')

    def _check_functions(self) -> None:
        """Raises ValueError for values of which something else is expected, with what people give in their place."""
        if isinstance(self.optimizer, optax.GradientTransformation) or not callable(self.optimizer):
            raise ValueError(
                f'optimizer: got a {type(self.optimizer).__name__}, expected a function that makes one of a schedule, as '
                'optax.adam or functools.partial(optax.sgd, momentum=0.9); its rates are learning_rate and schedule'
            )
        if not _can_be_called(self.schedule, 1.0, 1):
            raise ValueError(
                f'schedule: got {self.schedule!r}, expected a function (learning_rate, steps) that makes an Optax schedule, '
                'such as optax.cosine_decay_schedule or training.constant; a schedule itself is a function of the step: '
                'def mine(learning_rate, steps): return schedule'
            )
        for name, factory in (('model', self.model), ('deployed', self.deployed)):
            if factory is None:
                continue
            if isinstance(factory, nnx.Module) or not callable(factory) or not _takes(factory, 'rngs'):
                raise ValueError(
                    f'{name}: got {type(factory).__name__} {getattr(factory, "__name__", "")}, expected a function or class '
                    'that makes a network from rngs= (and width=), such as '
                    'functools.partial(bnn.models.lenet5, 10, scheme=bnn.XNOR); each run makes its own'
                )
            if self.width != 1 and not _takes(factory, 'width'):
                raise ValueError(
                    f'width: got {self.width}, expected 1.0, for {getattr(factory, "__name__", factory)!r} takes no width'
                )
        if not callable(self.data):
            raise ValueError(
                f'data: got a {type(self.data).__name__}, expected a function (split, data_dir) -> source; two sources become '
                'one by data.Splits(train, test), arrays a source by data.ArraySource(images, labels)'
            )
        if not callable(self.loss):
            raise ValueError(
                f'loss: got a {type(self.loss).__name__}, expected what makes a Loss, such as training.CrossEntropy, or a '
                'function of logits and labels'
            )

    def network(self, factory: Callable[..., Any] | None = None) -> Any:
        """A new network, as the run begins with it.

        Args:
            factory: what makes it; by default `model`.
        """
        factory = factory or self.model
        options = {'width': self.width} if _takes(factory, 'width') else {}

        def made() -> Any:
            return factory(rngs=nnx.Rngs(self.seed), **options)

        if self.width > 1:
            leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(made)))
            # Weights, their gradient, and a copy: what every optimizer needs at least.
            needed = 3 * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if hasattr(leaf.dtype, 'itemsize'))
            check_fits(f'width: got {self.width}; its training', needed)
        return made()

    def objective(self) -> Any:
        """What is minimized: what `loss` makes, or `loss` itself where that is a function of logits and labels."""
        return self.loss() if _can_be_called(self.loss) else self.loss

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

        A lambda, which has no name, is described by what it does; a run under another version of Python may then not go on
        (`names.named` gives it a name).
        """
        fields = {}
        for field in dataclasses.fields(self):
            try:
                fields[field.name] = described(getattr(self, field.name))
            except ValueError as error:
                raise ValueError(f'{field.name}: {error}') from None
        return {'description': DESCRIPTION, **fields}

    def decisive(self) -> dict[str, Any]:
        """What must not change between two starts of one run: all that decides its parameters or their evaluation."""
        decisive = {k: v for k, v in self.described().items() if k not in NOT_DECISIVE}
        for name in ADDED_SINCE:  # Off, they leave a run what it was before there was a choice.
            if not getattr(self, name):
                del decisive[name]
        return decisive


NOT_DECISIVE = (
    *('workdir', 'data_dir', 'checkpoint_every', 'watch_every', 'workers', 'anchors', 'deployed'),
    *('max_minutes', 'evaluate_every', 'keep_best', 'patience'),
    *('recipe', 'row'),
)


ADDED_SINCE = ('on_device', 'label_smoothing', 'mixup', 'cutout', 'warmup_epochs', 'clip_gradient', 'ema')
"""Decisive fields that runs of before did not have, with which they go on where they are off."""


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


def _can_be_called(function: Callable, *arguments: Any) -> bool:
    """Whether a function takes these arguments; True where it does not say."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # Some that are written in C say nothing.
        return True
    return True


def _takes(factory: Callable, name: str) -> bool:
    """Whether a function, or the class of a module, has a parameter of this name."""
    if isinstance(factory, functools.partial):
        return name in factory.keywords or _takes(factory.func, name)
    try:
        parameters = inspect.signature(factory.__init__ if isinstance(factory, type) else factory).parameters
    except ValueError:
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
