"""Schemes whose weights are balanced and standardized before their signs are taken: IR-Net's and ReCU's."""

import dataclasses

from bnn_jax import quantizers
from bnn_jax.schemes import orders
from bnn_jax.schemes.scheme import Scheme, named_scheme, unbiased
from bnn_jax.schemes.standard import real
from bnn_jax.schemes.trained import Exponential, Geometric, Scheduled


def real_hard_tanh(scheme: Scheme) -> Scheme:
    """`real`, in IR-Net's order: product, pool, norm, hard tanh."""
    return dataclasses.replace(real(scheme), chain=orders.product_pool_norm_hard_tanh)


_IR_NET_T, _RECU_TAU = Geometric(0.1, 10.0), Exponential(0.85, 0.99)

IRNET = named_scheme(
    'IRNET',
    """IR-Net: weights of balanced signs times a power of two, gradients that sharpen over training (arXiv:1909.10788).

Weights 2^round(log2(mean abs u)) sign(W - mean), u standardized W. The error decay estimator for weights and activations, its
t from 0.1 to 10 as in the paper and in the code for VGG-small (that for ResNet-20 begins at 0.001), step by step, where the
code changes t once an epoch and stops one epoch short of 10. Hard tanh after every normalization; a shortcut round every
convolution, without parameters where the shape changes; the head's means normalized: `models.resnet20` is the code's
network. Latent weights are free. `training.init` needs the number of steps.
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
    """ReCU: balanced weights, whose largest are clamped so that they learn again (arXiv:2103.12369).

Weights mean abs clamp(u) times sign(W - mean), u standardized W, clamped at the quantiles tau and 1 - tau of Laplace's
distribution; tau from 0.85 to 0.99, step by step, where the code changes it once an epoch. Activations: ApproxSign of every
image divided by its deviation. Blocks as IRNET, the shortcuts averaged: `models.resnet20` is the code's network, but for the
trained scales of `presets.RECU_PYTORCH`. `training.init` needs the number of steps.
""",
    dataclasses.replace(
        IRNET,
        weight=Scheduled(quantizers.recu_scaled_sign, _RECU_TAU),
        scale=Scheduled(quantizers.recu_scale, _RECU_TAU),
        activation=quantizers.sign_approx_by_image,
        downsample=orders.average_pad,
    ),
)
