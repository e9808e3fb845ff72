"""The check of parameters that conversion makes."""

import jax
import numpy as np
from flax import nnx


def finite_parameter(variable: nnx.Variable, name: str) -> jax.Array:
    """The value of a parameter. Raises ValueError unless it is float32 and finite."""
    value = np.asarray(variable[...])
    if value.dtype != np.float32:
        raise ValueError(
            f'{name}: got dtype {value.dtype}, expected float32; keep parameters in float32 (images may be narrower), since a '
            'cast now would change alpha and with it the answers'
        )
    if not np.isfinite(value).all():
        count = int((~np.isfinite(value)).sum())
        raise ValueError(
            f'{name}: {count} of {value.size} values are NaN or infinite, expected finite numbers; go back to the last good '
            'checkpoint'
        )
    return jax.device_put(value)  # jnp.asarray would compile a copy for every shape.
