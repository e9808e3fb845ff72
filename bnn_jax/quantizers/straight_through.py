"""How a quantizer is given its gradient, and what quantizers share.

Conventions: sign(0) = sign(-0.0) = +1, except in `published`; a NaN stays NaN; values and gradients have the input's dtype. A
gradient made by `with_gradient` is defined only in reverse mode. g is the incoming gradient, with respect to the output.
Layouts: activations NHWC, kernels HWIO, dense (in, out).
"""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def with_gradient(backward: Callable[..., jax.Array]) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Gives a function a gradient of its own.

    Args:
        backward: (*arguments, g) -> the gradient with respect to the first argument; the others have none.

    Returns:
        A decorator. The decorated function is a plain function, so that it can be pickled by its name.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> @bnn.quantizers.with_gradient(lambda x, g: 2 * g)
        ... def doubled_identity(x):
        ...     return bnn.quantizers.sign(x)
        >>> jax.grad(doubled_identity)(jnp.float32(0.5))
        Array(2., dtype=float32)
    """

    def decorate(forward: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        differentiable = jax.custom_vjp(forward)
        differentiable.defvjp(
            lambda *arguments: (forward(*arguments), arguments),
            lambda arguments, g: (backward(*arguments, g), *[None] * (len(arguments) - 1)),
        )

        signature = inspect.signature(forward)

        @functools.wraps(forward)
        def function(*arguments, **keywords):
            first, *others = signature.bind(*arguments, **keywords).args
            return differentiable(jnp.asarray(first), *others)

        return function

    return decorate


def floating(x: ArrayLike, name: str) -> Float[Array, '*shape']:
    """x as an array. Raises TypeError, naming the quantizer, for a dtype that is not floating."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f'{name}: got dtype {x.dtype}, expected a floating dtype; cast with x.astype(jnp.float32)')
    return x


def inside(x: Float[Array, '*shape'], g: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """The straight-through gradient: g where |x| <= 1 (inclusive), else 0."""
    return jnp.where(jnp.abs(x) <= 1, g, 0).astype(x.dtype)


def over_filters(scale: Float[Array, ' out'], w: Float[ArrayLike, '*window out']) -> Float[Array, '*ones out']:
    """Reshapes (out,) to (1, ..., 1, out), which broadcasts to w even if JAX is set to refuse rank promotion."""
    return jnp.reshape(scale, (1,) * (jnp.ndim(w) - 1) + scale.shape)
