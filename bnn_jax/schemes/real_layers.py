"""First and last layers of published implementations: values for `first` and `last` of a scheme."""

import dataclasses

from bnn_jax.schemes import orders
from bnn_jax.schemes.scheme import Scheme
from bnn_jax.schemes.standard import real, real_input


def real_without_affine(scheme: Scheme) -> Scheme:
    """`schemes.real` with a normalization without gamma and beta."""
    return dataclasses.replace(real(scheme), affine=False)


def real_undropped(scheme: Scheme) -> Scheme:
    """`schemes.real` without dropout."""
    return dataclasses.replace(real(scheme), dropout=0.0)


def real_pool_norm(scheme: Scheme) -> Scheme:
    """`schemes.real` in the order product, pool, norm, without a ReLU."""
    return dataclasses.replace(real(scheme), chain=orders.product_pool_norm)


@dataclasses.dataclass(frozen=True)
class RealWithEps:
    """`schemes.real` with another epsilon in its normalization.

    Args:
        eps: what is added to the variance.
    """

    eps: float

    def __call__(self, scheme: Scheme) -> Scheme:
        return dataclasses.replace(real(scheme), eps=self.eps)


@dataclasses.dataclass(frozen=True)
class RealInputDropped:
    """`schemes.real_input` with dropout of the image.

    Args:
        rate: the probability with which an element is dropped.
    """

    rate: float

    def __call__(self, scheme: Scheme) -> Scheme:
        return dataclasses.replace(real_input(scheme), dropout=self.rate)
