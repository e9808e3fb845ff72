"""Makes recipes.npz: five published recipes as loops in PyTorch, float64, 20 steps each, which share no code with the library.

    python tests/golden/make_recipes.py     # needs PyTorch; no test does

Each loop is written from its paper and its published code (arithmetic, order, gradients, optimizer, rates), for a network of
the published blocks with few filters, on 8 x 8 images of noise. Names of parameters are those of the library's layers, arrays
HWIO and (in, out), so that the test can compare them; inside, everything is PyTorch's OIHW and NCHW.

Left out because it is random: NIN's dropout. Rates, IR-Net's t and ReCU's tau change in every step, where the codes change them
once an epoch: of a run of 33 steps the first 20 are here, so that progress, i/32, is exact in every float.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

STEPS, RUN, CLASSES = 20, 33, 10
BATCH = 16
KEPT = (1, 20)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


class Through(torch.autograd.Function):
    """value, with the derivative `slope` to x."""

    @staticmethod
    def forward(ctx, x, value, slope):
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None


class ScaledConvolution(torch.autograd.Function):
    """conv(x, signs) times scale, the gradients those of conv(x, w) for w = scale * signs.

    Integers first: sums of +-scale are rounded, and that rounding would decide which of equal numbers is a pool's maximum.
    """

    @staticmethod
    def forward(ctx, x, w, signs, scale, stride, padding):
        ctx.save_for_backward(x, w)
        ctx.how = {'stride': stride, 'padding': padding}
        return F.conv2d(x, signs, **ctx.how) * scale.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, w, g, **ctx.how)
        return dx, torch.nn.grad.conv2d_weight(x, w.shape, g, **ctx.how), None, None, None, None


def binary_convolution(x, w, signs, scale, stride, padding):
    """w: scale * signs with a gradient."""
    return ScaledConvolution.apply(x, w, signs.detach(), scale.detach(), stride, padding)


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


class Network:
    """Parameters by name, running statistics, and the layers that all five have."""

    def __init__(self, parameters, eps, unbiased):
        self.p, self.eps, self.unbiased = parameters, eps, unbiased
        self.running, self.training = {}, True

    def convolution(self, name, x, stride=1, padding=1):
        return F.conv2d(x, self.p[f'{name}.kernel'], self.p.get(f'{name}.bias'), stride=stride, padding=padding)

    def dense(self, name, x):
        return x @ self.p[f'{name}.kernel'] + self.p[f'{name}.bias']

    def norm(self, name, x):
        c = x.shape[1]
        axes, shape = [0, *range(2, x.ndim)], (1, c) + (1,) * (x.ndim - 2)
        mean_before, var_before = self.running.setdefault(name, (torch.zeros(c), torch.ones(c)))
        if self.training:
            n = x.numel() // c
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            factor = n / (n - 1) if self.unbiased else 1
            moved = 0.9 * mean_before + 0.1 * mean.detach(), 0.9 * var_before + 0.1 * factor * var.detach()
            self.running[name] = moved
        else:
            mean, var = mean_before, var_before
        y = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        if f'{name}.scale' not in self.p:
            return y
        return y * self.p[f'{name}.scale'].view(shape) + self.p[f'{name}.bias'].view(shape)


# Bi-Real Net's block (arXiv:1808.00278, liuzechun/Bi-Real-net), in ResNet-20 with the recipe that the library has for it:
# IR-Net's SGD, without L2 on latent weights.


def bireal_activation(x):
    slope = torch.where((x >= -1) & (x < 0), 2 + 2 * x, 0.0) + torch.where((x >= 0) & (x < 1), 2 - 2 * x, 0.0)
    return Through.apply(x, sign(x), slope.detach())


def bireal(net, x, progress):
    def block(name, x, stride, shortcut=None):
        w = net.p[f'{name}.body.layers.0.kernel']
        scale = w.abs().mean([1, 2, 3])
        signs = sign(w)
        # The straight-through weight of the code: scale * sign forward, clamp(w, -1, 1) backward.
        weight = Through.apply(w, scale.view(-1, 1, 1, 1) * signs, ((w >= -1) & (w <= 1)).double())
        y = binary_convolution(bireal_activation(x), weight, signs, scale, stride, 1)
        y = net.norm(f'{name}.body.layers.1', y)
        if shortcut:
            x = net.convolution(f'{shortcut}.1', F.avg_pool2d(x, 2, 2), padding=0)
            x = net.norm(f'{shortcut}.2', x)
        return x + y

    x = net.norm('1', net.convolution('0', x))
    x = block('3', block('2', x, 1), 1)
    x = block('5', block('4', x, 2, '4.shortcut.layers'), 1)
    return net.dense('7', x.mean([2, 3]))


# IR-Net's ResNet-20 (arXiv:1909.10788, htqin/IR-Net CIFAR-10/ResNet20/1w1a).


def ede(x, value, t):
    k = 1 / t if t < 1 else 1.0
    return Through.apply(x, value, (k * t * (1 - torch.tanh(t * x) ** 2)).detach())


def ir_net(net, x, progress):
    t = 10 ** (-3 + 4 * progress)

    def product(name, x, stride):
        w = net.p[f'{name}.kernel']
        flat = w.view(len(w), -1)
        u = (w - flat.mean(1).view(-1, 1, 1, 1)) / flat.std(1).view(-1, 1, 1, 1)
        scale = (2.0 ** torch.round(torch.log2(u.view(len(w), -1).abs().mean(1)))).detach()
        weight = ede(u, sign(u), t) * scale.view(-1, 1, 1, 1)
        return binary_convolution(ede(x, sign(x), t), weight, sign(u), scale, stride, 1)

    def half(name, x, stride=1):
        y = net.norm(f'{name}.body.layers.1', product(f'{name}.body.layers.0', x, stride))
        if stride == 2:
            c = y.shape[1]
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, c // 4, c // 4))
        return F.hardtanh(x + y)

    x = F.hardtanh(net.norm('1', net.convolution('0', x)))
    x = half('5', half('3', x))
    x = half('9', half('7', x, 2))
    return net.dense('13', net.norm('12', x.mean([2, 3])))


# ReCU's ResNet-18 (arXiv:2103.12369, z-hXu/ReCU cifar/models_cifar/resnet2.py, modules/binarized_modules.py, main.py).


def recu(net, x, progress):
    a = (0.99 - 0.85) / (math.e - 1)
    tau = a * math.exp(progress) + 0.85 - a

    def product(name, x, stride):
        w = net.p[f'{name}.kernel']
        w0 = w - w.mean([1, 2, 3], keepdim=True)
        w1 = w0 / (torch.sqrt(w0.var([1, 2, 3], keepdim=True) + 1e-5) / 2 / math.sqrt(2))
        largest = (-w1.abs().mean() * math.log(2 - 2 * tau)).item()
        w2 = torch.clamp(w1, -largest, largest)
        weight = Through.apply(w2, sign(w2), torch.ones_like(w2))
        x0 = x / torch.sqrt(x.var([1, 2, 3], keepdim=True) + 1e-5) if net.training else x
        signs = Through.apply(x0, sign(x0), (2 - (2 * x0).abs()).clamp(min=0).detach())
        y = F.conv2d(signs, weight, stride=stride, padding=1)
        return y * net.p[f'{name}.weight.alpha'].view(1, -1, 1, 1)

    def block(name, x, stride):
        y = F.hardtanh(net.norm(f'{name}.body.layers.1', product(f'{name}.body.layers.0', x, stride)))
        y = net.norm(f'{name}.body.layers.4', product(f'{name}.body.layers.3', y, 1))
        if stride == 2:
            c = y.shape[1]
            x = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, c // 4, c // 4))
        return F.hardtanh(x + y)

    x = net.norm('1', net.convolution('0', x))
    x = block('4', block('2', x, 1), 2)
    return net.dense('8', net.norm('7', x.mean([2, 3])))


# BinaryNet's network for CIFAR-10 (arXiv:1602.02830, MatthieuCourbariaux/BinaryNet Train-time/cifar10.py, binary_net.py),
# without biases, which the normalization that follows takes out again.


def binarynet(net, x, progress):
    def hard_sigmoid_signs(x):
        # 2 round(clip((x + 1) / 2, 0, 1)) - 1, the rounding's derivative 1: that of the clip is left.
        return Through.apply(x, sign(x), ((x >= -1) & (x <= 1)).double())

    def weight(name):
        w = net.p[f'{name}.kernel']
        # The code differentiates by the binary weights themselves. w lies in [-1, 1], where the clip's derivative is 1.
        return Through.apply(w, sign(w), torch.ones_like(w))

    x = F.conv2d(x, weight('0'), padding=1)
    x = hard_sigmoid_signs(net.norm('1', x))
    for name, norm, pooled in (('2', '4', 1), ('5', '6', 0), ('7', '9', 1), ('10', '11', 0), ('12', '14', 1)):
        x = F.conv2d(x, weight(name), padding=1)
        x = hard_sigmoid_signs(net.norm(norm, F.max_pool2d(x, 2) if pooled else x))
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = hard_sigmoid_signs(net.norm('17', x @ weight('16')))
    x = hard_sigmoid_signs(net.norm('19', x @ weight('18')))
    return net.norm('21', x @ weight('20'))


# Network in network (jiecaoyu/XNOR-Net-PyTorch CIFAR_10/models/nin.py, util.py, main.py), without its dropout.


NIN = (('3', '4', 0), ('6', '7', 0), ('10', '11', 2), ('13', '14', 0), ('16', '17', 0), ('20', '21', 1))
NIN += (('23', '24', 0),)


def nin(net, x, progress):
    x = F.relu(net.norm('1', net.convolution('0', x, padding=2)))
    for norm, name, padding in NIN:
        x = net.norm(norm, x)
        x = Through.apply(x, torch.sign(x), (x.abs() < 1).double())
        # The loop has written scale * sign into the kernel.
        w = net.p[f'{name}.kernel']
        scale = w.detach().abs().amax([1, 2, 3])
        x = binary_convolution(x, w, torch.sign(w), scale, 1, padding) + net.p[f'{name}.bias'].view(1, -1, 1, 1)
        x = F.relu(x)
        if name == '7':
            x = F.max_pool2d(x, 3, 2, 1)
        if name == '17':
            x = F.avg_pool2d(x, 3, 2, 1)
    return F.relu(net.convolution('27', net.norm('26', x), padding=0)).mean([2, 3])


def nin_restored(p):
    """Centered over the input channels and clamped, for good; gammas of at least 0.01."""
    with torch.no_grad():
        for norm, name, _ in NIN:
            w = p[f'{name}.kernel']
            w.copy_((w - w.mean(1, keepdim=True)).clamp(-1, 1))
            p[f'{norm}.scale'].clamp_(min=0.01)


def nin_step(net, forward_and_backward):
    """Binarized, differentiated, restored; gradients of latent weights as `updateBinaryGradWeight` has them."""
    nin_restored(net.p)
    kernels = {name: net.p[f'{name}.kernel'] for _, name, _ in NIN}
    saved = {name: w.detach().clone() for name, w in kernels.items()}
    with torch.no_grad():
        for name, w in kernels.items():
            w.copy_(saved[name].abs().mean([1, 2, 3], keepdim=True) * saved[name].sign())
    loss = forward_and_backward()
    with torch.no_grad():
        for name, w in kernels.items():
            w.copy_(saved[name])
            n, g = w[0].numel(), w.grad
            direct = w.abs().mean([1, 2, 3], keepdim=True) * g
            along = (w.sign() * g).sum([1, 2, 3], keepdim=True) / n * w.sign()
            g.copy_((direct + along) * (1 - 1 / w.shape[1]) * n)
    return loss


# Losses and optimizers.


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)


def squared_hinge(logits, labels):
    targets = 2 * F.one_hot(labels, CLASSES) - 1
    return (torch.clamp(1 - targets * logits, min=0) ** 2).mean()


def cosine(rate):
    return lambda i: rate * (1 + math.cos(math.pi * i / RUN)) / 2


class Sgd:
    """Momentum 0.9; decays: name -> L2."""

    def __init__(self, rate, decays):
        self.rate, self.decays, self.buffers = rate, decays, {}

    def step(self, i, p):
        for name, v in p.items():
            g = v.grad + self.decays(name) * v
            self.buffers[name] = g if i == 0 else 0.9 * self.buffers[name] + g
            v -= self.rate(i) * self.buffers[name]


class OnlyRounding(Exception):
    """A gradient that is 0 but for rounding, and that Adam makes as large as any other: that of the weights of a feature with
    one sign in the whole batch, say. No two programs agree on such a run, so another seed is taken."""


class Adam:
    """Algorithm 1 of arXiv:1412.6980. factors: name and shape -> what multiplies its step."""

    def __init__(self, rate, decay=0.0, factors=lambda name, v: 1.0):
        self.rate, self.decay, self.factors, self.m, self.v = rate, decay, factors, {}, {}

    def step(self, i, p):
        for name, x in p.items():
            g = x.grad + self.decay * x
            if (g.abs() < 1e-10 * g.abs().max()).any():
                raise OnlyRounding(name)
            self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * g * g
            m, v = self.m[name] / (1 - 0.9 ** (i + 1)), self.v[name] / (1 - 0.999 ** (i + 1))
            x -= self.rate(i) * self.factors(name, x) * m / (v.sqrt() + 1e-8)


def glorot(name, x):
    """1 / sqrt(1.5 / (inputs + units)), windows counted in both; of kernels, all of which are binary here."""
    if not name.endswith('kernel'):
        return 1.0
    fans = x[0].numel() + x[:, 0].numel() if x.ndim == 4 else sum(x.shape)
    return 1 / math.sqrt(1.5 / fans)


# The recipes.


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
LATENT_OF_BIREAL = {f'{name}.kernel' for name in BLOCKS}


def plain_step(net, forward_and_backward):
    return forward_and_backward()


def falling(i):
    """Tenfold less after epochs 120 and 200 of 320, at the same shares of this run."""
    return 1e-2 * 0.1 ** sum(i >= RUN * epoch // 320 for epoch in (120, 200, 240, 280))


RECIPES = {
    # forward, shapes, eps, unbiased running variance, loss, optimizer, what surrounds a step
    'BIREAL': (
        *(bireal, SHAPES_OF_BIREAL, 1e-5, False, cross_entropy),
        *(lambda: Sgd(cosine(0.1), lambda name: 0.0 if name in LATENT_OF_BIREAL else 1e-4), plain_step),
    ),
    'IRNET': (
        *(ir_net, SHAPES_OF_IR_NET, 1e-5, True, cross_entropy),
        *(lambda: Sgd(cosine(0.1), lambda name: 1e-4), plain_step),
    ),
    'RECU': (
        *(recu, SHAPES_OF_RECU, 1e-5, True, cross_entropy),
        *(lambda: Sgd(cosine(0.1), lambda name: 5e-4), plain_step),
    ),
    'BNN': (
        *(binarynet, SHAPES_OF_VGG, 1e-4, False, squared_hinge),
        *(lambda: Adam(cosine(1e-3), factors=glorot), plain_step),
    ),
    'XNOR_PYTORCH_CIFAR': (nin, SHAPES_OF_NIN, 1e-4, True, cross_entropy, lambda: Adam(falling, decay=1e-5), nin_step),
}
# Latent weights that are clipped after the update, in the library's recipe (BIREAL) or in the source (BNN).
CLIPPED = {'BIREAL': LATENT_OF_BIREAL, 'BNN': {name for name in SHAPES_OF_VGG if name.endswith('kernel')}}


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
    forward, shapes, eps, unbiased, loss_of, optimizer, around = RECIPES[name]
    optimizer, values = optimizer(), start(np.random.default_rng(seed), shapes)
    net = Network({key: into(key, value) for key, value in values.items()}, eps, unbiased)
    # One array a state: its parameters by name, flattened. Many small arrays would be a larger file.
    arrays = {f'{name}/names': np.array(sorted(values)), f'{name}/0': flattened(values)}
    losses = []
    for i in range(STEPS):
        x, y = images[i], labels[i]

        def forward_and_backward(i=i, x=x, y=y):
            for v in net.p.values():
                v.grad = None
            loss = loss_of(forward(net, x, i / (RUN - 1)), y)
            loss.backward()
            return loss.item()

        losses.append(around(net, forward_and_backward))
        with torch.no_grad():
            optimizer.step(i, net.p)
            for key in CLIPPED.get(name, ()):
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
