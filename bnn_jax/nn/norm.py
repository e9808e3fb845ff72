"""Batch normalization whose evaluation gives the same numbers in training and packed arithmetic."""

from functools import partial

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bnn_jax.nn.finite import finite_parameter
from bnn_jax.nn.layer import Cost, Layer
from bnn_jax.nn.meshes import called_automatically
from bnn_jax.nn.packed import PackedNorm
from bnn_jax.nn.variables import Fixed
from bnn_jax.ops.deterministic import norm_coefficients, normalize, wide
from bnn_jax.ops.meshes import alike, is_explicit
from bnn_jax.ops.normalization import batch_norm
from bnn_jax.ops.uncompiled import uncompiled
from bnn_jax.schemes.initializers import ones
from bnn_jax.schemes.projections import in_place
from bnn_jax.schemes.scheme import Scheme


class Norm(Layer, nnx.BatchNorm):
    """Batch normalization over all axes but the last.

    Forward: gamma (x - mean) / sqrt(var + eps) + beta.
    In training, mean and var are those of the whole batch, on any number of devices. With `norm_groups` above 1 in the scheme,
    the batch is divided into that many parts, and each part is normalized by itself. In evaluation, mean and var are running
    statistics, and the result has the same bits as in packed arithmetic.

    Args:
        channels: the number of channels, on the last axis of the input.
        scheme: its fields from `eps` to `norm_groups` say how to normalize.
        rngs: random keys for the initial gamma.

    Raises:
        ValueError: in a call, the input has another number of channels. In training, `norm_groups` does not divide the
            batch, or `variance_factor` refuses it.

    Source: arXiv:1502.03167.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> from flax import nnx
        >>> norm = bnn.nn.Norm(8, scheme=bnn.XNOR, rngs=nnx.Rngs(0))
        >>> norm.eval()
        >>> jax.eval_shape(norm, jax.ShapeDtypeStruct((1, 4, 4, 8), 'float32')).shape
        (1, 4, 4, 8)
    """

    def __init__(self, channels: int, *, scheme: Scheme, rngs: nnx.Rngs):
        super().__init__(
            channels,
            epsilon=scheme.eps,
            momentum=scheme.momentum,
            use_fast_variance=False,
            scale_init=scheme.gamma_init if scheme.affine else ones,
            rngs=rngs,
        )
        assert self.scale is not None and self.bias is not None  # Optional in Flax; they always exist here.
        self.variance_factor, self.gamma_before = scheme.variance_factor, scheme.gamma_before
        self.groups = scheme.norm_groups
        if scheme.gamma_before is not None:
            self.scale = nnx.Param(self.scale[...], before=scheme.gamma_before)
        if not scheme.affine:
            # Flax declares Param here, but any Variable works.
            self.scale = Fixed(self.scale[...])  # pyright: ignore[reportAttributeAccessIssue]
            self.bias = Fixed(self.bias[...])  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def gamma(self) -> Float[Array, ' channels']:
        """The factor of each channel, after the scheme's `gamma_before`."""
        assert self.scale is not None
        gamma = self.scale[...]
        return gamma if self.gamma_before is None else in_place(self.gamma_before, gamma)

    def coefficients(self) -> Float[Array, '2 channels']:
        """Scale and shift in evaluation: `ops.deterministic.norm_coefficients`."""
        return norm_coefficients(*self._numbers())

    def _numbers(self) -> tuple:
        assert self.bias is not None
        return self.gamma, self.bias[...], self.mean[...], self.var[...], self.epsilon

    # BatchNorm's other arguments, a mask and a switch for running statistics, do not fit a chain of layers.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Array, '*batch channels']
    ) -> Float[Array, '*batch channels']:
        if x.shape[-1] != self.num_features:
            raise ValueError(f'norm: got input of shape {x.shape}, expected {self.num_features} channels last')
        if is_explicit(x):
            return called_automatically(Norm.__call__, self, x)
        if self.use_running_average:
            return normalize(x.astype(wide(x.dtype)), self.coefficients())
        return self._with_batch_statistics(x)

    def _with_batch_statistics(self, x: jax.Array) -> jax.Array:
        """x normalized with the statistics of each group. The running statistics move toward the mean over the groups."""
        groups = self.groups
        if x.shape[0] % groups:
            raise ValueError(
                f'norm: got a batch of {x.shape[0]} images for norm_groups={groups}, expected a multiple of norm_groups'
            )
        assert self.scale is not None and self.bias is not None
        if self.gamma_before is not None:
            # The parameter is overwritten, as in the published code, so that the optimizer starts from this value. In
            # `train_step`, which drops the change, `optim.projected` projects gamma before the update.
            self.scale[...] = self.gamma
        of_group = jax.vmap(partial(batch_norm, eps=self.epsilon), in_axes=(0, None, None))
        grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
        y, mean, var = of_group(*alike(grouped, self.scale[...], self.bias[...]))
        var = var * self.variance_factor(x.size // self.num_features // groups)
        for running, batch in ((self.mean, mean), (self.var, var)):
            with jax.numpy_dtype_promotion('standard'):  # The batch's statistics may be wider than the running ones.
                moved = self.momentum * running[...] + (1 - self.momentum) * batch.mean(0)
            # `running[...] = moved` would do the same, but in a long trace Flax takes milliseconds to look for shardings.
            running.set_value(moved.astype(running[...].dtype))
        return y.reshape(x.shape)

    def use_batch_statistics(self) -> None:
        """Make evaluation use the statistics of each whole batch."""
        self.use_running_average, self.groups = False, 1

    def cost(self, output_shape: tuple[int, ...]) -> Cost:
        """Two numbers for each channel. They count as parameters if gamma and beta are trained."""
        numbers = 2 * self.num_features
        trained = numbers if isinstance(self.scale, nnx.Param) else 0
        return Cost(params=trained, bytes=4 * numbers, packed_bytes=4 * numbers)

    def packed(self) -> PackedNorm:
        """The normalization as a scale and a shift for each channel. Raises ValueError for numbers that are not finite."""
        for name in ('scale', 'bias', 'mean', 'var'):
            finite_parameter(getattr(self, name), name)
        numbers = self._numbers()
        coefficients = jax.device_put(uncompiled(norm_coefficients, *numbers)(*numbers))
        if not np.isfinite(np.asarray(coefficients)).all():
            raise ValueError(
                'its normalization gives a scale or shift that is not finite, expected var > -eps and '
                'gamma / sqrt(var + eps) below the largest float32; go back to the last good checkpoint'
            )
        return PackedNorm(self.num_features, coefficients)
