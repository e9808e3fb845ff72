"""The state of a training run: one pytree, and how to get it from a model and back."""

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

from bnn_jax.inference.converter import Packed
from bnn_jax.nn.variables import Progress
from bnn_jax.nn.walk import expect_module, walk
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
    """All that changes while training, as a pytree; structure, optimizer and lengths are static."""

    # How many updates were made.
    step: jax.Array
    # Trainable parameters; batch statistics, random keys and progress; the optimizer's state.
    params: nnx.State
    rest: nnx.State
    opt_state: optax.OptState
    # The model's structure, and the chain that updates its parameters.
    graphdef: nnx.GraphDef
    tx: optax.GradientTransformation
    # The number of logits; None for a module that does not say it before it is called.
    num_classes: int | None
    # What is minimized, with its arrays (a teacher's), which no step changes.
    loss: Loss = _CROSS_ENTROPY
    # How many updates the run has, for quantizers that see its progress; None where none does.
    steps: int | None = None
    # A moving average of (params, rest), where a run keeps one (`Config.ema`): what `model_of` gives then.
    average: Any = None

    def __deepcopy__(self, memo: dict) -> 'TrainState':
        return jax.tree.map(lambda leaf: leaf.copy() if hasattr(leaf, 'copy') else leaf, self)

    def __reduce__(self):
        import cloudpickle  # An optax chain is made of closures, which pickle itself refuses.

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
    """The state before the first step; neither model nor loss itself is changed or shared.

    Args:
        model: a network of this library, or any `nnx.Module` that is called with images and returns logits. It trains in the
            mode that the user set: a normalization that is in evaluation mode (`.eval()`) keeps its statistics. A model
            that is in evaluation mode as a whole, as `model_of` returns it, is set to training mode.
        tx: any optax chain, also `optax.MultiSteps`. Latent weights are projected as their scheme says after each of its
            updates (`optim.projected`). The same object, again given to `init`, compiles nothing anew.
        loss: `CrossEntropy()`, or a `distillation` from a teacher; or a plain function (logits, labels) or (images, logits,
            labels) -> (N,), or their mean, with labels of its own kind.
        operands: the dtype to which training rounds both operands of every product, bfloat16 for the matrix units, and what
            lies between the layers of this library's containers. Latent weights, sums (those of signs are exact), statistics,
            optimizer and logits stay float32, and evaluation rounds nothing. None: none.
            Off CPU the gradients of kernels are then rounded to bfloat16 as well, once summed.
        steps: how many updates the run has; needed where a quantizer sees the progress of training (`schemes.Scheduled`).

    Raises:
        TypeError: for a model that is no `nnx.Module` or is converted, for a loss or an optimizer that is none.
        ValueError: for an optimizer that forgets what is projected (`optim.projected`), for a loss that does not fit the
            model, and for a scheduled quantizer without `steps`.
    """
    expect_module('init', model)
    if any(isinstance(place.layer, Packed) for place in walk(model)):
        raise TypeError(
            f'init: got a {type(model).__name__} that is converted, expected the trained model: bits have no gradient'
        )
    minimized = as_loss(loss)
    if hasattr(minimized, 'check'):
        minimized.check(model)
    # Copied, as the model is: a step may reuse the buffers of its state.
    minimized = jax.tree.map(jnp.array, minimized)
    model = _copy(model)
    if all(_evaluates(module) for _, module in nnx.iter_modules(model)):
        model.train()
    model.set_attributes(operands=operands, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(model, is_trained, ...)
    if steps is None and jax.tree.leaves(nnx.filter_state(rest, Progress)):
        raise ValueError(
            'init: the scheme has a quantizer that sees the progress of training, but steps is None; '
            'expected the number of updates of the run: init(model, tx, steps=...)'
        )
    tx = projected(tx, params)
    num_classes, start = getattr(model, 'num_classes', None), jnp.zeros((), jnp.int32)
    return TrainState(start, params, rest, tx.init(params), graphdef, tx, num_classes, minimized, steps)


def is_trained(path: tuple, variable: Any) -> bool:
    """Whether a variable is trained: a parameter of real numbers. Integers (tables, say) have no gradient and stay."""
    numbers = all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(variable))
    return isinstance(variable, nnx.Param) and numbers


def with_progress(state: TrainState) -> nnx.State:
    """The state's `rest` with the progress of its next step, from 0 at the first to 1 at the last."""
    if state.steps is None:
        return state.rest
    reached = jnp.minimum(state.step.astype(jnp.float32) / max(1, state.steps - 1), 1)

    def told(variable):
        return variable.replace(reached) if isinstance(variable, Progress) else variable

    return jax.tree.map(told, state.rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def model_of(state: TrainState) -> Any:
    """A model with the state's parameters and statistics, in evaluation mode; independent of the state."""
    params, rest = state.average or (state.params, state.rest)
    model = _copy(nnx.merge(state.graphdef, params, rest, copy=True))
    model.eval()
    return model


def _copy(model: nnx.Module) -> Any:
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(jnp.array, state), copy=True)


def _evaluates(module: nnx.Module) -> bool:
    """Whether a module, by itself, is in evaluation mode, or has no mode."""
    modes = (getattr(module, name, None) for name in ('use_running_average', 'deterministic'))
    return all(mode is not False for mode in modes)
