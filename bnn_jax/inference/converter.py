"""Trained network -> packed network, once: signs become bits, scales and normalisation are computed for good."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.inference.packed import (
    Chain,
    Concat,
    FloatProduct,
    PackedNetwork,
    PackedNorm,
    PackedProduct,
    Stateless,
    Sum,
    UnpackedProduct,
)
from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential
from bnn_jax.nn.layers import AvgPool, Flatten, GlobalAveragePool, LeakyRelu, MaxPool, Norm, Product, Relu
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.quantizers.standard import sign
from bnn_jax.schemes.scheme import Scheme, constant_k, flowing_k


def convert(model: Network) -> PackedNetwork:
    """The packed network with the answers of `model` in evaluation mode; model itself is not changed.

    Signs of the latent weights become bits, alpha and folded normalisation are computed once, real layers stay float32.
    On CPU the logits of float32 images are bit-identical to `model.eval()`'s for schemes with binary activations, alpha
    and pads included, if the scheme's scale is summed in a fixed order as all scales of `quantizers` are.
    `packed.report` names for each layer what it became; heads that only training sees are left out.
    Raises TypeError for a model that is not one of this library's networks or holds a layer it does not know;
    ValueError for parameters that are not finite float32 numbers, quantizers that are not signs times a scale (with the layer's
    path), and a network without any binary weights.
    """
    if not isinstance(model, Network):
        raise TypeError(f'convert: got {type(model).__name__}, expected a Network as bnn_jax.models make them')
    packed = in_bits(PackedNetwork(model.channels, model.num_classes, _convert_all(model.body, '')))
    if not any(row.became in ('xnor + popcount', '1-bit storage, float product') for row in packed.report.rows):
        raise ValueError('convert: got a network without binary weights, expected at least one layer to pack')
    return packed


def _convert_all(layers: Sequential, path: str) -> Chain:
    return Chain(tuple(_convert(layer, f'{path}{i}') for i, layer in enumerate(layers.layers)))


def _convert(layer, path: str):
    match layer:
        case Residual():
            return Sum(_convert_all(layer.body, f'{path}.body.'), _convert_all(layer.shortcut, f'{path}.shortcut.'))
        case Branches():
            return Concat(tuple(_convert_all(b, f'{path}.branch{i}.') for i, b in enumerate(layer.branches)))
        case Auxiliary():
            return Chain(())  # The identity: its head is of training only.
        case Norm():
            for name in ('scale', 'bias', 'mean', 'var'):
                _finite(getattr(layer, name), f'{path} {name}')
            coefficients = layer.coefficients()
            if not np.isfinite(np.asarray(coefficients)).all():
                raise ValueError(
                    f'convert: layer {path}: its normalisation folds to numbers that are not finite, expected var > -eps and '
                    'gamma / sqrt(var + eps) below the largest float32; go back to the last good checkpoint'
                )
            return PackedNorm(layer.num_features, coefficients)
        case Product():
            return _convert_product(layer, path)
        case Relu() | LeakyRelu() | MaxPool() | AvgPool() | GlobalAveragePool() | Flatten():
            return Stateless(layer)
    raise TypeError(f'convert: layer {path} is a {type(layer).__name__}, expected one of bnn_jax.nn')


def _convert_product(layer: Product, path: str):
    kernel = _finite(layer.kernel, f'{path} kernel')
    if layer.scheme.before is not None:
        kernel = layer.scheme.before(kernel)
    bias = None if layer.bias is None else _finite(layer.bias, f'{path} bias')
    if layer.scheme.weight is None and layer.scheme.activation is not None:
        raise ValueError(
            f'convert: layer {path}: it has real weights on a binary input (the first stage of two, say), expected binary '
            'weights, for no bit operation multiplies by a real weight; train the second stage and convert that'
        )
    if layer.scheme.weight is None:
        return FloatProduct(layer.product, layer.into, layer.out, kernel, bias)
    _check_sign(layer.scheme, path)
    product = layer.product.stored(layer.into, layer.out)
    words, scale, faithful = _pack(layer.scheme, product, kernel)
    if not faithful:
        raise ValueError(
            f'convert: layer {path}: its quantized weights are not scale * sign(W), expected two values +-scale a '
            'filter; a quantizer with sign(0) = 0 or more than one bit cannot be packed'
        )
    if layer.scheme.activation is None:
        return UnpackedProduct(product, layer.into, layer.out, words, scale, bias)
    _check_activation(layer.scheme, path)
    use_k = layer.scheme.input_scale is not None
    return PackedProduct(product, layer.into, layer.out, use_k, words, scale, bias)


@partial(jax.jit, static_argnums=(0, 1))
def _pack(scheme: Scheme, product: Convolution | Dense, kernel: jax.Array):
    """Words and scale of a latent kernel, and whether scale * sign is indeed what the scheme makes of it."""
    signs = sign(kernel)
    scale = None if scheme.scale is None else scheme.scale(kernel)
    expected = signs if scale is None else signs * jnp.broadcast_to(scale, signs.shape)
    quantized = kernel if scheme.weight is None else scheme.weight(kernel)
    return product.pack_kernel(signs), scale, jnp.all(quantized == expected)


def _check_sign(scheme: Scheme, path: str) -> None:
    small, zero = np.asarray(scheme.sign(jnp.asarray([0.5, 0], jnp.float32)))
    if small != 1:
        raise ValueError(
            f'convert: layer {path}: its scheme evaluates real weights, expected signs, for no bit holds them; build the '
            'model anew with a scheme that evaluates sign(W), such as BC_STOCHASTIC, and give it these parameters'
        )
    if zero != 1:
        raise ValueError(
            f'convert: layer {path}: its scheme has sign(0) = {zero:.0f}, expected +1, which is what a bit means; build the '
            'model anew with presets.deployable(scheme) and give it these parameters'
        )


def _check_activation(scheme: Scheme, path: str) -> None:
    probe = jnp.asarray([-2, -1, -0.5, -1e-30, -0.0, 0, 1e-30, 0.5, 1, 2], jnp.float32)
    if scheme.activation is not None and not np.array_equal(scheme.activation(probe), sign(probe)):
        raise ValueError(
            f'convert: layer {path}: its activation quantizer is not a sign, expected values +-1 with sign(0) = +1; '
            'other activations ({0, 1}, several bits, sign(0) = 0) train, but do not fit +-1 bits'
        )
    if scheme.input_scale not in (None, constant_k, flowing_k):
        raise ValueError(f'convert: layer {path}: got an unknown input_scale, expected None, constant_k or flowing_k')


def _finite(variable: nnx.Variable, name: str):
    value = np.asarray(variable[...])
    if value.dtype != np.float32:
        raise ValueError(
            f'convert: layer {name}: got dtype {value.dtype}, expected float32; keep parameters in float32 (images may be '
            'narrower), since a cast now would change alpha and with it the answers'
        )
    if not np.isfinite(value).all():
        count = int((~np.isfinite(value)).sum())
        raise ValueError(
            f'convert: layer {name}: {count} of {value.size} values are NaN or infinite, expected finite numbers; '
            'go back to the last good checkpoint'
        )
    return jnp.asarray(value)
