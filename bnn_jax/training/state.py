"""The state of a training run: one pytree, and how to get it from a model and back."""

import dataclasses
import pickle
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
from bnn_jax.schemes.projections import project, project_before
from bnn_jax.training.loss import CrossEntropy, Loss

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
    loss: Loss = _CROSS_ENTROPY,
    *,
    operands: DTypeLike | None = None,
    steps: int | None = None,
) -> TrainState:
    """The state before the first step; neither model nor loss itself is changed or shared.

    Args:
        model: a network of this library, or any `nnx.Module` that is called with images and returns logits.
        tx: any optax chain. Where latent weights have a projection (their scheme's), it is appended as the last link, and
            touches nothing but them; where parameters are projected before a step (`before`), the chain starts from there,
            see `projections.project_before`.
        loss: `CrossEntropy()`, or a `distillation` from a teacher.
        operands: the dtype to which training rounds both operands of every product, bfloat16 for the matrix units, and what
            lies between the layers of this library's containers. Latent weights, sums (those of signs are exact), statistics,
            optimizer and logits stay float32, and evaluation rounds nothing. None: none.
            Off CPU the gradients of kernels are then rounded to bfloat16 as well, once summed.
        steps: how many updates the run has; needed where a quantizer sees the progress of training (`schemes.Scheduled`).

    Raises:
        TypeError: for a model that is no `nnx.Module`.
        ValueError: for a loss that does not fit the model, and for a scheduled quantizer without `steps`.
    """
    expect_module('init', model)
    if any(isinstance(place.layer, Packed) for place in walk(model)):
        raise TypeError(
            f'init: got a {type(model).__name__} that is converted, expected the trained model: bits have no gradient'
        )
    loss.check(model)
    # Copied, as the model is: a step may reuse the buffers of its state.
    loss = jax.tree.map(jnp.array, loss)
    model = _copy(model, training=True)
    model.set_attributes(operands=operands, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    if steps is None and jax.tree.leaves(nnx.filter_state(rest, Progress)):
        raise ValueError(
            'init: the scheme has a quantizer that sees the progress of training, but steps is None; '
            'expected the number of updates of the run: init(model, tx, steps=...)'
        )
    projections, befores = _carried(params, 'projection'), _carried(params, 'before')
    if jax.tree.leaves(projections):
        tx = optax.chain(tx, project(projections))
    if jax.tree.leaves(befores):
        tx = project_before(tx, befores)
    num_classes, start = getattr(model, 'num_classes', None), jnp.zeros((), jnp.int32)
    return TrainState(start, params, rest, tx.init(params), graphdef, tx, num_classes, loss, steps)


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
    return _copy(nnx.merge(state.graphdef, params, rest, copy=True), training=False)


def _copy(model: nnx.Module, *, training: bool) -> Any:
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, jax.tree.map(jnp.array, state), copy=True)
    copy.train() if training else copy.eval()
    return copy


def _carried(params: nnx.State, name: str):
    """The projection that a parameter carries under this name in place of every parameter, None where there is none."""

    def projection(variable):
        return variable.get_metadata(name, None)

    return jax.tree.map(projection, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
