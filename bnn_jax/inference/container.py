"""The bytes of a file: safetensors, of which every byte is determined, with a checksum; see docs/format.md."""

import base64
import hashlib
import json
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from bnn_jax.files.bounds import shown

FORMAT, VERSION = 'bnn_jax', 1

LARGEST_TEXT = 2**22
"""Bytes of the header, and of the description of a network, at most; that of ResNet-1001 has less than one MB."""

# Of safetensors' codes, those that NumPy or JAX has a type for; another is refused when it is saved.
DTYPES = {
    'BOOL': 'bool',
    'BF16': 'bfloat16',
    'C64': 'complex64',
    **{f'F{bits}': f'float{bits}' for bits in (16, 32, 64)},
    **{
        f'{letter}{bits}': f'{name}{bits}' for letter, name in (('I', 'int'), ('U', 'uint')) for bits in (8, 16, 32, 64)
    },
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def written(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A file of these tensors and metadata with their checksum: the same bytes in every process.

    Tensors of wider numbers come first, so that each is aligned; then in the order of their names. Raises ValueError for more
    than a file may hold.
    """
    metadata = metadata | {'format': FORMAT, 'version': str(VERSION)}
    metadata['sha256'] = digest(tensors, metadata)
    header: dict[str, Any] = {'__metadata__': dict(sorted(metadata.items()))}
    contents, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        array = tensors[name]
        contents.append(array.tobytes())
        start, end = end, end + array.nbytes
        header[name] = {'dtype': CODES[str(array.dtype)], 'shape': list(array.shape), 'data_offsets': [start, end]}
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    if len(text) > LARGEST_TEXT:
        raise ValueError(f'the header would have {len(text):,} bytes, expected {LARGEST_TEXT:,} at most')
    return b''.join([len(text).to_bytes(8, 'little'), text, *contents])


def read(name: str, content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a file of ours that is as it was written. Raises ValueError, with the file's name."""
    try:
        length = int.from_bytes(content[:8], 'little')
        if len(content) - 8 >= length > LARGEST_TEXT:
            raise ValueError(f'its header has {length:,} bytes, expected {LARGEST_TEXT:,} at most')
        header = parsed(content[8 : 8 + length].decode())
        metadata = header.get('__metadata__') or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError('its metadata are not all text')
    except (AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f'load: {name} is truncated or not a safetensors file ({error}); save it again') from error
    _expect_ours(name, metadata)
    try:
        tensors = {tensor: _array(stated) for tensor, stated in deserialize(content)}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f'load: {name} is truncated or not a safetensors file ({error}); save it again') from error
    if metadata.get('sha256') != digest(tensors, metadata):
        raise ValueError(f'load: {name} has been altered since it was saved (its checksum differs); save it again')
    return metadata, tensors


def parsed(text: str) -> Any:
    """JSON in which each key of an object stands once. Raises ValueError, RecursionError where it goes too deep."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError('an object has a key twice')
    return found


def _array(stated: dict[str, Any]) -> np.ndarray:
    """A tensor as safetensors states it; its own NumPy reader has no bfloat16."""
    return np.frombuffer(stated['data'], jnp.dtype(DTYPES[stated['dtype']])).reshape(stated['shape'])


def _expect_ours(name: str, metadata: dict[str, str]) -> None:
    if metadata.get('format') != FORMAT:
        raise ValueError(
            f'load: {name} is not a bnn_jax network (format {shown(metadata.get("format"))}, expected {FORMAT!r}); '
            'expected a file written by bnn_jax.save'
        )
    version = metadata.get('version', '')
    if not (version.isascii() and version.isdigit()) or len(version) > 9 or not 1 <= int(version) <= VERSION:
        raise ValueError(
            f'load: {name} has format version {shown(version)}, this bnn_jax reads up to {VERSION}; upgrade bnn_jax'
        )


def compressed(text: str) -> str:
    """A description as metadata hold it. Raises ValueError for one that is too long."""
    if len(text) > LARGEST_TEXT:
        raise ValueError(f'the description has {len(text):,} bytes, expected {LARGEST_TEXT:,} at most')
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def decompressed(text: str) -> str:
    """The inverse of `compressed`. Raises ValueError for anything else, however much it would become."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(base64.b64decode(text, validate=True), LARGEST_TEXT)
    except zlib.error as error:
        raise ValueError(f'its description is no zlib stream ({error})') from error
    if not stream.eof or stream.unused_data:
        raise ValueError(f'its description is no zlib stream of at most {LARGEST_TEXT:,} bytes')
    return data.decode()


def digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """SHA-256 over all metadata but itself, and over name, dtype, shape and bytes of every tensor, in order of names."""
    sha256 = hashlib.sha256()
    stated = {key: value for key, value in metadata.items() if key != 'sha256'}
    # Sorted: the order in which the keys were written does not count.
    sha256.update(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order='C')  # Not ascontiguousarray, which gives a scalar an axis.
        sha256.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        # bfloat16 has no buffer of its own.
        sha256.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return sha256.hexdigest()
