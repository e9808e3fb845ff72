"""Makes recipes.npz: 20 steps of each of the five loops of benchmarks/published_loops.py, in float64.

    PYTHONPATH=. python tests/golden/make_recipes.py     # needs PyTorch; no test does

The networks have the published blocks with few filters, the images are 8 x 8 pixels of noise. The arrays that are written are
HWIO and (in, out), as the library has them.

Rates, IR-Net's t and ReCU's tau change in every step, where the codes change them once an epoch: of a run of 33 steps the first
20 are here, so that progress, i/32, is exact in every float.
"""

import math
from pathlib import Path

import numpy as np
import torch

from benchmarks.published_loops import LOOPS, Network, OnlyRounding

STEPS, RUN, CLASSES = 20, 33, 10
BATCH = 16
KEPT = (1, 20)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


def cosine(rate):
    return lambda i: rate * (1 + math.cos(math.pi * i / RUN)) / 2


def res_blocks(names, *, scales=False):
    return {name: shape for name, shape in names} | (
        {name.replace('kernel', 'weight.alpha'): shape[-1:] for name, shape in names} if scales else {}
    )


def norms(**channels):
    return {f'{name}.{part}': (c,) for name, c in channels.items() for part in ('scale', 'bias')}


def shapes_of_resnet(names, head, norm_names, **options):
    """Four 3x3 convolutions of 4, 4, 8 and 8 filters, stem and head."""
    inner = list(zip(names, ((3, 3, 4, 4), (3, 3, 4, 4), (3, 3, 4, 8), (3, 3, 8, 8)), strict=True))
    shapes = {'0.kernel': (3, 3, 3, 4)} | res_blocks([(f'{name}.kernel', shape) for name, shape in inner], **options)
    return shapes | norms(**norm_names) | {f'{head}.kernel': (8, CLASSES), f'{head}.bias': (CLASSES,)}


VGG = (('0', 3, 2), ('2', 2, 2), ('5', 2, 4), ('7', 4, 4), ('10', 4, 8), ('12', 8, 8))
SHAPES_OF_VGG = {f'{name}.kernel': (3, 3, i, o) for name, i, o in VGG}
SHAPES_OF_VGG |= {'16.kernel': (8, 16), '18.kernel': (16, 16), '20.kernel': (16, CLASSES)}
SHAPES_OF_VGG |= norms(**{'1': 2, '4': 2, '6': 4, '9': 4, '11': 8, '14': 8, '17': 16, '19': 16, '21': CLASSES})
OF_NIN = (('0', 5, 3, 6), ('4', 1, 6, 5), ('7', 1, 5, 3), ('11', 5, 3, 6), ('14', 1, 6, 6), ('17', 1, 6, 6))
OF_NIN += (('21', 3, 6, 6), ('24', 1, 6, 6), ('27', 1, 6, CLASSES))
SHAPES_OF_NIN = {f'{name}.kernel': (k, k, i, o) for name, k, i, o in OF_NIN}
SHAPES_OF_NIN |= {f'{name}.bias': (o,) for name, _, _, o in OF_NIN}
SHAPES_OF_NIN |= norms(**{'3': 6, '6': 5, '10': 3, '13': 6, '16': 6, '20': 6, '23': 6})

BLOCKS = [f'{i}.body.layers.0' for i in (2, 3, 4, 5)]
HALVES = [f'{i}.body.layers.0' for i in (3, 5, 7, 9)]
PAIRS = [f'{i}.body.layers.{j}' for i in (2, 4) for j in (0, 3)]
SHAPES_OF_BIREAL = shapes_of_resnet(
    BLOCKS,
    '7',
    {'1': 4, '2.body.layers.1': 4, '3.body.layers.1': 4, '4.body.layers.1': 8, '5.body.layers.1': 8}
    | {'4.shortcut.layers.2': 8},
) | {'4.shortcut.layers.1.kernel': (1, 1, 4, 8)}
SHAPES_OF_IR_NET = shapes_of_resnet(
    HALVES,
    '13',
    {'1': 4, '3.body.layers.1': 4, '5.body.layers.1': 4, '7.body.layers.1': 8, '9.body.layers.1': 8, '12': 8},
)
SHAPES_OF_RECU = shapes_of_resnet(
    PAIRS,
    '8',
    {'1': 4, '2.body.layers.1': 4, '2.body.layers.4': 4, '4.body.layers.1': 8, '4.body.layers.4': 8, '7': 8},
    scales=True,
)


def falling(i):
    """Tenfold less after epochs 120 and 200 of 320, at the same shares of this run."""
    return 1e-2 * 0.1 ** sum(i >= RUN * epoch // 320 for epoch in (120, 200, 240, 280))


RECIPES = {
    'BIREAL': (SHAPES_OF_BIREAL, cosine(0.1)),
    'IRNET': (SHAPES_OF_IR_NET, cosine(0.1)),
    'RECU': (SHAPES_OF_RECU, cosine(0.1)),
    'BNN': (SHAPES_OF_VGG, cosine(1e-3)),
    'XNOR_PYTORCH_CIFAR': (SHAPES_OF_NIN, falling),
}
"""Loop -> the shapes of its network, and the rate of each step."""


def start(rng, shapes):
    """Float32 numbers. Betas are not 0, so that no activation is 0 by symmetry; gammas are above 1, so that every window of a
    straight-through gradient leaves something out (where none does, the gradient of a beta is only rounding)."""
    values = {}
    for name, shape in shapes.items():
        if name.endswith('.kernel'):
            # Within [-1, 1], as BinaryNet's are from the start.
            value = np.clip(rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[:-1])), -1, 1)
        elif name.endswith(('scale', 'alpha')):
            value = rng.uniform(1.1, 1.6, shape)
        else:
            value = rng.normal(size=shape) * 0.05
        values[name] = value.astype(np.float32)
    return values


def into(name, value):
    value = torch.tensor(value.astype(np.float64))
    return (value.permute(3, 2, 0, 1) if value.ndim == 4 else value).contiguous().requires_grad_()


def out_of(value):
    value = value.detach()
    return (value.permute(2, 3, 1, 0) if value.ndim == 4 else value).numpy().copy()


def flattened(values):
    return np.concatenate([values[key].ravel() for key in sorted(values)])


def trained(name, images, labels, seed):
    loop, (shapes, rate) = LOOPS[name], RECIPES[name]
    optimizer, values = loop.optimizer(rate), start(np.random.default_rng(seed), shapes)
    optimizer.exact = True
    net = Network({key: into(key, value) for key, value in values.items()}, loop.eps, loop.unbiased)
    # One array a state: its parameters by name, flattened. Many small arrays would be a larger file.
    arrays = {f'{name}/names': np.array(sorted(values)), f'{name}/0': flattened(values)}
    losses = []
    for i in range(STEPS):
        x, y = images[i], labels[i]

        def forward_and_backward(i=i, x=x, y=y):
            for v in net.p.values():
                v.grad = None
            loss = loop.loss(loop.forward(net, x, i / (RUN - 1)), y)
            loss.backward()
            return loss.item()

        losses.append(loop.around(net, forward_and_backward))
        with torch.no_grad():
            optimizer.step(i, net.p)
            for key in filter(loop.latent, net.p if loop.clipped else ()):
                net.p[key].clamp_(-1, 1)
        if i + 1 in KEPT:
            arrays[f'{name}/{i + 1}'] = flattened({key: out_of(value) for key, value in net.p.items()})
    statistics = {f'{key}.mean': mean.numpy() for key, (mean, _) in net.running.items()}
    statistics |= {f'{key}.var': var.numpy() for key, (_, var) in net.running.items()}
    moved = flattened({key: out_of(net.p[key]) for key in shapes}) * flattened(values) < 0
    print(f'{name}, seed {seed}, {moved.sum()} signs moved:', ' '.join(f'{loss:.4f}' for loss in losses))
    return arrays | {f'{name}/losses': np.array(losses), f'{name}/statistics': flattened(statistics)}


def main():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (STEPS, BATCH, 8, 8, 3)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, (STEPS, BATCH)).astype(np.uint8)
    images = torch.tensor((pixels.astype(np.float64) - 128) / 64).permute(0, 1, 4, 2, 3)
    arrays = {'pixels': pixels, 'labels': labels}
    labels = torch.tensor(labels.astype(np.int64))
    for name in RECIPES:
        # BinaryNet's batches are of four such ones: in a small one some features have one sign (see OnlyRounding).
        shifts = range(4) if name == 'BNN' else (0,)
        x, y = (torch.cat([torch.roll(values, -shift, 0) for shift in shifts], 1) for values in (images, labels))
        for seed in range(100):
            try:
                arrays |= trained(name, x, y, seed)
                break
            except OnlyRounding:
                continue
    path = Path(__file__).with_name('recipes.npz')
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size)


if __name__ == '__main__':
    main()
