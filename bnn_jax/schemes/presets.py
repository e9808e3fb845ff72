"""Presets: schemes that follow papers and published implementations. `schemes` has the library's own defaults.

Each text names the source, and what differs from it. docs/faithfulness.md compares presets and sources topic by topic.
Presets of XNOR-Net's Lua and PyTorch code have sign(0) = 0, as Torch does; Darknet's has sign(0) = -1. These presets
train, but `convert` refuses them. To convert a trained network, build a model with `deployable(preset)` and give it the
same parameters.
"""

import dataclasses

from bnn_jax import quantizers
from bnn_jax.quantizers.gradient_factors import less_one_channel, times_1e9, times_alpha, times_n
from bnn_jax.quantizers.published import (
    scaled_sign_identity,
    scaled_sign_minus_identity,
    scaled_sign_zero_lua,
    scaled_sign_zero_ste,
    sign_minus,
    sign_minus_ste_exclusive,
    sign_ste_exclusive,
    sign_zero,
    sign_zero_ste_exclusive,
    unquantized,
)
from bnn_jax.schemes import orders
from bnn_jax.schemes.balanced import RECU
from bnn_jax.schemes.dropout import everywhere, of_dense_channels, of_pooled
from bnn_jax.schemes.initializers import unit_uniform
from bnn_jax.schemes.input_scales import constant_k, flowing_k
from bnn_jax.schemes.projections import AtLeast, center_and_clip, clip
from bnn_jax.schemes.real_layers import (
    RealInputDropped,
    RealWithEps,
    real_pool_norm,
    real_undropped,
    real_without_affine,
)
from bnn_jax.schemes.scheme import Scheme, itself, named_scheme, unbiased
from bnn_jax.schemes.standard import BC, BIREAL, BNN, BWN, XNOR, real
from bnn_jax.schemes.trained import Exponential, ReCUWeight, Trained

_at_least_a_hundredth = AtLeast(0.01)
_last_1e_3, _first_1e_5 = RealWithEps(1e-3), RealWithEps(1e-5)


def deployable(scheme: Scheme) -> Scheme:
    """The scheme with sign(0) = +1 for weights and activations, which `convert` accepts.

    It is for evaluation and conversion: build a new model with it, and give the model the trained parameters.

    Args:
        scheme: a scheme whose sign is `published.sign_zero` or `published.sign_minus`.

    Returns:
        The scheme with `quantizers.sign` and the gradients of `scaled_sign_ste` and `sign_ste_exclusive`.

    Raises:
        ValueError: the scheme has another sign.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.presets.deployable(bnn.presets.XNOR_LUA).sign is bnn.quantizers.sign
        True
    """
    if scheme.sign not in (sign_zero, sign_minus):
        raise ValueError(
            f'deployable: got a scheme with the sign {getattr(scheme.sign, "__name__", scheme.sign)}, expected '
            'sign_zero or sign_minus; a scheme with sign(0) = +1 needs no change'
        )
    activation = None if scheme.activation is None else sign_ste_exclusive
    return dataclasses.replace(scheme, weight=quantizers.scaled_sign_ste, sign=quantizers.sign, activation=activation)


_weight_pytorch = times_n(less_one_channel(scaled_sign_zero_ste))

XNOR_PYTORCH = named_scheme(
    'XNOR_PYTORCH',
    """XNOR-Net in PyTorch (jiecaoyu/XNOR-Net-PyTorch) for MNIST: lenet5 with this scheme is its LeNet-5.

Before every forward pass the latent weights are overwritten: centered over input channels, then clamped. Weights are
alpha sign(W) with sign(0) = 0; their gradient is that of `published.scaled_sign_zero_ste` times (1 - 1/C) n, for C input
channels and n weights of a filter. Activations have sign(0) = 0 and pass the gradient where |x| < 1. No K. Order: norm, sign,
product, ReLU, pool. Products have biases. Unbiased running variance, eps 1e-4, momentum 0.9 (PyTorch's 0.1), gamma at
least 0.01; the first normalization has no gamma and beta. The recipe adds L2 to the gradient:
chain(add_decayed_weights(1e-5), adam(...)).
Differs: a layer with one input channel is not centered, because all its weights would become 0; initial weights and biases.
""",
    dataclasses.replace(
        XNOR,
        weight=_weight_pytorch,
        sign=sign_zero,
        activation=sign_zero_ste_exclusive,
        projection=None,
        before=center_and_clip,
        chain=orders.norm_product_relu_pool,
        head=orders.pool_product,
        first=real_without_affine,
        bias=True,
        variance_factor=unbiased,
        gamma_before=_at_least_a_hundredth,
    ),
)

XNOR_PYTORCH_CIFAR = named_scheme(
    'XNOR_PYTORCH_CIFAR',
    """XNOR_PYTORCH for CIFAR-10 (NIN): a normalization without gamma and beta before the last, real convolution.

Dropout of 0.5, element by element, on the +-1 input of the convolution after each pooling.
""",
    dataclasses.replace(
        XNOR_PYTORCH, head=orders.norm_pool_product, last=real_without_affine, dropout=0.5, drops=of_pooled
    ),
)

XNOR_PYTORCH_IMAGENET = named_scheme(
    'XNOR_PYTORCH_IMAGENET',
    """XNOR_PYTORCH for ImageNet (AlexNet): gradients of binarized weights also times 10^9, so L2 does not affect them.

All gammas are trained without a bound. The first dense layer's input is normalized feature by feature. Dropout of 0.5 on the
second dense layer's +-1 input and before the last layer, whose normalization has eps 1e-3.
Differs: gamma of the normalizations of vectors starts from 1, as in PyTorch since 1.2; before 1.2 it started from U(0, 1).
""",
    dataclasses.replace(
        XNOR_PYTORCH,
        weight=times_1e9(_weight_pytorch),
        chain=orders.feature_norm_product_relu_pool,
        head=orders.norm_pool_product,
        first=real,
        last=_last_1e_3,
        dropout=0.5,
        gamma_before=None,
    ),
)

XNOR_LUA = named_scheme(
    'XNOR_LUA',
    """XNOR-Net in Lua (allenai/XNOR-Net), AlexNet: weight gradients g (alpha 1(|W| < 1) + 1/n) (1 - 1/C), no K.

Binary blocks have no ReLU. The code multiplies all gradients, not only those of binarized weights, by 10^9 before it adds L2;
here this belongs to the recipe: chain(scale(1e9), add_decayed_weights(5e-4), adam(...)). Normalization has eps 1e-5 in the
first layer, 1e-3 in the last and 1e-4 elsewhere; gamma starts from U(0, 1).
Differs: the code's mask zeroes whole filters (`published.scaled_sign_zero_lua`); its first dense layer is a 6x6 convolution
(C = 256 in 1 - 1/C and in centering); its Adam does not correct its first steps; it evaluates weights that are one update old.
""",
    dataclasses.replace(
        XNOR,
        weight=less_one_channel(scaled_sign_zero_lua),
        sign=sign_zero,
        activation=sign_zero_ste_exclusive,
        projection=None,
        before=center_and_clip,
        first=_first_1e_5,
        last=_last_1e_3,
        bias=True,
        variance_factor=unbiased,
        gamma_init=unit_uniform,
    ),
)

BWN_LUA = named_scheme(
    'BWN_LUA',
    """Binary-Weight-Network in Lua (allenai/XNOR-Net), AlexNet, trained with SGD.

The gradient of the weights is g (alpha 1(|W| < 1) + 1/n) (1 - 1/C) n. gamma starts from U(0, 1). Dropout of 0.1 (in the
README; 0.5 in the code) of whole channels of the first dense layer's image and of the second's vector; no dropout before the
last layer.
Differs: as XNOR_LUA, except for Adam. Dropout here divides by 1 - rate in training; the code's dropout multiplies by it in
evaluation. The normalization that follows removes this difference, up to its eps.
""",
    dataclasses.replace(
        BWN,
        weight=times_n(less_one_channel(scaled_sign_zero_lua)),
        sign=sign_zero,
        projection=None,
        before=center_and_clip,
        first=real_undropped,
        last=real_undropped,
        bias=True,
        dropout=0.1,
        drops=of_dense_channels,
        eps=1e-3,
        variance_factor=unbiased,
        gamma_init=unit_uniform,
    ),
)

XNOR_PAPER = named_scheme(
    'XNOR_PAPER',
    """XNOR-Net as printed (arXiv:1603.05279): gradient g (1/n + alpha 1(|W| <= 1)), K, no centering, no clamping.

Only the last layer has a bias. The paper does not say whether K has a gradient (here: none). It gives no constants of batch
normalization and no ResNet block.
""",
    dataclasses.replace(XNOR, weight=quantizers.scaled_sign_paper, projection=None, input_scale=constant_k),
)

XNOR_PAPER_ALGORITHM_1 = named_scheme(
    'XNOR_PAPER_ALGORITHM_1',
    """XNOR_PAPER with the gradient of the paper's Algorithm 1, plain g, which contradicts the paper's text.""",
    dataclasses.replace(XNOR_PAPER, weight=scaled_sign_identity),
)

BWN_PAPER = named_scheme(
    'BWN_PAPER',
    """Binary-Weight-Network as printed: gradient g (1/n + alpha 1(|W| <= 1)), no clamping, a bias in the last layer alone.""",
    dataclasses.replace(BWN, weight=quantizers.scaled_sign_paper, projection=None),
)

XNOR_CAFFE = named_scheme(
    'XNOR_CAFFE',
    """XNOR-Net in Caffe (HongxingGao/XNOR-Net), CIFAR-10: gradient g, K without a gradient, ReLU, no gamma and beta, SGD.

Differs: the code's K averages signed activations (the absolute value is missing) and multiplies the bias too; its third
convolution is real; Caffe averages running statistics in another way; its test phase overwrites the latent weights.
""",
    dataclasses.replace(
        XNOR,
        weight=scaled_sign_identity,
        projection=None,
        input_scale=constant_k,
        chain=orders.norm_product_relu_pool,
        head=orders.pool_product,
        bias=True,
        eps=1e-5,
        affine=False,
    ),
)

XNOR_THEANO = named_scheme(
    'XNOR_THEANO',
    """XNOR-Net in Theano: gradient alpha g, clipping after the update, K with its gradient, biases.

Order: product, pool, norm. Updates are scaled as in BNN_THEANO.
Differs: the code scales the biases of dense layers by K and alpha too; it averages 1/deviation, not the variance; K has a
padding of its own; in evaluation alpha is that of the last batch.
""",
    dataclasses.replace(
        XNOR,
        weight=times_alpha(scaled_sign_identity),
        projection=clip,
        input_scale=flowing_k,
        chain=orders.product_pool_norm,
        head=orders.pool_product,
        residual=BNN.residual,
        first=real_pool_norm,
        bias=True,
    ),
)

BNN_THEANO = named_scheme(
    'BNN_THEANO',
    """BinaryNet in Theano (MatthieuCourbariaux/BinaryNet): as BNN, with biases.

The code scales the updates of binarized weights; here this belongs to their optimizer: chain(adam(...), `scale_by_glorot()`).
Differs: the code averages 1/deviation, not the variance.
""",
    dataclasses.replace(BNN, bias=True),
)

BNN_THEANO_MNIST = named_scheme(
    'BNN_THEANO_MNIST',
    """BNN_THEANO for MNIST (mlp): dropout of 0.2 on the image, and of 0.5 on the +-1 input of all other layers.""",
    dataclasses.replace(BNN_THEANO, dropout=0.5, drops=everywhere, first=RealInputDropped(0.2)),
)

BC_THEANO = named_scheme(
    'BC_THEANO',
    """BinaryConnect in Theano (MatthieuCourbariaux/BinaryConnect), deterministic: all layers binary, with biases.

Pooling comes before normalization.
Differs: as BNN_THEANO; the code's normalization has momentum 0.85 for MNIST.
""",
    dataclasses.replace(
        BC, bias=True, chain=orders.product_pool_norm_relu, head=orders.pool_product_norm, first=itself, last=itself
    ),
)

BC_STOCHASTIC_THEANO = named_scheme(
    'BC_STOCHASTIC_THEANO',
    """BinaryConnect in Theano, stochastic: each training step draws the signs again; evaluation uses the real weights W.

`convert` refuses it, because bits cannot hold W. `summarize` counts its weights as 1 bit, as in training. To deploy, give the
trained parameters to a model of `dataclasses.replace(BC_STOCHASTIC_THEANO, weight=quantizers.sign_ste, sign=quantizers.sign)`,
which evaluates sign(W), and compare accuracies.
""",
    dataclasses.replace(
        BC_THEANO, weight=unquantized, sign=unquantized, training_weight=quantizers.stochastic_sign_ste
    ),
)

XNOR_DARKNET = named_scheme(
    'XNOR_DARKNET',
    """XNOR layers in Darknet (pjreddie/darknet), for `models.extraction`: gradient g, sign(0) = -1, no K, no projection.

Order: sign, product, norm, leaky ReLU, pool. The sign is that of the layer's raw input. With a plain ReLU the input has zeros,
whose sign is -1 here, and `deployable` would make every bit +1. Only the last layer has a bias; unbiased running variance.
In Darknet the configuration file says which layers are XNOR; here all but the first and the last are, as in the paper.
Differs: Darknet divides by sqrt(var) + 1e-6, this scheme by sqrt(var + 1e-6); Darknet normalizes by the unbiased variance too;
its weights start uniform; on GPU its activations have sign(0) = +1.
""",
    dataclasses.replace(
        XNOR,
        weight=scaled_sign_minus_identity,
        sign=sign_minus,
        activation=sign_minus_ste_exclusive,
        projection=None,
        chain=orders.product_norm_relu_pool,
        head=orders.pool_product,
        residual=BNN.residual,
        eps=1e-6,
        momentum=0.99,
        variance_factor=unbiased,
    ),
)

BIREAL_SCALED_GRADIENT = named_scheme(
    'BIREAL_SCALED_GRADIENT',
    """BIREAL with the gradient alpha g 1(|W| <= 1) of Bi-Real Net's paper, the derivative of alpha sign(W) for constant alpha.

With SGD the latent weights move too slowly to train well: on ResNet-20 at half width the loss is 0.17 higher after 1,500 steps.
""",
    dataclasses.replace(BIREAL, weight=quantizers.scaled_sign_ste_const_alpha),
)

RECU_PYTORCH = named_scheme(
    'RECU_PYTORCH',
    """ReCU in PyTorch (z-hXu/ReCU): RECU with a trained scale for each filter, which starts from U(0, 1).

If a normalization follows, the scale changes only the size of epsilon relative to the variance.
Differs: tau changes at each step, and reaches 0.99; sign(0) = +1, not 0.
""",
    dataclasses.replace(
        RECU,
        weight=Trained(ReCUWeight, Exponential(0.85, 0.99)),
        scale=None,
        balance=None,
    ),
)
