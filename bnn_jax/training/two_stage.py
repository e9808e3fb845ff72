"""Two-stage training: first with binary activations and real weights, then with binary weights too.

Sources: Bi-Real Net (arXiv:1808.00278), Real-to-Binary (arXiv:2003.11535), ReActNet (arXiv:2003.03488).
"""

import dataclasses

import jax
from flax import nnx

from bnn_jax.nn.containers import Network, expect_network
from bnn_jax.nn.product import Product
from bnn_jax.nn.variables import Noise, Progress
from bnn_jax.schemes.scheme import Scheme


def activations_only(scheme: Scheme) -> Scheme:
    """The scheme of the first stage: the same activations, order and layers, but real weights.

    Weights are neither quantized nor projected. `convert` refuses a network of the first stage, because its weights are real.

    Args:
        scheme: the scheme of the second stage.

    Returns:
        The scheme with real weights.

    Raises:
        ValueError: the scheme has real activations.

    Example:
        >>> import bnn_jax as bnn
        >>> first = bnn.training.two_stage.activations_only(bnn.XNOR)
        >>> first.weight is None, first.activation is bnn.XNOR.activation
        (True, True)
    """
    if scheme.activation is None:
        raise ValueError(
            'activations_only: got a scheme with real activations, expected binary ones, which the first stage trains with'
        )
    real_weights = dict.fromkeys(('weight', 'scale', 'offset', 'projection', 'before', 'balance', 'training_weight'))
    return dataclasses.replace(scheme, **real_weights)


def second_stage(model: Network, first: Network) -> Network:
    """A copy of the model that starts from the trained network of the first stage.

    All parameters and statistics are those of the first stage. Where the second stage has binary weights, the real
    kernels become latent weights. The scheme's projection then clips or centers them, because the first stage has no
    projection. Random keys and the progress of training stay those of the model.

    Args:
        model: a network of the scheme.
        first: the trained network of `activations_only(scheme)`, with the same layers.

    Returns:
        The network to train in the second stage.

    Raises:
        TypeError: one of them is not an `nn.Network`.
        ValueError: their layers or shapes differ; the message names the first difference.

    Example:
        >>> import bnn_jax as bnn
        >>> from bnn_jax.training import two_stage
        >>> from flax import nnx
        >>> sizes = dict(rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> first = bnn.models.mlp(3, scheme=two_stage.activations_only(bnn.BNN), **sizes)
        >>> second = two_stage.second_stage(bnn.models.mlp(3, scheme=bnn.BNN, **sizes), first)
        >>> [type(network.body.layers[1].kernel).__name__ for network in (first, second)]
        ['Param', 'Latent']
    """
    for network in (model, first):
        expect_network('second_stage', network)
    # Each stage counts its own progress, and the first one may have none.
    taken = nnx.Not(nnx.Any(Noise, Progress))
    graphdef, ours, own = nnx.split(model, taken, ...)
    theirs = nnx.state(first, taken)
    _check_same(ours, theirs)
    # By position: names and shapes are the same (`_check_same`), only the kinds of variables differ.
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
                f'second_stage: got {name} of shape {got.get(name)}, expected {expected.get(name)} as in the model; '
                'train the first stage with activations_only(scheme) and all else the same'
            )
