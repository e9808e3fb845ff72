"""Quantizers beyond a pure function: with parameters of their own, or with an eye on the progress of training."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax import quantizers
from bnn_jax.ops.deterministic import rounded, wide
from bnn_jax.schemes.initializers import unit_uniform


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """A quantizer that sees how far training has come: `Scheme(weight=Scheduled(function))`.

    function: (x, value) -> quantized x, with its gradient. schedule: progress -> value, a scalar; progress is 0 at the first
    step and 1 at the last, float32 or wider; by default it is itself the value. `training.init(model, tx, steps=...)` says how
    many steps there are; evaluation and conversion use the progress that training has reached.

    Example:
        >>> from bnn_jax import quantizers, schemes
        >>> schemes.Scheduled(quantizers.sign_ede, schemes.Geometric(0.1, 10.0))  # As in IR-Net.
        Scheduled(function=sign_ede, schedule=Geometric(first=0.1, last=10.0))

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> def sharpening(x, progress):  # tanh((1 + 9 p) x) as the surrogate of the sign
        ...     return bnn.quantizers.sign_ste(x * (1 + 9 * progress))
        >>> scheme = dataclasses.replace(bnn.BIREAL, activation=bnn.schemes.Scheduled(sharpening))
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    schedule: Callable[[jax.Array], jax.Array] | None = None

    def __repr__(self) -> str:
        name = getattr(self.function, '__name__', None) or repr(self.function)
        return f'Scheduled(function={name}' + ('' if self.schedule is None else f', schedule={self.schedule!r}') + ')'


@dataclasses.dataclass(frozen=True)
class Geometric:
    """A schedule of `Scheduled`: first (last / first)^progress, both positive. Source: IR-Net's t (arXiv:1909.10788)."""

    first: float
    last: float

    def __call__(self, progress: jax.Array) -> jax.Array:
        return self.first * (self.last / self.first) ** progress


@dataclasses.dataclass(frozen=True)
class Exponential:
    """A schedule of `Scheduled`: first + (last - first) (e^progress - 1) / (e - 1). Source: ReCU's tau (arXiv:2103.12369)."""

    first: float
    last: float

    def __call__(self, progress: jax.Array) -> jax.Array:
        return self.first + (self.last - self.first) / (math.e - 1) * jnp.expm1(progress)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A quantizer with trained parameters: `Scheme(activation=Trained(RSign))`, `Scheme(weight=Trained(TrainedScale))`.

    make: makes the quantizer of one layer. For an activation (channels, rngs) -> `TrainedSign`; for weights (initial latent
    weights, rngs) -> `TrainedWeight`, which gives the scale and the offset, so that the scheme has neither.
    schedule: of weights that see how far training has come, as in `Scheduled`: they are called with its value as well.
    """

    make: 'Callable[[Any, nnx.Rngs], TrainedSign | TrainedWeight]'
    schedule: Callable[[jax.Array], jax.Array] | None = None


class TrainedSign(nnx.Module):
    """A sign with parameters: distance * sign(x + shift) + center. Subclass it and override what differs.

    `__call__` quantizes while training; `convert` reads `shift()` and `levels()`.
    """

    def shift(self) -> jax.Array | None:
        """(channels,), added to the input before its sign is taken; None: nothing."""
        return None

    def levels(self) -> tuple[jax.Array, jax.Array] | None:
        """(distance, center), scalars: the two values are center - distance and center + distance; None: -1 and +1."""
        return None

    def sign(self, x: jax.Array) -> jax.Array:
        """+-1 of the shifted input, with its gradient."""
        shift, dtype = self.shift(), x.dtype
        if shift is not None:
            # The sum is as wide as in packed arithmetic, or a narrow input would meet another threshold.
            x = x.astype(wide(dtype))
            x = rounded(x + jnp.broadcast_to(shift.astype(x.dtype), x.shape))
        return self.straight_through(x).astype(dtype)

    def straight_through(self, x: jax.Array) -> jax.Array:
        """The sign of x with the gradient that this quantizer has."""
        return quantizers.sign_ste(x)

    def __call__(self, x: jax.Array) -> jax.Array:
        levels, signs = self.levels(), self.sign(x)
        if levels is None:
            return signs
        distance, center = (jnp.broadcast_to(level.astype(x.dtype), x.shape) for level in levels)
        return distance * signs + center


class TrainedWeight(nnx.Module):
    """Binary weights with parameters: scale * sign(w) + offset. Subclass it and override what differs.

    `__call__` quantizes while training; `convert` reads `scale()`, `offset()` and the values of `sign`. Under a
    `Trained(..., schedule)`, `__call__` hands the schedule's value on to `sign`, whose gradient alone may depend on it.
    """

    def scale(self) -> jax.Array | None:
        """(out,), one number for each filter; None: 1."""
        return None

    def offset(self) -> jax.Array | None:
        """(out,), added to the weights of each filter; None: nothing."""
        return None

    def sign(self, w: jax.Array) -> jax.Array:
        """+-1 of the latent weights, with its gradient."""
        return quantizers.sign_ste(w)

    def __call__(self, w: jax.Array, *value: jax.Array) -> jax.Array:
        scale, offset, weight = self.scale(), self.offset(), self.sign(w, *value)
        if scale is not None:
            weight = weight * jnp.broadcast_to(scale, w.shape)
        if offset is not None:
            weight = rounded(weight) + jnp.broadcast_to(offset, w.shape)
        return weight


class TrainedScale(TrainedWeight):
    """alpha_f sign(W) with a trained alpha for each filter, which starts as the mean of |W_f|.

    Gradient: alpha_f g 1(|W| <= 1) to W; sum_j g_j sign(W_j) to alpha_f, the sum over filter f. w: (..., out).
    Source: XNOR-Net++ (arXiv:1909.13863), with one number for each output channel.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> from bnn_jax.schemes import Trained, TrainedScale
        >>> scheme = dataclasses.replace(bnn.XNOR, weight=Trained(TrainedScale), scale=None)
    """

    def __init__(self, kernel: jax.Array, rngs: nnx.Rngs | None = None):
        self.alpha = nnx.Param(quantizers.alpha(kernel))

    def scale(self) -> jax.Array:
        return self.alpha[...]


class ReCUWeight(TrainedWeight):
    """ReCU's weights: alpha_f sign(W - mean), alpha a trained number for each filter, which starts from U(0, 1).

    Gradient: alpha_f g through `quantizers.recu_sign` at tau to W; sum_j g_j sign(W_j - mean) to alpha_f. tau: the value of the
    schedule, `Trained(ReCUWeight, Exponential(0.85, 0.99))`. w: (..., out). Source: ReCU's published code (z-hXu/ReCU).
    """

    def __init__(self, kernel: jax.Array, rngs: nnx.Rngs):
        self.alpha = nnx.Param(unit_uniform(rngs.params(), kernel.shape[-1:]))

    def scale(self) -> jax.Array:
        return self.alpha[...]

    def sign(self, w: jax.Array, tau: Any = 0.99) -> jax.Array:
        return quantizers.recu_sign(w, tau)


class RSign(TrainedSign):
    """ReActNet's RSign: sign(x + b) with a trained b for each channel.

    Gradient: g (2 - 2 |x + b|) 1(|x + b| <= 1) to x, summed over all positions to b. b starts at 0.
    Source: ReActNet (arXiv:2003.03488) section 4.2.
    """

    def __init__(self, channels: int, rngs: nnx.Rngs | None = None):
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def shift(self) -> jax.Array:
        return self.bias[...]

    def straight_through(self, x: jax.Array) -> jax.Array:
        return quantizers.sign_approx(x)


@jax.custom_vjp
def _sign_within(x: jax.Array, distance: jax.Array) -> jax.Array:
    """sign(x). Gradient: g / distance to x where |x| <= distance, and -g x / distance^2 there to distance."""
    return quantizers.sign(x)


def _sign_within_bwd(residuals, g):
    x, distance = residuals
    d = jnp.broadcast_to(distance.astype(x.dtype), x.shape)
    to_x = jnp.where(jnp.abs(x) <= d, g / d, 0).astype(x.dtype)
    return to_x, jnp.sum(-to_x * x / d).astype(distance.dtype)


_sign_within.defvjp(lambda x, distance: (quantizers.sign(x), (x, distance)), _sign_within_bwd)


class AdaptiveSign(TrainedSign):
    """AdaBin's activations: the two values center - distance and center + distance, both numbers trained for each layer.

    Forward: distance * sign(x - center) + center. Gradient: straight through where |x - center| <= distance; those of
    distance and center follow. They start at 1 and 0. Source: AdaBin (arXiv:2208.08084) section 3.3.
    """

    def __init__(self, channels: int, rngs: nnx.Rngs | None = None):
        self.channels = channels
        self.distance = nnx.Param(jnp.ones((), jnp.float32))
        self.center = nnx.Param(jnp.zeros((), jnp.float32))

    def shift(self) -> jax.Array:
        return jnp.broadcast_to(-self.center[...], (self.channels,))

    def levels(self) -> tuple[jax.Array, jax.Array]:
        return self.distance[...], self.center[...]

    def straight_through(self, x: jax.Array) -> jax.Array:
        return _sign_within(x, self.distance[...])


def quantized(quantizer: Any, x: jax.Array, progress: Any, given: Any = None) -> jax.Array:
    """quantizer(x), told the progress of training if it is `Scheduled`, or its `Trained` has a schedule.

    Args:
        quantizer: a function, `Scheduled`, or the module of a `Trained` one.
        x: what it quantizes.
        progress: from 0 to 1; None: 1.
        given: what the scheme has in its place: the `Trained` of a module.
    """
    if isinstance(quantizer, Scheduled):
        function, schedule = quantizer.function, quantizer.schedule
    elif isinstance(given, Trained) and given.schedule is not None:
        function, schedule = quantizer, given.schedule
    else:
        return quantizer(x)
    reached = jnp.asarray(1.0 if progress is None else progress, jnp.float32).astype(wide(x.dtype))
    return function(x, reached if schedule is None else schedule(reached))
