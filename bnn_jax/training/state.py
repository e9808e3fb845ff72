"""The state of a training run: one pytree, and how to get it from a model and back."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax.nn.containers import Network
from bnn_jax.schemes.projections import project, project_before
from bnn_jax.training.loss import CrossEntropy, Loss

_CROSS_ENTROPY = CrossEntropy()


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['step', 'params', 'rest', 'opt_state', 'loss'],
    meta_fields=['graphdef', 'tx', 'num_classes'],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training, as a pytree.

    step: how many updates were made. params: trainable parameters. rest: batch-norm statistics and random keys.
    opt_state: the optimizer's. loss: what is minimised, with its arrays (a teacher's), which no step changes. Static:
    graphdef, the model's structure; tx, the chain that updates it; num_classes.
    """

    step: jax.Array
    params: nnx.State
    rest: nnx.State
    opt_state: optax.OptState
    graphdef: nnx.GraphDef
    tx: optax.GradientTransformation
    num_classes: int
    loss: Loss = _CROSS_ENTROPY


def init(
    model: Network,
    tx: optax.GradientTransformation,
    loss: Loss = _CROSS_ENTROPY,
    *,
    operands: DTypeLike | None = None,
) -> TrainState:
    """The state before the first step; neither model nor loss itself is changed or shared.

    tx: any optax chain. Where latent weights have a projection (their scheme's), it is appended as the last link, and
    touches nothing but them; where parameters are projected before a step (`before`), the chain starts from there, see
    `projections.project_before`. loss: `CrossEntropy()`, or a `distillation` from a teacher.
    operands: the dtype to which training rounds both operands of every product, bfloat16 for the matrix units; latent
    weights, accumulation, statistics and all the rest stay float32, and evaluation rounds nothing. None: none.
    Off CPU the gradients of kernels are then rounded to bfloat16 as well, once summed.
    Raises TypeError for a model that is not one of this library's networks, ValueError for a loss that does not fit it.
    """
    if not isinstance(model, Network):
        raise TypeError(f'init: got {type(model).__name__}, expected a Network as bnn_jax.models make them')
    loss.check(model)
    loss = jax.tree.map(jnp.array, loss)
    model = _copy(model, training=True)
    model.set_attributes(operands=operands, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    projections, befores = _carried(params, 'projection'), _carried(params, 'before')
    if jax.tree.leaves(projections):
        tx = optax.chain(tx, project(projections))
    if jax.tree.leaves(befores):
        tx = project_before(tx, befores)
    return TrainState(jnp.zeros((), jnp.int32), params, rest, tx.init(params), graphdef, tx, model.num_classes, loss)


def model_of(state: TrainState) -> Network:
    """A model with the state's parameters and statistics, in evaluation mode; independent of the state."""
    return _copy(nnx.merge(state.graphdef, state.params, state.rest, copy=True), training=False)


def _copy(model: Network, *, training: bool) -> Network:
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, jax.tree.map(jnp.array, state), copy=True)
    copy.train() if training else copy.eval()
    return copy


def _carried(params: nnx.State, name: str):
    """The projection that a parameter carries under this name in place of every parameter, None where there is none."""

    def projection(variable):
        return variable.get_metadata(name, None)

    return jax.tree.map(projection, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
