"""Rows of `experiments.short_runs` as loops in PyTorch, to be compared with the rows of this library.

    python -m experiments.short_runs --data_dir=FOLDER --rows resnet20_irnet --steps=2000        # ours
    python -m benchmarks.recipes_in_pytorch --data_dir=FOLDER --rows resnet20_irnet --steps=2000

It needs PyTorch, which this project does not install. The loops (benchmarks/published_loops.py) share no code with the library.
Both programs have the same initial weights, batches, augmentation and learning rates. A result is appended to the file of
`experiments.short_runs` as row ROW_pytorch.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import tyro
from flax import nnx

from benchmarks import published_loops as loops
from benchmarks.nin_in_pytorch import all_equal, tensors
from experiments.short_runs import (
    RESULTS,
    WATCH_EVERY,
    append,
    batches_of,
    check,
    config_of,
    is_finished,
    summary,
    test_batches_of,
)

LOOPS = {
    'resnet20_bireal': 'BIREAL',
    'resnet20_irnet': 'IRNET',
    'resnet18_recu': 'RECU',
    'vgg_small_bnn': 'BNN',
}
"""Row of `experiments.short_runs` -> its loop."""

BALANCED = 'IRNET', 'RECU'
"""The loops that take the signs of W minus the mean of its filter."""


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


def trained(config: Any, name: str, steps: int) -> dict:
    """Train for this number of steps and return the result, as `experiments.short_runs.trained` does."""
    loop = loops.LOOPS[name]
    rates = np.asarray(jax.vmap(config.schedule(config.learning_rate, steps))(np.arange(steps)), np.float64)
    rates = np.broadcast_to(rates, steps)
    optimizer = loop.optimizer(lambda i: float(rates[i]))
    net = loops.Network(initial(config), loop.eps, loop.unbiased)
    latent = [value for key, value in net.p.items() if loop.latent(key)]

    def signs():
        weights = [value.detach() for value in latent]
        return [(w - w.mean([1, 2, 3], keepdim=True) if name in BALANCED else w) >= 0 for w in weights]

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
            for value in latent if loop.clipped else ():
                value.clamp_(-1, 1)
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
        ValueError: a name in `rows` has no loop, or there are fewer steps than up to the first watched one.
    """
    check(rows, tuple(LOOPS), steps)
    torch.set_num_threads(1)
    for row in rows:
        config = config_of(row, seed, data_dir, width)
        if is_finished(out, f'{row}_pytorch', config, steps):
            continue
        started = time.monotonic()
        append(out, f'{row}_pytorch', config, steps, started, trained(config, LOOPS[row], steps))


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.recipes_in_pytorch', description=__doc__)
