"""Binary layers in training arithmetic: latent weights, quantized in every forward pass."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax.nn.affine import affine_product
from bnn_jax.nn.epilogue import binary_product, epilogue
from bnn_jax.nn.finite import finite_parameter
from bnn_jax.nn.layer import Cost, Layer
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packing import packed_product
from bnn_jax.nn.variables import Latent, Noise, Progress
from bnn_jax.ops.deterministic import rounded
from bnn_jax.ops.windows import Padding, Window
from bnn_jax.schemes.dropout import Drop, elements
from bnn_jax.schemes.projections import in_place
from bnn_jax.schemes.scheme import Scheme, check_scale
from bnn_jax.schemes.trained import Trained, quantized


class Product(Layer, nnx.Module):
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
        in_features: int,
        out_features: int,
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
        self.product, self.in_features, self.out_features, self.scheme = product, in_features, out_features, scheme
        kernel = scheme.init(rngs.params(), product.kernel_shape(in_features, out_features), jnp.float32)
        binary = scheme.weight is not None
        if binary:
            if scheme.projection is not None:
                kernel = jax.jit(scheme.projection)(kernel)  # What it promises holds from the start.
            self.kernel = Latent(kernel, projection=scheme.projection, before=scheme.before)
        else:
            self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None
        activation = scheme.activation
        self.activation: Any = activation.make(in_features, rngs) if isinstance(activation, Trained) else activation
        trained = isinstance(activation, Trained)
        affine = scheme.offset is not None or (trained and self.activation.levels() is not None)
        if affine and isinstance(product, Convolution) and (product.pad_value != 0 or product.groups > 1):
            raise ValueError(
                f'convolution: got pad_value {product.pad_value} and {product.groups} groups for a scheme with an offset or '
                'trained levels, expected pad_value 0 and one group'
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

    def quantized(self, quantizer: Any, x: jax.Array) -> jax.Array:
        """quantizer(x) at the progress that training has reached."""
        return quantized(quantizer, x, None if self.progress is None else self.progress[...])

    def signs(self) -> jax.Array:
        """The signs of the latent weights, those of evaluation where the scheme draws weights at random."""
        return self.scheme.sign(self.latent())

    def scale(self) -> jax.Array | None:
        """The scheme's scale of every filter, (out,), without a gradient; None: 1."""
        scale = self.scheme.scale
        return None if scale is None else self.quantized(scale, jax.lax.stop_gradient(self.latent()))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.product.check(x, self.in_features)
        scheme, kernel = self.scheme, self.latent()
        k = None if scheme.input_scale is None else scheme.input_scale(x, self.product)
        given = x
        if self.activation is not None:
            x = self.quantized(self.activation, x)
        if self.dropout > 0 and not self.deterministic:
            x = self.drop(x, self.dropout, self._key())
        if self.operands is not None and not self.deterministic:
            x = x.astype(self.operands)  # The product rounds its kernel to the dtype of x.
        bias = None if self.bias is None else self.bias[...]
        if scheme.weight is None:
            return epilogue(rounded(self.product(x, kernel)), k, bias)
        weight = self._weight(scheme.weight, kernel)
        activation: Any = self.activation
        levels = activation.levels() if isinstance(scheme.activation, Trained) else None
        if levels is None and scheme.offset is None:
            return epilogue(binary_product(self.product, x, weight, self.scale(), scheme.sign), k, bias)
        if self.dropout > 0 and not self.deterministic:
            # A dropped input has a third value, 0.
            return epilogue(rounded(self.product(x, weight)), k, bias)
        # Weights drawn at random are signs themselves.
        signs = jax.lax.stop_gradient(weight) if self._draws() else self.signs()
        signs_in = x if levels is None else jax.lax.stop_gradient(activation.sign(given))
        offset = None if scheme.offset is None else self.quantized(scheme.offset, jax.lax.stop_gradient(kernel))
        numbers = jax.lax.stop_gradient((self.scale(), offset, levels))
        return epilogue(affine_product(self.product, x, weight, signs_in, signs, numbers), k, bias)

    def _draws(self) -> bool:
        """Whether weights are drawn at random: in training, where the scheme says so."""
        return self.scheme.training_weight is not None and self.noise is not None and not self.deterministic

    def _weight(self, quantizer: Any, kernel: jax.Array) -> jax.Array:
        drawn = self.scheme.training_weight if self._draws() else None
        return self.quantized(quantizer, kernel) if drawn is None else drawn(kernel, self._key())

    def _key(self) -> jax.Array:
        """A fresh key; the layer's own moves on."""
        assert self.noise is not None
        key, following = jax.random.split(jax.random.wrap_key_data(self.noise[...]))
        self.noise[...] = jax.random.key_data(following)
        return key

    def multiplies_bits(self) -> bool:
        return self.scheme.weight is not None and self.scheme.activation is not None

    def label(self) -> str:
        shape = self.product.kernel_shape(self.in_features, self.out_features)
        return f'{type(self.product).__name__} {"x".join(map(str, shape))}'

    def cost(self, output_shape: tuple[int, ...]) -> Cost:
        product, scheme = self.product, self.scheme
        weights, biases = (
            math.prod(product.kernel_shape(self.in_features, self.out_features)),
            0 if self.bias is None else self.out_features,
        )
        binary_weight, binary_input = scheme.weight is not None, scheme.activation is not None
        stored = weights
        if binary_weight:
            per_filter = sum(number is not None for number in (scheme.scale, scheme.offset))
            words = product.stored(self.in_features, self.out_features).words_shape(self.in_features, self.out_features)
            stored = math.prod(words) + per_filter * self.out_features
        others, numbers = 0, 0
        if isinstance(self.activation, nnx.Module):
            others = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.activation, nnx.Param)))
            numbers = _packed_numbers(self.activation)
        macs, one_bit = product.macs(self.in_features, self.out_features, output_shape), binary_weight and binary_input
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
            self.scheme, self.product, self.in_features, self.out_features, kernel, bias, self.activation, progress
        )


class Conv(Product):
    """A binary convolution in place of `flax.nnx.Conv`: the same argument names, and a scheme.

    Works in any `nnx.Module`. `bnn_jax.convert` replaces it by its packed twin.

    Args:
        in_features: channels of the input.
        out_features: filters.
        kernel_size: the window, one integer for a square or two.
        strides: one or two integers.
        padding: 'SAME', 'VALID', an integer for all sides, or ((top, bottom), (left, right)).
        kernel_dilation: one or two integers.
        feature_group_count: groups of channels, each seen by its own filters.
        use_bias: whether a trained bias is added.
        scheme: what is binary, with which gradient; `FLOAT` makes an ordinary convolution.
        rngs: random keys for the initial weights.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> from flax import nnx
        >>> layer = bnn.nn.Conv(3, 8, (3, 3), scheme=bnn.XNOR, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 5, 5, 3))).shape
        (1, 5, 5, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        padding: Padding | int = 'SAME',
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        scheme: Scheme,
        rngs: nnx.Rngs,
    ):
        if isinstance(padding, int | np.integer):
            padding = ((padding, padding), (padding, padding))
        window = Window.of(kernel_size, strides, padding, kernel_dilation)
        operation = Convolution(window, groups=feature_group_count)
        super().__init__(operation, in_features, out_features, scheme=scheme, use_bias=use_bias, rngs=rngs)


class Linear(Product):
    """A binary dense layer in place of `flax.nnx.Linear`: the same argument names, and a scheme.

    __call__: (..., in_features) -> (..., out_features).

    Args:
        in_features: numbers of the input.
        out_features: numbers of the output.
        use_bias: whether a trained bias is added.
        scheme: what is binary, with which gradient; `FLOAT` makes an ordinary dense layer.
        rngs: random keys for the initial weights.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> from flax import nnx
        >>> bnn.nn.Linear(3, 8, scheme=bnn.XNOR, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 3))).shape
        (2, 5, 8)
    """

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool = True, scheme: Scheme, rngs: nnx.Rngs):
        super().__init__(Dense(), in_features, out_features, scheme=scheme, use_bias=use_bias, rngs=rngs)


def _stream(rngs: nnx.Rngs, name: str) -> Callable[[], jax.Array]:
    """The named stream of keys, or that of the parameters where the user made no other."""
    return getattr(rngs, name) if name in rngs or 'default' in rngs else rngs.params


def _packed_numbers(activation: nnx.Module) -> int:
    """How many numbers a packed layer stores of a trained activation: a shift for each channel, distance and center."""
    graphdef, state = nnx.split(activation)

    def stored(state):
        module: Any = nnx.merge(graphdef, state, copy=True)
        return module.shift(), module.levels()

    return sum(
        number.size for number in jax.tree.leaves(jax.eval_shape(stored, state))
    )  # Shapes only: any state will do.
