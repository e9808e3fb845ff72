"""Files written whole or not at all, and what the fields of one may hold."""

from bnn_jax.files.whole import write

__all__ = ['write']
