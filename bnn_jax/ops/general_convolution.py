"""Convolution with a dilated window or in groups: XLA's convolution and its gradients."""

from functools import partial

import jax
from jax import lax
from jaxtyping import Array, Float

from bnn_jax.ops.convolution import convolution
from bnn_jax.ops.deterministic import wide
from bnn_jax.ops.geometry import Pads, Pair


def general_convolution(
    x: Float[Array, 'n height width channels'],
    kernel: Float[Array, 'kh kw group_channels filters'],
    strides: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, 'n rows columns filters']:
    """`convolution` with a dilated window, and in groups of channels.

    Forward: y[n, a, b, f] = sum over i, j, c of x[n, a s + i d - top, b t + j e - left, g C + c] kernel[i, j, c, f], 0 outside
    x, where C = channels / groups and g = f div (filters / groups) is the group of filter f.
    Gradient: that of the formula. Dtypes are as in `convolution`, which is called for one group without dilation.

    Args:
        x: the images.
        kernel: the weights, of the dtype of x.
        strides: (s, t), along height and width.
        pads: ((top, bottom), (left, right)).
        dilation: (d, e), the distance of neighboring taps along height and width.
        groups: the number of groups.

    Returns:
        y in float32, or float64 for float64 operands.
    """
    if dilation == (1, 1) and groups == 1:
        return convolution(x, kernel, strides, pads)
    return _convolution(x, kernel, strides, pads, dilation, groups)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _convolution(x, kernel, strides, pads, dilation, groups):
    return _forward(x, kernel, strides, pads, dilation, groups, wide(x.dtype))


def _forward(x, kernel, strides, pads, dilation, groups, dtype):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
        preferred_element_type=dtype,
    )


def _convolution_fwd(x, kernel, *static):
    return _convolution(x, kernel, *static), (x, kernel)


def _convolution_bwd(strides, pads, dilation, groups, operands, g):
    # JAX's own rule refuses a gradient that is wider than the operands.
    x, kernel = operands
    g = g.astype(x.dtype)

    def forward(x, kernel):
        return _forward(x, kernel, strides, pads, dilation, groups, g.dtype)

    dx = jax.linear_transpose(lambda x: forward(x, kernel), x)(g)[0]
    return dx, jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(g)[0]


_convolution.defvjp(_convolution_fwd, _convolution_bwd)
