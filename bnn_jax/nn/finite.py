"""Checks parameters before they are packed."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32


def finite_parameter(variable: nnx.Variable, name: str) -> Float32[Array, '*shape']:
    """The value of a parameter. Raises ValueError unless it is float32 and finite."""
    value = np.asarray(variable[...])
    if value.dtype != np.float32:
        raise ValueError(
            f'{name}: got dtype {value.dtype}, expected float32; keep parameters in float32 (images may be narrower), because '
            'a cast now would change alpha and the answers'
        )
    if not np.isfinite(value).all():
        count = int((~np.isfinite(value)).sum())
        raise ValueError(
            f'{name}: {count} of {value.size} values are NaN or infinite, expected finite numbers; go back to the last good '
            'checkpoint'
        )
    # jnp.asarray would compile a copy for every shape.
    return jax.device_put(value)
