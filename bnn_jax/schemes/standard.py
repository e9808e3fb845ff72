"""The library's own schemes, and those of their first, last and shortcut layers; IRNET and RECU are in `balanced`."""

import dataclasses

from bnn_jax import quantizers
from bnn_jax.schemes import orders
from bnn_jax.schemes.input_scales import constant_k
from bnn_jax.schemes.one_bit import one_bit_activation, one_bit_weight
from bnn_jax.schemes.projections import center_and_clip, clip
from bnn_jax.schemes.scheme import Scheme, named_scheme


def real(scheme: Scheme) -> Scheme:
    """The scheme of a real layer. A value for `first`, `last` and `shortcut` of a `Scheme`.

    Args:
        scheme: the scheme of the network.

    Returns:
        `FLOAT` with this scheme's initialization, biases, dropout and normalization.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.real(bnn.BIREAL)
        replace(FLOAT, eps=1e-05)
    """
    # What a real layer shares with the binary layers around it; everything else is FLOAT's.
    kept = ('init', 'bias', 'dropout', 'drops')
    kept += ('eps', 'momentum', 'variance_factor', 'affine', 'gamma_init', 'gamma_before', 'norm_groups')
    return dataclasses.replace(FLOAT, **{name: getattr(scheme, name) for name in kept})


def real_unrectified(scheme: Scheme) -> Scheme:
    """`real` in an order without ReLU: product, norm, pool.

    Args:
        scheme: the scheme of the network.

    Returns:
        The scheme of the real layer.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.real_unrectified(bnn.XNOR)
        replace(FLOAT, chain=('product', 'norm', 'pool'))
    """
    return dataclasses.replace(real(scheme), chain=orders.product_norm_pool)


def real_input(scheme: Scheme) -> Scheme:
    """The same scheme on a real input, for the first layer of a network whose weights are all binary.

    Args:
        scheme: the scheme of the network.

    Returns:
        The scheme without activation and input scale.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.real_input(bnn.BNN).activation is None
        True
    """
    return dataclasses.replace(scheme, activation=None, input_scale=None)


FLOAT = named_scheme(
    'FLOAT',
    """Real weights and activations: the baseline.""",
    Scheme(
        weight=None,
        scale=None,
        activation=None,
        chain=orders.product_norm_relu_pool,
        head=orders.pool_product,
        residual=orders.residual_norm_after,
    ),
)

# First, last and shortcut layers are real here. `presets.BC_THEANO` makes the first and the last layer binary, as the published
# code does.
BC = named_scheme(
    'BC',
    """BinaryConnect, deterministic: weights sign(W), real activations (arXiv:1511.00363).""",
    dataclasses.replace(FLOAT, weight=quantizers.sign_ste, projection=clip, first=real, last=real, shortcut=real),
)

BC_STOCHASTIC = named_scheme(
    'BC_STOCHASTIC',
    """BinaryConnect, stochastic: each training step draws the signs again; evaluation uses sign(W).""",
    dataclasses.replace(BC, training_weight=quantizers.stochastic_sign_ste),
)

BWN = named_scheme(
    'BWN',
    """Binary-Weight-Network: weights alpha sign(W), real activations (XNOR-Net section 3.1).""",
    dataclasses.replace(BC, weight=quantizers.scaled_sign_ste, scale=quantizers.alpha),
)

BNN = named_scheme(
    'BNN',
    """BinaryNet: all weights and activations +-1; only the image and the logits are real (arXiv:1602.02830).""",
    Scheme(
        weight=quantizers.sign_ste,
        scale=None,
        activation=quantizers.sign_ste,
        projection=clip,
        chain=orders.product_pool_norm,
        head=orders.pool_product_norm,
        residual=orders.residual_sign_after,
        first=real_input,
    ),
)

XNOR = named_scheme(
    'XNOR',
    """XNOR-Net: weights alpha sign(W), activations sign(x), pad 0; first, last and shortcut layers real.

It has no K, and no ReLU in binary blocks.
""",
    Scheme(
        weight=quantizers.scaled_sign_ste,
        scale=quantizers.alpha,
        activation=quantizers.sign_ste,
        projection=center_and_clip,
        chain=orders.norm_product_pool,
        head=orders.norm_relu_pool_product,
        residual=orders.residual_norm_before,
        first=real,
        last=real,
        shortcut=real,
    ),
)

XNOR_K = named_scheme(
    'XNOR_K',
    """XNOR-Net with its input scale K (eq. 11) and no gradient through K.""",
    dataclasses.replace(XNOR, input_scale=constant_k),
)


DOREFA = named_scheme(
    'DOREFA',
    """DoReFa-Net with 1-bit weights and 1-bit activations {0, 1}, in XNOR-Net's order (arXiv:1606.06160).

It trains. `convert` refuses it, because {0, 1} is not +-1. Gradients are not quantized.
""",
    dataclasses.replace(
        XNOR,
        weight=one_bit_weight,
        scale=quantizers.layer_alpha,
        activation=one_bit_activation,
        projection=None,
    ),
)

BIREAL = named_scheme(
    'BIREAL',
    """Bi-Real Net: a shortcut around every binary convolution, no ReLU, ApproxSign (arXiv:1808.00278).

The gradient of the weights is g 1(|W| <= 1). It is that of the published code;
`presets.BIREAL_SCALED_GRADIENT` multiplies it by alpha, as the paper does.
""",
    Scheme(
        weight=quantizers.scaled_sign_plain_ste,
        scale=quantizers.alpha,
        activation=quantizers.sign_approx,
        projection=clip,
        chain=orders.product_norm_pool,
        head=orders.pool_product,
        residual=orders.residuals_sign_after,
        downsample=orders.average_product_norm,
        first=real_unrectified,
        last=real,
        shortcut=real,
        eps=1e-5,
    ),
)
