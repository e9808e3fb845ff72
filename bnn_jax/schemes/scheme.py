"""Schemes: what is binary, with which gradient, in which order of layers. A scheme is a value made of functions.

A variant is `dataclasses.replace(XNOR, weight=quantizers.scaled_sign_paper)`; nobody asks a scheme for its name.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax import quantizers
from bnn_jax.schemes.dropout import Drop, Place, of_vectors
from bnn_jax.schemes.initializers import he_normal, ones
from bnn_jax.schemes.projections import centre_and_clip, clip
from bnn_jax.schemes.trained import Scheduled, quantized


class Parts(Protocol):
    """What an order is given to arrange: each returns a list of layers, to be used once.

    relu: what the architecture has for it. average: the mean over stride x stride pixels. unstrided: the same parts with a
    product of stride 1. around: body with a shortcut round it, from the input of these parts to the shape they give.
    """

    def product(self) -> list: ...
    def norm_in(self) -> list: ...
    def feature_norm_in(self) -> list: ...
    def norm_out(self) -> list: ...
    def relu(self) -> list: ...
    def pool(self) -> list: ...
    def average(self) -> list: ...
    def unstrided(self) -> 'Parts': ...
    def around(self, body: list) -> list: ...


def product_norm_relu_pool(parts: Parts) -> list:
    """Order of float networks, BinaryConnect and BWN."""
    return [*parts.product(), *parts.norm_out(), *parts.relu(), *parts.pool()]


def product_pool_norm(parts: Parts) -> list:
    """Order of BinaryNet; the sign that ends it is taken by the next product."""
    return [*parts.product(), *parts.pool(), *parts.norm_out()]


def product_pool_norm_relu(parts: Parts) -> list:
    """Order of BinaryConnect's own code: pooled before it is normalised."""
    return [*parts.product(), *parts.pool(), *parts.norm_out(), *parts.relu()]


def norm_product_pool(parts: Parts) -> list:
    """Order of XNOR-Net (its Fig. 3): normalisation right before the sign, which the product takes."""
    return [*parts.norm_in(), *parts.product(), *parts.pool()]


def norm_product_relu_pool(parts: Parts) -> list:
    """XNOR-Net's order with the optional ReLU after the product (p. 9; in the PyTorch implementation)."""
    return [*parts.norm_in(), *parts.product(), *parts.relu(), *parts.pool()]


def feature_norm_product_relu_pool(parts: Parts) -> list:
    """The same, a dense layer's input normalised feature by feature after it is flattened (AlexNet in PyTorch)."""
    return [*parts.feature_norm_in(), *parts.product(), *parts.relu(), *parts.pool()]


def product_norm_pool(parts: Parts) -> list:
    """Order of Bi-Real Net: nothing rectified; the next product takes the sign."""
    return [*parts.product(), *parts.norm_out(), *parts.pool()]


def pool_product(parts: Parts) -> list:
    """Head of float networks, BinaryConnect and BWN: their features are rectified already."""
    return [*parts.pool(), *parts.product()]


def norm_relu_pool_product(parts: Parts) -> list:
    """Head of XNOR-Net: the last product is real, so its input is normalised and rectified."""
    return [*parts.norm_in(), *parts.relu(), *parts.pool(), *parts.product()]


def norm_pool_product(parts: Parts) -> list:
    """Head where blocks end with a ReLU: the last product is real, its input normalised only (PyTorch's XNOR-Net)."""
    return [*parts.norm_in(), *parts.pool(), *parts.product()]


def pool_product_norm(parts: Parts) -> list:
    """Head of BinaryNet: a binary product whose integers are normalised to make logits."""
    return [*parts.pool(), *parts.product(), *parts.norm_out()]


def residual_norm_after(first: Parts, second: Parts) -> list:
    """Classic ResNet: one shortcut round product, norm, ReLU, product, norm; then ReLU. Source: arXiv:1512.03385."""
    body = [*first.product(), *first.norm_out(), *first.relu(), *second.product(), *second.norm_out()]
    return [*first.around(body), *second.relu()]


def residual_sign_after(first: Parts, second: Parts) -> list:
    """BinaryNet's order: one shortcut round product, norm, (sign) product, norm; nothing after."""
    return first.around([*first.product(), *first.norm_out(), *second.product(), *second.norm_out()])


def residual_norm_before(first: Parts, second: Parts) -> list:
    """XNOR-Net's order: one shortcut round norm, (sign) product, twice; nothing after."""
    return first.around([*first.norm_in(), *first.product(), *second.norm_in(), *second.product()])


def residuals_norm_after(first: Parts, second: Parts) -> list:
    """A shortcut round every product: product, norm, addition, ReLU, twice."""
    halves = ([*part.around([*part.product(), *part.norm_out()]), *part.relu()] for part in (first, second))
    return [layer for half in halves for layer in half]


def residuals_sign_after(first: Parts, second: Parts) -> list:
    """A shortcut round every product, Bi-Real Net's: (sign) product, norm, addition, twice (arXiv:1808.00278)."""
    halves = (part.around([*part.product(), *part.norm_out()]) for part in (first, second))
    return [layer for half in halves for layer in half]


def residuals_norm_before(first: Parts, second: Parts) -> list:
    """A shortcut round every product, in XNOR-Net's order: norm, (sign) product, addition, twice."""
    halves = (part.around([*part.norm_in(), *part.product()]) for part in (first, second))
    return [layer for half in halves for layer in half]


def product_norm(parts: Parts) -> list:
    """Shortcut where the shape changes, classic ResNet: strided 1x1 product, norm."""
    return [*parts.product(), *parts.norm_out()]


def norm_product(parts: Parts) -> list:
    """Shortcut where the shape changes, for a binary one in XNOR-Net's order: norm, (sign) strided 1x1 product."""
    return [*parts.norm_in(), *parts.product()]


def average_product_norm(parts: Parts) -> list:
    """Shortcut where the shape changes, Bi-Real Net's: mean over stride x stride pixels, 1x1 product, norm."""
    return [*parts.average(), *parts.unstrided().product(), *parts.norm_out()]


def itself(scheme: 'Scheme') -> 'Scheme':
    """The same scheme."""
    return scheme


def real(scheme: 'Scheme') -> 'Scheme':
    """Real weights and input, with this scheme's initialisation, biases, dropout and normalisation."""
    kept = ('init', 'bias', 'dropout', 'drops')
    kept += ('eps', 'momentum', 'variance_factor', 'affine', 'gamma_init', 'gamma_before', 'norm_groups')
    return dataclasses.replace(FLOAT, **{name: getattr(scheme, name) for name in kept})


def real_unrectified(scheme: 'Scheme') -> 'Scheme':
    """`real`, in an order without ReLU: product, norm, pool."""
    return dataclasses.replace(real(scheme), chain=product_norm_pool)


def real_input(scheme: 'Scheme') -> 'Scheme':
    """The same scheme on a real input: the image of a network whose weights are all binary."""
    return dataclasses.replace(scheme, activation=None, input_scale=None)


def biased(n: int) -> float:
    """1: the running variance is the mean of the batches' own variances (flax, TensorFlow, Lasagne)."""
    return 1.0


def unbiased(n: int) -> float:
    """n / (n - 1), n values a channel: the running variance of Torch and PyTorch. Raises ValueError for n = 1."""
    if n < 2:
        raise ValueError(f'unbiased variance: got {n} value a channel, expected at least 2; use a larger batch')
    return n / (n - 1)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way to binarise a network.

    weight: latent weights -> quantized weights, with its gradient; None: real weights.
    scale: latent weights -> one scale a filter, so that weight(w) == scale(w) * sign(w); None: 1. The layers multiply
        by signs, exactly, and scale afterwards; the gradient is always that of `weight` (see `check_scale`).
    training_weight: (latent, key) -> quantized weights, takes the place of `weight` while training; scale is then None.
    activation: what a product does to its input, with its gradient; None: real input.
    input_scale: (x, product) -> K, which multiplies the product; None: no K.
    projection: latent -> latent, applied after every update; None: none.
    before: latent -> latent, applied before every forward pass and for good: what is quantized, updated and converted is
        before(latent); what the update leaves is not projected until the next pass reads it. None: none.
    sign: the sign by which the layers multiply; a parity mode has 0 at 0 here and in weight (convert then refuses a 0).
    pad_value: what lies outside a binarised image: 0, +1 or -1 (a real image is always padded with 0).
    chain, head, residual, downsample: the order of layers, see the functions above: of a block, of the end, of two
        convolutions with their shortcuts, of a shortcut where the shape changes.
    first, last, shortcut: this scheme -> that of the first layer, of the last layer, of shortcut convolutions.
    init: (key, shape, dtype) -> initial weights. bias: whether all products have one (a real last layer always has).
    dropout: the rate at which inputs of products are dropped while training, after they were binarised; what stays is
        divided by 1 - rate. drops: which inputs, and what together, see `bnn_jax.schemes.dropout`.
    eps, momentum: batch normalisation's; running <- momentum running + (1 - momentum) batch.
    variance_factor: number of values a channel -> what the batch's (biased) variance is multiplied with before it enters
        the running one. affine: whether gamma and beta are trained; else they stay 1 and 0.
    gamma_init: (key, shape, dtype) -> initial gamma, where it is trained. gamma_before: as before, for gamma.
    norm_groups: into how many parts of its own statistics a batch falls while training, each of successive images. 1: the
        batch is normalised as a whole, on however many devices it lies. The number of devices: each by itself, as the
        papers' codes did on several; the result does not depend on where the parts lie.
    """

    weight: Callable | None
    scale: Callable | None
    activation: Callable | None
    chain: Callable[[Parts], list]
    head: Callable[[Parts], list]
    residual: Callable[[Parts, Parts], list]
    downsample: Callable[[Parts], list] = product_norm
    projection: Callable | None = None
    before: Callable | None = None
    sign: Callable = quantizers.sign
    input_scale: Callable | None = None
    training_weight: Callable | None = None
    offset: Callable | None = None
    pad_value: int = 0
    first: 'Callable[[Scheme], Scheme]' = itself
    last: 'Callable[[Scheme], Scheme]' = itself
    shortcut: 'Callable[[Scheme], Scheme]' = itself
    init: Callable = he_normal
    bias: bool = False
    dropout: float = 0.0
    drops: Callable[[Place], Drop | None] = of_vectors
    eps: float = 1e-4
    momentum: float = 0.9
    variance_factor: Callable[[int], float] = biased
    affine: bool = True
    gamma_init: Callable = ones
    gamma_before: Callable | None = None
    norm_groups: int = 1

    def __post_init__(self):
        if self.norm_groups < 1:
            raise ValueError(f'norm_groups: got {self.norm_groups!r}, expected at least 1')
        if self.pad_value not in (0, 1, -1):
            raise ValueError(f'pad_value: got {self.pad_value!r}, expected 0, +1 or -1')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout: got {self.dropout!r}, expected a rate from 0 to below 1')
        if self.weight is None and (
            self.scale or self.offset or self.projection or self.before or self.training_weight
        ):
            raise ValueError(
                'scheme: got a scale, offset, projection, before or training_weight without weight; real weights have none'
            )
        if self.scale is not None and self.training_weight is not None:
            raise ValueError('scheme: got both scale and training_weight; weights drawn at random have no scale')
        if self.input_scale is not None and self.activation is None:
            raise ValueError('scheme: got input_scale without activation; only a binarised input is scaled by K')

    @property
    def is_scheduled(self) -> bool:
        """Whether a quantizer sees the progress of training."""
        quantizers_here = (self.weight, self.scale, self.offset, self.activation)
        return any(isinstance(quantizer, Scheduled) for quantizer in quantizers_here)


@cache
def check_scale(scheme: Scheme) -> None:
    """Raises ValueError unless weight(w) == scale(w) * sign(w), the invariant the layers rely on (tried on one w)."""
    if scheme.weight is None:
        return
    with jax.ensure_compile_time_eval():
        w = np.linspace(-1.5, 1.25, 24, dtype=np.float32)
        w[5] = 0
        w = jnp.asarray(w.reshape(2, 3, 2, 2))
        scale = np.float32(1) if scheme.scale is None else np.asarray(quantized(scheme.scale, w, 0.5))
        weights = scale * np.asarray(scheme.sign(w))
        if scheme.offset is not None:
            weights = weights + np.asarray(quantized(scheme.offset, w, 0.5))
        matches = np.array_equal(np.asarray(quantized(scheme.weight, w, 0.5)), weights)
    if not matches:
        raise ValueError(
            'scheme: weight(w) is not scale(w) * sign(w) (+ offset(w)), expected equality; '
            'give the scale that belongs to this quantizer (alpha, layer_alpha, or None for plain signs)'
        )


def constant_k(x: jax.Array, product) -> jax.Array:
    """XNOR-Net's K of the tensor being binarised, without a gradient (as in its Caffe code; the paper says nothing)."""
    return product.input_scale(jax.lax.stop_gradient(x))


def flowing_k(x: jax.Array, product) -> jax.Array:
    """XNOR-Net's K with its gradient, which flows through |x| (as in its Theano code)."""
    return product.input_scale(x)


FLOAT = Scheme(
    weight=None,
    scale=None,
    activation=None,
    chain=product_norm_relu_pool,
    head=pool_product,
    residual=residual_norm_after,
)
"""Real weights and activations: the baseline."""

BC = dataclasses.replace(FLOAT, weight=quantizers.sign_ste, projection=clip, first=real, last=real, shortcut=real)
"""BinaryConnect, deterministic: weights sign(W), real activations (arXiv:1511.00363)."""

BC_STOCHASTIC = dataclasses.replace(BC, training_weight=quantizers.stochastic_sign_ste)
"""BinaryConnect, stochastic: signs drawn anew in every training step, sign(W) in evaluation."""

BWN = dataclasses.replace(BC, weight=quantizers.scaled_sign_ste, scale=quantizers.alpha)
"""Binary-Weight-Network: weights alpha sign(W), real activations (XNOR-Net section 3.1)."""

BNN = Scheme(
    weight=quantizers.sign_ste,
    scale=None,
    activation=quantizers.sign_ste,
    projection=clip,
    chain=product_pool_norm,
    head=pool_product_norm,
    residual=residual_sign_after,
    first=real_input,
)
"""BinaryNet: all weights and activations +-1; only the image and the logits are real (arXiv:1602.02830)."""

XNOR = Scheme(
    weight=quantizers.scaled_sign_ste,
    scale=quantizers.alpha,
    activation=quantizers.sign_ste,
    projection=centre_and_clip,
    chain=norm_product_pool,
    head=norm_relu_pool_product,
    residual=residual_norm_before,
    first=real,
    last=real,
    shortcut=real,
)
"""XNOR-Net: weights alpha sign(W), activations sign(x), no K, no ReLU, pad 0; first, last and shortcut layers real."""

XNOR_K = dataclasses.replace(XNOR, input_scale=constant_k)
"""XNOR-Net with its input scale K (eq. 11), no gradient through K."""


def one_bit_activation(x: jax.Array) -> jax.Array:
    """DoReFa's activation of one bit, 0 or 1: `quantizers.dorefa_activations(x, 1)`."""
    return quantizers.dorefa_activations(x, 1)


def one_bit_weight(w: jax.Array) -> jax.Array:
    """DoReFa's weights of one bit: `quantizers.dorefa_weights(w, 1)`, one scale a layer, identity gradient."""
    return quantizers.dorefa_weights(w, 1)


DOREFA = dataclasses.replace(
    XNOR,
    weight=one_bit_weight,
    scale=quantizers.layer_alpha,
    activation=one_bit_activation,
    projection=None,
)
"""DoReFa-Net with 1-bit weights and 1-bit activations {0, 1}, in XNOR-Net's order (arXiv:1606.06160).

It trains; `convert` refuses it, for {0, 1} is not +-1. Its gradients are not quantized.
"""

BIREAL = Scheme(
    weight=quantizers.scaled_sign_plain_ste,
    scale=quantizers.alpha,
    activation=quantizers.sign_approx,
    projection=clip,
    chain=product_norm_pool,
    head=pool_product,
    residual=residuals_sign_after,
    downsample=average_product_norm,
    first=real_unrectified,
    last=real,
    shortcut=real,
    eps=1e-5,
)
"""Bi-Real Net: a shortcut round every convolution, no ReLU, ApproxSign, gradient g 1(|W| <= 1) (arXiv:1808.00278).

The gradient is that of its published code; `presets.BIREAL_SCALED_GRADIENT` multiplies it by alpha.
"""
