"""A packed network computed in floats: its bits unpacked once, the same answers. To compare with, not to save."""

from typing import Any

from bnn_jax.nn.packed_layer import PackedLayer, with_children


def float_twin(network: Any) -> Any:
    """The `PackedNetwork` with every sign as a float32 number and every product a float32 one: 32 times the memory.

    On CPU its logits are those of `network` where all products of signs are exact, below 2^24 terms; without any binary
    input (BinaryConnect, BWN) only up to rounding, for `network` adds up in another order.

    Raises:
        TypeError: for anything but a packed network.
    """
    if not (isinstance(network, PackedLayer) and network.is_network):
        raise TypeError(
            f'float_twin: got a {type(network).__name__}, expected a PackedNetwork, as convert makes of a bnn_jax.nn.Network; '
            'of any other module the trained model itself, in evaluation mode, gives the same answers in floats'
        )
    return _twin(network)


def _twin(layer: Any) -> Any:
    if not isinstance(layer, PackedLayer):
        raise TypeError(f'float_twin: got a {type(layer).__name__} in the network, expected packed layers')
    return with_children(layer, _twin).float_twin()
