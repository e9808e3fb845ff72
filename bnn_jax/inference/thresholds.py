"""Thresholds, which replace the layers between a binary product and the next sign by a comparison of integers: docs/maths.md.

`convert` and `load` call `in_bits`, which finds such layers and computes their thresholds once. Files hold no thresholds.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt32

from bnn_jax.inference.bisection import bisect
from bnn_jax.nn.epilogue import epilogue, scaled
from bnn_jax.nn.packed_layer import IntegerForm, PackedLayer, derived, packed_layer, with_children
from bnn_jax.nn.report import Row
from bnn_jax.ops.bits import WORD_BITS, words_for
from bnn_jax.ops.deterministic import negative
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.uncompiled import uncompiled


def in_bits(layer: Any, in_order: bool | None = None) -> Any:
    """Put thresholds into a packed layer or network wherever `runs` finds that they apply. Thresholds change no answer.

    Args:
        layer: the packed layer or network.
        in_order: whether sums of real numbers keep the order of training; if not, they take the fastest order. None: they keep
            the order of training if the layer multiplies bits, because a sign may read such a sum.

    Returns:
        A copy.
    """
    return _in_bits(layer, layer.multiplies_bits() if in_order is None else in_order)


def _in_bits(layer: Any, in_order: bool) -> Any:
    layer = with_children(layer, lambda inner: _in_bits(inner, in_order))
    return layer.summed(in_order).with_runs(lambda layers: tuple(Run.of(layers, *ends) for ends in runs(layers)))


def runs(layers: Sequence) -> list[tuple[int, int]]:
    """Find where thresholds apply in a chain of layers.

    The output of layer `start` must follow from integers (`PackedLayer.integer_form`), and layer `stop` must read only
    signs. Each layer between them must keep or reverse the order of numbers in each channel (`Layer.direction`), or
    only move signs (`Layer.moves_signs`). Layers that do not keep the channels (`Layer.keeps_channels`), such as
    flattening, must come after all others between `start` and `stop`.

    Args:
        layers: packed layers, one after the other.

    Returns:
        (start, stop) of each run: the layers from `start` to just before `stop`.
    """
    found = []
    for start, layer in enumerate(layers):
        form = layer.integer_form()
        readers = (i for i in range(start + 1, len(layers)) if layers[i].reads_only_signs())
        stop = None if form is None else next(readers, None)
        if form is not None and stop is not None and _monotone(form, layers[start + 1 : stop]):
            found.append((start, stop))
    return found


def _monotone(form: IntegerForm, between: Sequence) -> bool:
    """Whether `between` is a monotone function of the integer in every channel."""
    moved = [not layer.keeps_channels for layer in between]
    return (
        all(layer.moves_signs() or layer.direction(form.channels) is not None for layer in between)
        and moved == sorted(moved)  # Flattening comes last.
    )


@packed_layer(None)
class Run(PackedLayer):
    """The layers [start:stop] of a chain, from the integers of a product to the signs that the next product reads."""

    start: int
    stop: int
    # One for each channel.
    thresholds: Int32[Array, ' out'] = derived(init=True)
    # A bit for each channel: set if integers from the threshold on give -1, clear if integers below it do.
    flip: UInt32[Array, ' n_words'] = derived(init=True)
    # For each layer that moves signs, the words that `Layer.on_signs` needs.
    highest: tuple[UInt32[Array, ' n_words'], ...] = derived(init=True)

    @staticmethod
    def of(layers: Sequence, start: int, stop: int) -> 'Run':
        """The run of layers[start:stop], which `runs` found, with thresholds found by bisection over the integers."""
        form, between = layers[start].integer_form(), layers[start + 1 : stop]
        pointwise = tuple(layer for layer in between if not layer.moves_signs())
        thresholds, flip = _thresholds(form.scale, form.bias, pointwise, form.largest, form.channels)
        highest = tuple(_words(rising ^ flip) for rising in _rising_where_moved(form, between))
        return Run(start, stop, jax.device_put(thresholds), _words(flip), highest)

    def signs_of(self, layers: Sequence, x: Float[Array, ' N *dims'] | Signs) -> Signs:
        """The signs of the output of layers[start:stop] for x, by comparison with the thresholds."""
        product, *between = layers[self.start : self.stop]
        signs = product.compared(x, self.thresholds, self.flip)
        moving = [layer for layer in between if layer.moves_signs()]
        for layer, highest in zip(moving, self.highest, strict=True):
            signs = layer.on_signs(signs, highest)
        return signs

    def row_of(self, layer: Any, row: Row) -> Row:
        """The row of a report for a layer of this run, made from the row that the layer has outside a run."""
        if layer.holds_bits():
            return dataclasses.replace(row, reason=f'{row.reason}; its integers are compared with thresholds')
        return dataclasses.replace(row, became='integer thresholds, bits', reason=f'{layer.label()}: {layer.in_bits}')


def _thresholds(scale, bias, pointwise: tuple, k: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Find thresholds with `bisect`. Its predicate is the epilogue of a product, then `pointwise`, then the sign."""
    operands = scale, bias, pointwise
    is_negative = uncompiled(_is_negative, *operands, np.zeros(channels, np.int32))
    return bisect(lambda integers: is_negative(*operands, integers), k, channels)


@jax.jit
def _is_negative(scale, bias, pointwise: tuple, integers: jax.Array) -> jax.Array:
    x = epilogue(scaled(integers[None].astype(jnp.float32), scale), None, bias)
    for layer in pointwise:
        x = layer(x)
    return negative(x)[0]


def _rising_where_moved(form: IntegerForm, between: Sequence) -> list[np.ndarray]:
    """For each layer that moves signs, (out,) bool: the channels in which its input does not fall as the integer rises."""
    rising, found = np.ones(form.channels) if form.scale is None else np.sign(np.asarray(form.scale)), []
    for layer in between:
        if layer.moves_signs():
            found.append(rising >= 0)
        else:
            rising = rising * layer.direction(form.channels)
    return found


def _words(mask: np.ndarray) -> jax.Array:
    """(out,) bool -> (n_words,) uint32 in the order of `bits.pack`; in NumPy, which compiles nothing."""
    padded = np.zeros(words_for(mask.size) * WORD_BITS, np.uint8)
    padded[: mask.size] = mask
    return jax.device_put(np.packbits(padded, bitorder='little').view('<u4'))
