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
from bnn_jax.schemes.dropout import Drop, ProductInput, of_vectors
from bnn_jax.schemes.initializers import he_normal, ones
from bnn_jax.schemes.orders import Order, ResidualOrder, check_order
from bnn_jax.schemes.trained import Scheduled, Trained, quantized

Quantizer = Callable[[jax.Array], jax.Array] | Scheduled


def itself(scheme: 'Scheme') -> 'Scheme':
    """The same scheme."""
    return scheme


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
    # A function, `Scheduled` or `Trained`.
    weight: Quantizer | Trained | None
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
    # Latent weights -> what their sign is taken of, of the same shape: weight(w) == scale(w) * sign(balance(w)), and these
    # signs are converted. None: the latent weights themselves.
    balance: Callable[[jax.Array], jax.Array] | None = None
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
    drops: Callable[[ProductInput], Drop | None] = of_vectors
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
        for order in (self.chain, self.head):
            if not callable(order) and not any(name.endswith('product') for name in order):
                raise ValueError(f'order: got {order!r}, expected one with a product')
        if not callable(self.residual):
            raise ValueError(
                f'residual: got {self.residual!r}, expected OneShortcut(...), ShortcutEach(...) or a function'
            )
        for field in ('weight', 'activation'):
            quantizer = getattr(self, field)
            if isinstance(quantizer, type):
                name = quantizer.__name__
                raise ValueError(
                    f'{field}: got the class {name}, expected Trained({name}), which makes one for each layer'
                )
        if isinstance(self.weight, Trained) and (self.scale or self.offset or self.training_weight or self.balance):
            raise ValueError(
                'scheme: got a scale, offset, balance or training_weight beside weight=Trained(...), expected None for all '
                'four; scale, offset and sign are those of the trained quantizer'
            )
        if isinstance(self.activation, Trained) and self.activation.schedule is not None:
            raise ValueError(
                'activation: got Trained(...) with a schedule, expected none; only trained weights have one'
            )
        for field in ('scale', 'offset'):
            if isinstance(getattr(self, field), Trained):
                raise ValueError(
                    f'{field}: got Trained(...), expected weight=Trained(...), whose method {field} gives the trained numbers'
                )
        if self.training_weight is not None and self.offset is not None:
            raise ValueError('scheme: got both training_weight and offset; weights drawn at random have no offset')
        if self.norm_groups < 1:
            raise ValueError(f'norm_groups: got {self.norm_groups!r}, expected at least 1')
        if self.pad_value not in (0, 1, -1):
            raise ValueError(f'pad_value: got {self.pad_value!r}, expected 0, +1 or -1')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout: got {self.dropout!r}, expected a rate from 0 to below 1')
        if self.weight is None and (
            self.scale or self.offset or self.projection or self.before or self.training_weight or self.balance
        ):
            raise ValueError(
                'scheme: got a scale, offset, projection, before, balance or training_weight without weight; '
                'real weights have none'
            )
        if self.scale is not None and self.training_weight is not None:
            raise ValueError('scheme: got both scale and training_weight; weights drawn at random have no scale')
        if self.input_scale is not None and self.activation is None:
            raise ValueError('scheme: got input_scale without activation; only a binarized input is scaled by K')

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
        return any(
            isinstance(quantizer, Scheduled) or (isinstance(quantizer, Trained) and quantizer.schedule is not None)
            for quantizer in quantizers_here
        )

    def signs(self, w: jax.Array) -> jax.Array:
        """The signs of latent weights, as a layer multiplies by them and as conversion packs them."""
        return self.sign(w if self.balance is None else self.balance(w))

    def scales(self, w: jax.Array, progress: Any = None) -> jax.Array | None:
        """The scale of every filter that latent weights have, (out,); None: 1."""
        return None if self.scale is None else quantized(self.scale, w, progress)


_NAMED: dict[str, Scheme] = {}


def named_scheme(name: str, text: str, scheme: Scheme) -> Scheme:
    """The scheme, with its name for `repr` and its text for `help`."""
    object.__setattr__(scheme, '__doc__', text)
    _NAMED[name] = scheme
    return scheme


def _shown(value: Any) -> str:
    return getattr(value, '__name__', None) or repr(value)


@cache
def check_scale(scheme: Scheme) -> None:
    """Raises ValueError unless weight(w) == scale(w) * sign(w), the invariant the layers rely on (tried on one w)."""
    if scheme.weight is None or isinstance(scheme.weight, Trained):
        return  # What a trained quantizer says of itself is compared by `convert`.
    with jax.ensure_compile_time_eval():
        w = np.linspace(-1.5, 1.25, 24, dtype=np.float32)
        w[5] = 0
        w = jnp.asarray(w.reshape(2, 3, 2, 2))
        scale = scheme.scales(w, 0.5)
        weights = np.asarray(1 if scale is None else scale, np.float32) * np.asarray(scheme.signs(w))
        if scheme.offset is not None:
            weights = weights + np.asarray(quantized(scheme.offset, w, 0.5))
        matches = np.array_equal(np.asarray(quantized(scheme.weight, w, 0.5)), weights)
    if not matches:
        raise ValueError(
            'scheme: weight(w) is not scale(w) * sign(w) (+ offset(w)), expected equality; '
            'give the scale that belongs to this quantizer (alpha, layer_alpha, or None for plain signs), and as balance what '
            'it takes the sign of, if not of w itself'
        )


def _has_levels(weights: np.ndarray) -> bool:
    """Whether some filter has more than two values: no sign times a number, whatever the number."""
    return any(len(np.unique(filters)) > 2 for filters in weights.reshape(-1, weights.shape[-1]).T)


@cache
def multiplies_by_signs(scheme: Scheme) -> bool:
    """Whether weights are signs times numbers, which layers multiply apart; else (several bits) as they are quantized.

    A scheme that gives a scale or an offset says that they are.
    """
    if scheme.weight is None:
        return False
    if isinstance(scheme.weight, Trained) or scheme.scale is not None or scheme.offset is not None:
        return True
    with jax.ensure_compile_time_eval():
        w = jnp.asarray(np.linspace(-1.5, 1.25, 24, dtype=np.float32).reshape(2, 3, 2, 2))
        found, signs = np.asarray(quantized(scheme.weight, w, 0.5)), np.asarray(scheme.signs(w))
    return np.array_equal(found, signs) or not _has_levels(found)
