"""Rows of `experiments.short_runs` as loops in PyTorch, to be compared with the rows of this library.

    python -m experiments.short_runs --data_dir=FOLDER --rows resnet20_irnet --steps=2000        # ours
    python -m benchmarks.recipes_in_pytorch --data_dir=FOLDER --rows resnet20_irnet --steps=2000

It needs PyTorch, which this project does not install. The loops (benchmarks/published_loops.py) share no code with the library.
Both programs have the same initial weights, batches, augmentation and learning rates. A result is appended to the file of
`experiments.short_runs` as row ROW_pytorch.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import tyro
from flax import nnx

from benchmarks import published_loops as loops
from experiments.short_runs import (
    RESULTS,
    ROWS,
    WATCH_EVERY,
    append,
    batches_of,
    check,
    is_finished,
    summary,
    test_batches_of,
)


def residual(name: str) -> bool:
    """Whether these are latent weights of a residual network."""
    return '.body.' in name and name.endswith('.kernel')


def kernel(name: str) -> bool:
    """Whether these are latent weights of BinaryNet, all of whose layers are binary."""
    return name.endswith('.kernel')


def as_they_are(w: Any) -> Any:
    """W."""
    return w


def balanced(w: Any) -> Any:
    """W minus the mean of its filter."""
    return w - w.mean([1, 2, 3], keepdim=True)


class Loop(NamedTuple):
    """One of the loops."""

    # (network, images, progress) -> logits.
    forward: Callable
    # (logits, labels) -> loss.
    loss: Callable
    # (rate of each step) -> optimizer.
    optimizer: Callable
    # Whether a parameter of this name is latent weights.
    latent: Callable[[str], bool]
    # Whether latent weights are clipped to [-1, 1] after each update.
    clipped: bool = False
    # Latent weights -> the numbers whose signs are taken.
    signed: Callable = as_they_are
    eps: float = 1e-5
    # Whether the running variance is unbiased.
    unbiased: bool = False


def bireal_decay(name: str) -> float:
    """BIREAL's L2 of a parameter."""
    return 0.0 if residual(name) else 1e-4


LOOPS = {
    'resnet20_bireal': Loop(
        loops.bireal, loops.cross_entropy, partial(loops.Sgd, decays=bireal_decay), residual, clipped=True
    ),
    'resnet20_irnet': Loop(
        *(loops.ir_net, loops.cross_entropy, partial(loops.Sgd, decays=lambda name: 1e-4), residual),
        signed=balanced,
        unbiased=True,
    ),
    'resnet18_recu': Loop(
        *(loops.recu, loops.cross_entropy, partial(loops.Sgd, decays=lambda name: 5e-4), residual),
        signed=balanced,
        unbiased=True,
    ),
    'vgg_small_bnn': Loop(
        *(loops.binarynet, loops.squared_hinge, partial(loops.Adam, factors=loops.glorot), kernel),
        clipped=True,
        eps=1e-4,
    ),
}
"""Row of `experiments.short_runs` -> its loop."""


def initial(config: Any) -> dict[str, Any]:
    """The library's initial parameters of a run, by name, as PyTorch has them."""
    model = config.model(rngs=nnx.Rngs(config.seed), width=config.width)
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = torch.from_numpy(np.array(variable[...]))
        value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value
        # The names begin with the number of the layer: 'body', 'layers' are left out.
        found['.'.join(map(str, path[2:]))] = value.contiguous().requires_grad_()
    return found


def tensors(batch: dict) -> tuple[Any, Any]:
    """Images (N, C, H, W) and labels."""
    images = np.ascontiguousarray(batch['image'].transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.from_numpy(batch['label'].astype(np.int64))


def all_equal(logits: Any) -> float:
    """The share of images whose logits are all equal."""
    return (logits == logits[:, :1]).all(1).float().mean().item()


@torch.no_grad()
def tested(net: loops.Network, forward: Callable, batches: Any) -> np.ndarray:
    """Losses and accuracies, as `diagnostics.by_statistics` computes them."""
    totals, running = np.zeros((2, 4)), dict(net.running)
    for batch in batches:
        images, labels = tensors(batch)
        for row, net.training in zip(totals, (False, True), strict=True):
            logits = forward(net, images, 1.0)
            loss = loops.cross_entropy(logits, labels).item() * len(labels)
            row += [loss, (logits.argmax(1) == labels).sum().item(), all_equal(logits) * len(labels), len(labels)]
            net.running = dict(running)  # Batch statistics are not kept.
    return totals


def trained(config: Any, loop: Loop, steps: int) -> dict:
    """Train for this number of steps and return the result, as `experiments.short_runs.trained` does."""
    rates = np.asarray(jax.vmap(config.schedule(config.learning_rate, steps))(np.arange(steps)), np.float64)
    rates = np.broadcast_to(rates, steps)
    optimizer = loop.optimizer(lambda i: float(rates[i]))
    net = loops.Network(initial(config), loop.eps, loop.unbiased)
    latent = [name for name in net.p if loop.latent(name)]

    def signs():
        return [loop.signed(net.p[name].detach()) >= 0 for name in latent]

    losses, correct, looks, before = [], [], [], []
    for i, batch in enumerate(batches_of(config, steps)):
        images, labels = tensors(batch)
        watched = (i + 1) % WATCH_EVERY == 0
        before = signs() if watched else before
        net.training = True
        for value in net.p.values():
            value.grad = None
        logits = loop.forward(net, images, i / (steps - 1))
        loss = loop.loss(logits, labels)
        loss.backward()
        with torch.no_grad():
            optimizer.step(i, net.p)
            for name in latent if loop.clipped else ():
                net.p[name].clamp_(-1, 1)
        losses.append(loss.item())
        correct.append((logits.argmax(1) == labels).float().mean().item())
        if watched:
            flips = sum((a != b).sum().item() for a, b in zip(before, signs(), strict=True))
            share = flips / sum(a.numel() for a in before)
            looks.append({'step': i + 1, 'equal_logits': all_equal(logits), 'flips': share})
    return summary(losses, correct, looks, tested(net, loop.forward, test_batches_of(config)))


def main(
    data_dir: str = '~/tensorflow_datasets',
    rows: tuple[str, ...] = tuple(LOOPS),
    seed: int = 0,
    steps: int = 2000,
    width: float | None = None,
    out: Path = RESULTS,
) -> None:
    """Train the loops that have no result yet.

    Args:
        data_dir: folder of cifar10, as TFDS prepares it.
        rows: names of the rows to run.
        seed: seed of weights, order and augmentation.
        steps: steps of every run.
        width: width of every network; by default the row's.
        out: file of the results.

    Raises:
        ValueError: a name in `rows` has no loop, or steps is below the distance of two watched steps.
    """
    check(rows, tuple(LOOPS), steps)
    torch.set_num_threads(1)
    for row in rows:
        config = dataclasses.replace(ROWS[row](), seed=seed, data_dir=data_dir)
        config = dataclasses.replace(config, width=width or config.width)
        if is_finished(out, f'{row}_pytorch', config, steps):
            continue
        started = time.monotonic()
        append(out, f'{row}_pytorch', config, steps, started, trained(config, LOOPS[row], steps))


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.recipes_in_pytorch', description=__doc__)
