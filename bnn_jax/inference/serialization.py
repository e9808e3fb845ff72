"""A packed network as one safetensors file: tensors, and as metadata how they fit together. See docs/format.md."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as to_bytes

from bnn_jax.files import write
from bnn_jax.inference.modules import arrays_beside, packed_layers, put_into
from bnn_jax.inference.thresholds import in_bits
from bnn_jax.nn.names import registered, registered_name
from bnn_jax.nn.packed_layer import PackedLayer, name_in_files, role

FORMAT, VERSION = 'bnn_jax', 1


Source = str | os.PathLike | BinaryIO


def save(network: Any, path: Source, *, preprocessing: dict[str, Any] | None = None) -> Any:
    """Write a packed network to one file.

    The file is written beside its destination and renamed at the end: after any error, a full disk included, what was
    there before is untouched.

    Args:
        network: what `convert` returned: a `PackedNetwork`, or a copy of a user's module, of which the arrays are stored.
        path: where to write, `~` being your home; or a file opened for writing in binary mode, which stays open.
        preprocessing: JSON, what was done to an image before the network saw it, kept beside it (`preprocessing_of`);
            `data.preprocessing.Preprocessing` makes and reads it.

    Returns:
        The path, or the file.

    Raises:
        TypeError: for anything but a packed network, for a file in text mode.
        ValueError: for a layer without a registered name (`nn.register`).
        OSError: with the remedy, if the file cannot be written.
    """
    tensors, module = {}, network
    if isinstance(network, PackedLayer) and network.is_network:
        entry, described = 'network', _describe(network, tensors)
    elif packed := packed_layers(network):
        described = {'packed': {place.path: _describe(place.layer.layer, tensors) for place in packed}}
        described['arrays'] = {name: _store(array, tensors) for name, array in arrays_beside(module).items()}
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
    metadata = {
        'format': FORMAT,
        'version': str(VERSION),
        entry: _compressed(json.dumps(described, separators=(',', ':'))),
    }
    if preprocessing is not None:
        metadata['preprocessing'] = json.dumps(preprocessing)
    metadata['sha256'] = _digest(tensors, metadata)
    content = to_bytes(tensors, metadata)
    if not isinstance(path, str | os.PathLike):
        if not hasattr(path, 'write') or isinstance(path, io.TextIOBase):
            raise TypeError(f'save: got a {type(path).__name__}, expected a path, or a file opened in binary mode')
        path.write(content)
        return path
    path = Path(path).expanduser()
    write(path, content)
    return path


def load(path: Source, *, into: nnx.Module | None = None) -> Any:
    """Read a packed network; nothing in the file is executed.

    Args:
        path: a file that `save` wrote: its path, in which `~` is your home, or the file itself, opened in binary mode.
        into: for the file of a user's own module, a module of the same structure: its layers are packed, in a copy, and the
            arrays of the file put in their places. A `PackedNetwork` needs none.

    Raises:
        FileNotFoundError: if there is no file. OSError, with its reason, for one that cannot be read.
        ValueError: for a file that is truncated, altered, of another program, or of a newer format; for a module's file
            without `into`, or with one of another structure.
    """
    name, metadata, tensors = _read(path)
    entry = 'module' if 'module' in metadata else 'network'
    if entry == 'module' and into is None:
        raise ValueError(
            f"load: {name} holds the arrays of a user's own module, expected one to put them into: load(path, into=module)"
        )
    if entry == 'network' and into is not None:
        raise ValueError(f'load: {name} holds a whole network, expected load(path) without into')
    used: set[str] = set()
    network: Any = None
    built: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    try:
        described = json.loads(_decompressed(metadata[entry]))
        if entry == 'network':
            network = in_bits(_build(described, tensors, used))
        else:
            raw = {layer: _build(tree, tensors, used) for layer, tree in described['packed'].items()}
            in_order = any(layer.multiplies_bits() for layer in raw.values())
            built = {place: in_bits(layer, in_order) for place, layer in raw.items()}
            arrays = {array: _tensor(tensor, tensors, used) for array, tensor in described['arrays'].items()}
        # A tensor that no layer takes means that the file was not written by `save`.
        if used != set(tensors):
            raise ValueError(f'tensors {sorted(set(tensors) - used)} belong to no layer')
    # Whatever a wrong description does to the constructors, the caller learns which file it was.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, zlib.error) as error:
        raise ValueError(f'load: {name} does not describe a network ({error}); save it again') from error
    if into is not None:
        return put_into(into, built, arrays)
    if not network.is_network:
        raise ValueError(f'load: {name} holds a {type(network).__name__}, expected a PackedNetwork')
    return network


def preprocessing_of(path: Source) -> dict[str, Any] | None:
    """What `save` was given as preprocessing, None if nothing. Raises as `load`."""
    name, metadata, _ = _read(path)
    text = metadata.get('preprocessing')
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'load: {name}: its preprocessing is not JSON ({error}); save it again') from error


def _read(source: Source) -> tuple[str, dict[str, str], dict[str, np.ndarray]]:
    """What messages call the file, metadata and tensors of a file of ours that is as it was written. Raises as `load`."""
    name, content = _content(source)
    try:
        # The file is read, not mapped: some file systems cannot map one.
        length = int.from_bytes(content[:8], 'little')
        metadata = dict(json.loads(content[8 : 8 + length]).get('__metadata__') or {})
        _check_origin(name, metadata)
        tensors = {tensor: _array(stated) for tensor, stated in deserialize(content)}
    except (SafetensorError, TypeError, AttributeError, KeyError, RecursionError, ValueError) as error:
        if isinstance(error, _Foreign):
            raise
        raise ValueError(f'load: {name} is truncated or not a safetensors file ({error}); save it again') from error
    if metadata.get('sha256') != _digest(tensors, metadata):
        raise ValueError(f'load: {name} has been altered since it was saved (its checksum differs); save it again')
    return name, metadata, tensors


# Of safetensors' codes, those that NumPy or JAX has a type for; another is refused when it is saved.
_DTYPES = {
    'BOOL': 'bool',
    'BF16': 'bfloat16',
    'C64': 'complex64',
    **{f'F{bits}': f'float{bits}' for bits in (16, 32, 64)},
    **{
        f'{letter}{bits}': f'{name}{bits}' for letter, name in (('I', 'int'), ('U', 'uint')) for bits in (8, 16, 32, 64)
    },
}


def _array(stated: dict[str, Any]) -> np.ndarray:
    """A tensor as safetensors states it; its own NumPy reader has no bfloat16."""
    return np.frombuffer(stated['data'], jnp.dtype(_DTYPES[stated['dtype']])).reshape(stated['shape'])


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


class _Foreign(ValueError):
    """A file that is whole, but not for this version of this library."""


def _check_origin(path: str, metadata: dict[str, str]) -> None:
    if metadata.get('format') != FORMAT:
        raise _Foreign(
            f'load: {path} is not a bnn_jax network (format {metadata.get("format")!r}, expected {FORMAT!r}); '
            'expected a file written by bnn_jax.save'
        )
    version = metadata.get('version', '')
    if not (version.isascii() and version.isdigit()) or not 1 <= int(version) <= VERSION:
        raise _Foreign(
            f'load: {path} has format version {version!r}, this bnn_jax reads up to {VERSION}; upgrade bnn_jax'
        )


def _describe(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """JSON for a layer: {"kind": its registered name, its fields}; a tensor becomes its name. Defaults are left out."""
    if isinstance(value, tuple):
        return [_describe(inner, tensors) for inner in value]
    name = registered_name(value)
    if name is None:
        if isinstance(value, bool | int | float | str | None):
            return value
        raise ValueError(
            f'save: {value!r} has no name in files, expected a registered layer; '
            f'register it once: bnn_jax.nn.register({getattr(value, "__name__", type(value).__name__)!r})(...)'
        )
    described: dict[str, Any] = {'kind': name}
    if hasattr(value, 'to_file'):
        return described | value.to_file(lambda array: _store(array, tensors))
    if not dataclasses.is_dataclass(value):
        return described
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if role(field) == 'tensor':
            if not (inner is None and field.default is None):
                described[name_in_files(field)] = None if inner is None else _store(inner, tensors)
        elif role(field) not in ('derived', 'decided') and inner != field.default:
            described[name_in_files(field)] = _describe(inner, tensors)
    return described


def _store(array: Any, tensors: dict[str, np.ndarray]) -> str:
    dtype = str(getattr(array, 'dtype', np.asarray(array).dtype))
    if dtype not in _DTYPES.values():
        raise ValueError(f'save: got an array of {dtype}, expected one of {", ".join(_DTYPES.values())}')
    # How many there are so far: a name that no other has.
    name = str(len(tensors))
    tensors[name] = np.asarray(array, order='C')  # Not ascontiguousarray, which gives a scalar an axis.
    return name


def _build(described: Any, tensors: dict[str, np.ndarray], used: set[str]) -> Any:
    """The inverse of `_describe`; the names of the tensors it takes are added to `used`."""
    if isinstance(described, list):
        return tuple(_build(inner, tensors, used) for inner in described)
    if not isinstance(described, dict):
        return described
    described = dict(described)
    entry = registered(described.pop('kind'))
    kind = entry.layer
    if hasattr(kind, 'from_file'):
        return kind.from_file(described, lambda name: _tensor(name, tensors, used))  # pyright: ignore
    if not isinstance(kind, type):
        return kind  # A registered function.
    fields = {name_in_files(field): field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    values = {}
    for key, inner in described.items():
        field = fields[key]
        if role(field) == 'tensor':
            values[field.name] = _tensor(inner, tensors, used)
        else:
            values[field.name] = _build(inner, tensors, used)
            if entry.make is None:
                _check_field(kind, field, values[field.name])
    return (entry.make or kind)(**values)


def _check_field(kind: type, field: dataclasses.Field, value: Any) -> None:
    """Raises ValueError unless a value that a file gives is of the type that the field states."""
    expected = get_type_hints(kind)[field.name]
    if expected is Any:
        return  # The class checks it.
    fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if role(field) == 'child':
        layers = value if isinstance(value, tuple) else (value,)
        fits = fits and all(isinstance(layer, PackedLayer) and not layer.is_network for layer in layers)
    if not fits:
        raise ValueError(f'{kind.__name__}.{field.name} is {value!r}, expected {expected}')


def _tensor(name: str | None, tensors: dict[str, np.ndarray], used: set[str]):
    if name is None:
        return None
    used.add(name)
    return jax.device_put(tensors[name])  # jnp.asarray would compile a copy for every shape.


def _compressed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _decompressed(text: str) -> str:
    return zlib.decompress(base64.b64decode(text, validate=True)).decode()


def _digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """SHA-256 over all metadata but itself, and over name, dtype, shape and bytes of every tensor, in order of names."""
    digest = hashlib.sha256()
    stated = {key: value for key, value in metadata.items() if key != 'sha256'}
    # Sorted: the order in which the keys were written does not count.
    digest.update(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        digest.update(
            array.view(np.uint8).data if array.ndim else array.tobytes()
        )  # bfloat16 has no buffer of its own.
    return digest.hexdigest()
