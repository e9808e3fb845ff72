"""DoReFa-Net's quantizers at one bit, as functions of one array."""

from jaxtyping import Array, Float

from bnn_jax import quantizers


def one_bit_activation(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """DoReFa-Net's activation of one bit: `quantizers.dorefa_activations(x, 1)`.

    Forward: x, clipped to [0, 1] and rounded to 0 or 1; 1/2 becomes 0.
    Gradient: g where 0 <= x <= 1, else 0.

    Args:
        x: any shape.

    Returns:
        0 and 1, of the shape and dtype of x.

    Source: DoReFa-Net (arXiv:1606.06160) eq. 11.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> dataclasses.replace(bnn.XNOR, activation=bnn.schemes.one_bit_activation)
        replace(XNOR, activation=one_bit_activation)
    """
    return quantizers.dorefa_activations(x, 1)


def one_bit_weight(w: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """DoReFa-Net's weights of one bit: `quantizers.dorefa_weights(w, 1)`.

    Forward: mean |W| sign(W), one scale for the layer.
    Gradient: g.

    Args:
        w: any shape; not a scalar.

    Returns:
        Plus and minus the scale, of the shape and dtype of w.

    Source: DoReFa-Net (arXiv:1606.06160) eq. 8.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> dataclasses.replace(bnn.BWN, weight=bnn.schemes.one_bit_weight, scale=bnn.quantizers.layer_alpha)
        replace(BC, weight=one_bit_weight, scale=layer_alpha)
    """
    return quantizers.dorefa_weights(w, 1)
