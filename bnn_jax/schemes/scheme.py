"""Schemes: what is binary, with which gradient, in which order of layers. A scheme is a value made of functions.

A variant is `dataclasses.replace(XNOR, weight=quantizers.scaled_sign_paper)`; no code branches on a scheme's name.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax import quantizers
from bnn_jax.schemes import orders
from bnn_jax.schemes.dropout import Drop, Place, of_vectors
from bnn_jax.schemes.initializers import he_normal, ones
from bnn_jax.schemes.orders import Order, ResidualOrder, check_order
from bnn_jax.schemes.projections import centre_and_clip, clip
from bnn_jax.schemes.trained import Scheduled, Trained, quantized

Quantizer = Callable[[jax.Array], jax.Array] | Scheduled


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
    return dataclasses.replace(real(scheme), chain=orders.product_norm_pool)


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


@dataclasses.dataclass(frozen=True, repr=False)
class Scheme:
    """One way to binarize a network, as a value. A variant is `dataclasses.replace(XNOR, pad_value=-1)`.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> dataclasses.replace(bnn.XNOR, weight=bnn.quantizers.scaled_sign_paper)
        replace(XNOR, weight=scaled_sign_paper)
    """

    # Latent weights -> quantized weights, with their gradient; None: real weights.
    weight: Quantizer | None
    # Latent weights -> one scale for each filter, (out,), so that weight(w) == scale(w) * sign(w); None: 1. The layers
    # multiply by signs, exactly, and scale afterwards; the gradient is always that of `weight` (see `check_scale`).
    scale: Quantizer | None
    # What a product does to its input, with its gradient: a function, `Scheduled` or `Trained`; None: real input.
    activation: Quantizer | Trained | None
    # The order of layers in a block and at the end; of two convolutions with their shortcuts; of a shortcut where the shape
    # changes. See `orders`.
    chain: Order
    head: Order
    residual: ResidualOrder
    downsample: Order = orders.product_norm
    # Latent -> latent, applied after every update; None: none.
    projection: Callable[[jax.Array], jax.Array] | None = None
    # Latent -> latent, applied before every forward pass and for good: what is quantized, updated and converted is
    # before(latent); what the update leaves is not projected until the next pass reads it. None: none.
    before: Callable[[jax.Array], jax.Array] | None = None
    # The sign by which the layers multiply; a parity mode has 0 at 0 here and in `weight` (convert then refuses a 0).
    sign: Callable[[jax.Array], jax.Array] = quantizers.sign
    # (x, operation) -> K, which multiplies the product; None: no K.
    input_scale: Callable | None = None
    # (latent, key) -> quantized weights, in place of `weight` while training; scale is then None.
    training_weight: Callable | None = None
    # Latent weights -> one offset for each filter, (out,), so that weight(w) == scale(w) * sign(w) + offset(w); None: 0.
    offset: Quantizer | None = None
    # What lies outside a binarized image: 0, +1 or -1 (a real image is always padded with 0).
    pad_value: int = 0
    # This scheme -> that of the first layer, of the last layer, of shortcut convolutions.
    first: 'Callable[[Scheme], Scheme]' = itself
    last: 'Callable[[Scheme], Scheme]' = itself
    shortcut: 'Callable[[Scheme], Scheme]' = itself
    # (key, shape, dtype) -> initial weights. Whether all products have a bias (a real last layer always has one).
    init: Callable = he_normal
    bias: bool = False
    # The rate at which inputs of products are dropped while training, after they were binarized; what stays is divided by
    # 1 - rate. Which inputs, and what together: see `dropout`.
    dropout: float = 0.0
    drops: Callable[[Place], Drop | None] = of_vectors
    # Batch normalization's; running <- momentum running + (1 - momentum) batch.
    eps: float = 1e-4
    momentum: float = 0.9
    # Number of values a channel -> what the batch's (biased) variance is multiplied by before it enters the running one.
    variance_factor: Callable[[int], float] = biased
    # Whether gamma and beta are trained; else they stay 1 and 0. (key, shape, dtype) -> initial gamma. As `before`, for gamma.
    affine: bool = True
    gamma_init: Callable = ones
    gamma_before: Callable[[jax.Array], jax.Array] | None = None
    # Into how many parts with statistics of their own a batch falls while training, each of successive images. 1: the batch is
    # normalized as a whole, on however many devices it lies. The number of devices: each by itself, as the papers' codes
    # did on several; the result does not depend on where the parts lie.
    norm_groups: int = 1

    def __post_init__(self):
        for order in (self.chain, self.head, self.downsample):
            check_order(order)
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

    def __repr__(self) -> str:
        """The nearest scheme with a name, and what differs from it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changes = {
            name: {field: value for field, value in own.items() if value != getattr(base, field)}
            for name, base in _NAMED.items()
        }
        if not changes:
            return f'Scheme({", ".join(f"{field}={_shown(value)}" for field, value in own.items())})'
        nearest = min(changes, key=lambda name: len(changes[name]))
        changed = ', '.join(f'{field}={_shown(value)}' for field, value in changes[nearest].items())
        return f'replace({nearest}, {changed})' if changed else nearest

    @property
    def is_scheduled(self) -> bool:
        """Whether a quantizer sees the progress of training."""
        quantizers_here = (self.weight, self.scale, self.offset, self.activation)
        return any(isinstance(quantizer, Scheduled) for quantizer in quantizers_here)


_NAMED: dict[str, Scheme] = {}


def named(name: str, text: str, scheme: Scheme) -> Scheme:
    """The scheme, with its name for `repr` and its text for `help`."""
    object.__setattr__(scheme, '__doc__', text)
    _NAMED[name] = scheme
    return scheme


def _shown(value: Any) -> str:
    return getattr(value, '__name__', None) or repr(value)


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


FLOAT = named(
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

BC = named(
    'BC',
    """BinaryConnect, deterministic: weights sign(W), real activations (arXiv:1511.00363).""",
    dataclasses.replace(FLOAT, weight=quantizers.sign_ste, projection=clip, first=real, last=real, shortcut=real),
)

BC_STOCHASTIC = named(
    'BC_STOCHASTIC',
    """BinaryConnect, stochastic: signs drawn anew in every training step, sign(W) in evaluation.""",
    dataclasses.replace(BC, training_weight=quantizers.stochastic_sign_ste),
)

BWN = named(
    'BWN',
    """Binary-Weight-Network: weights alpha sign(W), real activations (XNOR-Net section 3.1).""",
    dataclasses.replace(BC, weight=quantizers.scaled_sign_ste, scale=quantizers.alpha),
)

BNN = named(
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

XNOR = named(
    'XNOR',
    """XNOR-Net: weights alpha sign(W), activations sign(x), no K, no ReLU, pad 0; first, last and shortcut layers real.""",
    Scheme(
        weight=quantizers.scaled_sign_ste,
        scale=quantizers.alpha,
        activation=quantizers.sign_ste,
        projection=centre_and_clip,
        chain=orders.norm_product_pool,
        head=orders.norm_relu_pool_product,
        residual=orders.residual_norm_before,
        first=real,
        last=real,
        shortcut=real,
    ),
)

XNOR_K = named(
    'XNOR_K',
    """XNOR-Net with its input scale K (eq. 11), no gradient through K.""",
    dataclasses.replace(XNOR, input_scale=constant_k),
)


def one_bit_activation(x: jax.Array) -> jax.Array:
    """DoReFa's activation of one bit, 0 or 1: `quantizers.dorefa_activations(x, 1)`."""
    return quantizers.dorefa_activations(x, 1)


def one_bit_weight(w: jax.Array) -> jax.Array:
    """DoReFa's weights of one bit: `quantizers.dorefa_weights(w, 1)`, one scale a layer, identity gradient."""
    return quantizers.dorefa_weights(w, 1)


DOREFA = named(
    'DOREFA',
    """DoReFa-Net with 1-bit weights and 1-bit activations {0, 1}, in XNOR-Net's order (arXiv:1606.06160).

It trains; `convert` refuses it, for {0, 1} is not +-1. Its gradients are not quantized.
""",
    dataclasses.replace(
        XNOR,
        weight=one_bit_weight,
        scale=quantizers.layer_alpha,
        activation=one_bit_activation,
        projection=None,
    ),
)

BIREAL = named(
    'BIREAL',
    """Bi-Real Net: a shortcut round every convolution, no ReLU, ApproxSign, gradient g 1(|W| <= 1) (arXiv:1808.00278).

The gradient is that of its published code; `presets.BIREAL_SCALED_GRADIENT` multiplies it by alpha.
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
