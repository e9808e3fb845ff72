"""A product with latent weights -> its packed layer: signs become bits, scales are computed once."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed import FloatProduct, PackedProduct, UnpackedProduct
from bnn_jax.ops.uncompiled import uncompiled
from bnn_jax.quantizers.signs import sign
from bnn_jax.schemes.input_scales import constant_k, flowing_k
from bnn_jax.schemes.scheme import Scheme
from bnn_jax.schemes.trained import Trained, TrainedWeight, quantized


def packed_product(
    scheme: Scheme,
    operation: Convolution | Dense,
    in_features: int,
    out_features: int,
    kernel: jax.Array,
    bias: jax.Array | None,
    weight: Any,
    activation: Any,
    progress: jax.Array | None,
) -> FloatProduct | UnpackedProduct | PackedProduct:
    """The packed layer of a product.

    Args:
        scheme: the layer's scheme.
        operation: a convolution or dense product.
        in_features, out_features: its channels.
        kernel: its weights, as its scheme reads them.
        bias: (out,) or None.
        weight: its weight quantizer: a function, or the module of a `Trained` one.
        activation: its activation quantizer: a function, or the module of a `Trained` one.
        progress: how far training has come, for a scheme that asks.

    Raises:
        ValueError: for quantizers that are no signs times numbers, and for real weights on binary inputs.
    """
    if scheme.weight is None and scheme.activation is not None:
        raise ValueError(
            'it has real weights on a binary input (the first stage of two, say), expected binary weights, for no bit '
            'operation multiplies by a real weight; train the second stage and convert that'
        )
    if scheme.weight is None:
        return FloatProduct(operation, in_features, out_features, kernel, bias)
    trained = weight if isinstance(weight, TrainedWeight) else None
    if trained is None:
        _check_sign(scheme)
    else:
        _check_finite('weight quantizer', {'scale': trained.scale(), 'offset': trained.offset()})
    operation = operation.stored(in_features, out_features)
    latent = kernel, trained, progress
    words, scale, offset, faithful = jax.device_put(
        uncompiled(_pack, *latent, scheme=scheme, operation=operation)(*latent)
    )
    if not faithful:
        raise ValueError(
            'its quantized weights are not scale * sign(W), expected two values +-scale a filter (or offset +- scale); a '
            'quantizer with sign(0) = 0 or more than one bit cannot be packed'
        )
    if scheme.activation is None:
        if offset is not None:
            raise ValueError(
                'its weights have an offset on a real input, expected binary inputs; no kernel is written for it'
            )
        return UnpackedProduct(operation, in_features, out_features, words, scale, bias)
    if scheme.input_scale not in (None, constant_k, flowing_k):
        raise ValueError('got an unknown input_scale, expected None, constant_k or flowing_k')
    shift, levels = None, None
    if isinstance(scheme.activation, Trained):
        shift, levels = _numbers(activation)
        _check_trained(activation, in_features)
    else:
        _check_activation(scheme, progress)
    use_k = scheme.input_scale is not None
    return PackedProduct(operation, in_features, out_features, use_k, words, scale, bias, shift, offset, levels)


def _numbers(activation) -> tuple[jax.Array | None, jax.Array | None]:
    """shift (in_features,) and levels (2,): distance, center."""
    shift, levels = activation.shift(), activation.levels()
    levels = None if levels is None else jnp.stack(levels).astype(jnp.float32)
    _check_finite('activation', {'shift': shift, 'distance and center': levels})
    return shift, levels


def _check_finite(what: str, numbers: dict[str, jax.Array | None]) -> None:
    for name, number in numbers.items():
        if number is not None and not np.isfinite(np.asarray(number)).all():
            raise ValueError(f'its {what} has a {name} that is NaN or infinite; go back to the last good checkpoint')


@partial(jax.jit, static_argnames=('scheme', 'operation'))
def _pack(
    kernel: jax.Array,
    trained: TrainedWeight | None,
    progress: jax.Array | None,
    *,
    scheme: Scheme,
    operation: Convolution | Dense,
):
    """Words, scale and offset of a latent kernel, and whether offset + scale * sign is what the quantizer makes of it."""
    if trained is not None:
        signs, scale, offset = trained.sign(kernel), trained.scale(), trained.offset()
        weights = quantized(trained, kernel, progress, scheme.weight)
    else:
        signs = scheme.signs(kernel)
        scale = scheme.scales(kernel, progress)
        offset = None if scheme.offset is None else quantized(scheme.offset, kernel, progress)
        weights = quantized(scheme.weight, kernel, progress)
    expected = signs if scale is None else signs * jnp.broadcast_to(scale, signs.shape)
    if offset is not None:
        expected = expected + jnp.broadcast_to(offset, signs.shape)
    faithful = jnp.all(weights == expected) & jnp.all(jnp.abs(signs) == 1)
    return operation.pack_kernel(signs), scale, offset, faithful


def _check_sign(scheme: Scheme) -> None:
    if scheme.offset is not None:
        return  # Its sign may depend on the whole filter: `_pack` looks at the signs themselves.
    small, zero = np.asarray(scheme.sign(jnp.asarray([[0.5], [0]], jnp.float32)))[:, 0]
    if small != 1:
        raise ValueError(
            'its scheme evaluates real weights, expected signs, for no bit holds them; build the model anew with a scheme '
            'that evaluates sign(W), such as BC_STOCHASTIC, and give it these parameters'
        )
    if zero != 1:
        raise ValueError(
            f'its scheme has sign(0) = {zero:.0f}, expected +1, which is what a bit means; build the model anew with '
            'presets.deployable(scheme) and give it these parameters'
        )


PROBE = np.asarray([-2, -1, -0.5, -1e-30, -0.0, 0, 1e-30, 0.5, 1, 2], np.float32)


def _check_activation(scheme: Scheme, progress: jax.Array | None) -> None:
    probe = jnp.asarray(PROBE)
    if not np.array_equal(quantized(scheme.activation, probe, progress), sign(probe)):
        raise ValueError(
            'its activation quantizer is not a sign, expected values +-1 with sign(0) = +1; other activations ({0, 1}, '
            'several bits, sign(0) = 0) train, but do not fit +-1 bits'
        )


def _check_trained(activation, in_features: int) -> None:
    """Raises ValueError unless the quantizer is what its shift and levels say."""
    x = jnp.broadcast_to(jnp.asarray(PROBE)[:, None], (PROBE.size, in_features))
    shift, levels = activation.shift(), activation.levels()
    expected = sign(x if shift is None else x + jnp.broadcast_to(shift, x.shape))
    if levels is not None:
        distance, center = (jnp.broadcast_to(level, x.shape) for level in levels)
        expected = distance * expected + center
    if not np.allclose(activation(x), expected, rtol=1e-6, atol=0):
        raise ValueError(
            'its trained activation is not distance * sign(x + shift) + center with the numbers that its methods shift and '
            'levels give, expected equality; override these methods with what __call__ computes'
        )


def packed_numbers(activation: nnx.Module) -> int:
    """How many numbers a packed layer stores of a trained activation: a shift for each channel, distance and center."""
    graphdef, state = nnx.split(activation)

    def stored(state):
        module: Any = nnx.merge(graphdef, state, copy=True)
        return module.shift(), module.levels()

    # Shapes only: any state will do.
    return sum(number.size for number in jax.tree.leaves(jax.eval_shape(stored, state)))
