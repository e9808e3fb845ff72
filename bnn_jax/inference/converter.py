"""Convert a trained network to a packed network: signs become bits, scales and normalization become constants."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.layer import KeptModule, Layer, kept, label_of
from bnn_jax.nn.packed_layer import PackedLayer, packed_layer, without_gradient
from bnn_jax.nn.places import arrays_beside, arrays_of, expect_module, is_container, joined, slots, walk
from bnn_jax.nn.report import Report, Row
from bnn_jax.nn.slots import Container
from bnn_jax.ops.meshes import along_batch, automatically, is_explicit


class Packed(nnx.Module):
    """A packed layer in a user's own module, in place of the trained layer."""

    def __init__(self, layer: PackedLayer):
        self.layer = nnx.data(layer)

    def __call__(self, x: Float[Array, '*shape']) -> Float[Array, '*result']:
        x = without_gradient(x)
        return automatically(_guarded, along_batch(x), self.layer, x) if is_explicit(x) else _guarded(self.layer, x)

    def __getattr__(self, name: str) -> Any:
        if name in ('kernel', 'bias', 'scheme'):
            raise AttributeError(
                f'{name}: this layer is packed, expected the trained model, which still has its {name}'
            )
        raise AttributeError(name)


class NoBinaryWeights(ValueError):
    """The error of `convert` for a model without binary weights."""


def _guarded(layer: Any, x: jax.Array) -> jax.Array:
    """The layer's output, with NaN at least where training arithmetic gives NaN."""
    # A product of real inputs passes a NaN on; a bit cannot hold one.
    return _nan_where(x, layer(x), layer.acts_on_rows()) if layer.multiplies_bits() else layer(x)


def _nan_where(x: jax.Array, y: jax.Array, by_rows: bool) -> jax.Array:
    """y, with NaN for each image (or each row) in which x has a NaN.

    Training arithmetic gives NaN in all or in a part of the output for such an image. If the images (or rows) of y are
    not those of x, as after a reshape, one NaN in x makes all of y NaN.
    """
    axes = (-1,) if by_rows else tuple(range(1, x.ndim))
    if y.shape[: x.ndim - len(axes)] != x.shape[: x.ndim - len(axes)]:
        axes = tuple(range(x.ndim))
    missing = jnp.isnan(x).any(axes)
    missing = missing.reshape(missing.shape + (1,) * (y.ndim - missing.ndim))
    return jnp.where(jnp.broadcast_to(missing, y.shape), jnp.nan, y)


def convert(model: Any) -> Any:
    """Convert a trained model to a packed network with the same answers as `model.eval()`; the model is not changed.

    The signs of latent weights become bits, alpha and normalization become constants, and real layers stay float32. On CPU the
    logits of float32 images equal the model's to the bit for each scheme with binary activations, if its scale is summed in a
    fixed order, as all scales of `quantizers` are.

    Args:
        model: a `Network` of this library's containers, or any `nnx.Module`.

    Returns:
        For a `Network` a `PackedNetwork`, in which thresholds replace what lies between two products wherever only signs are
        read. For another container or a single layer of this library, its packed twin. For any other module a copy, in which
        packed layers replace the binary ones; its `__call__` and all else stay. All have a `report`, which says what each
        layer became and why a layer stayed float. Auxiliary heads, which only training uses, are left out.

    Raises:
        TypeError: model is not an `nnx.Module` (a `PackedNetwork` is not one), or a container holds a layer that is not
            callable.
        ValueError: a parameter is not a finite float32 number, or bits cannot hold what a quantizer gives (the message names
            the layer); a layer's class overrides `__call__` but not `packed`; the model has no binary weights; or it is a
            module of your own that is converted already or has an attribute `report`.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> packed = bnn.convert(model)
        >>> packed.report.rows[1].became
        'xnor + popcount'
    """
    expect_module('convert', model)
    if any(isinstance(place.layer, Packed) for place in walk(model)):
        raise ValueError('convert: got a module that is converted already, expected a trained one')
    layers = [model] if isinstance(model, Layer) else [place.layer for place in walk(model)]
    # If any layer multiplies bits, any real sum may be the input of a sign, so all real sums keep the order of training.
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
    """A user's module whose binary layers are packed."""

    # The rows of its report, with paths relative to the module.
    inner_rows: tuple[Row, ...] = ()

    def rows(self, path: str) -> Iterator[Row]:
        """The rows of its report, with paths relative to the network."""
        for row in self.inner_rows:
            yield dataclasses.replace(row, path=joined(path, row.path))

    def holds_bits(self) -> bool:
        """Always true, because a module without packed layers stays a `KeptModule`."""
        return True

    def multiplies_bits(self) -> bool:
        """Whether one of its packed layers multiplies signs with signs."""
        packed = (place.layer for place in walk(self.module()) if isinstance(place.layer, Packed))
        return any(one.layer.multiplies_bits() for one in packed)

    def to_file(self, store: Callable[[Any], str]) -> dict[str, Any]:
        """Raises ValueError: a file cannot hold a user's own module."""
        raise ValueError(
            "save: got a user's own module with packed layers inside a container of this library, expected the container "
            'inside the module; then save writes its arrays, and load(path, into=module) puts them back'
        )


class _Conversion:
    """One conversion. It packs a layer of a user's module once, even if the layer has several places there."""

    def __init__(self, in_order: bool):
        self.in_order = in_order
        self._packed: dict[int, Packed] = {}

    def of(self, layer: Any, path: str) -> Any:
        """The packed twin of a layer, a container or a user's module."""
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
        """A copy of the module with packed layers; a `KeptModule` if there is nothing to pack."""
        # Layers are replaced in a copy, because the user's module must not change.
        copy, rows = nnx.merge(*nnx.split(module), copy=True), {}
        copy.eval()
        found = self._replace(copy, path, '', rows)
        if not found:
            return KeptModule.of(module)
        # Merging sorts the attributes of a module by name; the report keeps the order of the user's module.
        order = [place.path for place in walk(module)]
        ordered = sorted(rows, key=lambda p: next((i for i, q in enumerate(order) if f'{q}.'.startswith(f'{p}.')), 0))
        return ConvertedModule(*nnx.split(copy), tuple(row for name in ordered for row in rows[name]))

    def _replace(self, module: Any, path: str, inner: str, rows: dict[str, list[Row]]) -> bool:
        """Replace the binary layers in a module and add rows to its report. Returns whether any layer was packed."""
        found = False
        for slot in slots(module):
            layer, name = slot.get(), joined(inner, slot.name)
            # A container of this library is packed as a whole. A user's module keeps its __call__, so its layers are replaced.
            plain = isinstance(layer, Container) and not _overrides_call(layer)
            if not plain and is_container(layer):
                found |= self._replace(layer, path, name, rows)
            # The same layer in another place: both places get the same packed layer.
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
    """Whether a subclass overrides `__call__` but not `packed`, so that the packed layer would compute something else."""

    def owner(name: str) -> type:
        return next(cls for cls in type(layer).__mro__ if name in vars(cls))

    computes, packs = owner('__call__'), owner('packed')
    # `Layer.packed`, the default, keeps the layer with its own `__call__`.
    return packs is not Layer and computes is not packs and issubclass(computes, packs)


def _own_rows(path: str, array: nnx.Variable | jax.Array) -> Iterator[Row]:
    """Rows of the report for an array that a module holds beside its layers."""
    for value in arrays_of(array):
        reason = f'{type(array).__name__} of a module itself, outside its layers: unchanged'
        yield Row(path, str(value.dtype), value.size * value.dtype.itemsize, reason)


def _float_row(layer: Any, path: str) -> Row:
    """The row of the report for a layer that stays float."""
    leaves = jax.tree.leaves(nnx.state(layer, nnx.Not(nnx.RngState))) if isinstance(layer, nnx.Module) else []
    reason = f'{label_of(layer)}: no binary weights, left as it was'
    if isinstance(layer, nnx.BatchNorm) and not isinstance(layer, Layer):
        count = _near_threshold(layer)
        if count:
            reason += (
                f'; if a sign follows, another compilation may give the other sign for up to {count} float32 inputs per '
                'channel, those for which the output is nearest to 0; with bnn_jax.nn.Norm it gives the same signs'
            )
    return Row(path, 'float32', sum(leaf.size * leaf.dtype.itemsize for leaf in leaves), reason)


def _near_threshold(norm: nnx.BatchNorm) -> int:
    """The number of float32 inputs for which the rounding inside the normalization decides the sign of the output.

    It is counted for each channel, and the largest count is returned.

    y = (x - mean) f + bias. Four roundings, each counted as 2^-23 (twice its bound), leave an error of 4 |bias| 2^-23 up or
    down near y = 0. This error divided by f is a distance between inputs; that distance divided by the spacing of float32
    numbers there is a count.
    Without a bias, y has exactly the sign of (x - mean) f.
    """
    mean, var = (np.asarray(v[...], np.float64) for v in (norm.mean, norm.var))
    scale = 1.0 if norm.scale is None else np.asarray(norm.scale[...], np.float64)
    bias = np.zeros_like(mean) if norm.bias is None else np.asarray(norm.bias[...], np.float64)
    factor = np.abs(scale / np.sqrt(var + norm.epsilon))
    factor = np.where(factor == 0, np.inf, factor)  # Then y = bias for each x: no sign depends on the rounding.
    threshold = np.float32(mean - bias / np.where(np.isinf(factor), np.inf, scale / np.sqrt(var + norm.epsilon)))
    width = 2 * 4 * np.abs(bias) * 2.0**-23 / factor
    counts = np.where(bias == 0, 0, np.ceil(width / np.maximum(np.spacing(np.abs(threshold)), 1e-45)))
    return int(counts.max(initial=0))
