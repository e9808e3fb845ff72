"""What a layer says of itself: its cost, its packed form, its place in bits.

`convert`, `summarize`, thresholds, files, the float twin and diagnostics ask these methods; none of them lists kinds of
layers. A layer of one's own is one class: subclass `Layer`, override what differs from the defaults, and `register` the
class if its networks are to be saved.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.nn.names import registered, registered_name
from bnn_jax.nn.packed_layer import PackedLayer, derived, packed_layer
from bnn_jax.nn.report import Row
from bnn_jax.ops.shapes import Shape, traced
from bnn_jax.ops.signs import Signs


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a layer costs, for one image."""

    # Bits of the two operands of a product, 32 or 1; None for a layer that multiplies nothing.
    input_bits: int | None = None
    weight_bits: int | None = None
    # Kernel weights; all trainable parameters; latent weights among them.
    weights: int = 0
    params: int = 0
    binary_params: int = 0
    # Bytes in float32, and as `save` stores the converted layer.
    bytes: int = 0
    packed_bytes: int = 0
    # Multiply-adds of binary weights with binary inputs, and all others.
    macs_1bit: int = 0
    macs_32bit: int = 0


@dataclasses.dataclass(frozen=True)
class BinaryWeights:
    """The binary weights of a layer."""

    # Latent weights, as they are read, and the signs of evaluation: of the kernel's shape.
    latent: jax.Array
    signs: jax.Array
    # The scale of every filter, (out,), without a gradient; None: 1.
    scale: jax.Array | None


class Layer:
    """The defaults of a layer: float arithmetic that conversion leaves as it is. Override what differs."""

    # Whether outputs have the channels of the inputs, in their order; flattening has not.
    keeps_channels: bool = True

    # What a report says of the layer where thresholds, or words of signs, stand for it.
    in_bits: str = 'in the thresholds'

    def label(self) -> str:
        """How tables name the layer."""
        return type(self).__name__

    def cost(self, output_shape: tuple[int, ...]) -> Cost:
        """What the layer costs where its output has this shape, batch included."""
        return _float_cost(self)

    def multiplies_bits(self) -> bool:
        """Whether the layer multiplies binary inputs by binary weights."""
        return False

    def binary_weights(self) -> BinaryWeights | None:
        """The binary weights; None for a layer without."""
        return None

    def passes_gradient(self, x: jax.Array) -> jax.Array | None:
        """Where the binary activation lets a gradient through to the input x, bool; None for a layer without one."""
        return None

    def use_batch_statistics(self) -> None:
        """Evaluate with the mean and variance of each batch as a whole, where the layer has running ones."""

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shapes of what the layer makes of one image, its output last, as far as they are known.

        shape: of its input, without the batch. Raises ValueError where it does not fit. Asked before a network runs that
        comes from a file; by default the layer is traced.
        """
        layer: Any = self
        yield traced(layer, shape)

    def packed(self) -> Any:
        """The layer in packed arithmetic. Raises ValueError with the reason where it cannot be converted."""
        return kept(self)

    def direction(self, channels: int) -> np.ndarray | None:
        """Whether a threshold can stand for the layer, which then must act on every number alone.

        Returns (channels,): +1 where the output never falls as the input rises, -1 where it never rises, 0 where it is
        constant; None for a layer that does not keep order.
        """
        return None

    def moves_signs(self) -> bool:
        """Whether the layer only moves or picks numbers of a channel, so that it can act on signs by `on_signs`."""
        return False

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        """What the layer makes of a map of signs. highest: words with a bit set where it picks the larger number."""
        raise NotImplementedError(f'{type(self).__name__} says that it moves signs, but has no method on_signs')


def kept(layer: Any) -> PackedLayer:
    """A layer that stays as it is in a packed network: a module with its arrays, or a function without any."""
    return KeptModule.of(layer) if isinstance(layer, nnx.Module) else Unchanged(layer)


def label_of(layer: Any) -> str:
    """How tables name a layer, also one that is not a `Layer`."""
    if isinstance(layer, Layer | PackedLayer):
        return layer.label()
    return getattr(layer, '__name__', type(layer).__name__)


def cost_of(layer: Any, output_shape: tuple[int, ...]) -> Cost:
    """The cost of a layer; of one that is not a `Layer` its parameters in float, no products."""
    return layer.cost(output_shape) if isinstance(layer, Layer) else _float_cost(layer)


def _float_cost(layer: Any) -> Cost:
    """Of a layer that stays float: its trainable parameters, and all its arrays in bytes."""
    if not isinstance(layer, nnx.Module):
        return Cost()
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Not(nnx.RngState))))
    return Cost(params=params, bytes=4 * size, packed_bytes=4 * size)


@packed_layer('Stateless')
class Unchanged(PackedLayer):
    """A layer without parameters, the same in both arithmetics: ReLU, pooling, flattening, a function of the user's."""

    function: Any

    def __post_init__(self):
        # A file may name anything that is registered: an operation, say, which takes weights too.
        if isinstance(self.function, PackedLayer) or not _takes_one_array(self.function):
            raise ValueError(f'got {self.function!r} as a layer, expected a function of one array')

    @property
    def keeps_channels(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.function, 'keeps_channels', True)

    @property
    def in_bits(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.function, 'in_bits', PackedLayer.in_bits)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)

    def label(self) -> str:
        return label_of(self.function)

    def row(self, path: str) -> Row:
        return Row(path, 'float32, no parameters', 0, self.label())

    def maps(self, shape: Shape) -> Iterator[Shape]:
        if isinstance(self.function, Layer):
            yield from self.function.maps(shape)
        else:
            yield traced(self.function, shape)

    def direction(self, channels: int) -> np.ndarray | None:
        return self.function.direction(channels) if isinstance(self.function, Layer) else None

    def moves_signs(self) -> bool:
        return isinstance(self.function, Layer) and self.function.moves_signs()

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        return self.function.on_signs(signs, highest)


@packed_layer('KeptModule')
class KeptModule(PackedLayer):
    """A module that stays float in a packed network, in evaluation mode: its structure and its arrays."""

    graphdef: Any
    state: Any = derived(init=True)

    @staticmethod
    def of(module: nnx.Module) -> 'KeptModule':
        """A copy of the module."""
        evaluating = nnx.merge(*nnx.split(module), copy=True)
        evaluating.eval()
        return KeptModule(*nnx.split(evaluating))

    def module(self) -> Any:
        """The module itself."""
        return nnx.merge(self.graphdef, self.state, copy=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.module()(x)

    def label(self) -> str:
        return label_of(self.module())

    def row(self, path: str) -> Row:
        return Row(path, 'float32', self.stored_bytes(), f'{self.label()}: no binary weights, kept as trained')

    def stored_bytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for _, leaf in _arrays(self.state))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        module = self.module()
        if isinstance(module, Layer):
            yield from module.maps(shape)
        else:
            yield traced(module, shape)

    def direction(self, channels: int) -> np.ndarray | None:
        module = self.module()
        return module.direction(channels) if isinstance(module, Layer) else None

    # A file keeps the registered name of the class, its constructor's arguments, and its arrays.
    def to_file(self, store: Callable[[Any], str]) -> dict[str, Any]:
        """What a file says of the layer. store: array -> the name of its tensor. Raises ValueError if it has no name."""
        module = self.module()
        name = registered_name(module)
        if name is None:
            kind = type(module).__name__
            raise ValueError(
                f'a layer of class {kind} has no name in files, expected a registered one; '
                f'register it once: bnn_jax.nn.register({kind!r}, fields=(...))({kind})'
            )
        arrays = {jax.tree_util.keystr(path): store(leaf) for path, leaf in _arrays(self.state)}
        return {'name': name, 'fields': {f: getattr(module, f) for f in registered(name).fields}, 'arrays': arrays}

    @classmethod
    def from_file(cls, described: dict[str, Any], load: Callable[[str], Any]) -> 'KeptModule':
        """The inverse of `to_file`. load: the name of a tensor -> the array. Raises ValueError for what does not fit."""
        name, fields, arrays = (described.get(key) for key in ('name', 'fields', 'arrays'))
        if len(described) != 3 or not (isinstance(name, str) and isinstance(fields, dict) and isinstance(arrays, dict)):
            raise ValueError('expected name, fields (an object) and arrays (an object)')
        entry = registered(name)
        maker = entry.make or entry.layer
        # Of a Flax module's class, its metaclass hides the arguments.
        signed = maker.__init__ if isinstance(maker, type) else maker
        takes_rngs = 'rngs' in inspect.signature(signed).parameters

        def made() -> KeptModule:
            return cls.of(maker(**fields, **({'rngs': nnx.Rngs(0)} if takes_rngs else {})))

        # Shapes first: no array is made that is larger than those of the file.
        try:
            abstract = jax.eval_shape(lambda: made().state)
        except Exception as error:  # What a user's constructor does with wrong arguments is not known.
            raise ValueError(f'{name} cannot be made of these fields ({type(error).__name__}: {error})') from error
        expected = {jax.tree_util.keystr(path): leaf for path, leaf in _arrays(abstract)}
        if set(expected) != set(arrays):
            raise ValueError(f'{name} has arrays {sorted(arrays)}, expected {sorted(expected)}')
        loaded = {array: load(tensor) for array, tensor in arrays.items()}
        for path, array in loaded.items():
            if array.shape != expected[path].shape or array.dtype != expected[path].dtype:
                got, wanted = (f'{a.dtype}{list(a.shape)}' for a in (array, expected[path]))
                raise ValueError(f'{name}{path} is {got}, expected {wanted}')
        layer = made()

        def put(path, leaf):
            return loaded.get(jax.tree_util.keystr(path), leaf)

        return cls(layer.graphdef, jax.tree_util.tree_map_with_path(put, layer.state))


def _takes_one_array(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        return callable(function)  # Functions written in C have no signature.
    return True


def _arrays(state: Any) -> list[tuple[Any, jax.Array]]:
    """The arrays of a state, by path, but for random keys and their counts, which no evaluation reads."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.filter_state(state, nnx.Not(nnx.RngState)))
    return [(path, leaf) for path, leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
