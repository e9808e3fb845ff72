"""One optimizer for every kind of parameter: binarized weights, float weights, normalization, biases."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

from bnn_jax.nn.variables import Latent

Kind = Callable[[tuple, nnx.Variable, nnx.State], bool]


def latent_weights(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """The latent weights of binary layers."""
    return isinstance(variable, Latent)


def float_weights(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """The kernels of real layers."""
    return path[-1] == 'kernel' and not isinstance(variable, Latent)


def norms(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """gamma and beta of normalizations."""
    return 'scale' in _siblings(path, params)


def biases(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """The biases of convolutions and dense layers."""
    return path[-1] == 'bias' and 'scale' not in _siblings(path, params)


def inside(*layers: str) -> Kind:
    """The kind of the parameters of these layers, by their paths of attributes, as `Network.new_layers` gives them.

    Example:
        >>> import bnn_jax as bnn, optax
        >>> from bnn_jax import training
        >>> head = ('body.layers.6',)
        >>> frozen = training.by_kind(
        ...     {training.inside(*head): optax.adam(1e-2), training.outside(*head): optax.set_to_zero()}
        ... )
    """

    def is_inside(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
        return any(f'{".".join(map(str, path))}.'.startswith(f'{layer}.') for layer in layers)

    return is_inside


def outside(*layers: str) -> Kind:
    """The kind of all parameters but those of these layers: see `inside`."""
    within = inside(*layers)

    def is_outside(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
        return not within(path, variable, params)

    return is_outside


def _siblings(path: tuple, params: nnx.State) -> set:
    return {other[-1] for other, _ in nnx.to_flat_state(params) if other[:-1] == path[:-1]}


def by_kind(rules: Mapping[Kind, optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """An optax chain that gives every parameter the transformation of its kind.

    rules: kind -> transformation, for example {latent_weights: bop(1e-4), float_weights: adamw(1e-3), norms: adam(1e-3),
    biases: adam(1e-3)}; a kind is a predicate of (path, variable, all parameters), `latent_weights`, `float_weights`,
    `norms`, `biases` or your own.
    It also works under Flax's optimizer and in a loop of plain Optax: kinds are found when it is initialized, from the model's
    variables, and kept in its state.
    When initialized it raises ValueError for a rule that matches no parameter, a parameter that no rule matches, and one that
    two match; TypeError for parameters that are plain arrays, without the variables that say their kind.
    """
    names = [getattr(kind, '__name__', f'rule {i}') for i, kind in enumerate(rules)]
    transforms: dict[Any, optax.GradientTransformation] = dict(enumerate(rules.values()))

    def init(params):
        labels = _labels(params, list(rules), names)
        groups: Any = optax.partition(transforms, _tree(labels, params)).init(params)
        return ByKindState(groups.inner_states, labels)

    def update(updates, state, params=None, **extra_args):
        groups = optax.partition(transforms, _tree(state.labels, updates))
        new: Any
        updates, new = groups.update(updates, optax.PartitionState(state.inner_states), params, **extra_args)
        return updates, ByKindState(new.inner_states, state.labels)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


@partial(jax.tree_util.register_dataclass, data_fields=['inner_states'], meta_fields=['labels'])
@dataclasses.dataclass(frozen=True)
class ByKindState:
    """The states of the rules' transformations, by the rule's number, and the rule of every parameter."""

    inner_states: Mapping[int, optax.OptState]
    labels: tuple[int, ...]


def _labels(params: nnx.State, kinds: list[Kind], names: list[str]) -> tuple[int, ...]:
    """The number of the rule of every parameter, in the order of the tree's leaves."""
    if not all(isinstance(leaf, nnx.Variable) for leaf in jax.tree.leaves(params, is_leaf=_is_variable)):
        raise TypeError(
            'by_kind: got parameters that are plain arrays, expected variables, which say their kind: '
            'tx.init(nnx.state(model, nnx.Param))'
        )
    labels = []
    for path, variable in nnx.to_flat_state(params):
        matching = [i for i, kind in enumerate(kinds) if kind(path, variable, params)]
        if len(matching) != 1:
            got = ', '.join(names[i] for i in matching) or 'no rule'
            raise ValueError(f'by_kind: {"/".join(map(str, path))} is matched by {got}, expected exactly one rule')
        labels += matching * len(jax.tree.leaves(variable))
    for i, name in enumerate(names):
        if i not in labels:
            raise ValueError(f'by_kind: {name} matches no parameter, expected at least one; leave this rule out')
    return tuple(labels)


def _tree(labels: tuple[int, ...], params: Any) -> Any:
    """The labels as a tree like the parameters."""
    structure = jax.tree.structure(params, is_leaf=lambda leaf: leaf is None)
    if structure.num_leaves != len(labels):
        raise ValueError(
            f'by_kind: got {structure.num_leaves} parameters, expected {len(labels)}, as when it was initialized'
        )
    return jax.tree.unflatten(structure, labels)


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
