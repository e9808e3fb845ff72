"""A window that slides over an image, for convolution, pooling and K."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from bnn_jax.files.bounds import OneOf, Pairs
from bnn_jax.ops.deterministic import ordered_mean
from bnn_jax.ops.geometry import Pads, Pair
from bnn_jax.ops.pooling import max_pool
from bnn_jax.ops.shapes import Shape, as_map

Padding = str | Sequence[Sequence[int]]

# The largest extent and the largest stride, in pixels, of a window in a file.
LARGEST = 4096
# Up to this many taps, `taps` reads each with its own slice, which is fastest. More slices would take minutes to compile.
FEW_TAPS = 64


def _pair(value, name: str, smallest: int = 1) -> Pair:
    pair = (value, value) if isinstance(value, int | np.integer) else value
    # Python counts True as an int.
    integers = isinstance(pair, Sequence) and all(
        isinstance(v, int | np.integer) and not isinstance(v, bool) for v in pair
    )
    if not integers or len(pair) != 2 or min(pair) < smallest:
        raise ValueError(f'{name}: got {value!r}, expected one or two integers >= {smallest}')
    return int(pair[0]), int(pair[1])


@dataclasses.dataclass(frozen=True)
class Window:
    """Size, strides, padding and dilation of a sliding window. Make one with `Window.of`, which checks its arguments.

    Args:
        size: (height, width), in taps.
        strides: along height and width, in pixels.
        padding: 'SAME', 'VALID' or ((top, bottom), (left, right)).
        dilation: the distance between neighboring taps along height and width, in pixels.

    Example:
        >>> import bnn_jax as bnn
        >>> window = bnn.ops.Window.of(3, strides=2, padding='SAME')
        >>> window.pads(5, 5), window.output_size(5, 5)
        (((1, 1), (1, 1)), (3, 3))
    """

    size: Annotated[Pair, Pairs(1, 1, LARGEST)]
    strides: Annotated[Pair, Pairs(1, 1, LARGEST)] = (1, 1)
    padding: Annotated[str | Pads, OneOf(('VALID', 'SAME'), Pairs(2, 0, LARGEST))] = 'VALID'
    dilation: Annotated[Pair, Pairs(1, 1, LARGEST)] = (1, 1)

    @staticmethod
    def of(
        size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = 'VALID',
        dilation: int | Sequence[int] = 1,
    ) -> 'Window':
        """Makes a window. Size, strides and dilation are one integer or two.

        Args:
            size: one integer for a square window, or (height, width).
            strides: one integer, or one for each axis.
            padding: 'SAME', 'VALID' or ((top, bottom), (left, right)).
            dilation: one integer, or one for each axis.

        Returns:
            The window, with pairs of integers.

        Raises:
            ValueError: an argument has another form, or is too small.
        """
        if isinstance(padding, str):
            if padding not in ('SAME', 'VALID'):
                raise ValueError(
                    f"padding: got {padding!r}, expected 'SAME', 'VALID' or ((top, bottom), (left, right))"
                )
        else:
            pairs = tuple(padding) if isinstance(padding, Sequence) else ()
            if len(pairs) != 2:
                raise ValueError(f'padding: got {padding!r}, expected ((top, bottom), (left, right))')
            padding = (_pair(pairs[0], 'padding', 0), _pair(pairs[1], 'padding', 0))
        return Window(_pair(size, 'window size'), _pair(strides, 'strides'), padding, _pair(dilation, 'dilation'))

    @staticmethod
    def stored(size: Pair, strides: Pair = (1, 1), padding: str | Pads = 'VALID', dilation: Pair = (1, 1)) -> 'Window':
        """Like `of`, for a window that was read from a file. Raises ValueError also for too large a window or padding."""
        window = Window.of(size, strides, padding, dilation)
        if max(window.extent) > LARGEST:
            raise ValueError(
                f'window: got {window.extent} pixels from the first tap to the last, expected at most {LARGEST}'
            )
        if not isinstance(window.padding, str) and any(
            max(pad) > extent for pad, extent in zip(window.padding, window.extent, strict=True)
        ):
            raise ValueError(
                f'padding: got {window.padding}, expected at most {window.extent}, the extent of the window'
            )
        return window

    @property
    def extent(self) -> Pair:
        """(height, width) in pixels from the first tap to the last, both included: d (k - 1) + 1."""
        rows, columns = (d * (size - 1) + 1 for d, size in zip(self.dilation, self.size, strict=True))
        return rows, columns

    def pads(self, height: int, width: int) -> Pads:
        """The padding in pixels for an image of this size. Raises ValueError if the padded image is smaller than the window."""
        if isinstance(self.padding, str):
            # XLA's rule: an odd padding adds one more pixel at the bottom and at the right.
            top_left = lax.padtype_to_pads((height, width), self.extent, self.strides, self.padding)
            pads = (_pair(top_left[0], 'padding', 0), _pair(top_left[1], 'padding', 0))
        else:
            pads = self.padding
        for pixels, extent, pad, name in zip((height, width), self.extent, pads, ('height', 'width'), strict=True):
            if pixels + sum(pad) < extent:
                raise ValueError(
                    f'image {name} {pixels} with padding {pad} is smaller than the window ({extent}); use larger images'
                )
        return pads

    def output_size(self, height: int, width: int) -> Pair:
        """(height, width) of the output for an image of this size."""
        pads = self.pads(height, width)
        rows, columns = (
            (pixels + sum(pad) - extent) // stride + 1
            for pixels, pad, extent, stride in zip((height, width), pads, self.extent, self.strides, strict=True)
        )
        return rows, columns

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """Yields the shapes of a map (H, W, C) with padding and of its output; only (None, None, C) if H or W is unknown.

        Raises ValueError if the window does not fit the map.
        """
        height, width, channels = as_map('window', shape)
        if height is None or width is None:
            yield None, None, channels
            return
        (top, bottom), (left, right) = self.pads(height, width)
        yield height + top + bottom, width + left + right, channels
        yield *self.output_size(height, width), channels

    @partial(jax.jit, static_argnums=0)
    def taps(
        self, x: Shaped[Array, 'n height width channels'], pad_with: Shaped[ArrayLike, '*channels']
    ) -> Shaped[Array, 'taps n rows columns channels']:
        """The pixels that each tap of the window reads, in an image padded with pad_with."""
        pads = self.pads(x.shape[1], x.shape[2])
        rows, columns = self.output_size(x.shape[1], x.shape[2])
        pad_with = jnp.broadcast_to(jnp.asarray(pad_with, x.dtype), x.shape[-1:])
        x = pad_channels(x, pads, pad_with)
        (stride_h, stride_w) = self.strides
        if self.size[0] * self.size[1] > FEW_TAPS:
            seen = [
                np.arange(size)[:, None] * apart + np.arange(count) * stride
                for size, apart, count, stride in zip(
                    self.size, self.dilation, (rows, columns), self.strides, strict=True
                )
            ]
            # One gather along each axis gives (N, kh, H', kw, W', C).
            taken = jnp.take(jnp.take(x, seen[0], axis=1), seen[1], axis=3)
            return jnp.transpose(taken, (1, 3, 0, 2, 4, 5)).reshape(-1, x.shape[0], rows, columns, x.shape[3])
        return jnp.stack(
            [
                x[:, i : i + (rows - 1) * stride_h + 1 : stride_h, j : j + (columns - 1) * stride_w + 1 : stride_w]
                for i in range(0, self.extent[0], self.dilation[0])
                for j in range(0, self.extent[1], self.dilation[1])
            ]
        )

    @partial(jax.jit, static_argnums=0)
    def mean(self, x: Float[Array, 'n height width channels']) -> Float[Array, 'n rows columns channels']:
        """Mean over every window. Pixels outside the image count as 0."""
        return ordered_mean(self.taps(x, 0))

    def max(self, x: Float[Array, 'n height width channels']) -> Float[Array, 'n rows columns channels']:
        """Maximum over every window. Pixels outside the image do not count. Raises ValueError for a dilated window."""
        # `max_pool` has no dilation.
        if self.dilation != (1, 1):
            raise ValueError(f'max pooling: got a window of dilation {self.dilation}, expected (1, 1)')
        return max_pool(x, self.size, self.strides, self.pads(x.shape[1], x.shape[2]))


@partial(jax.jit, static_argnames='pads')
def pad_channels(
    x: Shaped[Array, 'n height width channels'], pads: Pads, value: Shaped[Array, ' channels']
) -> Shaped[Array, 'n padded_height padded_width channels']:
    """x, padded in height and width with one value for each channel."""
    if pads == ((0, 0), (0, 0)):
        return x
    (top, bottom), (left, right) = pads
    n, height, width, channels = x.shape
    rows, columns = np.arange(-top, height + bottom), np.arange(-left, width + right)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    # jnp.pad takes one number for all channels, so the values are selected afterward.
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return jnp.where(inside[None, :, :, None], padded, value)
