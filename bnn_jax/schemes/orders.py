"""Orders of layers, as data: in which order a block's product stands with its neighbors.

An order is a tuple of names, `('norm', 'product', 'pool')`, or a function of `Parts`. The names:

- `product`: the convolution or dense layer; `unstrided_product`: the same with stride 1.
- `norm`: batch normalization, of the input's channels before the product, of the filters after it.
- `feature_norm`: normalization of every feature of a dense layer's flattened input.
- `relu`: the architecture's activation. `hard_tanh`: min(max(x, -1), 1). `pool`: its pooling.
- `average`: the mean over stride x stride pixels. `subsample`: every stride-th pixel. `pad_channels`: zeros on both sides of
  the channels, up to the block's (option A of arXiv:1512.03385).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol


class Parts(Protocol):
    """Building blocks for an order; each call returns new layers, as a list."""

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

    # The same parts with a product of stride 1.
    def unstrided(self) -> 'Parts': ...

    # body with a shortcut round it, from the input of these parts to the shape that they give.
    def around(self, body: list) -> list: ...


Order = tuple[str, ...] | Callable[[Parts], list]
ResidualOrder = Callable[[Parts, Parts], list]

NAMES = ('product', 'unstrided_product', 'norm', 'feature_norm', 'relu', 'hard_tanh', 'pool')
NAMES += ('average', 'subsample', 'pad_channels')


def check_order(order: Order) -> None:
    """Raises ValueError for an order that is no tuple of known names."""
    if callable(order):
        return
    if not isinstance(order, tuple) or any(name not in NAMES for name in order):
        raise ValueError(f'order: got {order!r}, expected a tuple of {", ".join(NAMES)}, or a function of Parts')


def arrange(order: Order, parts: Parts) -> list:
    """The layers of one product and its neighbors in this order."""
    if callable(order):
        return order(parts)
    layers, multiplied = [], False
    for name in order:
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
    """A residual block with one shortcut round two products, and what follows the addition."""

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
    """A residual block with a shortcut round each of two products, and what follows each addition."""

    body: Order
    after: Order = ()

    def __post_init__(self):
        for order in (self.body, self.after):
            check_order(order)

    def __call__(self, first: Parts, second: Parts) -> list:
        halves = ([*parts.around(arrange(self.body, parts)), *arrange(self.after, parts)] for parts in (first, second))
        return [layer for half in halves for layer in half]


# Blocks. Float networks, BinaryConnect, BWN.
product_norm_relu_pool = ('product', 'norm', 'relu', 'pool')
# BinaryNet: the sign that ends it is taken by the next product.
product_pool_norm = ('product', 'pool', 'norm')
# BinaryConnect's own code pools before it normalizes.
product_pool_norm_relu = ('product', 'pool', 'norm', 'relu')
# XNOR-Net (its Fig. 3): normalization right before the sign, which the product takes.
norm_product_pool = ('norm', 'product', 'pool')
# The same with the optional ReLU after the product (p. 9; the PyTorch implementation).
norm_product_relu_pool = ('norm', 'product', 'relu', 'pool')
# The same, a dense layer's input normalized feature by feature (AlexNet in PyTorch).
feature_norm_product_relu_pool = ('feature_norm', 'product', 'relu', 'pool')
# Bi-Real Net: nothing rectified; the next product takes the sign.
product_norm_pool = ('product', 'norm', 'pool')
# IR-Net, ReCU: as BinaryNet, and values cut off at -1 and 1.
product_pool_norm_hard_tanh = ('product', 'pool', 'norm', 'hard_tanh')

# Heads. Float networks, BinaryConnect, BWN: their features are rectified already.
pool_product = ('pool', 'product')
# XNOR-Net: the last product is real, so its input is normalized and rectified.
norm_relu_pool_product = ('norm', 'relu', 'pool', 'product')
# Where blocks end with a ReLU, the input of the last, real product is normalized only (XNOR-Net in PyTorch).
norm_pool_product = ('norm', 'pool', 'product')
# IR-Net and ReCU on ResNets: the means over the image are normalized.
pool_norm_product = ('pool', 'norm', 'product')
# BinaryNet: a binary product whose integers are normalized to make logits.
pool_product_norm = ('pool', 'product', 'norm')

# Residual blocks. Classic ResNet (arXiv:1512.03385).
residual_norm_after = OneShortcut(('product', 'norm', 'relu'), ('product', 'norm'), after=('relu',))
# BinaryNet's order: nothing after the addition.
residual_sign_after = OneShortcut(('product', 'norm'), ('product', 'norm'))
# XNOR-Net's order: norm, (sign) product, twice.
residual_norm_before = OneShortcut(('norm', 'product'), ('norm', 'product'))
# A shortcut round every product: in the classic order, in Bi-Real Net's (arXiv:1808.00278), in XNOR-Net's.
residuals_norm_after = ShortcutEach(('product', 'norm'), after=('relu',))
residuals_sign_after = ShortcutEach(('product', 'norm'))
residuals_norm_before = ShortcutEach(('norm', 'product'))
# IR-Net and ReCU, values cut off after each addition: a shortcut round every product (ResNet-20), and round both (ResNet-18).
residuals_hard_tanh = ShortcutEach(('product', 'norm'), after=('hard_tanh',))
residual_hard_tanh = OneShortcut(('product', 'norm', 'hard_tanh'), ('product', 'norm'), after=('hard_tanh',))

# Shortcuts where the shape changes. Classic ResNet: a strided 1x1 product, norm.
product_norm = ('product', 'norm')
# For a binary one in XNOR-Net's order.
norm_product = ('norm', 'product')
# Bi-Real Net: the mean over stride x stride pixels, a 1x1 product, norm.
average_product_norm = ('average', 'unstrided_product', 'norm')
# No parameters: IR-Net's ResNet-20 (option A of arXiv:1512.03385), ReCU's ResNets.
subsample_pad = ('subsample', 'pad_channels')
average_pad = ('average', 'pad_channels')
