"""What recipes of several data sets share: schedules, optimizers, networks of a scheme."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

from bnn_jax.nn.variables import Latent
from bnn_jax.quantizers.published import sign_minus, sign_zero
from bnn_jax.schemes import Scheme
from bnn_jax.schemes.presets import deployable
from bnn_jax.training import latent_weights, named
from experiments import print_help


def networks(model: Callable, scheme: Scheme) -> dict[str, Any]:
    """`model` and `deployed` of a Config: the network with this scheme, and with sign(0) = +1 where the scheme has another.

    Args:
        model: (scheme=, rngs=, width=) -> network.
        scheme: what is trained.
    """
    converts = scheme.sign not in (sign_zero, sign_minus)
    return {
        'model': partial(model, scheme=scheme),
        'deployed': None if converts else partial(model, scheme=deployable(scheme)),
    }


@named('experiments.Falls')
@dataclasses.dataclass(frozen=True)
class Falls:
    """A learning rate that falls at the end of epochs: a Config's schedule.

    In a run of another length the falls are at the same shares of it.
    """

    # The epochs of the whole recipe.
    epochs: int
    # (epoch, factor on the largest rate from there on), in order.
    factors: tuple[tuple[int, float], ...]

    def __call__(self, learning_rate: float, steps: int) -> optax.Schedule:
        rates = [learning_rate, *(learning_rate * factor for _, factor in self.factors)]
        boundaries = [steps * epoch // self.epochs for epoch, _ in self.factors]
        return optax.join_schedules([optax.constant_schedule(rate) for rate in rates], boundaries)


@named('experiments.WarmUp')
@dataclasses.dataclass(frozen=True)
class WarmUp:
    """A learning rate that rises for some epochs, from a fifth to the whole, then falls by cosine to 0: a Config's schedule.

    In a run of another length it rises for the same share of it. Source: ReCU's code, which raises it epoch by epoch.
    """

    # The epochs of the whole recipe.
    epochs: int
    # The epochs in which the rate rises.
    rising: int

    def __call__(self, learning_rate: float, steps: int) -> optax.Schedule:
        rise = steps * self.rising // self.epochs
        falling = optax.cosine_decay_schedule(learning_rate, steps - rise)
        if rise == 0:
            return falling
        return optax.join_schedules([optax.linear_schedule(learning_rate / 5, learning_rate, rise), falling], [rise])


@named('experiments.sgd')
def sgd(schedule: optax.Schedule, decay: float = 0.0) -> optax.GradientTransformation:
    """SGD with momentum 0.9; decay: L2, added to the gradient."""
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9))


@named('experiments.adam')
def adam(schedule: optax.Schedule, decay: float = 0.0) -> optax.GradientTransformation:
    """Adam; decay: L2, added to the gradient (not decoupled)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.adam(schedule))


def l2_except_latent(decay: float) -> optax.GradientTransformation:
    """L2, added to the gradient, of every parameter but latent weights.

    Under XNOR and BWN the gradient of latent weights is small, because it has the factor alpha. L2 would shrink alpha, and
    with it the gradient. Adam would scale both up to full steps, and signs would flip at random (docs/what_trains.md).
    Bi-Real Net's code has no L2 on latent weights either.
    """

    def mask(params):
        return jax.tree.map(lambda v: not isinstance(v, Latent), params, is_leaf=lambda v: isinstance(v, nnx.Variable))

    return optax.add_decayed_weights(decay, mask=mask)


@named('experiments.l2_then')
def l2_then(
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation], decay: float, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """L2 of every parameter but latent weights, added to the gradient, then the optimizer."""
    return optax.chain(l2_except_latent(decay), optimizer(schedule))


def others(path: tuple, variable: nnx.Variable, params: nnx.State) -> bool:
    """All parameters but latent weights."""
    return not latent_weights(path, variable, params)


if __name__ == '__main__':
    print_help(__doc__)
