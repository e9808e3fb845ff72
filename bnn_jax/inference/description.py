"""Describe a packed network as JSON and tensors; read and check such a description.

Each field is checked by the rule of its type (`files.bounds`). Numbers in tensors must be finite. Each layer's
constructor checks its own fields. Errors name the place in the tree.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from bnn_jax.files.bounds import at, rule_of, shown
from bnn_jax.inference.container import CODES
from bnn_jax.nn.names import registered, registered_name
from bnn_jax.nn.packed_layer import PackedLayer, name_in_files, role

MOST_NODES, DEEPEST = 2**13, 64
"""The largest number of objects of a description, and the deepest nesting of objects and lists."""
# The smallest normal float32 number. Smaller ones count as 0, as in training arithmetic.
TINY = np.finfo(np.float32).tiny


def describe(value: Any, store: Callable[[Any], str]) -> Any:
    """Describe a packed layer, or the value of one of its fields, as JSON.

    Args:
        value: a packed layer or a field's value.
        store: array -> the name of its tensor in the file.

    Returns:
        For a layer, {'kind': its registered name} and its fields, without those that have their default value. For a
        registered function, its kind alone. For a tuple, a list; for any plain value, the value itself.

    Raises:
        ValueError: a layer has no registered name, a value breaks the rule of its field, or the constructor refuses it.
    """
    if isinstance(value, tuple):
        return [describe(inner, store) for inner in value]
    name = registered_name(value)
    if name is None:
        if isinstance(value, bool | int | float | str | None):
            return value
        raise ValueError(
            f'{value!r} has no name in files, expected a registered layer; '
            f'register it once: bnn_jax.nn.register({getattr(value, "__name__", type(value).__name__)!r})(...)'
        )
    described: dict[str, Any] = {'kind': name}
    if hasattr(value, 'to_file'):
        return described | value.to_file(store)
    if not dataclasses.is_dataclass(value):
        return described
    make = registered(name).make
    with at(name):
        for field, hint in fields_in_files(type(value)):
            inner = getattr(value, field.name)
            if role(field) == 'tensor':
                if not (inner is None and field.default is None):
                    described[name_in_files(field)] = None if inner is None else store(inner)
            elif inner != field.default:
                if (rule := rule_of(hint)) is not None:
                    with at(name_in_files(field)):
                        rule(inner)
                described[name_in_files(field)] = describe(inner, store)
        if make is not None:
            # The constructor's checks run here, so that `save` writes nothing that `load` would refuse.
            make(**{field.name: getattr(value, field.name) for field, _ in fields_in_files(type(value))})
    return described


def fields_in_files(kind: Any) -> list[tuple[dataclasses.Field, Any]]:
    """The fields of a packed layer's class that a file holds, each with its type.

    Args:
        kind: the class, a dataclass.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    return [(field, hints[field.name]) for field in fields if role(field) not in ('derived', 'decided')]


class Description:
    """Reads the description of a network. Methods raise ValueError; the message names the place in the tree.

    Args:
        tensors: name -> array, all tensors of the file.
    """

    def __init__(self, tensors: dict[str, np.ndarray]):
        # used: the names of the tensors that have been taken. nodes: the number of objects read so far.
        self.tensors, self.used, self.nodes = tensors, set(), 0

    def layer(self, described: Any, place: str) -> Any:
        """The packed layer that `described` describes; raises ValueError for anything else."""
        layer = self.node(described, place)
        if not isinstance(layer, PackedLayer):
            raise ValueError(f'{place}: got {shown(layer)}, expected a packed layer')
        return layer

    def node(self, described: Any, place: str, depth: int = 0) -> Any:
        """The layer or registered function that a JSON object describes: the inverse of `describe`."""
        self.nodes += 1
        if depth > DEEPEST or self.nodes > MOST_NODES:
            raise ValueError(
                f'{place}: expected at most {MOST_NODES} objects, each nested in at most {DEEPEST} objects and lists'
            )
        if not isinstance(described, dict) or not isinstance(described.get('kind'), str):
            raise ValueError(f'{place}: got {shown(described)}, expected an object with a kind')
        stated = {key: value for key, value in described.items() if key != 'kind'}
        with at(place):
            entry = registered(described['kind'])
        kind = entry.layer
        if hasattr(kind, 'from_file'):
            with at(place):
                return kind.from_file(stated, lambda name: self.tensor(name, 'array'))
        # Only dataclasses have fields; a registered function has none.
        fields = fields_in_files(kind) if dataclasses.is_dataclass(kind) else []
        unknown = set(stated) - {name_in_files(field) for field, _ in fields}
        if unknown:
            raise ValueError(f'{place}: got {shown(sorted(unknown))}, which is no field of {described["kind"]}')
        values = {}
        for field, hint in fields:
            name = name_in_files(field)
            if name in stated:
                values[field.name] = self._field(role(field), hint, stated[name], f'{place}.{name}', depth + 1)
            elif field.default is dataclasses.MISSING:
                raise ValueError(f'{place}: lacks {name}, which each {described["kind"]} has')
        if not isinstance(kind, type):
            return kind
        with at(place):
            return (entry.make or kind)(**values)

    def _field(self, role: str, hint: Any, stated: Any, place: str, depth: int) -> Any:
        """The value of a field."""
        rule = rule_of(hint)
        if role == 'tensor':
            if stated is None and type(None) not in get_args(hint):
                raise ValueError(f'{place}: got null, expected the name of a tensor')
            return None if stated is None else self.tensor(stated, place)
        if rule is not None:
            with at(place):
                return rule(stated)
        return _of_type(hint, self._value(stated, place, depth), place)

    def _value(self, stated: Any, place: str, depth: int) -> Any:
        """The value of a field without a rule: a layer, a tuple of values, or a plain value."""
        if isinstance(stated, dict):
            return self.node(stated, place, depth)
        if isinstance(stated, list):
            if depth > DEEPEST:
                raise ValueError(f'{place}: expected at most {DEEPEST} objects and lists around each list')
            return tuple(self._value(inner, f'{place}[{i}]', depth + 1) for i, inner in enumerate(stated))
        return stated

    def tensor(self, name: Any, place: str) -> Shaped[Array, '...']:
        """A tensor of a layer; subnormal float32 numbers become 0. Raises ValueError as `array` does."""
        array = self.array(name, place)
        if array.dtype == np.float32 and (small := (np.abs(array) < TINY) & (array != 0)).any():
            array = np.where(small, np.float32(0), array)
        return _on_device(array, place)

    def put(self, name: Any, place: str) -> Shaped[Array, '...']:
        """A tensor of a user's module that belongs to none of its packed layers. It stays unchanged."""
        return _on_device(self.array(name, place), place)

    def array(self, name: Any, place: str) -> Shaped[np.ndarray, '...']:
        """A tensor as a NumPy array. Raises ValueError if there is none, it is not finite, or another field uses it."""
        if not isinstance(name, str) or name not in self.tensors:
            raise ValueError(f'{place}: got {shown(name)}, expected the name of a tensor')
        if name in self.used:
            raise ValueError(f'{place}: tensor {name} belongs to another field as well')
        self.used.add(name)
        with at(place):
            expect_finite(self.tensors[name])
        return self.tensors[name]

    def expect_all_used(self) -> None:
        """Raises ValueError if a tensor belongs to no field, because `save` writes no such tensor."""
        left = sorted(set(self.tensors) - self.used)
        if left:
            raise ValueError(f'tensors {shown(left)} belong to no layer')


def _on_device(array: np.ndarray, place: str) -> jax.Array:
    put = jax.device_put(array)  # jnp.asarray would compile a copy for each shape.
    if put.dtype != array.dtype:
        raise ValueError(f'{place}: got {array.dtype}, which JAX would narrow to {put.dtype} here; see jax_enable_x64')
    return put


def _of_type(hint: Any, value: Any, place: str) -> Any:
    """Returns the value. Raises ValueError if the value lacks the type of the field, or if it is a whole network."""
    kinds = get_args(hint) or (hint,)
    one_by_one = get_origin(hint) is tuple and kinds[-1] is ...
    kinds = tuple(kind for kind in kinds if isinstance(kind, type) and kind is not Any)
    if not kinds or get_origin(hint) is tuple and not one_by_one:
        return value  # The constructor checks such a field.
    fits = not one_by_one or isinstance(value, tuple)
    held = value if one_by_one and fits else (value,)
    if not fits or not all(isinstance(one, kinds) and not getattr(one, 'is_network', False) for one in held):
        names = ' or '.join(kind.__name__ for kind in kinds)
        raise ValueError(f'{place}: got {shown(value)}, expected {"a list of " if one_by_one else ""}{names}')
    return value


def expect_finite(array: Any) -> None:
    """Raises ValueError if an array has a NaN or an infinity.

    Args:
        array: an array of any dtype; integers are always finite.

    Example:
        >>> expect_finite(np.array([0.0, np.inf]))
        Traceback (most recent call last):
        ValueError: 1 of 2 numbers are NaN or infinite, expected finite ones
    """
    if jnp.issubdtype(array.dtype, jnp.inexact) and not (finite := np.isfinite(np.asarray(array))).all():
        raise ValueError(f'{int((~finite).sum())} of {array.size} numbers are NaN or infinite, expected finite ones')


def stored(array: Any, tensors: dict[str, np.ndarray]) -> str:
    """Add an array to the tensors of a file.

    Args:
        array: a NumPy or JAX array.
        tensors: the tensors so far, to which the array is added.

    Returns:
        The name of the array in the file.

    Raises:
        ValueError: a file cannot hold the dtype of the array, or a number is NaN or infinite.
    """
    dtype = str(getattr(array, 'dtype', np.asarray(array).dtype))
    if dtype not in CODES:
        raise ValueError(f'got an array of {dtype}, expected one of {", ".join(CODES)}')
    # The number of tensors so far is a name that no other tensor has.
    name = str(len(tensors))
    tensors[name] = np.asarray(array, order='C')  # Not ascontiguousarray, which gives a scalar an axis.
    with at(f'tensor {name}'):
        expect_finite(tensors[name])
    return name
