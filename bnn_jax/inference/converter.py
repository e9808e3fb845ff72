"""Trained network -> packed network, once: signs become bits, scales and normalization are computed for good."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.layer import Container, Layer, cost_of, kept, label_of
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.nn.report import Report, Row
from bnn_jax.nn.walk import is_container, slots, walk


class Packed(nnx.Module):
    """A packed layer in the place of the layer it was made of, in a user's own module."""

    def __init__(self, layer: PackedLayer):
        self.layer = nnx.data(layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)  # pyright: ignore[reportCallIssue]


def convert(model: Any) -> Any:
    """The packed network with the answers of a trained model in evaluation mode; the model itself is not changed.

    Signs of the latent weights become bits, alpha and folded normalization are computed once, real layers stay float32.
    On CPU the logits of float32 images are bit-identical to `model.eval()`'s for schemes with binary activations, alpha
    and pads included, if the scheme's scale is summed in a fixed order as all scales of `quantizers` are.

    Args:
        model: a network of this library's containers, which becomes a `PackedNetwork`, with thresholds where only signs
            are read; or any `nnx.Module`, of which a copy is returned: each binary layer is replaced by its packed twin, the
            module's own `__call__` stays, and so does everything else.

    Returns:
        The packed network. Its `report` names for each layer what it became, and why others stayed float. Heads that only
        training sees are left out.

    Raises:
        TypeError: for a model that is no `nnx.Module`.
        ValueError: naming the layer, for parameters that are not finite float32 numbers and for quantizers that are not
            signs times numbers; for a model without any binary weights.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(10, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=0.01, input_shape=(4, 4, 1))
        >>> packed = bnn.convert(model)
        >>> packed.report.rows[3].became
        'xnor + popcount'
    """
    if isinstance(model, Container):
        packed = in_bits(_packed(model, ''))
        if not packed.holds_bits():
            raise _without_bits()
        return packed
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f'convert: got {type(model).__name__}, expected a Network as bnn_jax.models make them, or any nnx.Module'
        )
    if isinstance(model, Layer):
        return _layer_packed(model, type(model).__name__)
    copy: Any = nnx.merge(*nnx.split(model), copy=True)
    rows: list[Row] = []
    copy.eval()
    if not _replace(copy, '', rows):
        raise _without_bits()
    order = [place.path for place in walk(model)]
    rows.sort(key=lambda row: next((i for i, path in enumerate(order) if row.path.startswith(path)), len(order)))
    copy.report = Report(tuple(rows))
    return copy


def _without_bits() -> ValueError:
    return ValueError('convert: got a network without binary weights, expected at least one layer to pack')


def _packed(layer: Any, path: str) -> Any:
    if isinstance(layer, Container):
        inner = [_packed(slot.get(), _joined(path, slot.name)) for slot in layer.slots()]
        return layer.packed(inner)
    return _layer_packed(layer, path)


def _layer_packed(layer: Any, path: str) -> Any:
    if not isinstance(layer, Layer):
        if not callable(layer):
            raise TypeError(f'convert: layer {path} is a {type(layer).__name__}, expected a layer: a callable')
        return kept(layer)
    try:
        return layer.packed()
    except ValueError as error:
        raise ValueError(f'convert: layer {path}: {error}') from error


def _replace(module: nnx.Module, path: str, rows: list[Row]) -> bool:
    """Puts packed twins into a user's module, adds to the rows of its report, and says whether there was anything to pack."""
    found = False
    for slot in slots(module):
        layer, inner = slot.get(), _joined(path, slot.name)
        if not isinstance(layer, Container) and is_container(layer):
            found |= _replace(layer, inner, rows)
            continue
        packed = in_bits(_packed(layer, inner))
        if packed.holds_bits():
            slot.put(Packed(packed))
            rows += packed.rows(inner)
            found = True
        else:
            rows.append(_float_row(layer, packed, inner))
    return found


def _float_row(layer: Any, packed: Any, path: str) -> Row:
    size = (
        cost_of(layer, ()).bytes
        if isinstance(layer, nnx.Module) and not isinstance(layer, Layer)
        else packed.stored_bytes()
    )
    reason = f'{label_of(layer)}: no binary weights, left as it was'
    if isinstance(layer, nnx.BatchNorm) and not isinstance(layer, Layer):
        count = _near_threshold(layer)
        if count:
            reason += (
                f'; before a sign, another compilation may flip the sign of up to {count} float32 numbers a channel, those '
                'nearest to its threshold; of none with bnn_jax.nn.Norm'
            )
    return Row(path, 'float32', size, reason)


def _near_threshold(norm: nnx.BatchNorm) -> int:
    """The most inputs of a channel, of all float32 numbers, whose sign after the normalization depends on its rounding.

    With y = (x - mean) f + bias, four roundings of at most 2^-24 each leave an error of 4 |bias| 2^-23 near y = 0; divided by
    f it is a distance between inputs, divided by their spacing a count. Without a bias the sign is exactly that of x - mean.
    """
    mean, var = (np.asarray(v[...], np.float64) for v in (norm.mean, norm.var))
    scale = 1.0 if norm.scale is None else np.asarray(norm.scale[...], np.float64)
    bias = np.zeros_like(mean) if norm.bias is None else np.asarray(norm.bias[...], np.float64)
    factor = np.abs(scale / np.sqrt(var + norm.epsilon))
    factor = np.where(factor == 0, np.inf, factor)
    threshold = np.float32(mean - bias / np.where(np.isinf(factor), np.inf, scale / np.sqrt(var + norm.epsilon)))
    width = 2 * 4 * np.abs(bias) * 2.0**-23 / factor
    counts = np.where(bias == 0, 0, np.ceil(width / np.maximum(np.spacing(np.abs(threshold)), 1e-45)))
    return int(counts.max(initial=0))


def _joined(path: str, name: str) -> str:
    return '.'.join(part for part in (path, name) if part)
