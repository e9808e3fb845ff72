"""The cost of a product: parameters, bytes in float32 and packed, multiply-adds."""

import math
from typing import Any

import jax
from flax import nnx

from bnn_jax.nn.layer import Cost
from bnn_jax.nn.packing import packed_numbers, packed_per_filter
from bnn_jax.schemes.scheme import multiplies_by_signs
from bnn_jax.schemes.trained import TrainedWeight


def product_cost(product: Any, output_shape: tuple[int, ...]) -> Cost:
    """The cost of a `Product` for one image.

    Args:
        product: the layer.
        output_shape: the shape of its output, with the batch.
    """
    operation, scheme = product.operation, product.scheme
    channels = product.in_features, product.out_features
    weights = math.prod(operation.kernel_shape(*channels))
    biases = 0 if product.bias is None else product.out_features
    binary_weight, binary_input = multiplies_by_signs(scheme), scheme.activation is not None
    stored = weights
    if binary_weight:
        # A file stores words of 32 signs and, for each filter, the scale and the offset if there are any.
        trained = isinstance(product.weight, TrainedWeight)
        untrained = (scheme.scale is not None) + (scheme.offset is not None)
        per_filter = packed_per_filter(product.weight) if trained else untrained
        stored = math.prod(operation.stored(*channels).words_shape(*channels)) + per_filter * product.out_features
    # The numbers that a packed layer stores for a trained activation, and the parameters of all trained quantizers.
    numbers = packed_numbers(product.activation) if isinstance(product.activation, nnx.Module) else 0
    quantizers = [quantizer for quantizer in (product.weight, product.activation) if isinstance(quantizer, nnx.Module)]
    others = sum(leaf.size for one in quantizers for leaf in jax.tree.leaves(nnx.state(one, nnx.Param)))
    macs, one_bit = operation.macs(*channels, output_shape), binary_weight and binary_input
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
