"""A packed network as one safetensors file: tensors, and as metadata how they fit together. See docs/format.md."""

import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from flax import nnx

from bnn_jax.files import write
from bnn_jax.files.bounds import Pairs, at
from bnn_jax.inference.container import compressed, decompressed, parsed, read, written
from bnn_jax.inference.description import Description, describe, stored
from bnn_jax.inference.modules import arrays_beside, packed_layers, put_into
from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.packed_layer import PackedLayer

Source = str | os.PathLike | BinaryIO


def save(network: Any, path: Source, *, preprocessing: dict[str, Any] | None = None) -> Any:
    """Write a packed network to one file.

    The file is written beside its destination and renamed at the end: after any error, a full disk included, what was
    there before is untouched. The same network gives the same bytes in every process, so that a checksum names it.

    Args:
        network: what `convert` returned: a `PackedNetwork`, or a copy of a user's module, of which the arrays are stored.
        path: where to write, `~` being your home; or a file opened for writing in binary mode, which stays open.
        preprocessing: JSON, what was done to an image before the network saw it, kept beside it (`preprocessing_of`);
            `data.preprocessing.Preprocessing` makes and reads it.

    Returns:
        The path, or the file.

    Raises:
        TypeError: for anything but a packed network, for a file in text mode.
        ValueError: for a layer without a registered name (`nn.register`), and for numbers that are not finite or beyond the
            bounds of docs/format.md.
        OSError: with the remedy, if the file cannot be written.
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
        elif packed := packed_layers(network):
            described = {'packed': {place.path: describe(place.layer.layer, store) for place in packed}}
            described['arrays'] = {name: named(name, array) for name, array in arrays_beside(module).items()}
            entry = 'module'
        elif isinstance(network, PackedLayer):
            raise TypeError(
                f'save: got a {type(network).__name__}, a packed layer alone, expected a whole network; convert a '
                'bnn_jax.nn.Network(layers, channels=..., num_classes=...), or a module of your own that holds the layers'
            )
        else:
            raise TypeError(
                f'save: got {type(network).__name__}, expected a packed network; call bnn_jax.convert(model) first'
            )
        metadata = {entry: compressed(json.dumps(described, separators=(',', ':')))}
        if preprocessing is not None:
            metadata['preprocessing'] = json.dumps(preprocessing)
        content = written(tensors, metadata)
    if not isinstance(path, str | os.PathLike):
        if not hasattr(path, 'write') or isinstance(path, io.TextIOBase):
            raise TypeError(f'save: got a {type(path).__name__}, expected a path, or a file opened in binary mode')
        path.write(content)
        return path
    path = Path(path).expanduser()
    write(path, content)
    return path


def load(path: Source, *, into: nnx.Module | None = None) -> Any:
    """Read a packed network; nothing in the file is executed, and nothing in it is believed (docs/format.md has the bounds).

    Args:
        path: a file that `save` wrote: its path, in which `~` is your home, or the file itself, opened in binary mode.
        into: for the file of a user's own module, a module of the same structure: its layers are packed, in a copy, and the
            arrays of the file put in their places. A `PackedNetwork` needs none.

    Raises:
        FileNotFoundError: if there is no file. OSError, with its reason, for one that cannot be read.
        ValueError: with the place, for a file that is truncated, altered, of another program, or of a newer format, whose
            layers do not fit each other or go beyond the bounds; for a module's file without `into`, or with one of another
            structure.
    """
    name, content = _content(path)
    metadata, tensors = read(name, content)
    del content  # So that no number is held three times.
    entry = 'module' if 'module' in metadata else 'network'
    if entry == 'module' and into is None:
        raise ValueError(
            f"load: {name} holds the arrays of a user's own module, expected one to put them into: load(path, into=module)"
        )
    if entry == 'network' and into is not None:
        raise ValueError(f'load: {name} holds a whole network, expected load(path) without into')
    reading = Description(tensors)
    try:
        described = parsed(decompressed(metadata.get(entry, '')))
        if into is None:
            return in_bits(_network(reading, described, metadata.get('preprocessing')))
        layers, arrays = _module(reading, described)
    # What the constructors of users' layers do with wrong arguments is not known; the caller learns which file it was.
    except Exception as error:
        said = error if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
        raise ValueError(f'load: {name} does not describe a network ({said}); save it again') from error
    return put_into(into, layers, arrays)


def _network(reading: Description, described: Any, preprocessing: str | None) -> Any:
    """The network, all of whose layers fit each other and the images that it says it is fed."""
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
    """Height and width of the images that a file says its network is fed; None where it does not say it."""
    try:
        height, width, _ = json.loads(preprocessing or '')['input_shape']
        return Pairs(1, 1, 2**14)((height, width))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, None  # `Preprocessing` says what is wrong with it, where somebody asks for it.


def preprocessing_of(path: Source) -> dict[str, Any] | None:
    """What `save` was given as preprocessing, None if nothing. Raises as `load`."""
    name, content = _content(path)
    metadata, _ = read(name, content)
    text = metadata.get('preprocessing')
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'load: {name}: its preprocessing is not JSON ({error}); save it again') from error


def _content(source: Source) -> tuple[str, bytes]:
    """What messages call a file, and its bytes."""
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, 'read'):
            raise TypeError(f'load: got a {type(source).__name__}, expected a path, or a file opened in binary mode')
        name, content = str(getattr(source, 'name', type(source).__name__)), source.read()
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
            error.errno, f'load: it cannot be read ({error.strerror}); the file itself may be whole', str(path)
        ) from error
