"""Unpack a packed network to floats, for comparison. The float twin gives the same answers."""

from typing import Any

from bnn_jax.nn.packed_layer import PackedLayer, with_children


def float_twin(network: Any) -> Any:
    """A copy of a packed network in which each sign is a float32 number and each product a float32 product.

    Its binary weights take 32 times the memory. `report.bytes` leaves them out, because no file stores them.

    On CPU its logits equal those of `network` where products of signs are exact, that is up to 2^24 terms. Without any binary
    input (BinaryConnect, BWN) they are equal up to rounding, since `network` sums in another order.

    Args:
        network: a `PackedNetwork`, as `convert` returns it.

    Returns:
        The copy. It runs on any platform, and `interop.stablehlo` exports it; `save` and the exports to C and ONNX refuse it.

    Raises:
        TypeError: network is not a `PackedNetwork`.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> bnn.inference.float_twin(bnn.convert(model)).report.bytes, bnn.convert(model).report.bytes
        (24, 36)
    """
    if not (isinstance(network, PackedLayer) and network.is_network):
        raise TypeError(
            f'float_twin: got a {type(network).__name__}, expected a PackedNetwork, as convert makes of a bnn_jax.nn.Network; '
            'for any other module, use the trained model in evaluation mode: it gives the same answers in floats'
        )
    return _twin(network)


def _twin(layer: Any) -> Any:
    if not isinstance(layer, PackedLayer):
        raise TypeError(f'float_twin: got a {type(layer).__name__} in the network, expected packed layers')
    return with_children(layer, _twin).float_twin()
