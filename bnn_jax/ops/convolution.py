"""Convolution with gradients that are fast on CPU too."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.ops import native_convolution, winograd
from bnn_jax.ops.deterministic import wide
from bnn_jax.ops.geometry import Pads, Pair
from bnn_jax.ops.products import divisor, dot

BLOCK = 2**18  # Elements of a block of patches: 1 MiB in float32, which stays in a core's cache.
ROWS = 512  # Patches a block at least, so that adding up the blocks' products costs little beside the products.
NATIVE_MANY = 192  # `winograd.MANY` beside the C++ library, whose plain products are faster than XLA's.
FEW = 32  # Channels below which runs of pixels are longer than runs of channels.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """y[n, a, b, f] = sum over i, j, c of x[n, a s + i - top, b t + j - left, c] kernel[i, j, c, f], 0 outside x.

    x: (N, H, W, C), kernel: (kh, kw, C, F), of one floating dtype; strides (s, t), pads ((top, bottom), (left, right)).
    Returns (N, H', W', F) in float32, or float64 for float64 operands; narrower operands are accumulated in float32.
    Gradients, g the incoming one rounded to the operands' dtype, which theirs have too:
    dkernel[i, j, c, f] = sum over n, a, b of x[n, a s + i - top, b t + j - left, c] g[n, a, b, f], and
    dx[n, u, v, c] = sum of g[n, a, b, f] kernel[i, j, c, f] over all f and (a, i), (b, j) with a s + i - top = u and
    b t + j - left = v. Only reverse mode is defined.

    Off CPU all are the convolutions that XLA makes of them. On CPU the gradients among these are slow, for there a gradient
    is a convolution with a window as large as the image, so float32 operands are `native_convolution`'s, values and
    gradients, where that runs. Where it does not,
    - y is XLA's convolution;
    - dkernel is patches^T g, a matrix product, the patches made for a few rows of y at a time: as one array they would
      be kh kw times as large as x, and fresh memory costs more than the arithmetic;
    - dx at stride 1, where it has many more pixels than g (no padding), is products kernel g^T of a row, shifted and added:
      XLA's convolution would multiply the zeros round g as well.
    In both cases the gradients of 3x3 windows at stride 1 with many channels and pixels are `winograd`'s: the same numbers
    where operands are +-1 or 0, and rounded in another order where they are real. y is the same number whether or not it
    is differentiated, and whatever images are in the batch beside it.
    Raises TypeError for operands of two dtypes.
    """
    plain = partial(_forward, strides=strides, pads=pads, dtype=wide(x.dtype))
    if x.dtype != kernel.dtype or not native_convolution.runs(x.dtype):
        return plain(x, kernel)
    # Chosen where the function is lowered, so that one traced function can be exported for any platform.
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
    g = g.astype(x.dtype)
    dx = partial(_input_gradient, shape=x.shape, strides=strides, pads=pads)
    dkernel = partial(_kernel_gradient, shape=kernel.shape, strides=strides, pads=pads)
    dx_cpu = dx
    native = native_convolution.runs(x.dtype)
    if winograd.pays(x.shape, kernel.shape, strides, pads, NATIVE_MANY if native else None):
        dx_cpu = partial(_widened, partial(winograd.input_gradient, pads=pads))
        dkernel_cpu = partial(_widened, partial(winograd.kernel_gradient, pads=pads))
    elif native:
        dx_cpu = partial(native_convolution.input_gradient, shape=x.shape, strides=strides, pads=pads)
        dkernel_cpu = partial(native_convolution.kernel_gradient, shape=kernel.shape, strides=strides, pads=pads)
    else:
        if strides == (1, 1) and 2 * x.shape[1] * x.shape[2] > 3 * g.shape[1] * g.shape[2]:
            dx_cpu = partial(_widened, partial(_shifted_products, pads=pads))
        size = kernel.shape[:2]
        dkernel_cpu = partial(_widened, partial(_products_of_patches, size=size, strides=strides, pads=pads))
    return (
        lax.platform_dependent(kernel, g, cpu=dx_cpu, default=dx),
        lax.platform_dependent(x, g, cpu=dkernel_cpu, default=dkernel),
    )


convolution.defvjp(_convolution_fwd, _convolution_bwd)


def _input_gradient(kernel, g, *, shape, strides, pads):
    """dx as XLA makes it."""
    # A convolution is linear in each operand: its transpose is the gradient, without a forward pass.
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda x: _forward(x, kernel, strides, pads, g.dtype), x)(g)[0]


def _kernel_gradient(x, g, *, shape, strides, pads):
    """dkernel as XLA makes it."""
    kernel = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda kernel: _forward(x, kernel, strides, pads, g.dtype), kernel)(g)[0]


def _widened(gradient, operand, g):
    """gradient(operand, g) computed in float32 or wider, rounded to the dtype of g."""
    return gradient(operand.astype(wide(g.dtype)), g.astype(wide(g.dtype))).astype(g.dtype)


def _shifted_products(kernel, g, *, pads):
    """dx at stride 1: for every row of g one product, its parts for the taps shifted and added to the rows of x they see.

    Rows lie channels first, images last, so that a shift by a column is one by N numbers in a run of W N.
    """
    kh, kw, into, out = kernel.shape
    n, height, width, _ = g.shape
    (top, bottom), (left, right) = pads
    zero, none = jnp.zeros((), g.dtype), (0, 0, 0)
    g, taps = jnp.transpose(g, (1, 3, 2, 0)), kernel.reshape(-1, out)

    def add(a, dx):
        parts = dot(taps, lax.dynamic_index_in_dim(g, a, 0, keepdims=False), 1, 0).reshape(kh, kw, into, width, n)
        shifted = [lax.pad(parts[:, j], zero, (none, none, (j, kw - 1 - j, 0), none)) for j in range(kw)]
        rows = lax.dynamic_slice_in_dim(dx, a, kh, 0) + sum(shifted[1:], shifted[0])
        return lax.dynamic_update_slice_in_dim(dx, rows, a, 0)

    dx = lax.fori_loop(0, height, add, jnp.zeros((height + kh - 1, into, width + kw - 1, n), g.dtype))
    return jnp.transpose(dx[top : dx.shape[0] - bottom, :, left : dx.shape[2] - right], (3, 0, 2, 1))


def _products_of_patches(x, g, *, size, strides, pads):
    """dkernel: the patches of a block of output rows times g there, added up over the blocks."""
    n, height, width, out = g.shape
    into = x.shape[-1]
    terms = size[0] * size[1] * into
    channels_first = into < FEW or x.size < terms * out  # else the product is transposed, not x
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x, axis = (jnp.moveaxis(x, -1, 0), 2) if channels_first else (x, 1)
    # Blocks of equal height, so that one compiled body serves all.
    rows = divisor(height, max(BLOCK // terms, ROWS) // (n * width))

    def product(i):
        here = lax.dynamic_slice_in_dim(x, i * (rows * strides[0]), (rows - 1) * strides[0] + size[0], axis)
        g_here = lax.dynamic_slice_in_dim(g, i * rows, rows, 1).reshape(-1, out)
        windows = views(here, axis, size, strides, (rows, width))
        if channels_first:
            return dot(jnp.concatenate(windows, 0).reshape(terms, -1), g_here, 1, 0)
        return dot(g_here, jnp.concatenate(windows, -1).reshape(-1, terms), 0, 0)

    total = jnp.zeros((terms, out) if channels_first else (out, terms), g.dtype)
    total = lax.fori_loop(0, height // rows, lambda i, total: total + product(i), total)
    return (total if channels_first else total.T).reshape(*size, into, out)


def views(x: jax.Array, axis: int, size: Pair, strides: Pair, count: Pair) -> list[jax.Array]:
    """For every tap of a window, row by row, the pixels it sees in its count[0] x count[1] places.

    x: padded already, rank 4, height along `axis`, width along the next one.
    """

    def window(*tap):
        start, limit, step = [0] * 4, list(x.shape), [1] * 4
        for d in (0, 1):
            start[axis + d], step[axis + d] = tap[d], strides[d]
            limit[axis + d] = tap[d] + (count[d] - 1) * strides[d] + 1
        return lax.slice(x, start, limit, step)

    return [window(i, j) for i in range(size[0]) for j in range(size[1])]
