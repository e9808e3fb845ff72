"""The step size of BinaryConnect against its golden number."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.optim.glorot import scale_by_glorot


def test_golden_scale():
    """DERIVED: 96 to 256 channels, 5x5."""
    with np.load(Path(__file__).parents[1] / 'golden' / 'derived_bc_bnn.npz') as file:
        expected = file['W_LR_scale_96_256_5x5']
    tx = scale_by_glorot()
    updates = {'conv': jnp.full((5, 5, 96, 256), 0.5), 'dense': jnp.ones((10, 14), jnp.bfloat16)}
    scaled, _ = tx.update(updates, tx.init(updates))
    np.testing.assert_allclose(scaled['conv'], np.full((5, 5, 96, 256), 0.5 * expected), rtol=1e-6)
    np.testing.assert_array_equal(scaled['dense'], np.full((10, 14), 4))
    assert scaled['dense'].dtype == jnp.bfloat16


def test_vectors_raise():
    tx = scale_by_glorot()
    with pytest.raises(ValueError, match=r'got a parameter of shape \(3,\)'):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
