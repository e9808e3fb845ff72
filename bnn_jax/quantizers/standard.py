"""Quantizers: real array -> quantized array, one pure function each, with its gradient right below it.

Conventions for all: sign(0) = sign(-0.0) = +1; a NaN stays NaN; values and gradients have the input's dtype; only
reverse mode is defined. g is the incoming gradient dC/dq. Layouts: activations NHWC, kernels HWIO, dense (in, out).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.ops.deterministic import apart_on_cpu, negative, ordered_mean, wide
from bnn_jax.ops.windows import Padding, Window


def _floating(x, name: str) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f'{name}: got dtype {x.dtype}, expected a floating dtype; cast with x.astype(jnp.float32)')
    return x


def _bits(bits: int) -> int:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 16:
        raise ValueError(f'bits: got {bits!r}, expected an integer from 1 to 16')
    return 2 ** int(bits) - 1


def _inside(x: jax.Array, g: jax.Array) -> jax.Array:
    """The straight-through gradient: g where |x| <= 1 (inclusive), else 0."""
    return jnp.where(jnp.abs(x) <= 1, g, 0).astype(x.dtype)


def sign(x) -> jax.Array:
    """+1 where x >= 0 (so also at 0 and -0.0), -1 where x < 0, NaN where x is NaN; subnormal numbers count as 0.

    Gradient: 0. For training use `sign_ste` or another quantizer below.
    Raises TypeError for a non-floating dtype. Source: XNOR-Net (arXiv:1603.05279) section 3.1, B = +1 if W >= 0.
    """
    return _sign(_floating(x, 'sign'))


@jax.jit
def _sign(x):
    signs = jnp.where(negative(x), -1, 1).astype(x.dtype)
    return jnp.where(jnp.isnan(x), jax.lax.stop_gradient(x), signs)


@jax.custom_vjp
def sign_ste(x) -> jax.Array:
    """Sign with the straight-through estimator.

    Forward: sign(x). Gradient: g * 1(|x| <= 1), inclusive. Any shape. Raises TypeError for a non-floating dtype.
    Source: BinaryNet (arXiv:1602.02830) eq. 4; XNOR-Net section 3.1 (whose printed r * 1(|r| <= 1) is a slip).
    """
    return sign(x)


def _sign_ste_fwd(x):
    return sign(x), x


def _sign_ste_bwd(x, g):
    return (_inside(x, g),)


sign_ste.defvjp(_sign_ste_fwd, _sign_ste_bwd)


@jax.custom_vjp
def sign_approx(x) -> jax.Array:
    """Sign with the derivative of a piecewise quadratic (ApproxSign).

    Forward: sign(x). Gradient: g * (2 - 2|x|) where |x| <= 1, else 0 (so 2 g at 0 and 0 at the edges).
    Any shape. Raises TypeError for a non-floating dtype. Source: Bi-Real Net (arXiv:1808.00278) section 3.2.
    """
    return sign(x)


def _sign_approx_fwd(x):
    return sign(x), x


def _sign_approx_bwd(x, g):
    return (_inside(x, g * (2 - 2 * jnp.abs(x))),)


sign_approx.defvjp(_sign_approx_fwd, _sign_approx_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sign_swish(x, beta: float = 5.0) -> jax.Array:
    """Sign with the derivative of the SignSwish function.

    Forward: sign(x). Gradient: g * beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x)); it is beta at 0, and
    negative for large |x|. beta: a Python number. Any shape. Raises TypeError for a non-floating dtype.
    Source: BNN+ (arXiv:1812.11800) section 3.1.
    """
    return sign(x)


def _sign_swish_fwd(x, beta):
    return sign(x), jnp.asarray(x)


def _sign_swish_bwd(beta, x, g):
    # With u = beta x / 2 the derivative is beta (1 - u tanh u) / cosh(u)^2; in float32 it is 0 beyond |u| = 40.
    u = jnp.clip(x.astype(wide(x.dtype)) * (beta / 2), -40, 40)
    slope = beta * (1 - u * jnp.tanh(u)) / jnp.cosh(u) ** 2
    return ((slope * g.astype(slope.dtype)).astype(x.dtype),)


sign_swish.defvjp(_sign_swish_fwd, _sign_swish_bwd)


def alpha(w) -> jax.Array:
    """The scale of every filter: alpha_f = mean of |W_f|, the least-squares solution of W ~ alpha sign(W).

    w: (..., out), HWIO or (in, out). Returns (out,): the mean over all axes but the last, summed pairwise in a fixed
    order (in float32 for narrower dtypes), so that it is the same number in every compilation.
    Gradient: sign(W)/n, by JAX. Raises TypeError for a non-floating dtype, ValueError for rank < 2.
    Source: XNOR-Net eq. 6.
    """
    w = _floating(w, 'alpha')
    if w.ndim < 2:
        raise ValueError(f'alpha: got shape {w.shape}, expected rank >= 2 with the output filter as last axis')
    return ordered_mean(w.astype(wide(w.dtype)).reshape(-1, w.shape[-1]), term=jnp.abs).astype(w.dtype)


@jax.custom_vjp
def scaled_sign_ste(w) -> jax.Array:
    """alpha * sign(W) with its exact gradient: alpha is differentiated too.

    Forward: alpha(W)_f sign(W). Gradient, n weights a filter: alpha_f g 1(|W| <= 1) + sign(W)/n * sum_j g_j sign(W_j),
    the sum over filter f. w: (..., out). Raises as `alpha`.
    Source: derivative of XNOR-Net eq. 6 with the STE; as in the PyTorch implementation, without its extra factors.
    """
    return _expand(alpha(w), w) * sign(w)


def _scaled_sign_ste_fwd(w):
    a = alpha(w)
    return _expand(a, w) * sign(w), (w, a)


def _scaled_sign_ste_bwd(residuals, g):
    w, a = residuals
    rows = w.reshape(-1, w.shape[-1]), g.reshape(-1, w.shape[-1])
    # Apart from each other, the two make the signs anew; made for both they would be an array more to write and read.
    through = apart_on_cpu(partial(ordered_mean, term=_against_sign), *rows).astype(w.dtype)
    return (apart_on_cpu(_scaled_sign_gradient, w, g, a, through),)


def _against_sign(w, g):
    return (g * sign(w)).astype(wide(w.dtype))


def _scaled_sign_gradient(w, g, alpha, through_alpha):
    return _inside(w, _expand(alpha, w) * g) + sign(w) * _expand(through_alpha, w)


scaled_sign_ste.defvjp(_scaled_sign_ste_fwd, _scaled_sign_ste_bwd)


@jax.custom_vjp
def scaled_sign_plain_ste(w) -> jax.Array:
    """alpha * sign(W) with the plain straight-through gradient, not multiplied by alpha.

    Forward: alpha(W)_f sign(W). Gradient: g 1(|W| <= 1). w: (..., out). Raises as `alpha`.
    Source: Bi-Real Net's published code (liuzechun/Bi-Real-net, birealnet.py). Behind a normalization g grows as 1/alpha, so
    under SGD these latent weights move 1/alpha times faster than those of `scaled_sign_ste_const_alpha`.
    """
    return _expand(alpha(w), w) * sign(w)


def _scaled_sign_plain_ste_bwd(w, g):
    return (_inside(w, g),)


scaled_sign_plain_ste.defvjp(lambda w: (scaled_sign_plain_ste(w), w), _scaled_sign_plain_ste_bwd)


@jax.custom_vjp
def scaled_sign_ste_const_alpha(w) -> jax.Array:
    """alpha * sign(W), alpha taken as a constant.

    Forward: alpha(W)_f sign(W). Gradient: alpha_f g 1(|W| <= 1). w: (..., out). Raises as `alpha`.
    Source: autodiff of alpha * sign(W) without the gradient through alpha; XNOR-Net's code in Theano, but for the mask.
    """
    return _expand(alpha(w), w) * sign(w)


def _scaled_sign_ste_const_alpha_bwd(w, g):
    return (_inside(w, _expand(alpha(w), w) * g),)


scaled_sign_ste_const_alpha.defvjp(lambda w: (scaled_sign_ste_const_alpha(w), w), _scaled_sign_ste_const_alpha_bwd)


@jax.custom_vjp
def scaled_sign_paper(w) -> jax.Array:
    """alpha * sign(W) with the gradient as XNOR-Net prints it.

    Forward: alpha(W)_f sign(W). Gradient, n weights a filter: g (1/n + alpha_f 1(|W| <= 1)). w: (..., out).
    Raises as `alpha`. Source: XNOR-Net section 3.1 (p. 6); its Algorithm 1 says plain g instead.
    """
    return _expand(alpha(w), w) * sign(w)


def _scaled_sign_paper_fwd(w):
    return scaled_sign_paper(w), w


def _scaled_sign_paper_bwd(w, g):
    n = w.size // w.shape[-1]
    return ((g * (1 / n)).astype(w.dtype) + _inside(w, _expand(alpha(w), w) * g),)


scaled_sign_paper.defvjp(_scaled_sign_paper_fwd, _scaled_sign_paper_bwd)


def layer_alpha(w) -> jax.Array:
    """One scale for the whole layer: mean of |W| over all axes, repeated for every filter: (out,).

    w: (..., out). Raises as `alpha`. Source: DoReFa-Net (arXiv:1606.06160) eq. 8.
    """
    w = _floating(w, 'layer_alpha')
    flat = w.reshape(-1, 1) if w.ndim else w
    return jnp.broadcast_to(alpha(flat), w.shape[-1:])


@jax.custom_vjp
def layer_scaled_sign(w) -> jax.Array:
    """One scale a layer, identity gradient.

    Forward: mean(|W|) over the whole layer * sign(W). Gradient: g. w: (..., out), rank >= 1.
    Raises TypeError for a non-floating dtype. Source: DoReFa-Net eq. 8 (its 1-bit weights).
    """
    return _expand(layer_alpha(w), w) * sign(w)


def _layer_scaled_sign_fwd(w):
    return layer_scaled_sign(w), None


def _layer_scaled_sign_bwd(_, g):
    return (g,)


layer_scaled_sign.defvjp(_layer_scaled_sign_fwd, _layer_scaled_sign_bwd)


@jax.custom_vjp
def stochastic_sign_ste(x, key) -> jax.Array:
    """Sign drawn at random, with the straight-through estimator.

    Forward: +1 with probability p = clip((x + 1) / 2, 0, 1), else -1. Gradient: g * 1(|x| <= 1), inclusive; none for
    key. key: a jax.random key. Any shape. Raises TypeError for a non-floating dtype.
    Source: BinaryConnect (arXiv:1511.00363) eq. 2-3.
    """
    x = _floating(x, 'stochastic_sign_ste')
    p = jnp.clip((x.astype(wide(x.dtype)) + 1) / 2, 0, 1)
    drawn = jnp.where(jax.random.uniform(key, x.shape, p.dtype) < p, 1, -1).astype(x.dtype)
    return jnp.where(jnp.isnan(x), x, drawn)


def _stochastic_sign_ste_fwd(x, key):
    return stochastic_sign_ste(x, key), x


def _stochastic_sign_ste_bwd(x, g):
    return _inside(x, g), None


stochastic_sign_ste.defvjp(_stochastic_sign_ste_fwd, _stochastic_sign_ste_bwd)


def dorefa_weights(x, bits: int) -> jax.Array:
    """DoReFa weights.

    Forward, bits > 1, n = 2^bits - 1, M = max|tanh(x)|: 2 round(n (tanh(x)/(2M) + 1/2))/n - 1, halves to even (0 where
    M is 0 before rounding). Gradient: g (1 - tanh(x)^2)/M, M constant. bits = 1: `layer_scaled_sign`, identity gradient.
    Any shape. Raises ValueError unless bits is an integer from 1 to 16. Source: DoReFa-Net eq. 8-9.
    """
    _bits(bits)
    return layer_scaled_sign(x) if bits == 1 else _dorefa_weights(x, int(bits))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dorefa_weights(x, bits):
    x, n = _floating(x, 'dorefa_weights'), _bits(bits)
    t, largest = _tanh_and_largest(x)
    return (2 * jnp.round(n * (t / (2 * largest) + 0.5)) / n - 1).astype(x.dtype)


def _tanh_and_largest(x):
    t = jnp.tanh(x.astype(wide(x.dtype)))
    largest = jnp.max(jnp.abs(t), initial=0)
    return t, jnp.where(largest == 0, 1, largest)


def _dorefa_weights_fwd(x, bits):
    return _dorefa_weights(x, bits), x


def _dorefa_weights_bwd(bits, x, g):
    t, largest = _tanh_and_largest(x)
    return ((g.astype(t.dtype) * (1 - t**2) / largest).astype(x.dtype),)


_dorefa_weights.defvjp(_dorefa_weights_fwd, _dorefa_weights_bwd)


def dorefa_activations(x, bits: int) -> jax.Array:
    """DoReFa activations: values in [0, 1], not +-1.

    Forward, n = 2^bits - 1: round(n clip(x, 0, 1))/n, halves to even. Gradient: g where 0 <= x <= 1 (inclusive), else 0.
    Any shape. Raises ValueError unless bits is an integer from 1 to 16. Source: DoReFa-Net eq. 11.
    """
    _bits(bits)
    return _dorefa_activations(x, int(bits))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dorefa_activations(x, bits):
    x, n = _floating(x, 'dorefa_activations'), _bits(bits)
    clipped = jnp.clip(x.astype(wide(x.dtype)), 0, 1)
    return (jnp.round(clipped * n) / n).astype(x.dtype)


def _dorefa_activations_fwd(x, bits):
    return _dorefa_activations(x, bits), x


def _dorefa_activations_bwd(bits, x, g):
    return (jnp.where((x >= 0) & (x <= 1), g, 0).astype(x.dtype),)


_dorefa_activations.defvjp(_dorefa_activations_fwd, _dorefa_activations_bwd)


def input_scale(
    x,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = 'VALID',
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """XNOR-Net's K, the scale of every input window: K = A * k with A = mean over channels of |x|, k = 1/(w h).

    x: (N, H, W, C). Returns (N, H', W', 1), H' and W' as the layer's convolution gives them with this kernel size,
    strides, padding ('SAME', 'VALID' or explicit pairs) and dilation. Outside the image A is 0 and the divisor stays w h.
    Gradient: that of the formula (XNOR_K stops it). Raises TypeError for a non-floating dtype, ValueError for another
    rank or a bad window. Source: XNOR-Net section 3.2, eq. 11.
    """
    x = _floating(x, 'input_scale')
    if x.ndim != 4:
        raise ValueError(f'input_scale: got shape {x.shape}, expected rank 4: (N, H, W, C)')
    window = Window.of(kernel_size, strides, padding, dilation)
    magnitudes = jnp.abs(x.astype(wide(x.dtype)))
    magnitude = ordered_mean(jnp.moveaxis(magnitudes, -1, 0))[..., None]
    return window.mean(magnitude).astype(x.dtype)


def _expand(scale: jax.Array, w: jax.Array) -> jax.Array:
    """(out,) -> (1, ..., 1, out): under strict rank promotion the broadcast over filters is written out."""
    return jnp.reshape(scale, (1,) * (w.ndim - 1) + scale.shape)
