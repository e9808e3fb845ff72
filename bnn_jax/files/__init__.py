"""Files written whole or not at all, JSON that is read, and what the fields of a file may hold."""

from bnn_jax.files.json_files import read_json, read_object
from bnn_jax.files.whole import write

__all__ = ['read_json', 'read_object', 'write']
