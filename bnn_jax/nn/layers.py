"""Layers in training arithmetic: latent weights, quantized in every forward pass."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax import quantizers
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.ops.deterministic import norm_coefficients, normalize, ordered_mean, rounded
from bnn_jax.ops.normalization import batch_norm
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.dropout import Drop, elements
from bnn_jax.schemes.initializers import ones
from bnn_jax.schemes.projections import in_place
from bnn_jax.schemes.scheme import Scheme, check_scale


class Latent(nnx.Param):
    """Latent (real) weights of a binary layer. Carries the scheme's `projection`, applied after every update, and its
    `before`, applied before every forward pass."""


class Fixed(nnx.Variable):
    """Numbers that are not trained: gamma and beta of a normalisation without them."""


class Noise(nnx.Variable):
    """The random key of a layer that draws weights or drops inputs, as raw key data; moves on with every training step."""


@jax.jit
def scaled(product: jax.Array, scale: jax.Array | None) -> jax.Array:
    """A product times one scale a filter (last axis); None is 1. Training and packed arithmetic both scale here."""
    if scale is None:
        return product
    return rounded(product * jnp.broadcast_to(scale.astype(product.dtype), product.shape))


@jax.jit
def epilogue(y: jax.Array, k: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """What follows a scaled product, in this order: times K, plus bias. Both arithmetics call this."""
    if k is not None:
        y = rounded(y * jnp.broadcast_to(k.astype(y.dtype), y.shape))
    if bias is not None:
        y = rounded(rounded(y) + jnp.broadcast_to(bias.astype(y.dtype), y.shape))
    return y


@partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def binary_product(
    product: Convolution | Dense,
    x: jax.Array,
    weight: jax.Array,
    scale: jax.Array | None,
    sign: Callable = quantizers.sign,
) -> jax.Array:
    """product(x, weight) for a weight that is scale * signs, computed exactly: signs first, scale afterwards.

    Forward: scaled(product(x, sign(weight)), scale); for x = +-1 the inner product is an exact integer.
    Gradient: that of product(x, weight) to x and weight; none to scale, whose part is in weight's own gradient. That to
    x is that of product(x, sign(weight)) for scale * g, so that scale * signs is never made.
    """
    return scaled(product(x, sign(weight)), scale)


def _binary_product_fwd(product, x, weight, scale, sign):
    y, vjp = jax.vjp(product, x, sign(weight))
    return scaled(y, scale), (vjp, scale)


def _binary_product_bwd(product, sign, residuals, g):
    vjp, scale = residuals
    if scale is None:
        return *vjp(g), None
    to_x, _ = vjp(scaled(g, scale))
    return to_x, vjp(g)[1], jnp.zeros_like(scale)


binary_product.defvjp(_binary_product_fwd, _binary_product_bwd)


class Product(nnx.Module):
    """A convolution or dense layer under a scheme: real or binary weights, real or binary input, alpha, K, bias.

    product: `Convolution` or `Dense`; into, out: channels. kernel: `Latent` where the scheme has a weight quantizer,
    else nnx.Param, float32. In training mode a scheme's `training_weight` draws the weights, `drop` drops inputs at the
    rate `dropout` (after they are binarised), and both operands of the product are rounded to the dtype `operands`, where
    that is set (`training.init`); accumulation, and so the result, stays float32.
    __call__: (N, ..., into) -> (N, ..., out), float32 or wider. Raises ValueError for an input that does not fit.
    """

    def __init__(
        self,
        product: Convolution | Dense,
        into: int,
        out: int,
        *,
        scheme: Scheme,
        use_bias: bool,
        rngs: nnx.Rngs,
        dropout: float = 0.0,
        drop: Drop = elements,
    ):
        check_scale(scheme)
        if scheme.activation is not None and isinstance(product, Convolution):
            product = dataclasses.replace(product, pad_value=scheme.pad_value)
        self.product, self.into, self.out, self.scheme = product, into, out, scheme
        kernel = scheme.init(rngs.params(), product.kernel_shape(into, out), jnp.float32)
        binary = scheme.weight is not None
        if binary:
            self.kernel = Latent(kernel, projection=scheme.projection, before=scheme.before)
        else:
            self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((out,), jnp.float32)) if use_bias else None
        self.dropout, self.drop = dropout, drop
        random = scheme.training_weight is not None or dropout > 0
        self.noise = Noise(jax.random.key_data(_stream(rngs, 'noise')())) if random else None
        self.deterministic = False
        self.operands: DTypeLike | None = None

    def latent(self) -> jax.Array:
        """The kernel as it is read: after the scheme's `before`, where it has one."""
        before = self.scheme.before
        return self.kernel[...] if before is None else in_place(before, self.kernel[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        self.product.check(x, self.into)
        scheme, kernel = self.scheme, self.latent()
        k = None if scheme.input_scale is None else scheme.input_scale(x, self.product)
        if scheme.activation is not None:
            x = scheme.activation(x)
        if self.dropout > 0 and not self.deterministic:
            x = self.drop(x, self.dropout, self._key())
        if self.operands is not None and not self.deterministic:
            x = x.astype(self.operands)  # The product rounds its kernel to the dtype of x.
        if scheme.weight is None:
            y = rounded(self.product(x, kernel))
        else:
            scale = None if scheme.scale is None else scheme.scale(jax.lax.stop_gradient(kernel))
            y = binary_product(self.product, x, self._weight(scheme.weight, kernel), scale, scheme.sign)
        return epilogue(y, k, None if self.bias is None else self.bias[...])

    def _weight(self, quantizer: Callable, kernel: jax.Array) -> jax.Array:
        if self.scheme.training_weight is None or self.noise is None or self.deterministic:
            return quantizer(kernel)
        return self.scheme.training_weight(kernel, self._key())

    def _key(self) -> jax.Array:
        """A fresh key; the layer's own moves on."""
        assert self.noise is not None
        key, following = jax.random.split(jax.random.wrap_key_data(self.noise[...]))
        self.noise[...] = jax.random.key_data(following)
        return key


def _stream(rngs: nnx.Rngs, name: str) -> Callable[[], jax.Array]:
    """The named stream of keys, or that of the parameters where the user made no other."""
    return getattr(rngs, name) if name in rngs or 'default' in rngs else rngs.params


class Norm(nnx.BatchNorm):
    """Batch normalisation over all axes but the last.

    Training: `batch_norm`, with the statistics of the batch, on however many devices it lies; with the scheme's norm_groups,
    of each of so many parts of it. Evaluation: `exact.normalize` with running statistics, the same numbers as in packed
    arithmetic. gamma, beta, and what the running variance is made of: the scheme's.
    Raises ValueError for an input of other channels and, in training, a batch that the groups cannot share evenly.
    """

    def __init__(self, channels: int, *, scheme: Scheme, rngs: nnx.Rngs):
        super().__init__(
            channels,
            epsilon=scheme.eps,
            momentum=scheme.momentum,
            use_fast_variance=False,
            scale_init=scheme.gamma_init if scheme.affine else ones,
            rngs=rngs,
        )
        assert self.scale is not None and self.bias is not None  # flax's are optional, these are always made
        self.variance_factor, self.gamma_before = scheme.variance_factor, scheme.gamma_before
        self.groups = scheme.norm_groups
        if scheme.gamma_before is not None:
            self.scale = nnx.Param(self.scale[...], before=scheme.gamma_before)
        if not scheme.affine:
            # Flax says Param here, and works with any Variable.
            self.scale = Fixed(self.scale[...])  # pyright: ignore[reportAttributeAccessIssue]
            self.bias = Fixed(self.bias[...])  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def gamma(self) -> jax.Array:
        """The factor of every channel as it is read: after the scheme's `gamma_before`, where it has one."""
        assert self.scale is not None
        gamma = self.scale[...]
        return gamma if self.gamma_before is None else in_place(self.gamma_before, gamma)

    def coefficients(self) -> jax.Array:
        """(2, C): scale and shift, see `exact.norm_coefficients`."""
        assert self.bias is not None
        return norm_coefficients(self.gamma, self.bias[...], self.mean[...], self.var[...], self.epsilon)

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] != self.num_features:
            raise ValueError(f'norm: got input of shape {x.shape}, expected {self.num_features} channels last')
        return normalize(x, self.coefficients()) if self.use_running_average else self._with_batch_statistics(x)

    def _with_batch_statistics(self, x: jax.Array) -> jax.Array:
        """Normalised with the statistics of each group of images; the running ones move towards the mean of the groups'."""
        groups = self.groups
        if x.shape[0] % groups:
            raise ValueError(
                f'norm: got a batch of {x.shape[0]} images for norm_groups={groups}, expected a multiple of it'
            )
        assert self.scale is not None and self.bias is not None
        if self.gamma_before is not None:
            self.scale[...] = self.gamma  # Overwritten, as in the source; the optimizer's chain starts from it as well.
        of_group = jax.vmap(partial(batch_norm, eps=self.epsilon), in_axes=(0, None, None))
        grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
        y, mean, var = of_group(grouped, self.scale[...], self.bias[...])
        var = var * self.variance_factor(x.size // self.num_features // groups)
        with jax.numpy_dtype_promotion('standard'):  # statistics may be wider than the running ones
            self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean.mean(0)
            self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var.mean(0)
        return y.reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Relu:
    """max(x, 0)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)


@dataclasses.dataclass(frozen=True)
class LeakyRelu:
    """x where x > 0, else slope x (gradient 1 and slope). Source: Darknet, with slope 0.1."""

    slope: float

    def __post_init__(self):
        object.__setattr__(self, 'slope', float(self.slope))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, rounded(x * jnp.asarray(self.slope, x.dtype)))


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Maximum over a window, nothing outside the image counted."""

    window: Window

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.window.max(x)


@dataclasses.dataclass(frozen=True)
class AvgPool:
    """Mean over a window; outside the image lie zeros, which count (PyTorch's default): the divisor is always kh kw."""

    window: Window

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.window.mean(x)


@dataclasses.dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over height and width: (N, H, W, C) -> (N, C)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return ordered_mean(jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 0))


@dataclasses.dataclass(frozen=True)
class Flatten:
    """(N, ...) -> (N, all the rest)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)
