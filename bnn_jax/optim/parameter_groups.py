"""One optimizer for each kind of parameter: latent weights, float weights, normalization, biases."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

from bnn_jax.nn.variables import Latent

Kind = Callable[[tuple, nnx.Variable, nnx.State], bool]
"""A predicate: (path of a parameter, its variable, all parameters) -> whether the parameter is of this kind."""


def latent_weights(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """Whether a parameter is the latent weights of a binary layer.

    Args:
        path: the keys that lead to the parameter.
        variable: the parameter.
        params: all parameters.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> bnn.optim.latent_weights(('kernel',), bnn.nn.Latent(np.ones((2, 3))), {})
        True
    """
    return isinstance(variable, Latent)


def float_weights(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """Whether a parameter is the kernel of a real layer.

    Args:
        path: the keys that lead to the parameter.
        variable: the parameter.
        params: all parameters.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> bnn.optim.float_weights(('kernel',), nnx.Param(np.ones((2, 3))), {})
        True
    """
    return path[-1] == 'kernel' and not isinstance(variable, Latent)


def norms(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """Whether a parameter is gamma or beta of a normalization: a variable `scale`, or a sibling of one.

    Args:
        path: the keys that lead to the parameter.
        variable: the parameter.
        params: all parameters.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> params = nnx.State({'norm': {'scale': nnx.Param(np.ones(2)), 'bias': nnx.Param(np.zeros(2))}})
        >>> bnn.optim.norms(('norm', 'bias'), params['norm']['bias'], params)
        True
    """
    return 'scale' in _siblings(path, params)


def biases(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """Whether a parameter is called `bias` and has no sibling `scale`: a bias of a product, or RSign's trained shift.

    Args:
        path: the keys that lead to the parameter.
        variable: the parameter.
        params: all parameters.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> params = nnx.State({'head': {'kernel': nnx.Param(np.ones((2, 3))), 'bias': nnx.Param(np.zeros(3))}})
        >>> bnn.optim.biases(('head', 'bias'), params['head']['bias'], params)
        True
    """
    # Flax also calls beta of a normalization `bias`, but it has a sibling `scale`.
    return path[-1] == 'bias' and 'scale' not in _siblings(path, params)


def inside(*layers: str) -> Kind:
    """Make the kind of all parameters inside these layers.

    Args:
        layers: paths of attributes from the model to each layer, as `Network.new_layers` returns them.

    Returns:
        A predicate for `by_kind`.

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

    return _named(is_inside, 'inside', layers)


def outside(*layers: str) -> Kind:
    """Make the kind of all parameters outside these layers.

    Args:
        layers: as for `inside`.

    Returns:
        A predicate for `by_kind`.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> kind = bnn.optim.outside('body.layers.6')
        >>> kind(('body', 'layers', 6, 'kernel'), None, {}), kind(('body', 'layers', 5, 'kernel'), None, {})
        (False, True)
    """
    within = inside(*layers)

    def is_outside(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
        return not within(path, variable, params)

    return _named(is_outside, 'outside', layers)


def _named(kind: Kind, name: str, layers: tuple[str, ...]) -> Kind:
    """The kind, under the name by which errors of `by_kind` call it."""
    kind.__name__ = f'{name}({", ".join(map(repr, layers))})'
    return kind


def _siblings(path: tuple, params: nnx.State) -> set:
    """The names of all variables of the layer that has this parameter."""
    return {other[-1] for other, _ in nnx.to_flat_state(params) if other[:-1] == path[:-1]}


def by_kind(rules: Mapping[Kind, optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """An Optax transformation with one transformation for each kind of parameter.

    It works with Flax's optimizer and with plain Optax: `init` finds the kinds from the model's variables, and the state keeps
    them.

    Args:
        rules: kind -> transformation. A kind is `latent_weights`, `float_weights`, `norms`, `biases`, `inside(...)`,
            `outside(...)` or your own predicate.

    Returns:
        The transformation. Its `init` raises ValueError if a rule matches no parameter, or if no rule or several match
        one parameter; TypeError for plain arrays, which do not say their kind.

    Example:
        >>> import bnn_jax as bnn, numpy as np, optax
        >>> from flax import nnx
        >>> from bnn_jax.optim import biases, by_kind, latent_weights
        >>> tx = by_kind({latent_weights: bnn.bop(), biases: optax.sgd(0.1)})
        >>> state = tx.init(nnx.State({'kernel': bnn.nn.Latent(np.ones((2, 3))), 'bias': nnx.Param(np.zeros(3))}))
        >>> state.labels  # The number of each parameter's rule, from 0: 1 for the bias, 0 for the kernel.
        (1, 0)
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
    """The state of `by_kind`."""

    # The number of a rule -> the state of its transformation.
    inner_states: Mapping[int, optax.OptState]
    # The number of each parameter's rule, in the order of the tree's leaves.
    labels: tuple[int, ...]


def _labels(params: nnx.State, kinds: list[Kind], names: list[str]) -> tuple[int, ...]:
    """The number of each parameter's rule, in the order of the tree's leaves."""
    if not all(isinstance(leaf, nnx.Variable) for leaf in jax.tree.leaves(params, is_leaf=_is_variable)):
        raise TypeError(
            'by_kind: got parameters that are plain arrays, expected variables, which say their kind; call '
            'tx.init(nnx.state(model, nnx.Param))'
        )
    labels = []
    for path, variable in nnx.to_flat_state(params):
        matching = [i for i, kind in enumerate(kinds) if kind(path, variable, params)]
        if len(matching) != 1:
            got = ', '.join(names[i] for i in matching) or 'no rule'
            raise ValueError(f'by_kind: {"/".join(map(str, path))} is matched by {got}, expected exactly one rule')
        labels += matching * len(jax.tree.leaves(variable))  # A variable may hold a tree of arrays.
    for i, name in enumerate(names):
        if i not in labels:
            raise ValueError(f'by_kind: {name} matches no parameter, expected at least one; leave this rule out')
    return tuple(labels)


def _tree(labels: tuple[int, ...], params: Any) -> Any:
    """The labels, in a tree with the containers of `params`: training loops keep the same parameters in different ones."""
    structure = jax.tree.structure(params, is_leaf=lambda leaf: leaf is None)
    if structure.num_leaves != len(labels):
        raise ValueError(f'by_kind: got {structure.num_leaves} parameters, expected {len(labels)}, as given to init')
    return jax.tree.unflatten(structure, labels)


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
