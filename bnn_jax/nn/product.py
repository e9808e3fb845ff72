"""Convolutions and dense layers in training arithmetic. Latent weights are quantized in every forward pass."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from bnn_jax.nn.affine import affine_product
from bnn_jax.nn.epilogue import binary_product, epilogue
from bnn_jax.nn.finite import finite_parameter
from bnn_jax.nn.layer import BinaryWeights, Cost, Layer
from bnn_jax.nn.meshes import called_automatically
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packing import packed_product
from bnn_jax.nn.product_cost import product_cost
from bnn_jax.nn.variables import Latent, Noise, Progress
from bnn_jax.ops.deterministic import rounded, wide
from bnn_jax.ops.meshes import alike, is_explicit
from bnn_jax.schemes.dropout import Drop, elements
from bnn_jax.schemes.projections import in_place, initial
from bnn_jax.schemes.scheme import Scheme, check_scale, multiplies_by_signs
from bnn_jax.schemes.trained import Trained, TrainedSign, TrainedWeight, quantized


class Product(Layer, nnx.Module):
    """A convolution or dense layer under a scheme: real or binary weights, real or binary input, alpha, K, bias.

    A call maps (N, ..., in_features) to (N, ..., out_features), float32 or wider. In training mode the scheme's
    `training_weight`, if any, draws the weights, and `drop` drops inputs after they are binarized. `training.init` may set
    `operands` to a narrower dtype, to which both operands are then rounded in training mode; the sums stay float32.

    Args:
        operation: `Convolution` or `Dense`.
        in_features: channels of the input.
        out_features: channels of the output.
        scheme: says what is binary, and with which gradients.
        use_bias: whether a trained bias is added.
        rngs: random keys for the initial parameters, and for the layer's `Noise` if it draws weights or drops inputs.
        dropout: the rate at which inputs are dropped.
        drop: the function that drops inputs, single elements or whole channels.

    Raises:
        ValueError: the scheme contradicts itself (`check_scale`), or the scheme or the channels do not fit the
            operation; in a call, the input does not fit.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> layer = bnn.nn.Product(bnn.nn.Dense(), 3, 8, scheme=bnn.XNOR, use_bias=False, rngs=nnx.Rngs(0))
        >>> layer.label(), layer.kernel[...].shape
        ('Dense 3x8', (3, 8))
    """

    def __init__(
        self,
        operation: Convolution | Dense,
        in_features: int,
        out_features: int,
        *,
        scheme: Scheme,
        use_bias: bool,
        rngs: nnx.Rngs,
        dropout: float = 0.0,
        drop: Drop = elements,
    ):
        # Checked before training, because a wrong scale would only show as bad accuracy.
        if multiplies_by_signs(scheme):
            check_scale(scheme)
        # A real input is padded as the operation says, by default with 0.
        if scheme.activation is not None and isinstance(operation, Convolution):
            operation = dataclasses.replace(operation, pad_value=scheme.pad_value)
        self.operation, self.in_features, self.out_features, self.scheme = operation, in_features, out_features, scheme
        kernel = scheme.init(rngs.params(), operation.kernel_shape(in_features, out_features), jnp.float32)
        binary = scheme.weight is not None
        if binary:
            if scheme.projection is not None:
                kernel = initial(scheme.projection, kernel)
            self.kernel = Latent(kernel, projection=scheme.projection, before=scheme.before)
        else:
            self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None
        weight, activation = scheme.weight, scheme.activation
        self.weight: Any = weight.make(kernel, rngs) if isinstance(weight, Trained) else weight
        self.activation: Any = activation.make(in_features, rngs) if isinstance(activation, Trained) else activation
        affine = self.has_offset() or self._levels() is not None
        # The sums for levels and offset count the taps inside the image, over all channels.
        if affine and isinstance(operation, Convolution) and (operation.pad_value != 0 or operation.groups > 1):
            raise ValueError(
                f'convolution: got pad_value {operation.pad_value} and {operation.groups} groups for a scheme with an offset '
                'or trained levels, expected pad_value 0 and one group'
            )
        self.dropout, self.drop = dropout, drop
        random = scheme.training_weight is not None or dropout > 0
        self.noise = Noise(jax.random.key_data(_stream(rngs, 'noise')())) if random else None
        self.progress = Progress(jnp.zeros((), jnp.float32)) if scheme.is_scheduled else None
        self.deterministic = False
        self.operands: DTypeLike | None = None

    def latent(self) -> Float[Array, '*kernel out']:
        """The latent weights, after the scheme's `before`."""
        before = self.scheme.before
        return self.kernel[...] if before is None else in_place(before, self.kernel[...])

    def quantized(self, quantizer: Any, x: Float[Array, '*shape'], given: Any = None) -> Float[Array, '*quantized']:
        """quantizer(x) at the current progress of training. given: the scheme's `weight`, for trained weights."""
        return quantized(quantizer, x, None if self.progress is None else self.progress[...], given)

    def signs(self) -> Float[Array, '*kernel out']:
        """The signs of the latent weights, as evaluation uses them: training may draw weights at random instead."""
        signs = self.weight.sign if isinstance(self.weight, TrainedWeight) else self.scheme.signs
        return signs(self.latent())

    def scale(self) -> Float[Array, ' out'] | None:
        """The scale of each filter, without a gradient; None: 1."""
        if isinstance(self.weight, TrainedWeight):
            return jax.lax.stop_gradient(self.weight.scale())
        scale = self.scheme.scale
        return None if scale is None else self.quantized(scale, jax.lax.stop_gradient(self.latent()))

    def offset(self) -> Float[Array, ' out'] | None:
        """The offset of each filter's weights, without a gradient; None: 0."""
        if isinstance(self.weight, TrainedWeight):
            return jax.lax.stop_gradient(self.weight.offset())
        offset = self.scheme.offset
        return None if offset is None else self.quantized(offset, jax.lax.stop_gradient(self.latent()))

    def has_offset(self) -> bool:
        """Whether the weights have an offset."""
        return (
            self.weight.offset() is not None
            if isinstance(self.weight, TrainedWeight)
            else self.scheme.offset is not None
        )

    def _levels(self) -> tuple[jax.Array, jax.Array] | None:
        return self.activation.levels() if isinstance(self.activation, TrainedSign) else None

    def __call__(self, x: Float[Array, '*batch in_features']) -> Float[Array, '*output out_features']:
        self.operation.check(x, self.in_features)
        if is_explicit(x):
            return called_automatically(Product.__call__, self, x)
        scheme = self.scheme
        x, kernel = alike(x, self.latent())
        k = None if scheme.input_scale is None else scheme.input_scale(x.astype(wide(x.dtype)), self.operation)
        own_numbers = isinstance(scheme.activation, Trained) or self.progress is not None
        if own_numbers:
            x = x.astype(wide(x.dtype))  # The quantizer has float32 numbers of its own.
        given, activation = x, self.activation
        if scheme.activation is not None:
            x = self.quantized(activation, x)
        if self.dropout > 0 and not self.deterministic:
            x = self.drop(x, self.dropout, self._key())
        if self.operands is not None and not self.deterministic:
            x = x.astype(self.operands)  # The product rounds its kernel to the dtype of x.
        bias = None if self.bias is None else self.bias[...]
        if scheme.weight is None:
            return epilogue(rounded(self.operation(x, kernel)), k, bias)
        # Four cases follow: (1) weights of several bits; (2) scale * sign; (3) trained weights, an offset or levels, with
        # dropout; (4) the same without dropout.
        weight, levels = self._quantized_weight(kernel), self._levels()
        if not multiplies_by_signs(scheme):
            return epilogue(rounded(self.operation(x, weight)), k, bias)
        if levels is None and not self.has_offset() and not isinstance(self.weight, TrainedWeight):
            return epilogue(binary_product(self.operation, x, weight, self.scale(), scheme.sign), k, bias)
        if self.dropout > 0 and not self.deterministic:
            # A dropped input has a third value, 0, which is neither of the two levels.
            return epilogue(rounded(self.operation(x, weight)), k, bias)
        # Weights that were drawn at random are signs already.
        signs = jax.lax.stop_gradient(weight) if self._draws() else self.signs()
        signs_in = x if levels is None else jax.lax.stop_gradient(activation.sign(given))
        numbers = (self.scale(), self.offset(), jax.lax.stop_gradient(levels))
        return epilogue(affine_product(self.operation, x, weight, signs_in, signs, numbers), k, bias)

    def _draws(self) -> bool:
        """Whether weights are drawn at random now: in training mode, under a scheme with `training_weight`."""
        return self.scheme.training_weight is not None and self.noise is not None and not self.deterministic

    def _quantized_weight(self, kernel: jax.Array) -> jax.Array:
        drawn = self.scheme.training_weight if self._draws() else None
        return self.quantized(self.weight, kernel, self.scheme.weight) if drawn is None else drawn(kernel, self._key())

    def _key(self) -> jax.Array:
        """A fresh random key. The layer's own key advances."""
        assert self.noise is not None
        key, following = jax.random.split(jax.random.wrap_key_data(self.noise[...]))
        self.noise.set_value(jax.random.key_data(following))
        return key

    def multiplies_bits(self) -> bool:
        """Whether weights and input are binary."""
        return multiplies_by_signs(self.scheme) and self.scheme.activation is not None

    def binary_weights(self) -> BinaryWeights | None:
        """The latent weights, their signs and scales; None for real weights and for weights of several bits."""
        if not multiplies_by_signs(self.scheme):
            return None
        return BinaryWeights(self.latent(), self.signs(), self.scale())

    def passes_gradient(self, x: Float[Array, '*input']) -> Bool[Array, '*input'] | None:
        """Where the activation's quantizer has a gradient with respect to x; None for a real input."""
        if self.activation is None:
            return None
        # The gradient of ones is 0 exactly where the quantizer stops every gradient.
        y, gradient = jax.vjp(partial(self.quantized, self.activation), x)
        return gradient(jnp.ones_like(y))[0] != 0

    def label(self) -> str:
        """The operation and the shape of its kernel."""
        shape = self.operation.kernel_shape(self.in_features, self.out_features)
        return f'{type(self.operation).__name__} {"x".join(map(str, shape))}'

    def cost(self, output_shape: tuple[int, ...]) -> Cost:
        """Parameters, bytes and multiply-adds: see `product_cost`."""
        return product_cost(self, output_shape)

    def packed(self) -> Any:
        """The layer with weights in bits, or in float32 if they are real. Raises ValueError if it cannot be packed."""
        kernel = finite_parameter(self.kernel, 'kernel')
        if self.scheme.before is not None:
            kernel = self.scheme.before(kernel)
        bias = None if self.bias is None else finite_parameter(self.bias, 'bias')
        progress = None if self.progress is None else self.progress[...]
        return packed_product(
            self.scheme,
            self.operation,
            self.in_features,
            self.out_features,
            kernel,
            bias,
            self.weight,
            self.activation,
            progress,
        )


def _stream(rngs: nnx.Rngs, name: str) -> Callable[[], jax.Array]:
    """The named stream of keys, else the default stream; the stream `params` if the user made neither."""
    return getattr(rngs, name) if name in rngs or 'default' in rngs else rngs.params
