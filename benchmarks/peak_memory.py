"""How much the resident memory of a fresh process grows while it loads a network from a file and computes one batch.

    python -m benchmarks.peak_memory packed.safetensors
    python -m benchmarks.peak_memory float.npz --model=resnet18

It prints the growth in MiB: the peak memory, minus the memory after JAX has started and has compiled and run a small function.
It does not use `ru_maxrss`, which a process inherits from its parent. Linux only.
"""

import re
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import bnn_jax as bnn
from bnn_jax.kernels import native

STATUS, FORGET = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def resident(name: str) -> int:
    """Resident memory of this process in KiB: 'VmRSS' is the current value, 'VmHWM' the peak since a write to `FORGET`."""
    found = re.search(rf'{name}:\s+(\d+) kB', STATUS.read_text())
    assert found is not None
    return int(found[1])


def answer(path: Path, model: str, classes: int, width: float, batch: int, image: tuple[int, int, int]) -> jax.Array:
    """Logits of images of zeros, from a packed network, or with a model name from the float network that `leaves_to` wrote."""
    images = jnp.zeros((batch, *image), jnp.float32)
    if not model:
        return jax.jit(lambda network, images: network(images))(bnn.load(path), images)

    def make():
        network = getattr(bnn.models, model)(
            classes, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), width=width, input_shape=image
        )
        network.eval()
        return network

    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    with np.load(path) as file:
        leaves = [jnp.asarray(file[name]) for name in file.files]
    state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    return jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)


def leaves_to(path: Path, network: nnx.Module) -> None:
    """Write all parameters of a float network, for `answer`."""
    np.savez(path, *map(np.asarray, jax.tree.leaves(nnx.split(network)[1])))


def main(
    path: Annotated[Path, tyro.conf.Positional],
    model: str = '',
    classes: int = 1000,
    width: float = 1.0,
    batch: int = 1,
    image: tuple[int, int, int] = (224, 224, 3),
) -> None:
    """Load the network, compute one batch, print the growth.

    Args:
        path: file written by `bnn.save` or `leaves_to`.
        model: name of the float network; empty for a packed network.
        classes: classes of the float network.
        width: scales the number of filters in each layer of the float network.
        batch: images in the batch.
        image: height, width and channels of an image.
    """
    native.missing()
    jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.zeros((1,), jnp.float32)))
    FORGET.write_text('5')
    before = resident('VmRSS')
    jax.block_until_ready(answer(path, model, classes, width, batch, image))
    print(f'{(resident("VmHWM") - before) / 1024:.1f}')


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.peak_memory', description=__doc__)
