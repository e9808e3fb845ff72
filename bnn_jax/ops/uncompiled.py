"""Run jitted functions in NumPy. When a file is loaded, many functions are called once, and compiling them would take seconds.

`ops.deterministic` gives the same bits in every compilation. NumPy gives these bits too if it computes one operation at
a time. A function is traced first. If each of its operations is exact or rounded once, and no array is too large, NumPy
computes it. Otherwise, for example for a float sum or an exponential, XLA compiles it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core

# For arrays of more numbers, NumPy takes longer than compiling.
LARGE = 2**23


def uncompiled(function: Any, *like: Any, **static: Any) -> Callable[..., Any]:
    """A jitted function, computed by NumPy if the same bits result and no array is too large; else the function itself.

    Args:
        function: a function that `jax.jit` returned.
        like: its operands, pytrees of arrays, or any pytrees with the same shapes and dtypes.
        static: its static arguments, by name.

    Returns:
        A function of the operands alone. If NumPy computes it, the results are NumPy arrays.

    Example:
        >>> import jax, numpy as np
        >>> double = jax.jit(lambda x: x + x)
        >>> x = np.float32([1, 2])
        >>> uncompiled(double, x)(x)
        array([2., 4.], dtype=float32)
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(like)):
        return partial(function, **static)
    traced = function.trace(*like, **static)
    program = traced.jaxpr
    if not _is_known(program.jaxpr):
        return partial(function, **static)
    structure = jax.tree.structure(traced.out_info)
    dtypes = [operand.dtype for operand in program.in_avals]

    def run(*operands: Any) -> Any:
        given = [np.asarray(leaf, dtype) for leaf, dtype in zip(jax.tree.leaves(operands), dtypes, strict=True)]
        # As in XLA, an overflow gives infinity without a warning.
        with np.errstate(all='ignore'):
            return jax.tree.unflatten(structure, _run(program.jaxpr, program.consts, given))

    return run


def _flushed(x: np.ndarray) -> np.ndarray:
    """x, with subnormal numbers replaced by zeros of the same sign. XLA on CPU does this with operands and results."""
    if x.dtype.kind == 'f':
        subnormal = np.abs(x) < np.finfo(x.dtype).tiny
        if (subnormal & (x != 0)).any():
            x = np.where(subnormal, np.copysign(np.zeros_like(x), x), x)
    return x


def _broadcast(x: np.ndarray, *, shape: tuple, broadcast_dimensions: tuple, **_: Any) -> np.ndarray:
    lengths = [1] * len(shape)
    for axis, length in zip(broadcast_dimensions, x.shape, strict=True):
        lengths[axis] = length
    return np.broadcast_to(x.reshape(lengths), shape)


def _slice(x: np.ndarray, *, start_indices: tuple, limit_indices: tuple, strides: tuple | None) -> np.ndarray:
    steps = strides or (1,) * x.ndim
    return x[tuple(slice(*ends) for ends in zip(start_indices, limit_indices, steps, strict=True))]


def _split(x: np.ndarray, *, sizes: tuple, axis: int) -> list[np.ndarray]:
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _pad(x: np.ndarray, value: np.ndarray, *, padding_config: Sequence) -> np.ndarray:
    return np.pad(x, [(low, high) for low, high, _ in padding_config], constant_values=value)


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    return np.where(which, cases[1], cases[0])


def _converted(x: np.ndarray, *, new_dtype: Any, **_: Any) -> np.ndarray:
    dtype = np.dtype(new_dtype)
    if x.dtype.kind == 'f' and dtype.kind in 'iu':
        # C does not define the conversion of a number beyond the integer range. XLA clips it, and converts NaN to 0.
        ends = np.iinfo(dtype)
        x = np.where(np.isnan(x), 0, np.clip(x.astype(np.float64), ends.min, ends.max))
    return _flushed(_flushed(x).astype(dtype))


def _shifted(shift: Callable) -> Callable:
    # C does not define a shift by all bits or more. In XLA it gives 0.
    return lambda x, by: np.where(by < 8 * x.dtype.itemsize, shift(x, by), 0)


# JAX primitive -> the NumPy function that gives the same bits. Each is exact or rounded once.
_EXACT: dict[str, Callable[..., Any]] = {
    'abs': lambda x: np.abs(x),
    'add': np.add,
    'add_any': np.add,
    'and': np.bitwise_and,
    'bitcast_convert_type': lambda x, *, new_dtype: x.view(new_dtype),
    'broadcast_in_dim': _broadcast,
    'concatenate': lambda *arrays, dimension: np.concatenate(arrays, dimension),
    'copy': np.asarray,
    'convert_element_type': _converted,
    'div': np.divide,
    'eq': np.equal,
    'ge': np.greater_equal,
    'gt': np.greater,
    'is_finite': np.isfinite,
    'le': np.less_equal,
    'lt': np.less,
    'max': np.maximum,
    'min': np.minimum,
    'mul': np.multiply,
    'ne': np.not_equal,
    'neg': lambda x: np.negative(x),
    'not': np.invert,
    'optimization_barrier': lambda *arrays: list(arrays),
    'or': np.bitwise_or,
    'pad': _pad,
    'population_count': np.bitwise_count,
    'reduce_and': lambda x, *, axes, **_: np.all(x, tuple(axes)),
    'reduce_max': lambda x, *, axes, **_: np.max(x, tuple(axes)),
    'reduce_min': lambda x, *, axes, **_: np.min(x, tuple(axes)),
    'reduce_or': lambda x, *, axes, **_: np.any(x, tuple(axes)),
    # For integers only: see `_equation_is_known`.
    'reduce_sum': lambda x, *, axes, **_: np.sum(x, tuple(axes), dtype=x.dtype),
    'reshape': lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    'select_n': _select,
    'shift_left': _shifted(np.left_shift),
    'shift_right_logical': _shifted(np.right_shift),
    'slice': _slice,
    'split': _split,
    'sqrt': np.sqrt,
    'stack': lambda *arrays, axis: np.stack(arrays, axis),
    'stop_gradient': lambda x, **_: x,
    'squeeze': lambda x, *, dimensions: np.squeeze(x, dimensions),
    'sub': np.subtract,
    'transpose': lambda x, *, permutation: np.transpose(x, permutation),
    'unstack': lambda x, *, axis: list(np.moveaxis(x, axis, 0)),
    'xor': np.bitwise_xor,
}


def _inner(equation: Any) -> Any | None:
    """The program that an operation, such as `jit`, calls with its own operands; None for other operations."""
    if equation.primitive.name in ('jit', 'pjit', 'closed_call', 'custom_jvp_call', 'custom_vjp_call'):
        return equation.params.get('jaxpr') or equation.params.get('call_jaxpr')
    return None


def _is_known(jaxpr: Any) -> bool:
    """Whether NumPy gives the same bits as XLA for every operation of a program, and no array is too large."""
    arrays = [*jaxpr.invars, *jaxpr.constvars, *(out for equation in jaxpr.eqns for out in equation.outvars)]
    return all(_is_plain(array.aval) for array in arrays) and all(map(_equation_is_known, jaxpr.eqns))


def _is_plain(aval: Any) -> bool:
    return aval.size <= LARGE and aval.dtype in ('bool', 'int32', 'uint32', 'uint8', 'float32', 'float64')


def _equation_is_known(equation: Any) -> bool:
    name, params, inner = equation.primitive.name, equation.params, _inner(equation)
    if inner is not None:
        return _is_known(inner.jaxpr)
    if name == 'cond':
        return all(_is_known(branch.jaxpr) for branch in params['branches'])
    if name == 'pad':
        return all(low >= 0 and high >= 0 and between == 0 for low, high, between in params['padding_config'])
    if name == 'div':
        # For a constant divisor XLA may multiply by the reciprocal instead.
        return _kind(equation) == 'f' and not isinstance(equation.invars[1], core.Literal)
    if name == 'bitcast_convert_type':
        # Between dtypes of different sizes XLA adds or removes an axis, which NumPy's view does not.
        return equation.invars[0].aval.dtype.itemsize == params['new_dtype'].itemsize
    if name == 'select_n':
        return len(equation.invars) == 3
    if name == 'reduce_sum':
        return _kind(equation) in 'iu'
    if name in ('shift_left', 'shift_right_logical'):
        return _kind(equation) == 'u'
    return name == 'platform_index' or name in _EXACT


def _kind(equation: Any) -> str:
    """NumPy's kind of the first operand's dtype: 'f', 'i', 'u' or 'b'."""
    return equation.invars[0].aval.dtype.kind


def _run(jaxpr: Any, consts: Sequence, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results of a program, computed equation by equation."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), map(np.asarray, (*consts, *operands)), strict=True))
    uses = [invar for equation in jaxpr.eqns for invar in equation.invars] + list(jaxpr.outvars)
    # Variable -> how many of its uses are still to come.
    left = {}
    for variable in uses:
        if not isinstance(variable, core.Literal):
            left[variable] = left.get(variable, 0) + 1

    def read(variable: Any) -> np.ndarray:
        if isinstance(variable, core.Literal):
            aval: Any = variable.aval
            return np.asarray(variable.val, aval.dtype)
        left[variable] -= 1
        # After its last use an array is freed.
        return values[variable] if left[variable] else values.pop(variable)

    for equation in jaxpr.eqns:
        results = _computed(equation, [read(variable) for variable in equation.invars])
        for variable, result in zip(equation.outvars, results, strict=True):
            if left.get(variable):
                values[variable] = np.asarray(result, variable.aval.dtype)
    return [read(variable) for variable in jaxpr.outvars]


def _computed(equation: Any, operands: list[np.ndarray]) -> Sequence[np.ndarray]:
    """The results of one equation."""
    name, inner = equation.primitive.name, _inner(equation)
    if name == 'platform_index':
        # The branches of all platforms give the same numbers. The last one is the default.
        return [np.asarray(len(equation.params['platforms']) - 1, np.int32)]
    if name == 'cond':
        branches = equation.params['branches']
        branch = branches[int(np.clip(int(operands[0]), 0, len(branches) - 1))]
        return _run(branch.jaxpr, branch.consts, operands[1:])
    if inner is not None:
        return _run(inner.jaxpr, inner.consts, operands)
    compute = _EXACT[name]
    if isinstance(compute, np.ufunc):
        # The parameters of arithmetic operations concern only compilation.
        return [_flushed(compute(*map(_flushed, operands)))]
    result = compute(*operands, **equation.params)
    return result if isinstance(result, list) else [result]
