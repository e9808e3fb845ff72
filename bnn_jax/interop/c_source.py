"""Write a packed network as C99 source: plain loops, and the weights as arrays.

The source needs only standard headers, allocates no memory and reads no file.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from bnn_jax.interop.c_scratch import Value
from bnn_jax.interop.c_writer import Writer

KERNELS = Path(__file__).with_name('c_kernels.c')


@dataclasses.dataclass(frozen=True)
class Library:
    """The result of `c_library`.

    Example:
        >>> Library(Path('network.h'), Path('network.c'), weights=36, scratch=64).weights
        36
    """

    # The files.
    header: Path
    source: Path
    # Bytes of the weights and the other constant arrays, such as thresholds.
    weights: int
    # Bytes of the scratch memory that the caller provides.
    scratch: int


def c_library(
    network: Any,
    folder: str | Path,
    input_shape: tuple[int, int, int],
    *,
    name: str = 'network',
    normalization: Any = None,
) -> Library:
    """Write NAME.h and NAME.c with the function `void NAME(const float *image, float *logits, NAME_cell *scratch)`.

    The logits equal those of `bnn_jax.runtime` to the bit. There are four exceptions: networks whose binary weights
    multiply only real inputs (BC, BWN), where sums have another order; subnormal numbers; images with a NaN or an
    infinity, for which the runtime always returns NaN and C may not; and layers with real weights where the runtime uses its
    `portable` kernels, which round a product and its addition separately.

    Args:
        network: a `PackedNetwork`, as `convert` and `load` return it.
        folder: where to write; it is created if it does not exist.
        input_shape: height, width and channels of an image.
        name: the name of the function and the files, a C identifier.
        normalization: the normalization of a `data.preprocessing.Preprocessing`, uint8 (H, W, C) -> float32. If it
            is given, NAME_bytes is written too: the same function for images of bytes.

    Returns:
        The files, and the sizes in bytes of their constant arrays and of the scratch memory.

    Raises:
        ValueError: network is not a `PackedNetwork`, does not fit the images, or has a layer of the user's own or of a
            float twin; or name is not a C identifier or is used already.

    Example:
        >>> import tempfile, bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bnn.interop.c_library(bnn.convert(model), folder, (2, 2, 1)).source.name
        'network.c'
    """
    if not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]*', name) or name in _taken() or re.fullmatch(r'[ag]\d+', name):
        raise ValueError(f'name: got {name!r}, expected a C identifier that neither C nor the library uses')
    if not getattr(network, 'is_network', False):
        raise ValueError(
            f'c_library: got {type(network).__name__}, expected a PackedNetwork as convert or load gives it'
        )
    network.expect_fits(input_shape)
    writer = Writer()
    channels = input_shape[2]
    logits = writer.chain(network.body, writer.new(input_shape))
    (classes,) = logits.shape
    if normalization is not None:
        values = normalization(np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, channels)))
        writer.array('float', np.asarray(values, np.float32).reshape(256, channels), 'bytes')
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    header, source = folder / f'{name}.h', folder / f'{name}.c'
    header.write_text(_header(name, input_shape, classes, writer.peak, normalization is not None))
    source.write_text(_source(name, writer, input_shape, logits, normalization is not None))
    return Library(header, source, writer.bytes, 4 * writer.peak)


def _taken() -> set[str]:
    """Names that C or the kernels use already."""
    words = 'auto break case char const continue default do double else enum extern float for goto if inline int long register '
    words += 'restrict return short signed sizeof static struct switch typedef union unsigned void volatile while '
    words += 'main run cell bytes geometry int32_t uint32_t uint64_t size_t fmaf'
    return {*words.split(), *re.findall(r'^static [\w ]+?(\w+)\(', KERNELS.read_text(), re.M)}


def _source(name: str, writer: Writer, shape: tuple[int, int, int], logits: Value, has_bytes: bool) -> str:
    (classes,), (height, width, channels) = logits.shape, shape
    numbers = height * width * channels
    calls = [f'  {call}' for call in writer.calls]
    copy = f'  for (i = 0; i < {classes}; ++i) logits[i] = {logits.place}[i].f;'
    functions = [
        'static void run(float *logits, cell *scratch) {\n  int i;\n' + '\n'.join([*calls, copy]) + '\n}',
        f'void {name}(const float *image, float *logits, {name}_cell *scratch) {{\n'
        f'  load(image, {numbers}, scratch);\n  run(logits, scratch);\n}}',
    ]
    if has_bytes:
        functions.append(
            f'void {name}_bytes(const unsigned char *image, float *logits, {name}_cell *scratch) {{\n'
            f'  load_bytes(image, {numbers}, {channels}, bytes, scratch);\n  run(logits, scratch);\n}}'
        )
    top = (
        '/* Written by bnn_jax. Compile it as C99 (-std=c99): compilers then do not fuse products and sums. */\n'
        f'#include "{name}.h"\n\n#include <float.h>\n#include <stddef.h>\n#ifdef __FP_FAST_FMAF\n#include <math.h>\n#endif\n\n'
        '#if defined(__clang__)\n#pragma STDC FP_CONTRACT OFF\n#endif\n'
        '#if FLT_EVAL_METHOD != 0\n#error "floats are computed wider than float32: the logits would differ"\n#endif\n\n'
        f'typedef {name}_cell cell;\n'
    )
    kernels = _kernels(writer.used | {'load'} | ({'load_bytes'} if has_bytes else set()))
    return '\n'.join([top, kernels, *writer.arrays, '', '\n\n'.join(functions), ''])


def _header(name: str, shape: tuple[int, int, int], classes: int, scratch: int, has_bytes: bool) -> str:
    upper, (height, width, channels) = name.upper(), shape
    lines = [
        f'/* Computes {classes} logits of an image: {height} x {width} x {channels} numbers, prepared as in training.',
        f' * scratch: {upper}_SCRATCH cells. Their content does not matter; each thread needs its own cells. */',
        f'#ifndef {upper}_H\n#define {upper}_H\n\n#include <stdint.h>\n',
        f'#define {upper}_HEIGHT {height}\n#define {upper}_WIDTH {width}\n#define {upper}_CHANNELS {channels}',
        f'#define {upper}_CLASSES {classes}\n#define {upper}_SCRATCH {scratch}\n',
        f'typedef union {{\n  float f;\n  int32_t i;\n  uint32_t u;\n}} {name}_cell;\n',
        f'void {name}(const float *image, float *logits, {name}_cell *scratch);',
    ]
    if has_bytes:
        lines += ['/* The same for an image of bytes, 0 to 255, which are normalized as in training. */']
        lines += [f'void {name}_bytes(const unsigned char *image, float *logits, {name}_cell *scratch);']
    return '\n'.join([*lines, '', '#endif', ''])


def _kernels(used: set[str]) -> str:
    """The kernels with these names and all kernels that they call, in the order of the file."""
    parts = {}
    for part in KERNELS.read_text().split('/// ')[1:]:
        title, _, text = part.partition('\n')
        name, _, needs = title.partition(':')
        parts[name] = (set(needs.split()), text)
    wanted, new = set(), set(used)
    while new:
        wanted |= new
        new = set().union(*(parts[name][0] for name in new)) - wanted
    return ''.join(text for name, (_, text) in parts.items() if name in wanted and name != 'types')
