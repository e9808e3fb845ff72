"""Maps of signs in words against the same maps in floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.ops.bits import pack, unpack
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.windows import Window


def random_signs(*shape, seed=0):
    return np.random.default_rng(seed).choice(np.float32([-1, 1]), size=shape)


def floats(signs: Signs) -> np.ndarray:
    return np.asarray(unpack(signs.words, signs.channels))


def assert_canonical(signs: Signs) -> None:
    """The words are those that pack makes: tail bits 0."""
    np.testing.assert_array_equal(signs.words, pack(floats(signs)), strict=True)


@pytest.mark.parametrize('channels', [1, 31, 32, 33, 64, 70])
def test_shape_and_flips(channels):
    x, mask = random_signs(2, 3, 4, channels), random_signs(channels, seed=1)
    signs = Signs.of(jnp.asarray(x))
    assert signs.shape == x.shape and signs.ndim == 4 and signs.words.shape[-1] == -(-channels // 32)
    flipped = signs.flipped(pack(mask))
    np.testing.assert_array_equal(floats(flipped), x * mask)
    assert_canonical(flipped)


WINDOWS = [Window.of(2, 2), Window.of(3, 2), Window.of((2, 3), (1, 2), ((1, 0), (2, 1))), Window.of(3, 2, 'SAME')]


@pytest.mark.parametrize('window', WINDOWS, ids=str)
@pytest.mark.parametrize('channels', [5, 64, 70])
def test_pooled_is_the_highest_or_the_lowest_sign_inside_the_image(window, channels):
    x, highest = random_signs(2, 7, 6, channels), random_signs(channels, seed=1) < 0
    pooled = Signs.of(jnp.asarray(x)).pooled(window, pack(np.where(highest, -1, 1)))
    expected = np.zeros((2, *window.output_size(7, 6), channels), np.float32)
    (top, _), (left, _) = window.pads(7, 6)
    for i, j in np.ndindex(expected.shape[1:3]):
        row, column = i * window.strides[0] - top, j * window.strides[1] - left
        inside = x[:, max(row, 0) : row + window.size[0], max(column, 0) : column + window.size[1]]
        expected[:, i, j] = np.where(highest, inside.max((1, 2)), inside.min((1, 2)))
    np.testing.assert_array_equal(floats(pooled), expected)
    assert_canonical(pooled)


@pytest.mark.parametrize('shape', [(2, 3, 4, 64), (2, 3, 4, 32), (2, 3, 4, 5), (2, 2, 1, 70), (2, 1, 1, 33), (3, 45)])
def test_flattened_is_row_major(shape):
    x = random_signs(*shape)
    flat = Signs.of(jnp.asarray(x)).flattened()
    assert flat.shape == (shape[0], np.prod(shape[1:]))
    np.testing.assert_array_equal(flat.words, pack(x.reshape(shape[0], -1)), strict=True)


def test_a_pytree():
    signs = Signs.of(jnp.asarray(random_signs(2, 3, 4, 5)))
    through = jax.jit(lambda s: s)(signs)
    assert through.channels == 5
    np.testing.assert_array_equal(through.words, signs.words)
