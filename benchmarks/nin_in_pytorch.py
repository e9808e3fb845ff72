"""The published NIN in PyTorch, written from its formulas alone: an independent loop to check ours.

    python -m benchmarks.nin_in_pytorch --data_dir=FOLDER

It needs PyTorch, which this project does not install. Model, binarization and gradient follow jiecaoyu/XNOR-Net-PyTorch,
CIFAR_10 (models/nin.py, util.py, main.py). Batches, their order and augmentation are those of `experiments.short_runs`, row
nin_xnor_pytorch_normal. The result is appended to that program's file, docs/short_runs.jsonl (`--out` names another).
"""

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import tyro
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from experiments.short_runs import RESULTS, ROWS, WATCH_EVERY, append, batches_of, is_finished, summary, test_batches_of

ROW, OURS = 'nin_pytorch', 'nin_xnor_pytorch_normal'


class Sign(torch.autograd.Function):
    """sign(x), 0 at 0; the gradient passes where |x| < 1."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(context, g):
        (x,) = context.saved_tensors
        return g * (x.abs() < 1)


def norm(channels: int, affine: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.1, affine=affine)


class Block(nn.Module):
    """Normalize, sign, drop, convolve, rectify."""

    def __init__(self, into: int, out: int, size: int, dropout: float = 0.0):
        super().__init__()
        self.norm, self.dropout = norm(into, True), nn.Dropout(dropout)
        self.conv = nn.Conv2d(into, out, size, padding=size // 2)

    def forward(self, x):
        return self.conv(self.dropout(Sign.apply(self.norm(x)))).relu()


def network(width: float) -> nn.Sequential:
    """The network with the published initial weights. width: scales the number of filters in each layer."""
    a, b, c = (round(filters * width) for filters in (192, 160, 96))
    model = nn.Sequential(
        *(nn.Conv2d(3, a, 5, padding=2), norm(a, False), nn.ReLU()),
        *(Block(a, b, 1), Block(b, c, 1), nn.MaxPool2d(3, 2, 1)),
        *(Block(c, a, 5, 0.5), Block(a, a, 1), Block(a, a, 1), nn.AvgPool2d(3, 2, 1)),
        *(Block(a, a, 3, 0.5), Block(a, a, 1)),
        *(norm(a, False), nn.Conv2d(a, 10, 1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten()),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, 0.05)
            nn.init.zeros_(module.bias)
    return model


def scale(w):
    """The mean of abs W of every filter."""
    return w.abs().mean((1, 2, 3), keepdim=True)


def binary_of(model) -> list:
    return [module.conv for module in model if isinstance(module, Block)]


@torch.no_grad()
def binarized(model) -> list:
    """Center and clamp W, replace it by alpha sign W, and return W. Also clamp gamma to at least 0.01."""
    for module in model:
        if isinstance(module, Block):
            module.norm.weight.clamp_(min=0.01)
    latent = [(conv.weight - conv.weight.mean(1, keepdim=True)).clamp(-1, 1) for conv in binary_of(model)]
    for conv, w in zip(binary_of(model), latent, strict=True):
        conv.weight.copy_(scale(w) * w.sign())
    return latent


@torch.no_grad()
def restored(model, latent: list) -> None:
    """Put W back, and multiply the exact gradient by (1 - 1/C) n."""
    for conv, w in zip(binary_of(model), latent, strict=True):
        conv.weight.copy_(w)
        if conv.weight.grad is not None:
            g, n = conv.weight.grad, w[0].numel()
            through_alpha = w.sign() / n * (g * w.sign()).sum((1, 2, 3), keepdim=True)
            conv.weight.grad = (scale(w) * g + through_alpha) * (1 - 1 / w.shape[1]) * n


def all_equal(logits) -> float:
    return (logits == logits[:, :1]).all(1).float().mean().item()


def tensors(batch: dict):
    return torch.from_numpy(np.ascontiguousarray(batch['image'].transpose(0, 3, 1, 2))), torch.from_numpy(
        batch['label'].astype(np.int64)
    )


@torch.no_grad()
def tested(model, batches) -> np.ndarray:
    """Test accuracies, as `diagnostics.by_statistics` computes them."""
    totals, norms = np.zeros((2, 4)), [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    latent = binarized(model)
    model.eval()
    for batch in batches:
        images, labels = tensors(batch)
        for row, by_batch in zip(totals, (False, True), strict=True):
            for module in norms:
                module.train(by_batch).momentum = 0.0  # The running statistics stay as they are.
            logits = model(images)
            loss = functional.cross_entropy(logits, labels, reduction='sum').item()
            correct = (logits.argmax(1) == labels).sum().item()
            row += [loss, correct, all_equal(logits) * len(labels), len(labels)]
    restored(model, latent)
    return totals


def main(
    data_dir: str = '~/tensorflow_datasets', seed: int = 0, steps: int = 300, width: float = 1.0, out: Path = RESULTS
) -> None:
    """Train the published network and append the result.

    Args:
        data_dir: folder of cifar10, as TFDS prepares it.
        seed: seed of weights, order and augmentation.
        steps: steps of the run.
        width: scales the number of filters in each layer.
        out: file of the results.
    """
    config = dataclasses.replace(ROWS[OURS](), seed=seed, data_dir=data_dir, width=width)
    if is_finished(out, ROW, config, steps):
        return
    started = time.monotonic()
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = network(config.width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=1e-5)
    losses, correct, looks, start, before = [], [], [], [], []
    for number, batch in enumerate(batches_of(config, steps), start=1):
        images, labels = tensors(batch)
        model.train()
        latent = binarized(model)
        if number % WATCH_EVERY == 0:
            before = [w.sign() for w in latent]
        optimizer.zero_grad()
        logits = model(images)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()
        restored(model, latent)
        start = start or [scale(w).mean().item() for w in latent]
        optimizer.step()
        losses.append(loss.item())
        correct.append((logits.argmax(1) == labels).float().mean().item())
        if number % WATCH_EVERY == 0:
            after = [(c.weight - c.weight.mean(1, keepdim=True)).clamp(-1, 1).detach() for c in binary_of(model)]
            flipped = sum((b != a.sign()).sum().item() for b, a in zip(before, after, strict=True))
            look = {'step': number, 'equal_logits': all_equal(logits), 'flips': flipped / sum(a.numel() for a in after)}
            for i, (a, first) in enumerate(zip(after, start, strict=True)):
                look[f'alpha_over_start/{i}'] = scale(a).mean().item() / first
            looks.append(look)
    result = summary(losses, correct, looks, tested(model, test_batches_of(config)))
    append(out, ROW, config, steps, started, result)


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.nin_in_pytorch', description=__doc__)
