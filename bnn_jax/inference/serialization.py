"""Save and load a packed network as one safetensors file of its tensors, with its structure as metadata: docs/format.md."""

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bnn_jax.files import write
from bnn_jax.files.bounds import Pairs, at
from bnn_jax.inference.container import compressed, decompressed, parsed, read, written
from bnn_jax.inference.description import Description, describe, stored
from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.packed_layer import PackedLayer

if TYPE_CHECKING:  # A file without Flax modules is loaded without Flax, which is slow to import.
    from flax import nnx

Source = str | os.PathLike | BinaryIO
"""The path of a file, where `~` is your home, or a file that is open in binary mode."""


def save(network: Any, path: Source, *, preprocessing: dict[str, Any] | None = None) -> Any:
    """Write a packed network to a file.

    If `path` is a path, the bytes are written to a new file beside it, which is then renamed: after any error, a full
    disk included, the old file is still there. With one version of zlib, the same network and preprocessing
    give the same bytes in every process, so a checksum identifies them.

    Args:
        network: what `convert` returned, a `PackedNetwork` or a user's own module. The file of a
            module holds its packed layers and all other arrays except random keys and their counts, but no code.
        path: where to write, where `~` is your home; or a file open for writing in binary mode, which stays open.
        preprocessing: how images are prepared for the network, as a JSON value. `preprocessing_of` returns it;
            `data.preprocessing.Preprocessing` makes and reads such values.

    Returns:
        The path, or the open file.

    Raises:
        TypeError: network is not packed, preprocessing is not a JSON value, or path is neither a path nor a file open
            in binary mode.
        ValueError: a layer has no registered name (`nn.register`); a number, also in the preprocessing, is not finite; or a
            value of the network is outside the bounds of docs/format.md.
        OSError: the file cannot be written; the message says what to do.

    Example:
        >>> import io, bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> file = bnn.save(bnn.convert(model), io.BytesIO())
        >>> bnn.load(io.BytesIO(file.getvalue())).report.bytes
        36
    """
    tensors: dict[str, Any] = {}
    module: Any = network

    def store(array: Any) -> str:
        return stored(array, tensors)

    def named(name: str, array: Any) -> str:
        with at(name):
            return store(array)

    with at('save'):
        if isinstance(network, PackedLayer) and network.is_network:
            entry, described = 'network', describe(network, store)
        elif isinstance(network, PackedLayer):
            raise TypeError(
                f'save: got a {type(network).__name__}, a packed layer alone, expected a whole network; convert a '
                'bnn_jax.nn.Network(layers, channels=..., num_classes=...), or a module of your own that holds the layers'
            )
        else:
            from bnn_jax.inference.modules import arrays_beside, packed_layers

            packed = packed_layers(network)
            if not packed:
                raise TypeError(
                    f'save: got {type(network).__name__}, expected a packed network; call bnn_jax.convert(model) first'
                )
            described = {'packed': {place.path: describe(place.layer.layer, store) for place in packed}}
            described['arrays'] = {name: named(name, array) for name, array in arrays_beside(module).items()}
            entry = 'module'
        metadata = {entry: compressed(json.dumps(described, separators=(',', ':')))}
        if preprocessing is not None:
            try:
                metadata['preprocessing'] = json.dumps(preprocessing, allow_nan=False)
            except ValueError as error:
                raise ValueError(
                    f'preprocessing: got {preprocessing!r} ({error}), expected a JSON value of finite numbers'
                ) from error
        content = written(tensors, metadata)
    if not isinstance(path, str | os.PathLike):
        if not hasattr(path, 'write') or isinstance(path, io.TextIOBase):
            raise TypeError(f'save: got a {type(path).__name__}, expected a path, or a file open in binary mode')
        path.write(content)
        return path
    path = Path(path).expanduser()
    write(path, content)
    return path


def load(path: Source, *, into: 'nnx.Module | None' = None) -> Any:
    """Read a packed network. Nothing in the file is executed.

    The network is checked (docs/format.md has the bounds). The preprocessing is checked when it is used.

    A packed network cannot be trained further. To change the number of classes, start from the trained network:
    `bnn_jax.nn.with_classes(model, num_classes, rngs=rngs)` returns a copy with a new last layer. The copy's attribute
    `new_layers` has the paths of the new layers.

    Args:
        path: a file that `save` wrote: its path, where `~` is your home, or the file itself, open in binary mode.
        into: a module of the same structure, if the file holds a user's own module. A copy of `into` gets the packed
            layers and the arrays of the file. Leave `into` out if the file holds a `PackedNetwork`.

    Returns:
        The `PackedNetwork`, or the copy of `into`.

    Raises:
        FileNotFoundError: there is no file.
        OSError: the file cannot be read; the message has the reason.
        TypeError: path is neither a path nor a file open in binary mode, or `into` is not an `nnx.Module`.
        ValueError: the file is truncated or altered, or comes from another program or a newer version; its layers do
            not fit each other or exceed the bounds; or `into` is missing, not needed, or has another structure. The
            message names the place.

    Example:
        >>> import io, bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> file = bnn.save(bnn.convert(model), io.BytesIO())
        >>> packed = bnn.load(io.BytesIO(file.getvalue()))
        >>> packed.channels, packed.num_classes
        (1, 3)
    """
    name, content = _content(path)
    metadata, tensors = read(name, content)
    del content  # Otherwise each number would be in memory three times.
    entry = 'module' if 'module' in metadata else 'network'
    if entry == 'module' and into is None:
        raise ValueError(
            f"load: {name} holds the arrays of a user's own module, expected a module to put them into: load(path, into=module)"
        )
    if entry == 'network' and into is not None:
        raise ValueError(f'load: {name} holds a whole network, expected load(path) without into')
    reading = Description(tensors)
    try:
        described = parsed(decompressed(metadata.get(entry, '')))
        if into is None:
            return in_bits(_network(reading, described, metadata.get('preprocessing')))
        layers, arrays = _module(reading, described)
    # The constructor of a user's layer may raise any error for wrong arguments; the message must name the file.
    except Exception as error:
        said = error if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
        raise ValueError(f'load: {name} does not describe a network ({said}); save it again') from error
    from bnn_jax.inference.modules import put_into

    return put_into(into, layers, arrays)


def _network(reading: Description, described: Any, preprocessing: str | None) -> Any:
    """The network, after checking that its layers fit each other and the images that the preprocessing states."""
    network = reading.layer(described, 'network')
    if not network.is_network:
        raise ValueError(f'network: got a {type(network).__name__}, expected a PackedNetwork')
    reading.expect_all_used()
    with at('network'):
        network.expect_fits((*_size(preprocessing), network.channels))
    return network


def _module(reading: Description, described: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The packed layers of a user's module, and the arrays beside them."""
    if not isinstance(described, dict) or not all(isinstance(described.get(key), dict) for key in ('packed', 'arrays')):
        raise ValueError('module: expected an object with packed and arrays, each an object')
    raw = {path: reading.layer(layer, f'module.packed[{path!r}]') for path, layer in described['packed'].items()}
    arrays = {path: reading.put(array, f'module.arrays[{path!r}]') for path, array in described['arrays'].items()}
    reading.expect_all_used()
    in_order = any(layer.multiplies_bits() for layer in raw.values())
    return {path: in_bits(layer, in_order) for path, layer in raw.items()}, arrays


def _size(preprocessing: str | None) -> tuple[int | None, int | None]:
    """Height and width of the images that the network reads; None if the file does not state them."""
    try:
        height, width, _ = json.loads(preprocessing or '')['input_shape']
        return Pairs(1, 1, 2**13)((height, width))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, None  # `Preprocessing` raises the error when the preprocessing is used.


def preprocessing_of(path: Source) -> dict[str, Any] | None:
    """The preprocessing that `save` was given.

    Args:
        path: as for `load`.

    Returns:
        The JSON value; None if `save` was given none.

    Raises:
        FileNotFoundError, OSError, TypeError, ValueError: as `load`.

    Example:
        >>> import io, bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> file = bnn.save(bnn.convert(model), io.BytesIO(), preprocessing={'input_shape': [2, 2, 1]})
        >>> bnn.inference.preprocessing_of(io.BytesIO(file.getvalue()))
        {'input_shape': [2, 2, 1]}
    """
    name, content = _content(path)
    metadata, _ = read(name, content)
    text = metadata.get('preprocessing')
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'load: {name}: its preprocessing is not JSON ({error}); save it again') from error


def _content(source: Source) -> tuple[str, bytes]:
    """The name of a file for error messages, and its bytes."""
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, 'read'):
            raise TypeError(f'load: got a {type(source).__name__}, expected a path, or a file open in binary mode')
        name = str(getattr(source, 'name', type(source).__name__))
        # A file in text mode is not read, because its bytes may not decode to text.
        content = '' if isinstance(source, io.TextIOBase) else source.read()
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError(f'load: {name} gives {type(content).__name__}, expected bytes; open it in binary mode')
        return name, bytes(content)
    path = Path(source).expanduser()
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f'load: there is no file {path}') from error
    except OSError as error:
        raise OSError(
            error.errno, f'load: cannot read the file ({error.strerror}), which may be intact', str(path)
        ) from error
