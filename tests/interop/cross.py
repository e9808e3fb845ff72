"""On other processors, under qemu: exported C on aarch64, Cortex-M3 and -M4, the C++ runtime on aarch64; equal to the bit.

Command: make cross. `make debian-packages` installs the compilers and qemu.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from flax import nnx

import bnn_jax as bnn
from bnn_jax import runtime
from bnn_jax.interop import c_library
from bnn_jax.native import build

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / 'runtime')]
import packed_files  # noqa: E402
from networks import contents  # noqa: E402

STRICT = ['-std=c99', '-Wall', '-Wextra', '-pedantic', '-Werror', '-O2']
BARE = ['-mthumb', '-nostartfiles', '-T', 'board.ld']
BARE_LIBRARIES = ['-lc', '-lgcc']
BOARD = [
    *('qemu-system-arm', '-display', 'none', '-monitor', 'none', '-serial', 'none'),
    *('-chardev', 'stdio,id=out', '-semihosting-config', 'enable=on,target=native,chardev=out'),
]
TARGETS = {
    # name: compiler and its flags, libraries after the sources, how a program is run
    'aarch64': (['aarch64-linux-gnu-gcc', '-static'], [], ['qemu-aarch64-static']),
    'Cortex-M3, no FPU': (
        ['arm-none-eabi-gcc', '-mcpu=cortex-m3', *BARE],
        BARE_LIBRARIES,
        [*BOARD, '-machine', 'mps2-an385', '-kernel'],
    ),
    'Cortex-M4, with its FPU': (
        ['arm-none-eabi-gcc', '-mcpu=cortex-m4', '-mfpu=fpv4-sp-d16', '-mfloat-abi=hard', *BARE],
        BARE_LIBRARIES,
        [*BOARD, '-machine', 'mps2-an386', '-kernel'],
    ),
}

LINKER_SCRIPT = """
ENTRY(reset)
MEMORY { code : ORIGIN = 0, LENGTH = 4M  data : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > code
  .ARM.exidx : { *(.ARM.exidx*) } > code
  .data : { data_start = .; *(.data*) data_end = .; } > data AT > code
  data_source = LOADADDR(.data);
  .bss (NOLOAD) : { bss_start = .; *(.bss*) *(COMMON) bss_end = .; } > data
  stack_top = 0x20400000;
}
"""
# Without an operating system: text leaves by semihosting's SYS_WRITE0, the program ends by SYS_EXIT.
START = r"""
#include <stdint.h>
int main(void);
void write(const char *text);
void reset(void);
extern char data_start, data_end, data_source, bss_start, bss_end, stack_top;

static void call(int number, const void *argument) {
  register int r0 __asm__("r0") = number;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void write(const char *text) { call(4, text); }

void reset(void) {
  char *to = &data_start;
  const char *from = &data_source;
#ifdef __ARM_FP
  *(volatile uint32_t *)0xe000ed88 |= 0xf00000; /* the coprocessor access register: FPU on */
  __asm__ volatile("dsb\n isb");
#endif
  while (to != &data_end) *to++ = *from++;
  for (to = &bss_start; to != &bss_end; ++to) *to = 0;
  main();
  call(0x18, (const void *)0x20026);
}

__attribute__((section(".vectors"), used)) static const struct {
  const char *stack;
  void (*reset)(void);
} vectors = {&stack_top, reset};
"""
WRITE = """
#include <stdio.h>
void write(const char *text);
void write(const char *text) { fputs(text, stdout); }
"""


def main_of(made: dict, images: dict[str, np.ndarray]) -> str:
    """A program that prints the bits of all logits, a line an image."""
    parts, calls = ['#include <stdint.h>', 'void write(const char *text);'], []
    for name, x in images.items():
        numbers = ','.join(f'{value.item().hex()}f' for value in x.ravel())
        upper = name.upper()
        parts += [f'#include "{name}.h"', f'static const float {name}_images[] = {{{numbers}}};']
        parts.append(f'static {name}_cell {name}_scratch[{upper}_SCRATCH], {name}_logits[{upper}_CLASSES];')
        calls.append(
            f'for (i = 0; i < {len(x)}; ++i) {{\n'
            f'  {name}({name}_images + i * {x[0].size}, &{name}_logits[0].f, {name}_scratch);\n'
            f'  for (c = 0; c < {upper}_CLASSES; ++c) print({name}_logits[c].u);\n  write("\\n");\n}}'
        )
    printer = (
        'static void print(uint32_t word) {\n  char text[10];\n  int i;\n'
        '  for (i = 0; i < 8; ++i) text[i] = "0123456789abcdef"[word >> (28 - 4 * i) & 15u];\n'
        "  text[8] = ' ';\n  text[9] = 0;\n  write(text);\n}"
    )
    return '\n'.join([*parts, printer, 'int main(void) {\nint i, c;', *calls, 'return 0;\n}', ''])


# Opens each file and runs it on its images: with the instructions that are named, with one thread and with three.
OPENED = r"""
#include <stdio.h>
#include <stdlib.h>
#include "bnn_runtime.h"

int main(int argc, char **argv) {
  static char error[BNN_ERROR];
  static float images[65536], logits[1024];
  int k, threads;
  for (threads = 1; threads <= 3; threads += 2)
    for (k = 2; k + 4 < argc; k += 5) {
      const int n = atoi(argv[k + 2]), height = atoi(argv[k + 3]), width = atoi(argv[k + 4]);
      bnn_network *network;
      FILE *file = fopen(argv[k + 1], "rb");
      if (fread(images, 4, 65536, file) == 0) return 1;
      fclose(file);
      if (bnn_open(argv[k], argv[1], &network, error) != BNN_OK) { puts(error); return 1; }
      if (bnn_run(network, images, n, height, width, threads, logits, error) != BNN_OK) { puts(error); return 1; }
      for (int64_t i = 0; i < n * bnn_classes(network); ++i) printf("%08x ", ((unsigned *)logits)[i]);
      bnn_close(network);
    }
  return 0;
}
"""


def runtime_on_aarch64(room: Path, files: dict[str, tuple[bytes, np.ndarray]]) -> None:
    """Cross-compiles the C++ library and runs it, by each of its instruction sets."""
    os.environ['CXX'] = 'aarch64-linux-gnu-g++'
    objects = build.objects(room, None, machine='aarch64')
    (room / 'opened.cc').write_text(OPENED)
    command = ['aarch64-linux-gnu-g++', *build.FLAGS, '-static', f'-I{build.SOURCES}', 'opened.cc', *objects]
    subprocess.run([*command, '-o', 'opened'], cwd=room, check=True)
    arguments = []
    for name, (content, x) in files.items():
        (room / f'{name}.safetensors').write_bytes(content)
        x.tofile(room / f'{name}.images')
        arguments += [f'{name}.safetensors', f'{name}.images', *map(str, x.shape[:3])]
    for instructions in ('neon', 'portable'):
        run = ['qemu-aarch64-static', 'opened', instructions, *arguments]
        found = subprocess.run(run, cwd=room, check=True, capture_output=True, text=True, timeout=300).stdout.split()
        # Portable code rounds a product and a sum each for itself, the others once.
        bits = bits_of(files, instructions='' if instructions == 'neon' else instructions)
        if [int(word, 16) for word in found] != [*bits, *bits]:
            sys.exit(f'The runtime on aarch64, {instructions}: other logits')
        print(f'aarch64, the C++ runtime, {instructions}, 1 and 3 threads: all {bits.size} logits equal to the bit')


def bits_of(files: dict[str, tuple[bytes, np.ndarray]], instructions: str = '') -> np.ndarray:
    """The runtime's logits here, as words."""
    logits = [runtime.load(io.BytesIO(content), instructions=instructions)(x) for content, x in files.values()]
    return np.concatenate([values.ravel().view(np.uint32) for values in logits])


def networks() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files and images: every kind of layer, and a small network as it is trained."""
    model = bnn.models.vgg_small(10, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=0.1, input_shape=(8, 8, 1))
    return {
        'every_kind': (packed_files.of_every_kind(), packed_files.numbers(2, *packed_files.EVERY_IMAGE)),
        'digits': (contents(bnn.convert(model)), packed_files.numbers(5, 8, 8, 1)),
    }


def main() -> None:
    """Compiles, runs and compares on each target."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    programs = {command for compiler, _, run in TARGETS.values() for command in (compiler[0], run[0])}
    programs.add('aarch64-linux-gnu-g++')
    lacking = sorted(program for program in programs if shutil.which(program) is None)
    if lacking:
        sys.exit(f'{", ".join(lacking)}: not found; on Debian, as root: make debian-packages')
    files = networks()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        made, images = {}, {name: x for name, (_, x) in files.items()}
        for name, (content, x) in files.items():
            made[name] = c_library(bnn.load(io.BytesIO(content)), room, x.shape[1:], name=name)
        bits = bits_of(files)
        for file, text in {
            'board.ld': LINKER_SCRIPT,
            'start.c': START,
            'write.c': WRITE,
            'main.c': main_of(made, images),
        }.items():
            (room / file).write_text(text)
        runtime_on_aarch64(room, files)
        libraries = [path.source.name for path in made.values()]
        for title, (compiler, after, run) in TARGETS.items():
            entry = 'start.c' if '-T' in compiler else 'write.c'
            subprocess.run(
                [*compiler, *STRICT, *libraries, 'main.c', entry, *after, '-o', 'program'], cwd=room, check=True
            )
            ran = subprocess.run([*run, 'program'], cwd=room, check=True, capture_output=True, text=True, timeout=300)
            found = np.array([int(word, 16) for word in ran.stdout.split()], np.uint32)
            if not np.array_equal(found, bits):
                sys.exit(f'{title}: got {np.sum(found != bits) if found.shape == bits.shape else found.shape} wrong')
            size = [compiler[0].replace('gcc', 'size'), 'digits.o']
            flags = [flag for flag in compiler if flag.startswith('-m')]
            compile = [compiler[0], *flags, '-std=c99', '-Os', '-c', 'digits.c', '-o', 'digits.o']
            subprocess.run(compile, cwd=room, check=True)
            text = subprocess.run(size, cwd=room, check=True, capture_output=True, text=True).stdout.split()[6]
            digits = made['digits']
            print(
                f'{title}: all {bits.size} logits equal to the bit; digits: weights {digits.weights:,} bytes, '
                f'code {int(text) - digits.weights:,}, scratch {digits.scratch:,}'
            )


if __name__ == '__main__':
    main()
