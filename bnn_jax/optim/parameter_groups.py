"""One optimizer for every kind of parameter: binarized weights, float weights, normalization, biases."""

from collections.abc import Callable, Mapping

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


def _siblings(path: tuple, params: nnx.State) -> set:
    return {other[-1] for other, _ in nnx.to_flat_state(params) if other[:-1] == path[:-1]}


def by_kind(rules: Mapping[Kind, optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """An optax chain that gives every parameter the transformation of its kind.

    rules: kind -> transformation, for example {latent_weights: bop(1e-4), float_weights: adamw(1e-3), norms: adam(1e-3),
    biases: adam(1e-3)}; a kind is a predicate of (path, variable, all parameters), `latent_weights`, `float_weights`,
    `norms`, `biases` or your own.
    When initialized (by `training.init`) it raises ValueError for a rule that matches no parameter, a parameter that no
    rule matches, and one that two match.
    """
    names = [getattr(kind, '__name__', f'rule {i}') for i, kind in enumerate(rules)]

    def labels(params):
        found = {path: _label(path, variable, params) for path, variable in nnx.to_flat_state(params)}
        for i, name in enumerate(names):
            if i not in found.values():
                raise ValueError(f'by_kind: {name} matches no parameter, expected at least one; leave this rule out')
        paths = iter(found.values())
        return jax.tree.map(lambda _: next(paths), params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def _label(path, variable, params) -> int:
        matching = [i for i, kind in enumerate(rules) if kind(path, variable, params)]
        if len(matching) != 1:
            got = ', '.join(names[i] for i in matching) or 'no rule'
            raise ValueError(f'by_kind: {"/".join(map(str, path))} is matched by {got}, expected exactly one rule')
        return matching[0]

    return optax.partition(dict(enumerate(rules.values())), labels)
