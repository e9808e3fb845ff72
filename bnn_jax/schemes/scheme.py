"""A scheme: what is binary, with which gradient, in which order of layers. It is a value made of functions.

A variant is `dataclasses.replace(XNOR, weight=quantizers.scaled_sign_paper)`; no code branches on a scheme's name.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax import quantizers
from bnn_jax.schemes import orders
from bnn_jax.schemes.dropout import Drop, ProductInput, of_vectors
from bnn_jax.schemes.initializers import he_normal, ones
from bnn_jax.schemes.ordering import Order, ResidualOrder, check_order
from bnn_jax.schemes.trained import Scheduled, Trained, quantized

Quantizer = Callable[[jax.Array], jax.Array] | Scheduled


def itself(scheme: 'Scheme') -> 'Scheme':
    """The same scheme: what `first`, `last` and `shortcut` of a `Scheme` are by default.

    Args:
        scheme: the scheme of the network.

    Returns:
        The scheme.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.itself(bnn.BNN) is bnn.BNN
        True
    """
    return scheme


def biased(n: int) -> float:
    """The variance factor of Flax and Lasagne: 1. A value for `Scheme.variance_factor`.

    Args:
        n: the number of values in a channel.

    Returns:
        1.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.biased(5)
        1.0
    """
    return 1.0


def unbiased(n: int) -> float:
    """The variance factor of Torch and PyTorch: n / (n - 1). A value for `Scheme.variance_factor`.

    Args:
        n: the number of values in a channel.

    Returns:
        The factor of the batch's (biased) variance in the update of the running variance.

    Raises:
        ValueError: n is below 2.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.unbiased(5)
        1.25
    """
    if n < 2:
        raise ValueError(f'unbiased variance: got {n} value per channel, expected at least 2; use a larger batch')
    return n / (n - 1)


@dataclasses.dataclass(frozen=True, repr=False)
class Scheme:
    """One way to binarize a network, as a value. A variant is `dataclasses.replace(XNOR, pad_value=-1)`.

    Args:
        weight: latent weights -> quantized weights, with their gradient: a function, `Scheduled` or `Trained`. None: real
            weights.
        scale: latent weights -> one scale for each filter, (out,), such that weight(w) == scale(w) * sign(w). The layers
            multiply by signs, exactly, and scale afterwards; the gradient is always that of `weight`. See `check_scale`.
            None: the scale is 1; or weight(w) has more than two values, and the layers multiply by weight(w) itself.
        activation: a product's input -> signs, with their gradient: a function, `Scheduled` or `Trained`. None: real input.
            It may give other numbers, but `convert` refuses them, except the two levels of a trained sign.
        chain: the order of layers in a block. See `orders`.
        head: the order of layers in the head.
        residual: the order of two convolutions and their shortcuts.
        downsample: the order of layers in a shortcut where the shape changes.
        projection: latent -> latent, applied after every update. None: no projection.
        before: latent -> latent, applied before every forward pass: before(latent) is what is quantized, updated and
            converted. The result of the update is not projected until the next pass reads it. None: no projection.
        sign: the sign by which the layers multiply. A scheme that reproduces a code with sign(0) = 0 has that sign here and in
            `weight`; `convert` then refuses the layer.
        balance: latent weights -> the numbers, of the same shape, whose signs are taken:
            weight(w) == scale(w) * sign(balance(w)). Conversion packs these signs. None: the latent weights themselves.
        input_scale: (x, operation) -> K, which multiplies the product. None: no K.
        training_weight: (latent, key) -> quantized weights, in place of `weight` in training; scale and offset are then
            None.
        offset: latent weights -> one offset for each filter, (out,), such that weight(w) == scale(w) * sign(w) + offset(w).
            None: 0.
        pad_value: the value outside a binarized image: 0, +1 or -1. A real image is always padded with 0.
        first: this scheme -> the scheme of the first layer.
        last: this scheme -> the scheme of the last layer.
        shortcut: this scheme -> the scheme of shortcut convolutions.
        init: (key, shape, dtype) -> initial weights.
        bias: whether all products have a bias. A real last layer always has one.
        dropout: the rate at which inputs of products are dropped in training, after they were binarized; the other inputs are
            divided by 1 - rate.
        drops: which inputs are dropped, and what is dropped together. See the module `schemes.dropout`.
        eps: the epsilon of batch normalization: what is added to the variance.
        momentum: the momentum of batch normalization: running <- momentum running + (1 - momentum) batch.
        variance_factor: the number of values in a channel -> the factor of the batch's (biased) variance in the update of the
            running variance.
        affine: whether gamma and beta are trained; else they stay 1 and 0.
        gamma_init: (key, shape, dtype) -> initial gamma.
        gamma_before: `before` for gamma.
        norm_groups: the number of parts into which a batch is divided in training, each of successive images and with
            statistics of its own. With 1 the batch is normalized as a whole, on any number of devices. If it equals the
            number of devices, each device's part is normalized by itself, as in the code of some papers. The result
            does not depend on where the parts lie.

    Raises:
        ValueError: two fields contradict each other, or a field has an impossible value.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> dataclasses.replace(bnn.XNOR, weight=bnn.quantizers.scaled_sign_paper)
        replace(XNOR, weight=scaled_sign_paper)
    """

    # What is binary.
    weight: Quantizer | Trained | None
    scale: Quantizer | None
    activation: Quantizer | Trained | None
    # Orders of layers.
    chain: Order
    head: Order
    residual: ResidualOrder
    downsample: Order = orders.product_norm
    # Projections of latent weights, and the details of quantization.
    projection: Callable[[jax.Array], jax.Array] | None = None
    before: Callable[[jax.Array], jax.Array] | None = None
    sign: Callable[[jax.Array], jax.Array] = quantizers.sign
    balance: Callable[[jax.Array], jax.Array] | None = None
    input_scale: Callable | None = None
    training_weight: Callable | None = None
    offset: Quantizer | None = None
    pad_value: int = 0
    # Layers that differ from the others.
    first: 'Callable[[Scheme], Scheme]' = itself
    last: 'Callable[[Scheme], Scheme]' = itself
    shortcut: 'Callable[[Scheme], Scheme]' = itself
    # Initial weights, biases, dropout.
    init: Callable = he_normal
    bias: bool = False
    dropout: float = 0.0
    drops: Callable[[ProductInput], Drop | None] = of_vectors
    # Batch normalization.
    eps: float = 1e-4
    momentum: float = 0.9
    variance_factor: Callable[[int], float] = biased
    affine: bool = True
    gamma_init: Callable = ones
    gamma_before: Callable[[jax.Array], jax.Array] | None = None
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
                'four; the trained quantizer gives scale, offset and sign'
            )
        if isinstance(self.activation, Trained) and self.activation.schedule is not None:
            raise ValueError(
                'activation: got Trained(...) with a schedule, expected no schedule; only trained weights may have one'
            )
        for field in ('scale', 'offset'):
            if isinstance(getattr(self, field), Trained):
                raise ValueError(
                    f'{field}: got Trained(...), expected weight=Trained(...), whose method {field} gives the trained numbers'
                )
        if self.training_weight is not None and self.offset is not None:
            raise ValueError(
                'scheme: got both training_weight and offset, expected one; weights drawn at random have no offset'
            )
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
                'scheme: got a scale, offset, projection, before, balance or training_weight without weight, expected None '
                'for all six; real weights have none of them'
            )
        if self.scale is not None and self.training_weight is not None:
            raise ValueError(
                'scheme: got both scale and training_weight, expected one; weights drawn at random have no scale'
            )
        if self.input_scale is not None and self.activation is None:
            raise ValueError(
                'scheme: got input_scale without activation, expected both; K scales only a binarized input'
            )

    def __repr__(self) -> str:
        """The named scheme with the fewest different fields, and these fields."""
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
        """Whether a quantizer depends on the progress of training."""
        quantizers_here = (self.weight, self.scale, self.offset, self.activation)
        return any(
            isinstance(quantizer, Scheduled) or (isinstance(quantizer, Trained) and quantizer.schedule is not None)
            for quantizer in quantizers_here
        )

    def signs(self, w: Float[Array, '*window channels out']) -> Float[Array, '*window channels out']:
        """The signs of latent weights: a layer multiplies by them, and conversion packs them."""
        return self.sign(w if self.balance is None else self.balance(w))

    def scales(self, w: Float[Array, '*window channels out'], progress: Any = None) -> Float[Array, ' out'] | None:
        """The scale of each filter of latent weights, at this progress of training; None: 1."""
        return None if self.scale is None else quantized(self.scale, w, progress)


# Name -> scheme, for `repr`.
_NAMED: dict[str, Scheme] = {}


def named_scheme(name: str, text: str, scheme: Scheme) -> Scheme:
    """The scheme, with a name for `repr` and a text for `help`.

    Args:
        name: the name of the scheme.
        text: its docstring.
        scheme: the scheme; its docstring is set in place.

    Returns:
        The scheme.
    """
    # A frozen dataclass refuses an assignment.
    object.__setattr__(scheme, '__doc__', text)
    _NAMED[name] = scheme
    return scheme


def _shown(value: Any) -> str:
    return getattr(value, '__name__', None) or repr(value)


@cache
def check_scale(scheme: Scheme) -> None:
    """Checks that weight(w) == scale(w) * sign(w) (+ offset(w)) for one w. Layers that multiply by signs rely on it.

    Args:
        scheme: the scheme that is checked.

    Raises:
        ValueError: the two sides differ.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> bnn.schemes.check_scale(dataclasses.replace(bnn.BC, weight=abs))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: scheme: weight(w) is not scale(w) * sign(w) ...
    """
    if scheme.weight is None or isinstance(scheme.weight, Trained):
        return  # `convert` compares a trained quantizer with its own scale and sign.
    # Outside of any trace: a layer may be made inside `nnx.eval_shape`.
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
            'give the scale of this quantizer (alpha, layer_alpha, or None for plain signs); if it takes the sign of other '
            'numbers than w, give the function that computes them from w as balance'
        )


def _has_levels(weights: np.ndarray) -> bool:
    """Whether a filter has more than two values, so that it cannot be a number times signs (plus an offset)."""
    return any(len(np.unique(filters)) > 2 for filters in weights.reshape(-1, weights.shape[-1]).T)


@cache
def multiplies_by_signs(scheme: Scheme) -> bool:
    """Whether a layer multiplies by signs and scales afterwards. Otherwise it multiplies by weight(w), or by real weights.

    Args:
        scheme: the scheme of the layer.
    """
    if scheme.weight is None:
        return False
    # A scheme with a scale or an offset claims that its weights are signs; `check_scale` compares.
    if isinstance(scheme.weight, Trained) or scheme.scale is not None or scheme.offset is not None:
        return True
    with jax.ensure_compile_time_eval():
        w = jnp.asarray(np.linspace(-1.5, 1.25, 24, dtype=np.float32).reshape(2, 3, 2, 2))
        found, signs = np.asarray(quantized(scheme.weight, w, 0.5)), np.asarray(scheme.signs(w))
    return np.array_equal(found, signs) or not _has_levels(found)
