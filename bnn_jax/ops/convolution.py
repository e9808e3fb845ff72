"""Convolution of images, with gradients that are fast on CPU too."""

from functools import partial

import jax
from jax import lax
from jaxtyping import Array, Float

from bnn_jax.ops import native_convolution, winograd
from bnn_jax.ops.cpu_gradients import products_of_patches, shifted_products
from bnn_jax.ops.deterministic import wide
from bnn_jax.ops.geometry import Pads, Pair

# Where the C++ library runs, Winograd computes the gradients of layers with at least this many channels and filters.
# Elsewhere the limit is `winograd.MANY`, which is lower, because XLA's plain products are slower than the library's.
NATIVE_MANY = 192


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(
    x: Float[Array, 'n height width channels'],
    kernel: Float[Array, 'kh kw channels filters'],
    strides: Pair,
    pads: Pads,
) -> Float[Array, 'n rows columns filters']:
    """Convolution with zero padding, summed in float32 or wider.

    Forward: y[n, a, b, f] = sum over i, j, c of x[n, a s + i - top, b t + j - left, c] kernel[i, j, c, f], 0 outside x.
    y does not depend on whether it is differentiated, nor on the other images of the batch.
    Gradient, where g is the gradient with respect to y, rounded to the dtype of the operands:
    dkernel[i, j, c, f] = sum over n, a, b of x[n, a s + i - top, b t + j - left, c] g[n, a, b, f];
    dx[n, u, v, c] = sum of g[n, a, b, f] kernel[i, j, c, f] over all f and all (a, i), (b, j) with a s + i - top = u and
    b t + j - left = v. Only reverse mode is defined.

    Off CPU, XLA computes all three. On CPU the algorithm depends on the operands:

    - y: `native_convolution` where it runs (float32 operands, C++ library available, one CPU device), else XLA.
    - Both gradients, 3x3 windows at stride 1 and pads of at most 2, with many outputs in the batch (`winograd.TILES`) and
      128 to `winograd.EXACT` channels and filters (192 or more where `native_convolution` runs): `winograd`. If all
      operands, g included, are +-1 or 0, the numbers are the same up to the sizes that the docstring of `winograd`
      states. For real numbers the rounding differs.
    - Other gradients: `native_convolution` where it runs. Elsewhere `cpu_gradients` computes dkernel. It computes dx too, at
      stride 1 where x has over 1.5 times the pixels of y (XLA would multiply the zeros around g); else XLA computes dx.

    Args:
        x: the images.
        kernel: the weights, of the dtype of x.
        strides: (s, t), along height and width.
        pads: ((top, bottom), (left, right)).

    Returns:
        y in float32, or float64 for float64 operands.

    Raises:
        TypeError: the operands' dtypes differ.
    """
    plain = partial(_forward, strides=strides, pads=pads, dtype=wide(x.dtype))
    if x.dtype != kernel.dtype or not native_convolution.runs(x.dtype):
        return plain(x, kernel)
    # The choice is made when the function is lowered, so one traced function can be exported for any platform.
    product = partial(native_convolution.product, strides=strides, pads=pads)
    return lax.platform_dependent(x, kernel, cpu=product, default=plain)


def _forward(x, kernel, strides, pads, dtype):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        preferred_element_type=dtype,
    )


def _convolution_fwd(x, kernel, strides, pads):
    return convolution(x, kernel, strides, pads), (x, kernel)


def _convolution_bwd(strides, pads, operands, g):
    x, kernel = operands
    return _gradients(x, kernel, g.astype(x.dtype), strides, pads, native_convolution.runs(x.dtype))


# Traced once for layers of the same shape. With `inline`, the lowered program is the same as without `jit`.
@partial(jax.jit, static_argnums=(3, 4, 5), inline=True)
def _gradients(x, kernel, g, strides, pads, native):
    """dx and dkernel. native: whether the C++ library runs on CPU."""
    dx = partial(_input_gradient, x=jax.typeof(x), strides=strides, pads=pads)
    dkernel = partial(_kernel_gradient, kernel=jax.typeof(kernel), strides=strides, pads=pads)
    # Gradients for CPU: Winograd's for 3x3 windows, many pixels and many channels; else the C++ library's; else matrix
    # products.
    dx_cpu = dx
    if winograd.pays(x.shape, kernel.shape, strides, pads, NATIVE_MANY if native else None):
        dx_cpu = partial(_widened, partial(winograd.input_gradient, pads=pads))
        dkernel_cpu = partial(_widened, partial(winograd.kernel_gradient, pads=pads))
    elif native:
        dx_cpu = partial(native_convolution.input_gradient, shape=x.shape, strides=strides, pads=pads)
        dkernel_cpu = partial(native_convolution.kernel_gradient, shape=kernel.shape, strides=strides, pads=pads)
    else:
        # The matrix products pay only where XLA would multiply many zeros around g.
        if strides == (1, 1) and 2 * x.shape[1] * x.shape[2] > 3 * g.shape[1] * g.shape[2]:
            dx_cpu = partial(_widened, partial(shifted_products, pads=pads))
        size = kernel.shape[:2]
        dkernel_cpu = partial(_widened, partial(products_of_patches, size=size, strides=strides, pads=pads))
    return (
        lax.platform_dependent(kernel, g, cpu=dx_cpu, default=dx),
        lax.platform_dependent(x, g, cpu=dkernel_cpu, default=dkernel),
    )


convolution.defvjp(_convolution_fwd, _convolution_bwd)


def _input_gradient(kernel, g, *, x, strides, pads):
    """dx as XLA computes it, of the type of x."""
    # A convolution is linear in each operand, so its transpose is the gradient and needs no forward pass.
    return jax.linear_transpose(lambda x: _forward(x, kernel, strides, pads, g.dtype), x)(g)[0]


def _kernel_gradient(x, g, *, kernel, strides, pads):
    """dkernel as XLA computes it, of the type of the kernel."""
    return jax.linear_transpose(lambda kernel: _forward(x, kernel, strides, pads, g.dtype), kernel)(g)[0]


def _widened(gradient, operand, g):
    """gradient(operand, g), computed in float32 or wider and rounded to the dtype of g."""
    return gradient(operand.astype(wide(g.dtype)), g.astype(wide(g.dtype))).astype(g.dtype)
