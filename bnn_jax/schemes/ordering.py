"""What an order is, and how it arranges a product and its neighbors. `orders` has the orders themselves."""

import dataclasses
from collections.abc import Callable
from typing import Protocol


class Parts(Protocol):
    """The building blocks that an order arranges. Each call returns new layers, as a list."""

    def product(self) -> list: ...
    def norm_in(self) -> list: ...
    def feature_norm_in(self) -> list: ...
    def norm_out(self) -> list: ...
    def relu(self) -> list: ...
    def hard_tanh(self) -> list: ...
    def pool(self) -> list: ...
    def average(self) -> list: ...
    def subsample(self) -> list: ...
    def pad_channels(self) -> list: ...

    # The same parts, with stride 1 for the product.
    def unstrided(self) -> 'Parts': ...

    # The body with a shortcut around it, from the input shape of these parts to their output shape.
    def around(self, body: list) -> list: ...


Order = tuple[str, ...] | Callable[[Parts], list]
ResidualOrder = Callable[[Parts, Parts], list]

NAMES = ('product', 'unstrided_product', 'norm', 'feature_norm', 'relu', 'hard_tanh', 'pool')
NAMES += ('average', 'subsample', 'pad_channels')


def check_order(order: Order) -> None:
    """Raises ValueError if the order is neither a function nor a tuple of known names."""
    if callable(order):
        return
    if not isinstance(order, tuple) or any(name not in NAMES for name in order):
        raise ValueError(f'order: got {order!r}, expected a tuple of {", ".join(NAMES)}, or a function of Parts')


def arrange(order: Order, parts: Parts) -> list:
    """The layers of one product and its neighbors, in this order.

    Args:
        order: a tuple of names, which the module `schemes.orders` explains, or a function parts -> layers.
        parts: makes the layers. `nn.NetworkBuilder` makes a `Parts` for each product.

    Returns:
        New layers, first to last.

    Example:
        >>> import bnn_jax as bnn
        >>> class Names:
        ...     product = lambda self: ['product']
        ...     norm_in = lambda self: ['norm of the input']
        ...     norm_out = lambda self: ['norm of the output']
        ...     pool = lambda self: []
        >>> bnn.schemes.arrange(('norm', 'product', 'pool'), Names())
        ['norm of the input', 'product']
        >>> bnn.schemes.arrange(('product', 'norm'), Names())
        ['product', 'norm of the output']
    """
    if callable(order):
        return order(parts)
    layers, multiplied = [], False
    for name in order:
        # Before the product a normalization has the channels of the input, after it those of the output.
        if name == 'norm':
            layers += parts.norm_out() if multiplied else parts.norm_in()
        elif name == 'feature_norm':
            layers += parts.feature_norm_in()
        elif name == 'unstrided_product':
            layers += parts.unstrided().product()
        else:
            layers += getattr(parts, name)()
        multiplied |= name.endswith('product')
    return layers


@dataclasses.dataclass(frozen=True)
class OneShortcut:
    """The order of a residual block with one shortcut around two products. A value for `Scheme.residual`.

    Args:
        first: the order of the first product and its neighbors.
        second: the order of the second product and its neighbors.
        after: what follows the addition.

    Raises:
        ValueError: an order has an unknown name.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.OneShortcut(('product', 'norm', 'relu'), ('product', 'norm'), after=('relu',)).after
        ('relu',)
    """

    first: Order
    second: Order
    after: Order = ()

    def __post_init__(self):
        for order in (self.first, self.second, self.after):
            check_order(order)

    def __call__(self, first: Parts, second: Parts) -> list:
        body = [*arrange(self.first, first), *arrange(self.second, second)]
        return [*first.around(body), *arrange(self.after, second)]


@dataclasses.dataclass(frozen=True)
class ShortcutEach:
    """The order of a residual block with a shortcut around each of two products. A value for `Scheme.residual`.

    Args:
        body: the order of each product and its neighbors.
        after: what follows each addition.

    Raises:
        ValueError: an order has an unknown name.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.ShortcutEach(('product', 'norm')) == bnn.schemes.residuals_sign_after
        True
    """

    body: Order
    after: Order = ()

    def __post_init__(self):
        for order in (self.body, self.after):
            check_order(order)

    def __call__(self, first: Parts, second: Parts) -> list:
        halves = ([*parts.around(arrange(self.body, parts)), *arrange(self.after, parts)] for parts in (first, second))
        return [layer for half in halves for layer in half]
