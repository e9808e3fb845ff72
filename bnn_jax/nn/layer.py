"""What a layer says about itself: its cost, its packed form, and whether thresholds or operations on bits can replace it.

`convert`, `summarize`, thresholds, files, the float twin and diagnostics call these methods; none of them lists kinds of
layers. For a layer of your own, subclass `Layer`, override what differs from the defaults, and `register` the class if
networks that contain it are to be saved.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from bnn_jax.files.bounds import shown
from bnn_jax.nn.names import registered, registered_name
from bnn_jax.nn.packed_layer import PackedLayer, derived, packed_layer
from bnn_jax.nn.report import Row
from bnn_jax.ops.shapes import Shape, traced
from bnn_jax.ops.signs import Signs

if TYPE_CHECKING:  # A file without Flax modules is loaded without Flax, which is slow to import.
    from flax import nnx


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a layer for one image.

    Args:
        input_bits: 1 if the scheme quantizes the input of a product, else 32; None for a layer without a product.
        weight_bits: 1 if a product multiplies by signs, else 32; None for a layer without a product.
        weights: the number of kernel weights.
        params: the number of all trainable parameters.
        binary_params: how many of `params` are latent weights of binary weights.
        bytes: the bytes of the layer in float32, where a normalization counts as two numbers for each channel; if conversion
            keeps the layer, the bytes of its arrays in their own dtypes.
        packed_bytes: the bytes of the converted layer in a file.
        macs_1bit: multiply-adds of binary weights with binary inputs.
        macs_32bit: all other multiply-adds.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.nn.PRelu(8).cost((1, 8)).bytes
        32
    """

    input_bits: int | None = None
    weight_bits: int | None = None
    weights: int = 0
    params: int = 0
    binary_params: int = 0
    bytes: int = 0
    packed_bytes: int = 0
    macs_1bit: int = 0
    macs_32bit: int = 0


@dataclasses.dataclass(frozen=True)
class BinaryWeights:
    """The binary weights of a layer, for diagnostics.

    Args:
        latent: the latent weights, after the scheme's `before`.
        signs: the signs of the latent weights, as evaluation uses them; real if the scheme uses real weights in evaluation.
        scale: the scale of each filter, without a gradient; None: 1.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> weights = bnn.nn.Linear(3, 8, scheme=bnn.XNOR, rngs=nnx.Rngs(0)).binary_weights()
        >>> weights.signs.shape, weights.scale.shape
        ((3, 8), (8,))
    """

    latent: Float[Array, '*kernel out']
    signs: Float[Array, '*kernel out']
    scale: Float[Array, ' out'] | None


class Layer:
    """The base class of layers. By default, a layer computes in floats and conversion keeps it. Override what differs.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> class Half(bnn.nn.Layer):
        ...     def __call__(self, x):
        ...         return x / 2
        ...     def direction(self, channels):
        ...         return np.ones(channels)  # Keeps order, so a threshold can replace it.
        >>> Half().label(), Half()(np.array([6.0, -2.0]))
        ('Half', array([ 3., -1.]))
    """

    # Whether the output channels are the input channels, in the same order. False, for example, for flattening.
    keeps_channels: bool = True

    # What a report says about the layer if thresholds or words of signs replace it.
    in_bits: str = 'in the thresholds'

    def label(self) -> str:
        """The name of the layer in tables."""
        return type(self).__name__

    def cost(self, output_shape: tuple[int, ...]) -> Cost:
        """The cost of the layer for one image. output_shape: the shape of its output, with the batch."""
        return _float_cost(self)

    def multiplies_bits(self) -> bool:
        """Whether the layer multiplies binary inputs by binary weights."""
        return False

    def binary_weights(self) -> BinaryWeights | None:
        """The binary weights; None for a layer without any."""
        return None

    def passes_gradient(self, x: Float[Array, '*input']) -> Bool[Array, '*input'] | None:
        """Where the quantizer of the input has a gradient with respect to x; None if the layer does not quantize its input."""
        return None

    def use_batch_statistics(self) -> None:
        """Switches the layer to the statistics of each whole batch, if it has running statistics."""

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shapes of all maps that the layer computes from one image, the output last.

        A network from a file is checked with these shapes before it runs.

        Args:
            shape: the shape of the input, without the batch. An unknown number is None, and so is an unknown shape.

        Yields:
            Shapes, as far as they are known.

        Raises:
            ValueError: the input does not fit.
        """
        layer: Any = self
        # By default, tracing gives the shape of the output alone.
        yield traced(layer, shape)

    def packed(self) -> Any:
        """The layer in packed arithmetic. Raises ValueError, with the reason, if the layer cannot be converted."""
        return kept(self)

    def direction(self, channels: int) -> np.ndarray | None:
        """Whether the output rises or falls with the input in each channel, so that a threshold can replace the layer.

        Override this only in a layer that acts on each number by itself.

        Args:
            channels: the number of channels of the input.

        Returns:
            (channels,): +1 where the output never falls as the input rises, -1 where it never rises, 0 where it is constant.
            None for a layer that no threshold can replace.
        """
        return None

    def moves_signs(self) -> bool:
        """Whether the layer only moves or picks numbers within a channel, so that `on_signs` can apply it to signs."""
        return False

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        """The output of the layer for a map of signs.

        Args:
            signs: the map.
            highest: words with a bit set for each channel in which the layer picks the highest sign. In the other channels
                signs fall as the numbers rise, so it picks the lowest sign.
        """
        raise NotImplementedError(f'{type(self).__name__} says that it moves signs, but has no method on_signs')


def kept(layer: Any) -> PackedLayer:
    """The packed layer for a layer that conversion keeps: a module with its arrays, or a function without arrays."""
    from flax import nnx

    return KeptModule.of(layer) if isinstance(layer, nnx.Module) else Unchanged(layer)


def label_of(layer: Any) -> str:
    """The name of a layer in tables, even if it is not a `Layer`."""
    if isinstance(layer, Layer | PackedLayer):
        return layer.label()
    return getattr(layer, '__name__', type(layer).__name__)


def cost_of(layer: Any, output_shape: tuple[int, ...]) -> Cost:
    """The cost of a layer. If it is not a `Layer`, its arrays count, but its multiply-adds do not."""
    return layer.cost(output_shape) if isinstance(layer, Layer) else _float_cost(layer)


def _float_cost(layer: Any) -> Cost:
    """The cost of a layer that stays float: its trainable parameters, and the bytes of all its arrays."""
    from flax import nnx

    if not isinstance(layer, nnx.Module):
        return Cost()
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    size = _bytes(nnx.state(layer))
    return Cost(params=params, bytes=size, packed_bytes=size)


@packed_layer('Stateless')
class Unchanged(PackedLayer):
    """A layer without parameters, the same before and after conversion: ReLU, pooling, flattening, a user's function."""

    function: Any

    def __post_init__(self):
        # A file may name anything that is registered, even an operation, which takes weights too and so is not a layer.
        if isinstance(self.function, PackedLayer) or not _takes_one_array(self.function):
            raise ValueError(f'got {self.function!r} as a layer, expected a function of one array')

    @property
    def keeps_channels(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.function, 'keeps_channels', True)

    @property
    def in_bits(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.function, 'in_bits', PackedLayer.in_bits)

    def __call__(self, x: Shaped[Array, ' n *input']) -> Shaped[Array, ' n *output']:
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
    def of(module: 'nnx.Module') -> 'KeptModule':
        """A packed layer with a copy of the module, in evaluation mode."""
        from flax import nnx

        evaluating = nnx.merge(*nnx.split(module), copy=True)
        evaluating.eval()
        return KeptModule(*nnx.split(evaluating))

    def module(self) -> Any:
        """Makes the module from its structure and its arrays."""
        from flax import nnx

        return nnx.merge(self.graphdef, self.state, copy=True)

    def __call__(self, x: Shaped[Array, ' n *input']) -> Shaped[Array, ' n *output']:
        return self.module()(x)

    def label(self) -> str:
        return label_of(self.module())

    def row(self, path: str) -> Row:
        return Row(path, 'float32', self.stored_bytes(), f'{self.label()}: no binary weights, kept as trained')

    def stored_bytes(self) -> int:
        return _bytes(self.state)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        module = self.module()
        if isinstance(module, Layer):
            yield from module.maps(shape)
        else:
            yield traced(module, shape)

    def direction(self, channels: int) -> np.ndarray | None:
        module = self.module()
        return module.direction(channels) if isinstance(module, Layer) else None

    # A file keeps the registered name of the class, the registered arguments of its constructor, and its arrays.
    def to_file(self, store: Callable[[Any], str]) -> dict[str, Any]:
        """The description of the layer in a file.

        Args:
            store: array -> the name of its tensor in the file.

        Raises:
            ValueError: the class of the module has no registered name.
        """
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
        """The inverse of `to_file`.

        Args:
            described: the description in the file.
            load: the name of a tensor -> the array.

        Raises:
            ValueError: the description or an array does not fit.
        """
        from flax import nnx

        name, fields, arrays = (described.get(key) for key in ('name', 'fields', 'arrays'))
        if len(described) != 3 or not (isinstance(name, str) and isinstance(fields, dict) and isinstance(arrays, dict)):
            raise ValueError(
                f'got the keys {shown(sorted(described))}, expected name (a string), fields and arrays (both objects)'
            )
        entry = registered(name)
        maker = entry.make or entry.layer
        # The metaclass of Flax's modules hides the arguments of the class; `__init__` shows them.
        signed = maker.__init__ if isinstance(maker, type) else maker
        takes_rngs = 'rngs' in inspect.signature(signed).parameters

        def made() -> KeptModule:
            return cls.of(maker(**fields, **({'rngs': nnx.Rngs(0)} if takes_rngs else {})))

        # Shapes are checked first, so that no array is allocated that is larger than those of the file.
        try:
            abstract = jax.eval_shape(lambda: made().state)
        except Exception as error:  # A user's constructor may raise anything for wrong arguments.
            raise ValueError(f'{name} cannot be made from these fields ({type(error).__name__}: {error})') from error
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
    """Whether the function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        return callable(function)  # Functions written in C have no signature.
    return True


def _bytes(state: Any) -> int:
    """The bytes of the arrays of a state, without random keys."""
    return sum(leaf.size * leaf.dtype.itemsize for _, leaf in _arrays(state))


def _arrays(state: Any) -> list[tuple[Any, jax.Array]]:
    """The arrays of a state with their paths, except random keys and their counts, which evaluation does not read."""
    from flax import nnx

    leaves = jax.tree_util.tree_leaves_with_path(nnx.filter_state(state, nnx.Not(nnx.RngState)))
    return [(path, leaf) for path, leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
