"""An optimizer that projects latent weights after each update, as their schemes say, in any training loop."""

import inspect
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.core import Tracer

from bnn_jax.schemes.projections import moved, of, project, project_before

# Optimizers with these states compute parameters from weights that they keep themselves, so they would forget a projection.
REFUSED = ('COCOBState', 'LookaheadState', 'MechanicState')


def projected(tx: optax.GradientTransformation, model: nnx.Module | nnx.State) -> optax.GradientTransformation:
    """Append the projections of the model's latent weights to an optimizer.

    `training.init` calls this function. In a loop of your own, call it yourself, with Flax's optimizer or plain Optax. The
    projection is the last link of the chain. It leaves latent weights without an update as they are (the exact rule is
    in `project`). If a scheme projects before a step (`Scheme.before`), the update starts from the projected weights.
    If the optimizer keeps a copy of the weights (schedule-free's z, an average), the copy is projected as well, so that
    the weights to evaluate obey the scheme. The same optimizer and a model of the same structure give the same object,
    so nothing is compiled again.

    Args:
        tx: any Optax chain, also `optax.MultiSteps`.
        model: the model, or its parameters as `nnx.state(model, nnx.Param)` returns them.

    Returns:
        An Optax transformation; tx itself if no scheme projects.

    Raises:
        TypeError: tx is not an optimizer.
        ValueError: a scheme projects after updates, but tx computes parameters from weights that it keeps itself, as
            lookahead, Mechanic and COCOB do.

    Example:
        >>> import bnn_jax as bnn, optax
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.XNOR, rngs=nnx.Rngs(0), hidden=(4, 4), input_shape=(2, 2, 1))
        >>> tx = bnn.optim.projected(optax.adam(1e-2), model)
        >>> state = tx.init(nnx.state(model, nnx.Param))
    """
    if not (hasattr(tx, 'init') and hasattr(tx, 'update')):
        raise TypeError(f'optimizer: got {tx!r}, expected an optax chain such as optax.adam(1e-3)')
    params = nnx.state(model, nnx.Param) if isinstance(model, nnx.Module) else model
    projections, befores = (_leaves(of(params, name), params) for name in ('projection', 'before'))
    if not any((*projections, *befores)):
        return tx
    return _wrapped(tx, projections, befores, _copies(tx, params, projections))


def _leaves(tree: Any, params: nnx.State) -> tuple:
    """The values of `tree`, one for each variable, repeated for each array of the variable. None counts as a value."""
    per_variable = jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
    variables = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    pairs = zip(per_variable, variables, strict=True)
    return tuple(found for found, variable in pairs for _ in jax.tree.leaves(variable))


def _copies(tx: Any, params: nnx.State, projections: tuple) -> tuple[tuple[int, int], ...]:
    """Pairs (i, k): array i of the optimizer's state is a copy of parameter k."""
    arrays = jax.tree.leaves(params)
    # Copies are found by comparing numbers, which abstract arrays do not have.
    if not any(projections) or any(not isinstance(array, jax.Array) or isinstance(array, Tracer) for array in arrays):
        return ()
    state = tx.init(params)
    _check(state)
    latent = {k: np.asarray(array) for k, array in enumerate(arrays) if projections[k] and array.is_fully_addressable}
    schedule_free = {id(leaf) for node in _schedule_free_states(state) for leaf in jax.tree.leaves(node.z)}
    found = []
    for i, leaf in enumerate(jax.tree.leaves(state)):
        for k, array in latent.items():
            # Moments start with all numbers equal, so a constant array is no evidence of a copy.
            like = np.shape(leaf) == array.shape and array.size > 1 and id(leaf) not in schedule_free
            if like and np.array_equal(leaf, array) and np.ptp(array) > 0:
                found.append((i, k))
    return tuple(found)


def _check(state: Any) -> None:
    """Raises ValueError for the state of an optimizer that would forget a projection."""

    def check(node):
        if type(node).__name__ in REFUSED:
            raise ValueError(
                f'optimizer: got one with a {type(node).__name__}, which computes parameters from weights that it keeps '
                'itself and so would forget the projection of latent weights; expected one that updates the parameters it is '
                'given, such as adam, or optax.contrib.schedule_free for an average'
            )
        return False

    jax.tree.leaves(state, is_leaf=check)


def _schedule_free_states(state: Any) -> list:
    def is_one(node):
        return isinstance(node, optax.contrib.ScheduleFreeState)

    return [node for node in jax.tree.leaves(state, is_leaf=is_one) if is_one(node)]


def taking_extra_args(tx: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer with an update that accepts any extra arguments and ignores those that the optimizer does not take.

    Args:
        tx: any optax chain, also `optax.MultiSteps`.
    """
    parameters = inspect.signature(tx.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return optax.GradientTransformationExtraArgs(tx.init, tx.update)

    def update(updates, state, params=None, **extra_args):
        taken = {name: value for name, value in extra_args.items() if name in parameters}
        return tx.update(updates, state, params, **taken)

    return optax.GradientTransformationExtraArgs(tx.init, update)


@lru_cache(maxsize=64)
def _wrapped(tx: Any, projections: tuple, befores: tuple, copies: tuple) -> optax.GradientTransformationExtraArgs:
    tx = taking_extra_args(tx)
    chain = _projecting(tx, projections, copies) if any(projections) else tx
    if not any(befores):
        return chain  # pyright: ignore[reportReturnType]

    # Built at each call, because the containers of the caller's parameters are known only then.
    def before(params):
        return project_before(chain, _tree(befores, params))

    def update(updates, state, params=None, **extra_args):
        return before(updates if params is None else params).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(lambda params: before(params).init(params), update)


def _projecting(tx: optax.GradientTransformationExtraArgs, projections: tuple, copies: tuple):
    def init(params):
        return tx.init(params), optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        link = project(_tree(projections, updates if params is None else params))
        inner, empty = state
        updates, new = tx.update(updates, inner, params, **extra_args)
        updates, new = _schedule_free_projected(updates, inner, new, projections)
        new = _copies_projected(inner, new, projections, copies)
        return link.update(updates, empty, params)[0], (new, empty)

    return optax.GradientTransformationExtraArgs(init, update)


def _tree(functions: tuple, params: Any) -> Any:
    """The functions in a tree with the containers of the parameters, which depend on the training loop."""
    structure = jax.tree.structure(params)
    if structure.num_leaves != len(functions):
        raise ValueError(
            f'projected: got {structure.num_leaves} parameters, expected {len(functions)} as in the model; give the optimizer '
            'the parameters of the model that it was made for'
        )
    return jax.tree.unflatten(structure, functions)


def _copies_projected(old: Any, new: Any, projections: tuple, copies: tuple) -> Any:
    before, (after, structure) = jax.tree.leaves(old), jax.tree.flatten(new)
    for i, k in copies:
        after[i] = before[i] + moved(projections[k], after[i] - before[i], before[i])
    return jax.tree.unflatten(structure, after)


def _schedule_free_projected(updates: Any, old: Any, new: Any, projections: tuple) -> tuple[Any, Any]:
    """Project z of schedule-free, and correct the update of the parameters (y) to match.

    x <- (1 - c) x + c z and y = (1 - b1) z + b1 x. So if the projection moves z by d, it moves y by (1 - b1 + b1 c) d.
    """
    olds = iter(_schedule_free_states(old))
    found, structure = jax.tree.flatten(updates, is_leaf=_is_empty)

    def projected_state(node):
        if not isinstance(node, optax.contrib.ScheduleFreeState):
            return node
        state, total = next(olds), jnp.asarray(node.weight_sum)
        share = jnp.where(total > 0, (total - state.weight_sum) / jnp.where(total > 0, total, 1), 0)
        before, (after, z_structure) = (
            jax.tree.leaves(state.z, is_leaf=_is_empty),
            jax.tree.flatten(node.z, is_leaf=_is_empty),
        )
        for k, projection in enumerate(projections):
            if projection is not None and not _is_empty(after[k]):
                z = before[k] + moved(projection, after[k] - before[k], before[k])
                factor = 1 - node.b1 + node.b1 * share
                found[k] = found[k] + (factor * (z - after[k])).astype(found[k].dtype)
                after[k] = z
        return node._replace(z=jax.tree.unflatten(z_structure, after))

    new = jax.tree.map(projected_state, new, is_leaf=lambda node: isinstance(node, optax.contrib.ScheduleFreeState))
    return jax.tree.unflatten(structure, found), new


def _is_empty(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, optax.MaskedNode)
