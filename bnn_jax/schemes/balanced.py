"""Schemes that balance and standardize weights before taking their signs: IR-Net's and ReCU's."""

import dataclasses

from bnn_jax import quantizers
from bnn_jax.schemes import orders
from bnn_jax.schemes.scheme import Scheme, named_scheme, unbiased
from bnn_jax.schemes.standard import real
from bnn_jax.schemes.trained import Exponential, Geometric, Scheduled


def real_hard_tanh(scheme: Scheme) -> Scheme:
    """`real` in IR-Net's order: product, pool, norm, hard tanh.

    Args:
        scheme: the scheme of the network.

    Returns:
        The scheme of the real layer.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.real_hard_tanh(bnn.IRNET).chain
        ('product', 'pool', 'norm', 'hard_tanh')
    """
    return dataclasses.replace(real(scheme), chain=orders.product_pool_norm_hard_tanh)


# The schedules of IR-Net's and ReCU's papers.
_IR_NET_T, _RECU_TAU = Geometric(0.1, 10.0), Exponential(0.85, 0.99)

IRNET = named_scheme(
    'IRNET',
    """IR-Net: balanced signs times a power of two, with a gradient that sharpens over training (arXiv:1909.10788).

Weights are 2^round(log2(mean abs u)) sign(W - mean), where u is the standardized W. The signs of weights and of activations
have the gradient of the error decay estimator. Its t goes from 0.1 to 10, as in the paper and in the code for VGG-small; the
code for ResNet-20 begins at 0.001. Here t changes at each step. The code changes it once an epoch, so its t is still below 10
in the last epoch. A hard tanh follows the normalization of each block; in residual blocks, it follows the addition of the
shortcut. Each convolution of a residual block has its own shortcut. Where the shape changes, the shortcut takes every second
pixel and pads the channels with zeros, so it has no parameters. The head normalizes the averaged channels, without a hard
tanh. `models.resnet20` is the code's network. Latent weights are not projected. `training.init` needs the number of steps.
""",
    Scheme(
        weight=Scheduled(quantizers.balanced_sign_ede, _IR_NET_T),
        scale=quantizers.power_of_two_scale,
        activation=Scheduled(quantizers.sign_ede, _IR_NET_T),
        balance=quantizers.balanced,
        chain=orders.product_pool_norm_hard_tanh,
        head=orders.pool_norm_product,
        residual=orders.residuals_hard_tanh,
        downsample=orders.subsample_pad,
        first=real_hard_tanh,
        last=real,
        shortcut=real,
        eps=1e-5,
        variance_factor=unbiased,
    ),
)

RECU = named_scheme(
    'RECU',
    """ReCU: balanced weights, the largest of which are clamped (arXiv:2103.12369).

The standardized W times 2 sqrt(2) is clamped at the quantiles tau and 1 - tau of a Laplace distribution around 0 whose mean
magnitude is that of the standardized W times 2 sqrt(2) over the whole layer. The scale of a filter is the mean magnitude of
its clamped numbers, and its weights are this scale times sign(W - mean). tau goes from 0.85 to 0.99 and changes at each step;
the code changes it once an epoch. Activations are signs with the gradient of ApproxSign, after each image is divided by its
standard deviation. Blocks are IRNET's, except that a shortcut averages 2x2 pixels where the shape changes. `models.resnet20`
is the code's network without its trained scales; `presets.RECU_PYTORCH` has them. `training.init` needs the number of steps.
""",
    dataclasses.replace(
        IRNET,
        weight=Scheduled(quantizers.recu_scaled_sign, _RECU_TAU),
        scale=Scheduled(quantizers.recu_scale, _RECU_TAU),
        activation=quantizers.sign_approx_by_image,
        downsample=orders.average_pad,
    ),
)
