"""A packed network computed in floats: its bits unpacked once, the same answers. To compare with, not to save."""

import jax
import jax.numpy as jnp

from bnn_jax.inference.packed import (
    Chain,
    Concat,
    FloatProduct,
    PackedNetwork,
    PackedNorm,
    PackedProduct,
    Stateless,
    Sum,
    UnpackedProduct,
    derived,
    packed_layer,
    tensor,
)
from bnn_jax.nn.layers import epilogue, scaled
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.quantizers.standard import sign


@packed_layer
class SignProduct:
    """A product with signs held as float32 +-1: of sign(x) where `binary_input`, of x itself else; then the epilogue."""

    product: Convolution | Dense
    binary_input: bool
    use_k: bool
    signs: jax.Array = derived(init=True)
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()

    def __call__(self, x: jax.Array) -> jax.Array:
        k = self.product.input_scale(x) if self.use_k else None
        y = self.product(sign(x) if self.binary_input else x, self.signs).astype(jnp.float32)
        return epilogue(scaled(y, self.scale), k, self.bias)


def float_twin(network: PackedNetwork) -> PackedNetwork:
    """The network with every sign as a float32 number and every product a float32 one: 32 times the memory.

    On CPU its logits are those of `network` where all products of signs are exact, below 2^24 terms; without any binary
    input (BinaryConnect, BWN) only up to rounding, for `network` adds up in another order. Raises TypeError for a layer it
    does not know.
    """
    return PackedNetwork(network.channels, network.num_classes, _chain(network.body))


def _chain(chain: Chain) -> Chain:
    return Chain(tuple(map(_in_floats, chain.layers)))


def _in_floats(layer):
    match layer:
        case Chain():
            return _chain(layer)
        case Sum():
            return Sum(_chain(layer.body), _chain(layer.shortcut))
        case Concat():
            return Concat(tuple(map(_chain, layer.branches)))
        case PackedProduct():
            signs = layer.product.unpack_kernel(layer.words, layer.into)
            return SignProduct(layer.product, True, layer.use_k, signs, layer.scale, layer.bias)
        case UnpackedProduct():
            signs = layer.product.unpack_kernel(layer.words, layer.into)
            return SignProduct(layer.product, False, False, signs, layer.scale, layer.bias)
        case FloatProduct() | PackedNorm() | Stateless():
            return layer
    raise TypeError(f'float_twin: got a {type(layer).__name__}, expected a layer of bnn_jax.inference.packed')
