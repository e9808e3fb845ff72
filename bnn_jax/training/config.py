"""Config: all that decides a run, and its description in JSON."""

import dataclasses
import functools
import inspect
import os
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
"""The number of the form in which configs are described; `check_description` refuses all others."""

WIDEST = 1000
"""The largest `Config.width`."""

PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run. The command line can set the options; the recipe sets the other fields.

    Example:
        >>> import functools, bnn_jax as bnn, numpy as np
        >>> from bnn_jax import data
        >>> images, labels = np.zeros((8, 28, 28, 1), np.uint8), np.arange(8)
        >>> source = data.ArraySource(images, labels)
        >>> config = bnn.training.Config(
        ...     model=functools.partial(bnn.models.lenet5, 10, scheme=bnn.XNOR),
        ...     data=data.Splits(source, source),
        ...     standardize=data.PlusMinusOne(),
        ...     epochs=20,
        ... )
        >>> config.described()['model']['function'], config.described()['optimizer']
        ('models.lenet5', 'optax.adam')
    """

    # (rngs=, width=) -> network. Any `nnx.Module` that is called with images will do; the function need not take a width.
    model: Callable[..., Any]
    # (split, data_dir) -> source, for the splits 'train' and 'test'. `data.Splits` makes such a function from two sources.
    data: Callable[[str, str], 'Source']
    # image -> the input of the network: see `bnn_jax.data`.
    standardize: Callable[[np.ndarray], np.ndarray]
    # schedule -> Optax chain, without the projection of latent weights: `init` adds the scheme's own.
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam
    # (learning_rate, steps of the run after the warm-up) -> Optax schedule.
    schedule: Callable[..., optax.Schedule] = optax.cosine_decay_schedule
    # For training images: see `bnn_jax.data`. `sized` may put a scaling to the model's input_shape before them.
    augmentations: tuple = ()
    # For test images: augmentations that draw no random numbers.
    evaluation_augmentations: tuple = ()
    # For a model that `convert` refuses: makes the network that is converted in its place, with the model's parameters.
    # None: the model itself is converted.
    deployed: Callable[..., Any] | None = None
    # Makes the loss, such as partial(distillation, teacher); or is itself a function of (logits, labels)
    # or (images, logits, labels).
    loss: Callable[..., Any] = CrossEntropy
    # Published (epoch, test accuracy from 0 to 1). A run prints them beside its results if its width is 1 and
    # `epochs` equals the epoch of the last anchor.
    anchors: tuple[tuple[int, float], ...] = ()
    # The recipe and the row of this config; `Recipe.row` sets both.
    recipe: str = ''
    row: str = ''
    # The options of the command line; the text says what each is. Options such as mixup, warmup_epochs and max_minutes are
    # off at 0.
    epochs: int = option(10, 'passes over the training images')
    batch_size: int = option(64, 'images of a step')
    learning_rate: float = option(1e-3, 'largest learning rate of the schedule')
    width: float = option(1.0, "factor on the architecture's filters")
    seed: int = option(0, 'seed of initialization, shuffling and augmentation')
    checkpoint_every: int = option(
        500,
        'steps between checkpoints; the end of an epoch writes one too. If a run on one host keeps the images on devices, '
        'checkpoints are at least 30 s apart',
    )
    accumulate: int = option(1, 'parts of a batch that are computed one after another, to need less memory')
    precision: str = option(
        'float32', 'dtype to which training rounds operands of products and arrays between layers: float32 or bfloat16'
    )
    watch_every: int = option(
        100,
        'steps between records of sign flips, weights at the clip, inputs in the STE window, alpha, alpha divided by its '
        'value at the start, and images with equal logits; each evaluation then also compares batch statistics with '
        'running statistics; 0: no records and no comparison',
    )
    on_device: bool | None = option(
        None, 'keep the images on the devices and make batches there; None: on accelerators, if the images fit'
    )
    max_minutes: float = option(
        0.0, 'minutes after which the run saves and ends with status 75, to be started again; 0: no limit'
    )
    evaluate_every: int = option(1, 'epochs between evaluations on the test images; the last epoch always has one')
    label_smoothing: float = option(0.0, 'share of a label that is spread over all classes')
    mixup: float = option(0.0, 'alpha of mixup: images and labels are mixed in pairs by shares from Beta(alpha, alpha)')
    cutout: int = option(0, 'side in pixels of the square that is set to 0 in each training image')
    warmup_epochs: float = option(
        0.0, 'epochs over which the learning rate rises from near 0, before the schedule begins'
    )
    clip_gradient: float = option(
        0.0, 'largest norm of the gradient of all parameters together; a larger gradient is scaled down'
    )
    ema: float = option(
        0.0,
        'decay of a moving average of parameters and statistics, such as 0.999; the average is evaluated and packed',
    )
    keep_best: bool = option(False, 'also keep the checkpoint of the best test result, in WORKDIR/best')
    patience: int = option(0, 'evaluations without a better test result after which the run ends; 0: never')
    workers: int = option(0, 'processes that decode and augment images; 0: two threads. Batches do not depend on it')
    workdir: str = option(
        '', 'folder for all that the run writes; by default runs/RECIPE_SCHEME-SEED (lower-case scheme)'
    )
    data_dir: str = option(
        '~/tensorflow_datasets',
        'folder of the data set: files made by TFDS, the unpacked files of its authors, or folders of images',
    )

    def __post_init__(self):
        for name in ('workdir', 'data_dir'):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
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
        """Raises ValueError if a field that needs a function has another value; the message gives an example of a function."""
        if isinstance(self.optimizer, optax.GradientTransformation) or not callable(self.optimizer):
            raise ValueError(
                f'optimizer: got a {type(self.optimizer).__name__}, expected a function that makes one from a schedule, such '
                'as optax.adam or functools.partial(optax.sgd, momentum=0.9); learning_rate and schedule set its rates'
            )
        if not _can_be_called(self.schedule, 1.0, 1):
            raise ValueError(
                f'schedule: got {self.schedule!r}, expected a function (learning_rate, steps) that makes an Optax schedule, '
                'such as optax.cosine_decay_schedule or training.constant; for a schedule of your own write '
                'def mine(learning_rate, steps): return schedule'
            )
        for name, factory in (('model', self.model), ('deployed', self.deployed)):
            if factory is None:
                continue
            if isinstance(factory, nnx.Module) or not callable(factory) or not _takes(factory, 'rngs'):
                raise ValueError(
                    f'{name}: got {type(factory).__name__} {getattr(factory, "__name__", "")}, expected a function or class '
                    'that makes a network from rngs= (and width=), such as '
                    'functools.partial(bnn.models.lenet5, 10, scheme=bnn.XNOR); each run makes its own network'
                )
            options = {'rngs': None} | ({'width': self.width} if _takes(factory, 'width') else {})
            if missing := _missing(factory, options):
                raise ValueError(
                    f'{name}: got {getattr(factory, "__name__", factory)!r}, which also needs {", ".join(missing)}; give '
                    'it these, such as functools.partial(bnn.models.lenet5, 10, scheme=bnn.XNOR)'
                )
            if self.width != 1 and not _takes(factory, 'width'):
                raise ValueError(
                    f'width: got {self.width}, expected 1.0, as {getattr(factory, "__name__", factory)!r} takes no width'
                )
        steps = [('standardize', self.standardize)]
        for name in ('augmentations', 'evaluation_augmentations'):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(f'{name}: got {getattr(self, name)!r}, expected a tuple, () for none')
            steps += [(name, function) for function in getattr(self, name)]
        for name, function in steps:
            if not callable(function) or isinstance(function, type):
                expected = 'an image and a random generator, such as data.resize_to(32, 32)'
                if name == 'standardize':
                    expected = 'an image, such as data.PlusMinusOne(); data.Unchanged() leaves images as they are'
                raise ValueError(
                    f'{name}: got {getattr(function, "__name__", function)!r}, expected a function of {expected}'
                )
        if not callable(self.data):
            raise ValueError(
                f'data: got a {type(self.data).__name__}, expected a function (split, data_dir) -> source; data.Splits(train, '
                'test) makes one from two sources, data.ArraySource(images, labels) makes a source from arrays'
            )
        if not callable(self.loss):
            raise ValueError(
                f'loss: got a {type(self.loss).__name__}, expected a function that makes a Loss, such as '
                'training.CrossEntropy, or a function (logits, labels) or (images, logits, labels)'
            )

    def network(self, factory: Callable[..., Any] | None = None) -> Any:
        """The network at the start of the run; `factory` makes it, by default `model`."""
        factory = factory or self.model
        options = {'width': self.width} if _takes(factory, 'width') else {}

        def made() -> Any:
            return factory(rngs=nnx.Rngs(self.seed), **options)

        if self.width > 1:
            leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(made)))
            # Training needs at least the weights, their gradient and a second copy of the weights.
            needed = 3 * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if hasattr(leaf.dtype, 'itemsize'))
            check_fits(f'width: got {self.width}; its training', needed)
        return made()

    def objective(self) -> Any:
        """The loss: what `loss` makes, or `loss` itself if it is a function (logits, labels) or (images, logits, labels)."""
        return self.loss() if _can_be_called(self.loss) else self.loss

    def operands(self) -> DTypeLike | None:
        """The dtype to which training rounds the operands of products; None: it rounds nothing."""
        return PRECISIONS[self.precision]

    def comparable_anchors(self) -> tuple[tuple[int, float], ...]:
        """The anchors if this run has as many epochs as the published one and width 1, else ()."""
        same = self.anchors and self.anchors[-1][0] == self.epochs and self.width == 1
        return self.anchors if same else ()

    def sized(self, augmentations: tuple) -> tuple:
        """The augmentations, preceded by a scaling to the model's `input_shape` if all are known to keep an image's size.

        The model states the shape as a keyword: partial(bnn.models.resnet18, 2, input_shape=(64, 64, 3)).
        """
        shape = getattr(self.model, 'keywords', {}).get('input_shape')
        if shape is None:
            return augmentations
        from bnn_jax.data.augmentations import scaled_first

        return scaled_first(augmentations, shape)

    def described(self) -> dict[str, Any]:
        """All fields as JSON, the same in every process.

        A function is described by its name, a partial or a dataclass by its parts. A lambda has no name and is described by
        its bytecode, which another version of Python may change; then the run cannot be resumed. `names.named` gives a
        lambda a name.

        Raises:
            ValueError: a field has a part that cannot be described.
        """
        fields = {}
        for field in dataclasses.fields(self):
            try:
                fields[field.name] = described(getattr(self, field.name))
            except ValueError as error:
                raise ValueError(f'{field.name}: {error}') from None
        return {'description': DESCRIPTION, **fields}

    def decisive(self) -> dict[str, Any]:
        """The fields that decide a run's parameters or their evaluation. They must stay the same when it starts again.

        Only `epochs` may grow, if the shorter run is the beginning of the longer one (`start.check_extension`).
        """
        decisive = {k: v for k, v in self.described().items() if k not in NOT_DECISIVE}
        # Left out where they are off, so that runs that were saved before these fields existed can be resumed.
        for name in ADDED_SINCE:
            if not getattr(self, name):
                del decisive[name]
        return decisive

    def same_on_hosts(self) -> dict[str, Any]:
        """The fields that must be equal on all hosts of a run: those that decide its result, and when it saves or stops."""
        fields = {name: value for name, value in self.described().items() if name not in OWN_OF_A_HOST}
        # The first host decides when the minutes are over. Training a teacher before may leave each host another number.
        return fields | {'max_minutes': self.max_minutes > 0}


NOT_DECISIVE = (
    *('workdir', 'data_dir', 'checkpoint_every', 'watch_every', 'workers', 'anchors', 'deployed'),
    *('max_minutes', 'evaluate_every', 'keep_best', 'patience'),
    *('recipe', 'row'),
)
"""Fields that may change between two starts of a run."""

OWN_OF_A_HOST = ('workdir', 'data_dir', 'workers')
"""Fields that may differ between the hosts of a run."""


ADDED_SINCE = ('on_device', 'label_smoothing', 'mixup', 'cutout', 'warmup_epochs', 'clip_gradient', 'ema')
"""Decisive fields that saved runs may lack."""


def check_description(described: dict[str, Any], what: str, remedy: str) -> None:
    """Raises ValueError for a config that another version of the library described in another form.

    Args:
        described: the config in config.json or in a checkpoint.
        what: the run or checkpoint, as the message names it.
        remedy: what the message advises.
    """
    got = described.get('description', 1)
    if got != DESCRIPTION:
        raise ValueError(
            f'{what}: its config has form {got}, expected form {DESCRIPTION} (form 1 names functions by their modules, which '
            f'have moved since); use the version of bnn_jax that wrote it, or {remedy}'
        )


def _can_be_called(function: Callable, *arguments: Any) -> bool:
    """Whether a function takes these arguments; True where its signature is unknown."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # Some functions written in C have no signature.
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


def _missing(factory: Callable, options: dict[str, Any]) -> list[str]:
    """The parameters that a function needs in addition to these options; [] if its signature is unknown."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable and p.name not in options]
