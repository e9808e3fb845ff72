"""Chains of packed layers, and the whole packed network."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Float32, Shaped

from bnn_jax.files.bounds import Size, at
from bnn_jax.nn.images import check_images, nan_unless_finite
from bnn_jax.nn.packed.budget import expect_within
from bnn_jax.nn.packed_layer import PackedLayer, child, derived, packed_layer, without_gradient
from bnn_jax.nn.report import Row
from bnn_jax.ops.meshes import along_batch, automatically, is_explicit
from bnn_jax.ops.shapes import Shape


@packed_layer('Chain')
class PackedSequential(PackedLayer):
    """Packed layers that run one after the other.

    Args:
        layers: first to last.
        runs: the ranges of layers that are computed in integers and bits, first to last (`thresholds.Run`).
    """

    layers: tuple[PackedLayer, ...] = child()
    runs: tuple = derived(init=True, default=())

    def __call__(self, x: Shaped[Array, ' n *input']) -> Shaped[Array, ' n *output']:
        done = 0
        for run in self.runs:
            # Layers between two runs compute as usual.
            x = run.signs_of(self.layers, self._through(done, run.start, x))
            done = run.stop
        return self._through(done, len(self.layers), x)

    def _through(self, start: int, stop: int, x: Any) -> Any:
        """The output of layers[start:stop] for the input x."""
        for layer, following in zip(self.layers[start:stop], (*self.layers, None)[start + 1 : stop + 1], strict=True):
            only_signs = following is not None and following.reads_only_signs() and layer.gives_signs()
            # If the next layer reads only signs, the map itself is never written.
            x = layer.signs(x) if only_signs else layer(x)
        return x

    def maps(self, shape: Shape) -> Iterator[Shape]:
        for i, layer in enumerate(self.layers):
            with at(f'layers[{i}]'):
                *before, shape = layer.maps(shape)
            yield from before
            if i + 1 < len(self.layers):
                yield shape
        yield shape

    def rows(self, path: str) -> Iterator[Row]:
        runs = {i: run for run in self.runs for i in range(run.start, run.stop)}
        for i, inner in enumerate(self.layers):
            for row in inner.rows(f'{path}.{i}' if path else str(i)):
                yield runs[i].row_of(inner, row) if i in runs else row

    def with_runs(self, find: Callable[[tuple], tuple]) -> 'PackedSequential':
        return PackedSequential(self.layers, find(self.layers))

    def float_twin(self) -> 'PackedSequential':
        return PackedSequential(self.layers)


@packed_layer('PackedNetwork')
class PackedNetwork(PackedLayer):
    """A converted network, from images (N, H, W, channels), floating, to logits (N, num_classes) float32.

    It is callable, a pytree, and hashed by identity: `jax.jit(packed)` and `jax.jit(lambda p, x: p(x))` both work. The
    logits of an image that is not finite are NaN. `report` says what each layer became. A gradient raises TypeError.

    Raises:
        TypeError: in a call, the images are not floating, or are a masked array.
        ValueError: in a call, the images have another rank or number of channels, an axis of length 0, or a size that
            the layers or the bounds of `budget` refuse.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> bnn.convert(model).report.bytes
        36
    """

    is_network = True

    channels: Size
    num_classes: Size
    body: PackedSequential = child()

    def __call__(self, images: Float[ArrayLike, 'n h w channels']) -> Float32[Array, 'n num_classes']:
        x = without_gradient(check_images(images, self.channels).astype(jnp.float32))
        # A file may describe layers that do not fit each other, so each call checks the shape of its images.
        self.expect_fits(x.shape[1:])
        if is_explicit(x):
            return automatically(_logits, along_batch(x), self.body, x)
        return _logits(self.body, x)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield from self.body.maps(shape)

    def expect_fits(self, shape: tuple[Any, ...]) -> None:
        """Checks an image shape (H, W, C) as `budget.expect_within` does."""
        expect_within(self, shape)

    def rows(self, path: str) -> Iterator[Row]:
        yield from self.body.rows(path)

    def __repr__(self) -> str:
        rows = self.report.rows
        packed = sum(row.became == 'xnor + popcount' for row in rows)
        return (
            f'PackedNetwork(channels={self.channels}, num_classes={self.num_classes}): {len(rows)} layers, {packed} of them '
            f'products of bits, {self.report.bytes:,} bytes; .report says what each layer became'
        )


def _logits(body: PackedSequential, images: jax.Array) -> jax.Array:
    return nan_unless_finite(body(images), images)
