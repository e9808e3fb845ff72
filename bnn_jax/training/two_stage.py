"""Two-stage training: first with binary activations and real weights, then, starting from there, with binary weights too.

Sources: Bi-Real Net (arXiv:1808.00278), Real-to-Binary (arXiv:2003.11535), ReActNet (arXiv:2003.03488).
"""

import dataclasses

import jax
from flax import nnx

from bnn_jax.nn.containers import Network, expect_network
from bnn_jax.nn.product import Product
from bnn_jax.nn.variables import Noise
from bnn_jax.schemes.scheme import Scheme


def activations_only(scheme: Scheme) -> Scheme:
    """The scheme of the first stage: the same activations, order and layers, with real weights.

    Weights are neither quantized nor projected; `sign`, which only binary weights use, stays.
    Such a network trains; `convert` refuses it, for a real weight is no bit. Raises ValueError for real activations.
    """
    if scheme.activation is None:
        raise ValueError(
            'activations_only: got a scheme with real activations, expected binary ones; without them there is no first stage'
        )
    real_weights = dict.fromkeys(('weight', 'scale', 'projection', 'before', 'balance', 'training_weight'))
    return dataclasses.replace(scheme, **real_weights)


def second_stage(model: Network, first: Network) -> Network:
    """A copy of the model that starts from the network of the first stage: same layers, binary weights.

    model: of a scheme; first: the trained network of `activations_only(scheme)`. Every parameter and statistic is copied,
    real kernels as latent weights; a scheme's `projection` is applied to these at once, so that what it promises holds
    before the first step too (the real weights were free: neither clipped nor centered). Random keys stay the model's.
    Raises ValueError, naming the first difference, for networks of other layers or shapes; TypeError for other types.
    """
    for network in (model, first):
        expect_network('second_stage', network)
    graphdef, ours, own = nnx.split(model, nnx.Not(Noise), ...)
    theirs = nnx.state(first, nnx.Not(Noise))
    _check_same(ours, theirs)
    # By position: `_check_same` found the same names and shapes, only the kinds of variables differ.
    model = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(ours), jax.tree.leaves(theirs)), own, copy=True)
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, Product) and layer.scheme.projection is not None:
            layer.kernel[...] = layer.scheme.projection(layer.kernel[...])
    return model


def _check_same(ours: nnx.State, theirs: nnx.State) -> None:
    got, expected = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
        for state in (theirs, ours)
    )
    for name in [*expected, *got]:
        if got.get(name) != expected.get(name):
            raise ValueError(
                f'second_stage: got {name} of shape {got.get(name)}, expected {expected.get(name)}, as in the model; '
                'the first stage is trained with activations_only(scheme), all else alike'
            )
