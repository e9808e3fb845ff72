"""Binary layers in training arithmetic: latent weights, quantized in every forward pass."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax.nn.affine import affine_product
from bnn_jax.nn.epilogue import binary_product, epilogue
from bnn_jax.nn.finite import finite_parameter
from bnn_jax.nn.layer import BinaryWeights, Cost, Layer
from bnn_jax.nn.meshes import called_automatically
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packing import packed_numbers, packed_product
from bnn_jax.nn.variables import Latent, Noise, Progress
from bnn_jax.ops.deterministic import rounded, wide
from bnn_jax.ops.meshes import is_explicit
from bnn_jax.schemes.dropout import Drop, elements
from bnn_jax.schemes.projections import in_place
from bnn_jax.schemes.scheme import Scheme, check_scale, multiplies_by_signs
from bnn_jax.schemes.trained import Trained, TrainedSign, TrainedWeight, quantized


class Product(Layer, nnx.Module):
    """A convolution or dense layer under a scheme: real or binary weights, real or binary input, alpha, K, bias.

    operation: `Convolution` or `Dense`; in_features, out_features: its channels.
    kernel: `Latent` where the scheme has a weight quantizer, else nnx.Param, float32.
    In training mode a scheme's `training_weight` draws the weights, `drop` drops inputs at the rate `dropout` (after they are
    binarized), and both operands of the product are rounded to the dtype `operands`, where
    that is set (`training.init`); accumulation, and so the result, stays float32.
    __call__: (N, ..., in_features) -> (N, ..., out_features), float32 or wider.
    Raises ValueError for an input that does not fit.
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
        if multiplies_by_signs(scheme):
            check_scale(scheme)
        if scheme.activation is not None and isinstance(operation, Convolution):
            operation = dataclasses.replace(operation, pad_value=scheme.pad_value)
        self.operation, self.in_features, self.out_features, self.scheme = operation, in_features, out_features, scheme
        kernel = scheme.init(rngs.params(), operation.kernel_shape(in_features, out_features), jnp.float32)
        binary = scheme.weight is not None
        if binary:
            if scheme.projection is not None:
                kernel = jax.jit(scheme.projection)(kernel)  # What it promises holds from the start.
            self.kernel = Latent(kernel, projection=scheme.projection, before=scheme.before)
        else:
            self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None
        weight, activation = scheme.weight, scheme.activation
        self.weight: Any = weight.make(kernel, rngs) if isinstance(weight, Trained) else weight
        self.activation: Any = activation.make(in_features, rngs) if isinstance(activation, Trained) else activation
        affine = self._has_offset() or self._levels() is not None
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

    def latent(self) -> jax.Array:
        """The kernel as it is read: after the scheme's `before`, where it has one."""
        before = self.scheme.before
        return self.kernel[...] if before is None else in_place(before, self.kernel[...])

    def quantized(self, quantizer: Any, x: jax.Array, given: Any = None) -> jax.Array:
        """quantizer(x) at the progress that training has reached. given: the scheme's `Trained`, whose module it is."""
        return quantized(quantizer, x, None if self.progress is None else self.progress[...], given)

    def signs(self) -> jax.Array:
        """The signs of the latent weights, those of evaluation where the scheme draws weights at random."""
        signs = self.weight.sign if isinstance(self.weight, TrainedWeight) else self.scheme.signs
        return signs(self.latent())

    def scale(self) -> jax.Array | None:
        """The scale of every filter, (out,), without a gradient; None: 1."""
        if isinstance(self.weight, TrainedWeight):
            return jax.lax.stop_gradient(self.weight.scale())
        scale = self.scheme.scale
        return None if scale is None else self.quantized(scale, jax.lax.stop_gradient(self.latent()))

    def offset(self) -> jax.Array | None:
        """What is added to the weights of every filter, (out,), without a gradient; None: nothing."""
        if isinstance(self.weight, TrainedWeight):
            return jax.lax.stop_gradient(self.weight.offset())
        offset = self.scheme.offset
        return None if offset is None else self.quantized(offset, jax.lax.stop_gradient(self.latent()))

    def _has_offset(self) -> bool:
        return (
            self.weight.offset() is not None
            if isinstance(self.weight, TrainedWeight)
            else self.scheme.offset is not None
        )

    def _levels(self) -> tuple[jax.Array, jax.Array] | None:
        return self.activation.levels() if isinstance(self.activation, TrainedSign) else None

    def __call__(self, x: jax.Array) -> jax.Array:
        self.operation.check(x, self.in_features)
        if is_explicit(x):
            return called_automatically(Product.__call__, self, x)
        scheme, kernel = self.scheme, self.latent()
        k = None if scheme.input_scale is None else scheme.input_scale(x.astype(wide(x.dtype)), self.operation)
        own_numbers = isinstance(scheme.activation, Trained) or self.progress is not None
        if own_numbers:
            x = x.astype(wide(x.dtype))  # The quantizer computes with float32 numbers of its own.
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
        weight, levels = self._quantized_weight(kernel), self._levels()
        if not multiplies_by_signs(scheme):
            return epilogue(rounded(self.operation(x, weight)), k, bias)  # Weights of several bits.
        if levels is None and not self._has_offset() and not isinstance(self.weight, TrainedWeight):
            return epilogue(binary_product(self.operation, x, weight, self.scale(), scheme.sign), k, bias)
        if self.dropout > 0 and not self.deterministic:
            # A dropped input has a third value, 0.
            return epilogue(rounded(self.operation(x, weight)), k, bias)
        # Weights drawn at random are signs themselves.
        signs = jax.lax.stop_gradient(weight) if self._draws() else self.signs()
        signs_in = x if levels is None else jax.lax.stop_gradient(activation.sign(given))
        numbers = (self.scale(), self.offset(), jax.lax.stop_gradient(levels))
        return epilogue(affine_product(self.operation, x, weight, signs_in, signs, numbers), k, bias)

    def _draws(self) -> bool:
        """Whether weights are drawn at random: in training, where the scheme says so."""
        return self.scheme.training_weight is not None and self.noise is not None and not self.deterministic

    def _quantized_weight(self, kernel: jax.Array) -> jax.Array:
        drawn = self.scheme.training_weight if self._draws() else None
        return self.quantized(self.weight, kernel, self.scheme.weight) if drawn is None else drawn(kernel, self._key())

    def _key(self) -> jax.Array:
        """A fresh key; the layer's own moves on."""
        assert self.noise is not None
        key, following = jax.random.split(jax.random.wrap_key_data(self.noise[...]))
        self.noise[...] = jax.random.key_data(following)
        return key

    def multiplies_bits(self) -> bool:
        return multiplies_by_signs(self.scheme) and self.scheme.activation is not None

    def binary_weights(self) -> BinaryWeights | None:
        if not multiplies_by_signs(self.scheme):
            return None
        return BinaryWeights(self.latent(), self.signs(), self.scale())

    def passes_gradient(self, x: jax.Array) -> jax.Array | None:
        if self.activation is None:
            return None
        y, gradient = jax.vjp(partial(self.quantized, self.activation), x)
        return gradient(jnp.ones_like(y))[0] != 0

    def label(self) -> str:
        shape = self.operation.kernel_shape(self.in_features, self.out_features)
        return f'{type(self.operation).__name__} {"x".join(map(str, shape))}'

    def cost(self, output_shape: tuple[int, ...]) -> Cost:
        operation, scheme = self.operation, self.scheme
        weights, biases = (
            math.prod(operation.kernel_shape(self.in_features, self.out_features)),
            0 if self.bias is None else self.out_features,
        )
        binary_weight, binary_input = multiplies_by_signs(scheme), scheme.activation is not None
        stored = weights
        if binary_weight:
            trained = isinstance(self.weight, TrainedWeight)
            has_scale = self.weight.scale() is not None if trained else scheme.scale is not None
            per_filter = has_scale + self._has_offset()
            words = operation.stored(self.in_features, self.out_features).words_shape(
                self.in_features, self.out_features
            )
            stored = math.prod(words) + per_filter * self.out_features
        numbers = packed_numbers(self.activation) if isinstance(self.activation, nnx.Module) else 0
        quantizers = [quantizer for quantizer in (self.weight, self.activation) if isinstance(quantizer, nnx.Module)]
        others = sum(leaf.size for one in quantizers for leaf in jax.tree.leaves(nnx.state(one, nnx.Param)))
        macs, one_bit = (
            operation.macs(self.in_features, self.out_features, output_shape),
            binary_weight and binary_input,
        )
        return Cost(
            input_bits=1 if binary_input else 32,
            weight_bits=1 if binary_weight else 32,
            weights=weights,
            params=weights + biases + others,
            binary_params=weights if binary_weight else 0,
            bytes=4 * (weights + biases + others),
            packed_bytes=4 * (stored + biases + numbers),
            macs_1bit=macs if one_bit else 0,
            macs_32bit=0 if one_bit else macs,
        )

    def packed(self) -> Any:
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
    """The named stream of keys, or that of the parameters where the user made no other."""
    return getattr(rngs, name) if name in rngs or 'default' in rngs else rngs.params
