"""Trained network -> packed network, once: signs become bits, scales and normalization are computed for good."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.layer import KeptModule, Layer, kept, label_of
from bnn_jax.nn.packed_layer import PackedLayer, packed_layer, without_gradient
from bnn_jax.nn.report import Report, Row
from bnn_jax.nn.slots import Container
from bnn_jax.nn.walk import arrays_beside, arrays_of, expect_module, is_container, joined, slots, walk
from bnn_jax.ops.meshes import along_batch, automatically, is_explicit


class Packed(nnx.Module):
    """A packed layer in the place of the layer it was made of, in a user's own module."""

    def __init__(self, layer: PackedLayer):
        self.layer = nnx.data(layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = without_gradient(x)
        return automatically(_guarded, along_batch(x), self.layer, x) if is_explicit(x) else _guarded(self.layer, x)

    def __getattr__(self, name: str) -> Any:
        if name in ('kernel', 'bias', 'scheme'):
            raise AttributeError(
                f'{name}: this layer is packed, expected the trained model, which still has its {name}'
            )
        raise AttributeError(name)


class NoBinaryWeights(ValueError):
    """There is nothing to convert."""


def _guarded(layer: Any, x: jax.Array) -> jax.Array:
    # Real inputs hand a NaN on by themselves; a bit cannot.
    return _nan_where(x, layer(x), layer.acts_on_rows()) if layer.multiplies_bits() else layer(x)


def _nan_where(x: jax.Array, y: jax.Array, by_rows: bool) -> jax.Array:
    """y, but NaN for every image, or every row, in which x has a NaN, as training arithmetic has it there or in a part of it.

    Where a layer has other rows than its input, as behind a reshape, one NaN makes all of y NaN.
    """
    axes = (-1,) if by_rows else tuple(range(1, x.ndim))
    if y.shape[: x.ndim - len(axes)] != x.shape[: x.ndim - len(axes)]:
        axes = tuple(range(x.ndim))
    missing = jnp.isnan(x).any(axes)
    missing = missing.reshape(missing.shape + (1,) * (y.ndim - missing.ndim))
    return jnp.where(jnp.broadcast_to(missing, y.shape), jnp.nan, y)


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
    expect_module('convert', model)
    if any(isinstance(place.layer, Packed) for place in walk(model)):
        raise ValueError('convert: got a module that is converted already, expected a trained one')
    layers = [model] if isinstance(model, Layer) else [place.layer for place in walk(model)]
    # Real sums that a sign may read, anywhere in the model, keep the order of training.
    conversion = _Conversion(any(isinstance(layer, Layer) and layer.multiplies_bits() for layer in layers))
    packed = conversion.of(model, '')
    if not packed.holds_bits():
        raise NoBinaryWeights('convert: got a network without binary weights, expected at least one layer to pack')
    if not isinstance(packed, ConvertedModule):
        return in_bits(packed, conversion.in_order)
    converted = packed.module()
    if hasattr(converted, 'report'):
        raise ValueError(
            f"convert: {type(model).__name__} has an attribute 'report', which the report needs; rename it"
        )
    beside = [row for path, array in arrays_beside(model) for row in _own_rows(path, array)]
    converted.report = Report((*packed.rows(''), *beside))
    return converted


@packed_layer(None)
class ConvertedModule(KeptModule):
    """A user's module in which binary layers are packed; rows of its report, with paths inside the module."""

    inner_rows: tuple[Row, ...] = ()

    def rows(self, path: str) -> Iterator[Row]:
        for row in self.inner_rows:
            yield dataclasses.replace(row, path=joined(path, row.path))

    def holds_bits(self) -> bool:
        return True

    def multiplies_bits(self) -> bool:
        packed = (place.layer for place in walk(self.module()) if isinstance(place.layer, Packed))
        return any(one.layer.multiplies_bits() for one in packed)

    def to_file(self, store: Callable[[Any], str]) -> dict[str, Any]:
        raise ValueError(
            "save: a user's own module with packed layers stands inside a container of this library, expected the container "
            'inside the module; then its arrays are saved, and load(path, into=module) puts them back'
        )


class _Conversion:
    """One conversion; a layer that stands in several places is packed once."""

    def __init__(self, in_order: bool):
        self.in_order = in_order
        self._packed: dict[int, Packed] = {}

    def of(self, layer: Any, path: str) -> Any:
        """The packed layer of a layer, a container or a user's module."""
        if isinstance(layer, Container) and not _overrides_call(layer):
            return layer.packed([self.of(slot.get(), joined(path, slot.name)) for slot in layer.slots()])
        if isinstance(layer, nnx.Module) and is_container(layer):
            return self._converted(layer, path)
        if not isinstance(layer, Layer):
            if not callable(layer):
                raise TypeError(f'convert: layer {path} is a {type(layer).__name__}, expected a layer: a callable')
            return kept(layer)
        if _overrides_call(layer):
            raise ValueError(
                f'convert: layer {path}: {type(layer).__name__} has a __call__ of its own but not its own packed(), expected '
                'both or neither; or put the layer into a module of your own, whose __call__ stays'
            )
        try:
            return layer.packed()
        except ValueError as error:
            raise ValueError(f'convert: layer {path}: {error}') from error

    def _converted(self, module: nnx.Module, path: str) -> KeptModule:
        """A copy of the module with packed twins in it; kept as it is where there is nothing to pack."""
        # The user's module stays as it is.
        copy, rows = nnx.merge(*nnx.split(module), copy=True), {}
        copy.eval()
        found = self._replace(copy, path, '', rows)
        if not found:
            return KeptModule.of(module)
        # Merging a module puts its attributes in the order of their names; the report keeps that of the module.
        order = [place.path for place in walk(module)]
        ordered = sorted(rows, key=lambda p: next((i for i, q in enumerate(order) if f'{q}.'.startswith(f'{p}.')), 0))
        return ConvertedModule(*nnx.split(copy), tuple(row for name in ordered for row in rows[name]))

    def _replace(self, module: Any, path: str, inner: str, rows: dict[str, list[Row]]) -> bool:
        """Puts packed twins into a module and adds to the rows of its report; whether there was anything to pack."""
        found = False
        for slot in slots(module):
            layer, name = slot.get(), joined(inner, slot.name)
            # A container of ours is fused as a whole; a user's module keeps its own __call__, so only its layers are replaced.
            plain = isinstance(layer, Container) and not _overrides_call(layer)
            if not plain and is_container(layer):
                found |= self._replace(layer, path, name, rows)
            # The same layer in another place: one packed twin stands in both.
            elif id(layer) in self._packed:
                slot.put(self._packed[id(layer)])
            elif not callable(layer):
                rows[name] = [_float_row(layer, name)]
            else:
                packed = in_bits(self.of(layer, joined(path, name)), self.in_order)
                if packed.holds_bits():
                    self._packed[id(layer)] = Packed(packed)
                    slot.put(self._packed[id(layer)])
                    rows[name], found = list(packed.rows(name)), True
                else:
                    rows[name] = [_float_row(layer, name)]
        return found


def _overrides_call(layer: Any) -> bool:
    """Whether a subclass changed what a layer computes, but not how it is packed."""

    def owner(name: str) -> type:
        return next(cls for cls in type(layer).__mro__ if name in vars(cls))

    computes, packs = owner('__call__'), owner('packed')
    # The default of `packed` keeps the layer itself, whatever it computes.
    return packs is not Layer and computes is not packs and issubclass(computes, packs)


def _own_rows(path: str, array: nnx.Variable | jax.Array) -> Iterator[Row]:
    for value in arrays_of(array):
        reason = f'{type(array).__name__} of a module itself, beside its layers: left as it was'
        yield Row(path, str(value.dtype), value.size * value.dtype.itemsize, reason)


def _float_row(layer: Any, path: str) -> Row:
    leaves = jax.tree.leaves(nnx.state(layer, nnx.Not(nnx.RngState))) if isinstance(layer, nnx.Module) else []
    reason = f'{label_of(layer)}: no binary weights, left as it was'
    if isinstance(layer, nnx.BatchNorm) and not isinstance(layer, Layer):
        count = _near_threshold(layer)
        if count:
            reason += (
                f'; before a sign, another compilation may flip the sign of up to {count} float32 numbers a channel, those '
                'nearest to its threshold; of none with bnn_jax.nn.Norm'
            )
    return Row(path, 'float32', sum(leaf.size * leaf.dtype.itemsize for leaf in leaves), reason)


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
