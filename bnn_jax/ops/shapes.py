"""Shapes of a layer's input and output for one image, and whether they fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Without the batch axis: (height, width, channels), or (features,). An unknown number is None, and so is an unknown shape.
Shape = tuple[int | None, ...] | None


def as_map(what: str, shape: Shape, channels: int | None = None) -> tuple[int | None, int | None, int | None]:
    """The height, width and channels of a map. Raises ValueError for another rank or number of channels."""
    if shape is None:
        return None, None, channels
    if len(shape) != 3:
        raise ValueError(f'{what}: got {text(shape)}, expected a map (height, width, channels)')
    expect_last(what, shape, channels)
    return shape[0], shape[1], shape[2]


def expect_last(what: str, shape: Shape, channels: int | None) -> None:
    """Raises ValueError if the last axis is known and is not `channels`."""
    if shape is not None and channels is not None and shape[-1] not in (None, channels):
        raise ValueError(f'{what}: got {text(shape)}, expected {channels} channels')


def merged(what: str, a: Shape, b: Shape) -> Shape:
    """Two shapes as one, with every number that either of them has. Raises ValueError if they contradict each other."""
    if a is None or b is None:
        return a or b
    if len(a) != len(b) or any(None not in pair and pair[0] != pair[1] for pair in zip(a, b, strict=True)):
        raise ValueError(f'{what}: got {text(a)} and {text(b)}, expected equal shapes')
    return tuple(n if m is None else m for n, m in zip(a, b, strict=True))


def numbers(shape: Shape) -> int | None:
    """The product of the numbers in a shape; None if one is unknown."""
    if shape is None:
        return None
    count = 1
    for n in shape:
        if n is None:
            return None
        count *= n
    return count


def text(shape: Shape) -> str:
    """A shape as an error shows it, with ? for an unknown number or an unknown shape."""
    return '?' if shape is None else f'({", ".join("?" if n is None else str(n) for n in shape)})'


def traced(layer: Callable, shape: Shape) -> Shape:
    """The output shape of a layer for one image, found by tracing; None if the image's shape is not fully known."""
    if shape is None or None in shape:
        return None
    return jax.eval_shape(layer, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]
