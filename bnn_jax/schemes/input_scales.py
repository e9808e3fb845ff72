"""XNOR-Net's input scale K, with and without a gradient: values for `Scheme.input_scale`."""

from typing import Any

import jax
from jaxtyping import Array, Float


def constant_k(x: Float[Array, '*input'], product: Any) -> Float[Array, '*positions 1']:
    """XNOR-Net's K of the tensor that is binarized, without a gradient.

    Forward: K, see `quantizers.input_scale`.
    Gradient: 0.

    Args:
        x: the input of the product, before its sign is taken.
        product: the operation, `nn.Convolution` or `nn.Dense`, whose window K uses.

    Returns:
        One number for each window, or for each row of a dense layer's input.

    Source: XNOR-Net in Caffe; the paper does not mention a gradient.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> dataclasses.replace(bnn.XNOR, input_scale=bnn.schemes.constant_k)
        XNOR_K
    """
    return product.input_scale(jax.lax.stop_gradient(x))


def flowing_k(x: Float[Array, '*input'], product: Any) -> Float[Array, '*positions 1']:
    """XNOR-Net's K of the tensor that is binarized, with its gradient.

    Forward: K, see `quantizers.input_scale`.
    Gradient: that of K, which flows through |x|.

    Args:
        x: the input of the product, before its sign is taken.
        product: the operation, `nn.Convolution` or `nn.Dense`, whose window K uses.

    Returns:
        One number for each window, or for each row of a dense layer's input.

    Source: XNOR-Net in Theano.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> dataclasses.replace(bnn.XNOR, input_scale=bnn.schemes.flowing_k)
        replace(XNOR, input_scale=flowing_k)
    """
    return product.input_scale(x)
