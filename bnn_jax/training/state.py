"""The state of a training run as one pytree, how to make it from a model, and how to get a model back."""

import dataclasses
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Int32

from bnn_jax.inference.converter import Packed
from bnn_jax.nn.places import expect_module, walk
from bnn_jax.nn.variables import Progress
from bnn_jax.optim.projected import projected
from bnn_jax.training.loss import CrossEntropy, Loss, as_loss

_CROSS_ENTROPY = CrossEntropy()


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['step', 'params', 'rest', 'opt_state', 'loss', 'average'],
    meta_fields=['graphdef', 'tx', 'num_classes', 'steps'],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, and the loss, as a pytree. Structure, optimizer, `num_classes` and `steps` are static.

    Example:
        >>> import bnn_jax as bnn, optax
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> state = bnn.training.init(model, optax.sgd(0.1))
        >>> int(state.step), state.num_classes
        (0, 3)
    """

    # The number of updates so far.
    step: Int32[Array, '']
    # The trainable parameters.
    params: nnx.State
    # All other state of the model, such as running statistics, random keys and progress.
    rest: nnx.State
    # The state of the optimizer.
    opt_state: optax.OptState
    # The structure of the model.
    graphdef: nnx.GraphDef
    # The optimizer, with the projection of latent weights.
    tx: optax.GradientTransformation
    # The number of logits; None for a module without `num_classes`.
    num_classes: int | None
    # The loss, with arrays of its own (those of a teacher), which no step changes.
    loss: Loss = _CROSS_ENTROPY
    # How many updates the run has, for quantizers that depend on its progress. None is enough if no quantizer does.
    steps: int | None = None
    # A moving average of (params, rest), if the run keeps one (`Config.ema`). `model_of` then returns the average.
    average: Any = None

    def __deepcopy__(self, memo: dict) -> 'TrainState':
        return jax.tree.map(lambda leaf: leaf.copy() if hasattr(leaf, 'copy') else leaf, self)

    def __reduce__(self):
        import cloudpickle  # An Optax chain consists of closures, which pickle refuses.

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _unpickled, (values | {'tx': None}, cloudpickle.dumps(self.tx))


def _unpickled(values: dict[str, Any], tx: bytes) -> TrainState:
    return TrainState(**values | {'tx': pickle.loads(tx)})


def init(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    loss: Loss | Callable = _CROSS_ENTROPY,
    *,
    operands: DTypeLike | None = None,
    steps: int | None = None,
) -> TrainState:
    """Make the state before the first step, from copies of the model and the loss.

    Args:
        model: a network of this library, or any `nnx.Module` that is called with images and returns logits. A layer that you
            put into evaluation mode, such as a normalization, stays in it. A model that is in evaluation mode as a whole, as
            `model_of` returns it, is put into training mode.
        tx: any Optax chain, also `optax.MultiSteps`. After each update latent weights are projected as their scheme says
            (`optim.projected`). If `init` gets the same object again, with a model of the same structure, nothing is
            compiled again.
        loss: `CrossEntropy()`, `SquaredHinge()`, a `distillation`, another `Loss`; or a function (logits, labels) or (images,
            logits, labels) that returns (N,) or a mean. Its labels may be any numbers that `as_batch` takes.
        operands: the dtype to which training rounds both operands of each product and the arrays between the layers of this
            library's containers; bfloat16 for matrix units. Latent weights, sums (those of signs are exact), statistics,
            optimizer and logits stay float32; the summed gradients of kernels are rounded to bfloat16 too. Evaluation
            rounds nothing. None: training rounds nothing either.
        steps: how many updates the run has. Needed if a quantizer depends on the progress of training
            (`schemes.Scheduled`).

    Returns:
        The state, for `train_step` and `model_of`.

    Raises:
        TypeError: model is not an `nnx.Module`, or is converted; loss is not a loss, or tx is not an optimizer.
        ValueError: the optimizer would forget a projection (`optim.projected`), the loss does not fit the model, or a
            quantizer needs `steps`.

    Example:
        >>> import bnn_jax as bnn, optax
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> state = bnn.training.init(model, optax.sgd(0.1), bnn.training.SquaredHinge())
        >>> int(state.step)
        0
    """
    expect_module('init', model)
    if any(isinstance(place.layer, Packed) for place in walk(model)):
        raise TypeError(
            f'init: got a {type(model).__name__} that is converted, expected the trained model; bits have no gradient'
        )
    minimized = as_loss(loss)
    if hasattr(minimized, 'check'):
        minimized.check(model)
    # Copied like the model below, because a step may reuse the buffers of its state.
    minimized = jax.tree.map(jnp.array, minimized)
    model = _copy(model)
    if all(_evaluates(module) for _, module in nnx.iter_modules(model)):
        model.train()
    model.set_attributes(operands=operands, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(model, is_trained, ...)
    if steps is None and jax.tree.leaves(nnx.filter_state(rest, Progress)):
        raise ValueError(
            'init: got steps=None, but a quantizer of the scheme depends on the progress of training; '
            'expected the number of updates of the run: init(model, tx, steps=...)'
        )
    tx = projected(tx, params)
    num_classes, start = getattr(model, 'num_classes', None), jnp.zeros((), jnp.int32)
    return TrainState(start, params, rest, tx.init(params), graphdef, tx, num_classes, minimized, steps)


def is_trained(path: tuple, variable: Any) -> bool:
    """Whether a variable is trained: a parameter of floating numbers. Integers, such as tables, have no gradient.

    Args:
        path: the keys that lead to the variable.
        variable: any variable of a model.
    """
    numbers = all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(variable))
    return isinstance(variable, nnx.Param) and numbers


def with_progress(state: TrainState) -> nnx.State:
    """`state.rest` with the progress of the next step, from 0 at the first step to 1 at the last."""
    if state.steps is None:
        return state.rest
    reached = jnp.minimum(state.step.astype(jnp.float32) / max(1, state.steps - 1), 1)

    def told(variable):
        return variable.replace(reached) if isinstance(variable, Progress) else variable

    return jax.tree.map(told, state.rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def model_of(state: TrainState) -> Any:
    """The trained model: a new one, with the parameters and statistics of a state, in evaluation mode.

    Args:
        state: as `init` or `train_step` returns it. If it keeps a moving average, the model gets the average.

    Returns:
        A module of the class that `init` was given. It shares no arrays with the state.

    Example:
        >>> import bnn_jax as bnn, optax
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> trained = bnn.training.model_of(bnn.training.init(model, optax.sgd(0.1)))
        >>> bnn.convert(trained).num_classes
        3
    """
    params, rest = state.average or (state.params, state.rest)
    model = _copy(nnx.merge(state.graphdef, params, rest, copy=True))
    model.eval()
    return model


def _copy(model: nnx.Module) -> Any:
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, _copied(state), copy=True)


# All arrays are copied in one compiled call. Each stays on its devices, also where those belong to several hosts.
_copied = jax.jit(partial(jax.tree.map, jnp.copy))


def _evaluates(module: nnx.Module) -> bool:
    """Whether a module itself, without its inner modules, is in evaluation mode or has no mode."""
    modes = (getattr(module, name, None) for name in ('use_running_average', 'deterministic'))
    return all(mode is not False for mode in modes)
