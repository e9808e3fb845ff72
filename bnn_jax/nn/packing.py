"""Makes the packed layer of a product: signs become bits, scales are computed once, and real weights stay real."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32

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
    kernel: Float32[Array, '*kernel out'],
    bias: Float32[Array, ' out'] | None,
    weight: Any,
    activation: Any,
    progress: Float32[Array, ''] | None,
) -> FloatProduct | UnpackedProduct | PackedProduct:
    """Makes the packed layer of a product.

    Args:
        scheme: the layer's scheme.
        operation: `Convolution` or `Dense`.
        in_features: channels of the input.
        out_features: channels of the output.
        kernel: the latent or real weights, after the scheme's `before`.
        bias: one number for each filter; None: no bias.
        weight: the quantizer of the weights: a function, or the module that a `Trained` made.
        activation: the quantizer of the input: a function, or the module that a `Trained` made.
        progress: the progress of training; None for a scheme that does not depend on it.

    Returns:
        The layer with weights in bits, or with real weights if the scheme has real weights.

    Raises:
        ValueError: bits cannot hold what a quantizer gives, a trained number is not finite, the layer has real weights
            on a binary input, or no kernel computes its scheme.
    """
    if scheme.weight is None and scheme.activation is not None:
        raise ValueError(
            'it has real weights on a binary input (for example after the first stage of two-stage training), expected '
            'binary weights, because no bit operation multiplies by a real weight; train the second stage and convert '
            'that'
        )
    if scheme.weight is None:
        return FloatProduct(operation, in_features, out_features, kernel, bias)
    trained = weight if isinstance(weight, TrainedWeight) else None
    if trained is None:
        _check_sign(scheme)
    else:
        _check_finite('weight quantizer', {'scale': trained.scale(), 'offset': trained.offset()})
    # From here on the operation knows along which axis its words run.
    operation = operation.stored(in_features, out_features)
    latent = kernel, trained, progress
    words, scale, offset, faithful = jax.device_put(
        uncompiled(_pack, *latent, scheme=scheme, operation=operation)(*latent)
    )
    if not faithful:
        raise ValueError(
            'its quantized weights are not scale * sign(W), expected two values +-scale in each filter (or offset +- scale); a '
            'quantizer with sign(0) = 0 or more than one bit cannot be packed'
        )
    if scheme.activation is None:
        if offset is not None:
            raise ValueError(
                'its weights have an offset on a real input, expected a binary input; the library has no kernel for this case'
            )
        return UnpackedProduct(operation, in_features, out_features, words, scale, bias)
    # `constant_k` and `flowing_k` give the same K in evaluation. Another function may compute anything.
    if scheme.input_scale not in (None, constant_k, flowing_k):
        name = getattr(scheme.input_scale, '__name__', repr(scheme.input_scale))
        raise ValueError(f'its scheme has the input_scale {name}, expected None, constant_k or flowing_k')
    shift, levels = None, None
    if isinstance(scheme.activation, Trained):
        shift, levels = _numbers(activation)
        _check_trained(activation, in_features)
    else:
        _check_activation(scheme, progress)
    use_k = scheme.input_scale is not None
    return PackedProduct(operation, in_features, out_features, use_k, words, scale, bias, shift, offset, levels)


def _numbers(activation) -> tuple[jax.Array | None, jax.Array | None]:
    """The shift (in_features,) of a trained activation, and its distance and center as an array (2,); each may be None."""
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
    """Words, scale and offset of a latent kernel, and whether offset + scale * sign equals the quantized kernel."""
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
    # Exactly equal, because packed arithmetic must give the numbers of training. NaN and 0 are not signs.
    faithful = jnp.all(weights == expected) & jnp.all(jnp.abs(signs) == 1)
    return operation.pack_kernel(signs), scale, offset, faithful


def _check_sign(scheme: Scheme) -> None:
    """Raises ValueError unless the scheme's `sign` gives signs, with sign(0) = +1."""
    if scheme.offset is not None:
        return  # The sign may depend on the whole filter; `_pack` checks the signs themselves.
    # An identity in place of a sign gives 0.5 here.
    small, zero = np.asarray(scheme.sign(jnp.asarray([[0.5], [0]], jnp.float32)))[:, 0]
    if small != 1:
        raise ValueError(
            'its scheme uses real weights in evaluation, expected signs, because bits cannot hold real weights; build the '
            'model again with a scheme that uses sign(W) in evaluation, such as BC_STOCHASTIC, and give it these parameters'
        )
    if zero != 1:
        raise ValueError(
            f'its scheme has sign(0) = {zero:.0f}, expected +1, as in bits; build the model again with '
            'presets.deployable(scheme) and give it these parameters'
        )


# Inputs on which an activation quantizer is compared with the sign: both zeros, tiny numbers, the edges of the STE's window.
PROBE = np.asarray([-2, -1, -0.5, -1e-30, -0.0, 0, 1e-30, 0.5, 1, 2], np.float32)


def _check_activation(scheme: Scheme, progress: jax.Array | None) -> None:
    """Raises ValueError unless the activation quantizer is a sign."""
    probe = jnp.asarray(PROBE)
    if not np.array_equal(quantized(scheme.activation, probe, progress), sign(probe)):
        raise ValueError(
            'its activation quantizer is not a sign, expected values +-1 with sign(0) = +1; other activations ({0, 1}, '
            'several bits, sign(0) = 0) train, but +-1 bits cannot hold them'
        )


def _check_trained(activation, in_features: int) -> None:
    """Raises ValueError unless calling the quantizer gives what its shift and levels say."""
    x = jnp.broadcast_to(jnp.asarray(PROBE)[:, None], (PROBE.size, in_features))
    shift, levels = activation.shift(), activation.levels()
    expected = sign(x if shift is None else x + jnp.broadcast_to(shift, x.shape))
    if levels is not None:
        distance, center = (jnp.broadcast_to(level, x.shape) for level in levels)
        expected = distance * expected + center
    # Not compared exactly, because the quantizer may round in another order.
    if not np.allclose(activation(x), expected, rtol=1e-6, atol=0):
        raise ValueError(
            'its trained activation does not compute distance * sign(x + shift) + center with the numbers that its methods '
            'shift and levels return, expected equality; correct these methods or __call__'
        )


def packed_numbers(activation: nnx.Module) -> int:
    """The number of floats that a packed layer stores for a trained activation: shifts, distance and center."""
    return sum(number.size for number in _abstract(activation, lambda module: (module.shift(), module.levels())))


def packed_per_filter(weight: nnx.Module) -> int:
    """The number of floats that a packed layer stores for each filter of trained weights: scale and offset."""
    return len(_abstract(weight, lambda module: (module.scale(), module.offset())))


def _abstract(module: nnx.Module, numbers: Callable[[Any], Any]) -> list[jax.ShapeDtypeStruct]:
    """The shapes of the arrays that numbers(module) returns. The arrays of the module may be abstract."""
    graphdef, state = nnx.split(module)
    return jax.tree.leaves(jax.eval_shape(lambda state: numbers(nnx.merge(graphdef, state, copy=True)), state))
