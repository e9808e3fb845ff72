"""Orders as data: the sequence of a block's product and its neighbors.

An order is a tuple of names, `('norm', 'product', 'pool')`, or a function of `ordering.Parts`. The names:

- `product`: the convolution or dense layer. `unstrided_product`: the same with stride 1.
- `norm`: batch normalization. Before the product it normalizes the input channels, after it the output channels.
- `feature_norm`: normalization of each feature of a dense layer's flattened input.
- `relu`: the architecture's activation. `hard_tanh`: min(max(x, -1), 1). `pool`: the block's pooling.
- `average`: the mean over stride x stride pixels. `subsample`: every stride-th pixel. `pad_channels`: channels of
  zeros, added on both sides until there are as many channels as in the block's output (option A of arXiv:1512.03385).
"""

from bnn_jax.schemes.ordering import OneShortcut, ShortcutEach

# Orders of blocks. Float networks, BinaryConnect, BWN.
product_norm_relu_pool = ('product', 'norm', 'relu', 'pool')
# BinaryNet: the sign at the end of the block is taken by the next product.
product_pool_norm = ('product', 'pool', 'norm')
# BinaryConnect's published code pools before it normalizes.
product_pool_norm_relu = ('product', 'pool', 'norm', 'relu')
# XNOR-Net (Fig. 3 of its paper): normalization directly before the sign, which the product takes.
norm_product_pool = ('norm', 'product', 'pool')
# XNOR-Net with the optional ReLU after the product (p. 9 of its paper; the PyTorch implementation).
norm_product_relu_pool = ('norm', 'product', 'relu', 'pool')
# The same, with the input of a dense layer normalized feature by feature (AlexNet in PyTorch).
feature_norm_product_relu_pool = ('feature_norm', 'product', 'relu', 'pool')
# Bi-Real Net: no ReLU; the next product takes the sign.
product_norm_pool = ('product', 'norm', 'pool')
# IR-Net, ReCU: BinaryNet's order, with values clipped to [-1, 1] at the end.
product_pool_norm_hard_tanh = ('product', 'pool', 'norm', 'hard_tanh')

# Orders of heads. Float networks, BinaryConnect, BWN: the blocks before have rectified the features.
pool_product = ('pool', 'product')
# XNOR-Net: the last product is real, so its input is normalized and rectified.
norm_relu_pool_product = ('norm', 'relu', 'pool', 'product')
# If blocks end with a ReLU, the input of the last, real product is only normalized (XNOR-Net in PyTorch).
norm_pool_product = ('norm', 'pool', 'product')
# IR-Net and ReCU on ResNets: the means over the image are normalized.
pool_norm_product = ('pool', 'norm', 'product')
# BinaryNet: the last product is binary, and the normalization turns its integers into logits.
pool_product_norm = ('pool', 'product', 'norm')

# Orders of residual blocks. Classic ResNet (arXiv:1512.03385).
residual_norm_after = OneShortcut(('product', 'norm', 'relu'), ('product', 'norm'), after=('relu',))
# BinaryNet's order: nothing after the addition.
residual_sign_after = OneShortcut(('product', 'norm'), ('product', 'norm'))
# XNOR-Net's order: norm, (sign) product, twice.
residual_norm_before = OneShortcut(('norm', 'product'), ('norm', 'product'))
# A shortcut around each product: in the classic order, in Bi-Real Net's (arXiv:1808.00278), in XNOR-Net's.
residuals_norm_after = ShortcutEach(('product', 'norm'), after=('relu',))
residuals_sign_after = ShortcutEach(('product', 'norm'))
residuals_norm_before = ShortcutEach(('norm', 'product'))
# IR-Net and ReCU apply a hard tanh after each addition. In their ResNet-20 each product has its own shortcut. In their
# ResNet-18 one shortcut goes around both products.
residuals_hard_tanh = ShortcutEach(('product', 'norm'), after=('hard_tanh',))
residual_hard_tanh = OneShortcut(('product', 'norm', 'hard_tanh'), ('product', 'norm'), after=('hard_tanh',))

# Orders of shortcuts where the shape changes. Classic ResNet: a strided 1x1 product, norm.
product_norm = ('product', 'norm')
# The same for a binary product in XNOR-Net's order.
norm_product = ('norm', 'product')
# Bi-Real Net: the mean over stride x stride pixels, a 1x1 product, norm.
average_product_norm = ('average', 'unstrided_product', 'norm')
# IR-Net's ResNet-20: no parameters (option A of arXiv:1512.03385).
subsample_pad = ('subsample', 'pad_channels')
# ReCU's ResNets: no parameters either.
average_pad = ('average', 'pad_channels')
