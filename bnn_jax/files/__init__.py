"""Write files whole or not at all, read JSON, and check the fields of a file."""

from bnn_jax.files.json_files import read_json, read_object
from bnn_jax.files.whole import write

__all__ = ['read_json', 'read_object', 'write']
