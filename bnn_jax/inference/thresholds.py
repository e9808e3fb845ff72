"""What follows a binary product up to the next sign, as one comparison of its integer a channel; see docs/maths.md.

convert and load call `in_bits`, which finds where this applies and computes the thresholds, once. A file holds none.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.nn.epilogue import epilogue, scaled
from bnn_jax.nn.packed_layer import IntegerForm, PackedLayer, derived, packed_layer, with_children
from bnn_jax.nn.report import Row
from bnn_jax.ops.bits import WORD_BITS, words_for
from bnn_jax.ops.deterministic import negative
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.uncompiled import uncompiled


def in_bits(layer: Any, in_order: bool | None = None) -> Any:
    """A packed network, or any of its layers, with thresholds wherever `runs` allows; the answers are the same bits.

    Without any binary input there is no bit to keep: then real inputs meet binary weights in the fastest order of sums.
    in_order: whether that order is given up for the one of training; None: where the layer multiplies bits.
    """
    return _in_bits(layer, layer.multiplies_bits() if in_order is None else in_order)


def _in_bits(layer: Any, in_order: bool) -> Any:
    layer = with_children(layer, lambda inner: _in_bits(inner, in_order))
    return layer.summed(in_order).with_runs(lambda layers: tuple(Run.of(layers, *ends) for ends in runs(layers)))


def runs(layers: Sequence) -> list[tuple[int, int]]:
    """Where thresholds apply in layers one after the other: (start, stop) of each whose map only the sign of `stop` reads.

    Layer `start` must follow from integers (`PackedLayer.integer_form`), and layer `stop` read signs alone. Between them may
    stand layers that keep order (`Layer.direction`) or that only move signs (`Layer.moves_signs`); where channels have moved,
    by flattening, no number of a channel may follow.
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
    """Layers `start` to `stop` of a chain, a product and what follows up to the next one, from integers to signs.

    thresholds: (out,) int32. flip: (n_words,), set where the sign is -1 from the threshold on, not below it. highest: for
    each layer that moves signs the words that `Layer.on_signs` needs.
    """

    start: int
    stop: int
    thresholds: jax.Array = derived(init=True)
    flip: jax.Array = derived(init=True)
    highest: tuple[jax.Array, ...] = derived(init=True)

    @staticmethod
    def of(layers: Sequence, start: int, stop: int) -> 'Run':
        """The run of layers[start:stop], which `runs` found: thresholds by bisection over the layers themselves."""
        form, between = layers[start].integer_form(), layers[start + 1 : stop]
        pointwise = tuple(layer for layer in between if not layer.moves_signs())
        thresholds, flip = _thresholds(form.scale, form.bias, pointwise, form.largest, form.channels)
        highest = tuple(_words(rising ^ flip) for rising in _rising_where_moved(form, between))
        return Run(start, stop, jax.device_put(thresholds), _words(flip), highest)

    def signs_of(self, layers: Sequence, x: jax.Array | Signs) -> Signs:
        """The signs that layers[start:stop] give of x, by comparison with the thresholds."""
        product, *between = layers[self.start : self.stop]
        signs = product.compared(x, self.thresholds, self.flip)
        moving = [layer for layer in between if layer.moves_signs()]
        for layer, highest in zip(moving, self.highest, strict=True):
            signs = layer.on_signs(signs, highest)
        return signs

    def row_of(self, layer: Any, row: Row) -> Row:
        """What a report says of one of its layers; row: what it would say elsewhere."""
        if layer.holds_bits():
            return dataclasses.replace(row, reason=f'{row.reason}; its integers are compared, once a channel')
        return dataclasses.replace(row, became='integer thresholds, bits', reason=f'{layer.label()}: {layer.in_bits}')


def bisect(is_negative: Callable[[np.ndarray], Any], k: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(thresholds, flip) of a predicate that changes at most once, in each channel, as its integer goes from -k to k.

    is_negative: (channels,) int32 -> (channels,) bool. Then is_negative(a) == (a < thresholds) ^ flip for all such
    integers: thresholds (channels,) int32 from -k to k + 1, flip (channels,) bool. A predicate that never changes gives
    flip False and a threshold at the end. k < 2^30.
    """
    lowest, highest = (np.full(channels, end, np.int32) for end in (-k, k))
    at_lowest, at_highest = (np.asarray(is_negative(end)) for end in (lowest, highest))
    # The sign turns from + to - as the integer rises: compared the other way round.
    flip = ~at_lowest & at_highest
    below, above = lowest, highest
    for _ in range(int(2 * k).bit_length()):  # So many halvings bring the range to 1.
        middle = below + (above - below) // 2
        is_below = np.asarray(is_negative(middle)) != flip
        below, above = np.where(is_below, middle, below), np.where(is_below, above, middle)
    # A sign that never turns: a threshold beyond one end gives it for every integer.
    constant = np.where(at_lowest, highest + 1, lowest)
    return np.where(at_lowest == at_highest, constant, above), flip


def _thresholds(scale, bias, pointwise: tuple, k: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """`bisect` over what the layers compute: the epilogue of a product, then `pointwise`, then the sign."""
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
    """For each layer that moves signs, where its input does not fall as the integer rises: (out,) bool."""
    rising, found = np.ones(form.channels) if form.scale is None else np.sign(np.asarray(form.scale)), []
    for layer in between:
        if layer.moves_signs():
            found.append(rising >= 0)
        else:
            rising = rising * layer.direction(form.channels)
    return found


def _words(mask: np.ndarray) -> jax.Array:
    """(out,) bool -> (n_words,), as `bits.pack` has set bits; in NumPy, which compiles nothing."""
    padded = np.zeros(words_for(mask.size) * WORD_BITS, np.uint8)
    padded[: mask.size] = mask
    return jax.device_put(np.packbits(padded, bitorder='little').view('<u4'))
