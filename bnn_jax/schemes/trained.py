"""Quantizers that are more than a function: with trained parameters, or with a schedule over training."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bnn_jax import quantizers
from bnn_jax.ops.deterministic import rounded, wide
from bnn_jax.ops.meshes import alike
from bnn_jax.schemes.initializers import unit_uniform


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """A quantizer that changes with the progress of training: `Scheme(weight=Scheduled(function))`.

    Progress is 0 at the first step and 1 at the last, float32 or wider. `training.init(model, tx, steps=...)` takes the number
    of steps. Evaluation and conversion use the progress that training has reached.

    Args:
        function: (x, value) -> quantized x, with its gradient.
        schedule: progress -> value, a scalar. None: the value is the progress.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> bnn.schemes.Scheduled(bnn.quantizers.sign_ede, bnn.schemes.Geometric(0.1, 10.0))  # As in IR-Net.
        Scheduled(function=sign_ede, schedule=Geometric(first=0.1, last=10.0))
        >>> def sharpening(x, progress):  # The gradient's window shrinks from |x| <= 1 to |x| <= 0.1.
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
    """A schedule for `Scheduled`: first (last / first)^progress.

    Args:
        first: the value at progress 0, positive.
        last: the value at progress 1, positive.

    Source: IR-Net's t (arXiv:1909.10788).

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.schemes.Geometric(1.0, 16.0)(0.5)
        4.0
    """

    first: float
    last: float

    def __call__(self, progress: Float[Array, '']) -> Float[Array, '']:
        return self.first * (self.last / self.first) ** progress


@dataclasses.dataclass(frozen=True)
class Exponential:
    """A schedule for `Scheduled`: first + (last - first) (e^progress - 1) / (e - 1).

    Args:
        first: the value at progress 0.
        last: the value at progress 1.

    Source: ReCU's tau (arXiv:2103.12369).

    Example:
        >>> import bnn_jax as bnn
        >>> round(float(bnn.schemes.Exponential(0.0, 8.0)(0.5)), 2)
        3.02
    """

    first: float
    last: float

    def __call__(self, progress: Float[Array, '']) -> Float[Array, '']:
        return self.first + (self.last - self.first) / (math.e - 1) * jnp.expm1(progress)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A quantizer with trained parameters; each layer has its own.

    Args:
        make: makes the quantizer of a layer. For an activation: (channels, rngs) -> `TrainedSign`. For weights: (initial
            latent weights, rngs) -> `TrainedWeight`, which gives the scale and the offset, so the scheme has neither.
        schedule: for weights only; progress -> value, as in `Scheduled`. The quantizer is then called as quantizer(w, value).
            None: no schedule.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> from bnn_jax.schemes import RSign, Trained, TrainedScale
        >>> scheme = dataclasses.replace(bnn.XNOR, activation=Trained(RSign), weight=Trained(TrainedScale), scale=None)
    """

    make: 'Callable[[Any, nnx.Rngs], TrainedSign | TrainedWeight]'
    schedule: Callable[[jax.Array], jax.Array] | None = None


class TrainedSign(nnx.Module):
    """A sign with trained parameters, for activations. Subclass it and override what differs.

    Forward: distance * sign(x + shift) + center.
    Gradient: that of the formula, with the gradient of `straight_through`.
    Training calls the module; `convert` reads `shift()` and `levels()`.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> from flax import nnx
        >>> class Shifted(bnn.schemes.TrainedSign):
        ...     def __init__(self, channels, rngs):
        ...         self.bias = nnx.Param(jnp.full(channels, -1.0))
        ...     def shift(self):
        ...         return self.bias[...]
        >>> Shifted(2, nnx.Rngs(0))(jnp.array([[0.5, 2.0]]))
        Array([[-1.,  1.]], dtype=float32)
    """

    def shift(self) -> Float[Array, ' channels'] | None:
        """What is added to the input before its sign is taken; None: nothing."""
        return None

    def levels(self) -> tuple[Float[Array, ''], Float[Array, '']] | None:
        """(distance, center): the two values are center - distance and center + distance; None: -1 and +1."""
        return None

    def sign(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        """The signs of the shifted input, with their gradient."""
        shift, dtype = self.shift(), x.dtype
        if shift is not None:
            # The sum is as wide as in packed arithmetic; otherwise a narrow input would have another threshold.
            x = x.astype(wide(dtype))
            x = rounded(x + jnp.broadcast_to(shift.astype(x.dtype), x.shape))
        return self.straight_through(x).astype(dtype)

    def straight_through(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        """The sign of x with the gradient of this quantizer; by default `quantizers.sign_ste`."""
        return quantizers.sign_ste(x)

    def __call__(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        levels, signs = self.levels(), self.sign(x)
        if levels is None:
            return signs
        # JAX's strict promotion modes convert neither shapes nor dtypes, so they are made equal here.
        distance, center = (jnp.broadcast_to(level.astype(x.dtype), x.shape) for level in levels)
        return distance * signs + center


class TrainedWeight(nnx.Module):
    """Binary weights with trained parameters. Subclass it and override what differs.

    Forward: scale * sign(w) + offset.
    Gradient: that of the formula, with the gradient of `sign`.
    Training calls the module; `convert` reads `scale()`, `offset()` and `sign`. With `Trained(..., schedule)` the call passes
    the schedule's value to `sign`; only the gradient of `sign` may depend on it.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> from flax import nnx
        >>> class Halves(bnn.schemes.TrainedWeight):
        ...     def __init__(self, kernel, rngs):
        ...         self.half = nnx.Param(jnp.full(kernel.shape[-1], 0.5))
        ...     def scale(self):
        ...         return self.half[...]
        >>> kernel = jnp.array([[-3.0, 0.1]])
        >>> Halves(kernel, nnx.Rngs(0))(kernel)
        Array([[-0.5,  0.5]], dtype=float32)
    """

    def scale(self) -> Float[Array, ' out'] | None:
        """One number for each filter; None: 1."""
        return None

    def offset(self) -> Float[Array, ' out'] | None:
        """What is added to the weights of each filter; None: nothing."""
        return None

    def sign(self, w: Float[Array, '*kernel out']) -> Float[Array, '*kernel out']:
        """The signs of the latent weights, with their gradient; by default `quantizers.sign_ste`."""
        return quantizers.sign_ste(w)

    def __call__(self, w: Float[Array, '*kernel out'], *value: Float[Array, '']) -> Float[Array, '*kernel out']:
        scale, offset, weight = self.scale(), self.offset(), self.sign(w, *value)
        if scale is not None:
            weight = weight * jnp.broadcast_to(scale, w.shape)
        if offset is not None:
            # Rounded, so that no compiler contracts the product and the sum.
            weight = rounded(weight) + jnp.broadcast_to(offset, w.shape)
        return weight


class TrainedScale(TrainedWeight):
    """Weights with a trained scale alpha for each filter, which starts as the mean of |W| over the filter.

    Forward: alpha_f sign(W).
    Gradient: with respect to W, alpha_f g 1(|W| <= 1); with respect to alpha_f, the sum of g_j sign(W_j) over filter f.

    Args:
        kernel: the initial latent weights, (..., out).
        rngs: not used.

    Source: XNOR-Net++ (arXiv:1909.13863), with one number for each output channel.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> from bnn_jax.schemes import Trained, TrainedScale
        >>> scheme = dataclasses.replace(bnn.XNOR, weight=Trained(TrainedScale), scale=None)
    """

    def __init__(self, kernel: Float[Array, '*kernel out'], rngs: nnx.Rngs | None = None):
        # At the start the layer computes what `quantizers.scaled_sign_ste` does.
        self.alpha = nnx.Param(quantizers.alpha(kernel))

    def scale(self) -> Float[Array, ' out']:
        """The trained scale of each filter."""
        return self.alpha[...]


class ReCUWeight(TrainedWeight):
    """ReCU's weights with a trained scale alpha for each filter, which starts from U(0, 1).

    Forward: alpha_f sign(W - mean).
    Gradient: with respect to W, alpha_f g passed through the gradient of `quantizers.recu_sign` at tau; with respect to
    alpha_f, the sum of g_j sign(W_j - mean) over filter f. tau is the value of the schedule.

    Args:
        kernel: the initial latent weights, (..., out).
        rngs: random keys for alpha.

    Source: ReCU's code, z-hXu/ReCU (arXiv:2103.12369).

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> from bnn_jax.schemes import Exponential, ReCUWeight, Trained
        >>> weight = Trained(ReCUWeight, Exponential(0.85, 0.99))
        >>> scheme = dataclasses.replace(bnn.RECU, weight=weight, scale=None, balance=None)
    """

    def __init__(self, kernel: Float[Array, '*kernel out'], rngs: nnx.Rngs):
        self.alpha = nnx.Param(unit_uniform(rngs.params(), kernel.shape[-1:]))

    def scale(self) -> Float[Array, ' out']:
        """The trained scale of each filter."""
        return self.alpha[...]

    def sign(self, w: Float[Array, '*kernel out'], tau: Any = 0.99) -> Float[Array, '*kernel out']:
        """The signs of the balanced weights, with `quantizers.recu_sign`'s gradient."""
        return quantizers.recu_sign(w, tau)


class RSign(TrainedSign):
    """ReActNet's RSign: a sign with a trained shift b for each channel, which starts at 0.

    Forward: sign(x + b).
    Gradient: with respect to x, g (2 - 2 |x + b|) 1(|x + b| <= 1); with respect to b, the sum of this
    gradient over all images and positions.

    Args:
        channels: the number of channels of the input.
        rngs: not used.

    Source: ReActNet (arXiv:2003.03488) section 4.2.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.schemes.RSign(2)(jnp.array([[-0.5, 3.0]]))
        Array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, channels: int, rngs: nnx.Rngs | None = None):
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def shift(self) -> Float[Array, ' channels']:
        """The trained shift of each channel."""
        return self.bias[...]

    def straight_through(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        """The sign of x with ApproxSign's gradient."""
        return quantizers.sign_approx(x)


@jax.custom_vjp
def _sign_within(x: jax.Array, distance: jax.Array) -> jax.Array:
    """The sign of x with a straight-through estimator whose window is |x| <= distance.

    Gradient where |x| <= distance: g / distance with respect to x, -g x / distance^2 with respect to distance; 0 elsewhere.
    """
    return quantizers.sign(x)


def _sign_within_bwd(residuals, g):
    x, distance = residuals
    d = jnp.broadcast_to(distance.astype(x.dtype), x.shape)
    to_x = jnp.where(jnp.abs(x) <= d, g / d, 0).astype(x.dtype)
    return to_x, jnp.sum(-to_x * x / d).astype(distance.dtype)


_sign_within.defvjp(lambda x, distance: (quantizers.sign(x), (x, distance)), _sign_within_bwd)


class AdaptiveSign(TrainedSign):
    """AdaBin's activations: two trained numbers for each layer, distance and center, which start at 1 and 0.

    Forward: distance * sign(x - center) + center.
    Gradient, with u = x - center: with respect to x, g 1(|u| <= distance); with respect to center, the sum of
    g 1(|u| > distance); with respect to distance, the sum of g (sign(u) - u / distance 1(|u| <= distance)).

    Args:
        channels: the number of channels of the input.
        rngs: not used.

    Source: AdaBin (arXiv:2208.08084) section 3.3.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> from bnn_jax.schemes import AdaptiveSign, Trained
        >>> scheme = dataclasses.replace(bnn.BNN, activation=Trained(AdaptiveSign))
        >>> AdaptiveSign(2).levels()
        (Array(1., dtype=float32), Array(0., dtype=float32))
    """

    def __init__(self, channels: int, rngs: nnx.Rngs | None = None):
        self.channels = channels
        self.distance = nnx.Param(jnp.ones((), jnp.float32))
        self.center = nnx.Param(jnp.zeros((), jnp.float32))

    def shift(self) -> Float[Array, ' channels']:
        """Minus the center, for each channel."""
        return jnp.broadcast_to(-self.center[...], (self.channels,))

    def levels(self) -> tuple[Float[Array, ''], Float[Array, '']]:
        """The trained distance and center."""
        return self.distance[...], self.center[...]

    def straight_through(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        """The sign of x with a gradient where |x| <= distance."""
        return _sign_within(*alike(x, self.distance[...]))


def quantized(
    quantizer: Any, x: Float[Array, '*shape'], progress: Any, given: Any = None
) -> Float[Array, '*quantized']:
    """quantizer(x), or quantizer(x, value) if there is a schedule.

    Args:
        quantizer: a function, `Scheduled`, or the module that a `Trained` made.
        x: the numbers that it quantizes.
        progress: the progress of training, from 0 to 1; None: 1.
        given: for a module that a `Trained` made, that `Trained`, whose schedule is used.
    """
    if isinstance(quantizer, Scheduled):
        function, schedule = quantizer.function, quantizer.schedule
    elif isinstance(given, Trained) and given.schedule is not None:
        function, schedule = quantizer, given.schedule
    else:
        return quantizer(x)
    # A network without a record of its progress counts as trained to the end.
    reached = jnp.asarray(1.0 if progress is None else progress, jnp.float32).astype(wide(x.dtype))
    return function(x, reached if schedule is None else schedule(reached))
