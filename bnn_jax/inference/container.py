"""The bytes of a file: safetensors with a checksum, the same bytes for the same network; see docs/format.md."""

import base64
import hashlib
import json
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, deserialize

from bnn_jax.files.bounds import shown

FORMAT, VERSION = 'bnn_jax', 1

LARGEST_TEXT = 2**22
"""Limit in bytes for a header, and for a network's description. (ResNet-1001's description has less than 1 MB.)"""

# Code of safetensors -> dtype, for each dtype that a file may hold; `save` and `load` refuse all others.
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


def written(tensors: dict[str, Shaped[np.ndarray, '...']], metadata: dict[str, str]) -> bytes:
    """The bytes of a file with these tensors, this metadata and their checksum: the same in every process.

    Args:
        tensors: name -> array, in C order.
        metadata: text that is stored beside the tensors.

    Returns:
        A safetensors file.

    Raises:
        ValueError: the header is longer than a file allows.

    Example:
        >>> content = written({'0': np.ones(2, np.float32)}, {'network': 'a description'})
        >>> read('file', content)[1]['0'].tolist()
        [1.0, 1.0]
    """
    metadata = metadata | {'format': FORMAT, 'version': str(VERSION)}
    metadata['sha256'] = digest(tensors, metadata)
    header: dict[str, Any] = {'__metadata__': dict(sorted(metadata.items()))}
    contents, end = [], 0
    # Tensors of the widest numbers come first, so that each begins at a multiple of its width. Equal widths are sorted by name.
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        array = tensors[name]
        contents.append(array.tobytes())
        start, end = end, end + array.nbytes
        header[name] = {'dtype': CODES[str(array.dtype)], 'shape': list(array.shape), 'data_offsets': [start, end]}
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # The tensors begin at a multiple of 8.
    if len(text) > LARGEST_TEXT:
        raise ValueError(f'the header would have {len(text):,} bytes, expected {LARGEST_TEXT:,} at most')
    return b''.join([len(text).to_bytes(8, 'little'), text, *contents])


def read(name: str, content: bytes) -> tuple[dict[str, str], dict[str, Shaped[np.ndarray, '...']]]:
    """Read the metadata and the tensors of a file that `written` made.

    Args:
        name: what error messages call the file.
        content: the bytes of the file.

    Returns:
        (metadata, tensors); the tensors are arrays by name.

    Raises:
        ValueError: the file is truncated or altered, or comes from another program or a newer version.
    """
    try:
        length = int.from_bytes(content[:8], 'little')
        # If the length points beyond the end, the file is truncated, and the JSON error below describes that better.
        if len(content) - 8 >= length > LARGEST_TEXT:
            raise ValueError(f'its header has {length:,} bytes, expected {LARGEST_TEXT:,} at most')
        header = parsed(content[8 : 8 + length].decode())
        metadata = header.get('__metadata__') or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError('a value of its metadata is not text')
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
    """Parse a JSON text in which no object has a key twice.

    Args:
        text: the JSON.

    Raises:
        ValueError: the text is not JSON, or an object has a key twice.
        RecursionError: lists and objects are nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # JSON readers disagree on which of two equal keys counts, so one file would be two networks.
    if len(found) != len(pairs):
        raise ValueError('an object has a key twice')
    return found


def _array(stated: dict[str, Any]) -> np.ndarray:
    """The array of a tensor that `deserialize` has read. The NumPy reader in safetensors lacks bfloat16."""
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
    """Compress a network's description for the metadata: zlib, then base64.

    Args:
        text: the description, JSON.

    Raises:
        ValueError: the description is too long.

    Example:
        >>> decompressed(compressed('{"kind": "PackedNetwork"}'))
        '{"kind": "PackedNetwork"}'
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f'the description has {len(text):,} bytes, expected {LARGEST_TEXT:,} at most')
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def decompressed(text: str) -> str:
    """The inverse of `compressed`.

    Args:
        text: from the metadata of a file.

    Raises:
        ValueError: `compressed` cannot have written the text.
    """
    # Decompression stops at the largest allowed size, because a few bytes may decompress to gigabytes.
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(base64.b64decode(text, validate=True), LARGEST_TEXT)
    except zlib.error as error:
        raise ValueError(f'its description is not a zlib stream ({error})') from error
    if not stream.eof or stream.unused_data:
        raise ValueError(f'its description is not a zlib stream of at most {LARGEST_TEXT:,} bytes')
    return data.decode()


def digest(tensors: dict[str, Shaped[np.ndarray, '...']], metadata: dict[str, str]) -> str:
    """The checksum of a file: SHA-256 over the metadata, and the name, dtype, shape and bytes of each tensor.

    Args:
        tensors: name -> array.
        metadata: as in the file; an entry 'sha256' is left out.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    stated = {key: value for key, value in metadata.items() if key != 'sha256'}
    # Sorted, so that the order in which a file has its keys does not count.
    sha256.update(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order='C')  # Not ascontiguousarray, which gives a scalar an axis.
        sha256.update(f'{name} {array.dtype.str} {array.shape}'.encode())
        # As uint8, because hashlib cannot read a bfloat16 buffer. A scalar cannot be viewed as uint8.
        sha256.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return sha256.hexdigest()
