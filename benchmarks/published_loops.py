"""Five published recipes as loops in PyTorch, which share no code with the library.

Each loop is written from its paper and its published code (arithmetic, order, gradients, optimizer, rates). Names of
parameters are those of the library's layers; arrays are PyTorch's OIHW and NCHW. The residual loops find their blocks by these
names, so they run networks of any depth; all loops run networks of any width. Left out because it is random: NIN's dropout.

`tests/golden/make_recipes.py` runs them for 20 steps in float64, `benchmarks.recipes_in_pytorch` runs four of
them on real images in float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]


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


def blocks(p):
    """The numbers of the residual blocks, in order."""
    return sorted(int(name.partition('.')[0]) for name in p if name.endswith('.body.layers.0.kernel'))


def stride(w):
    """Of a convolution in a residual block: 2 where the number of channels grows."""
    return 1 if w.shape[0] == w.shape[1] else 2


def head(p):
    """The number of the last, dense layer."""
    return max(int(name.partition('.')[0]) for name in p)


# Bi-Real Net's block (arXiv:1808.00278, liuzechun/Bi-Real-net), in ResNet-20 with the recipe that the library has for it:
# IR-Net's SGD, without L2 on latent weights.


def bireal_activation(x):
    slope = torch.where((x >= -1) & (x < 0), 2 + 2 * x, 0.0) + torch.where((x >= 0) & (x < 1), 2 - 2 * x, 0.0)
    return Through.apply(x, sign(x), slope.detach())


def bireal(net, x, progress):
    def block(name, x):
        w = net.p[f'{name}.body.layers.0.kernel']
        scale = w.abs().mean([1, 2, 3])
        signs = sign(w)
        # The straight-through weight of the code: scale * sign forward, clamp(w, -1, 1) backward.
        weight = Through.apply(w, scale.view(-1, 1, 1, 1) * signs, ((w >= -1) & (w <= 1)).to(w))
        y = binary_convolution(bireal_activation(x), weight, signs, scale, stride(w), 1)
        y = net.norm(f'{name}.body.layers.1', y)
        if stride(w) == 2:
            x = net.convolution(f'{name}.shortcut.layers.1', F.avg_pool2d(x, 2, 2), padding=0)
            x = net.norm(f'{name}.shortcut.layers.2', x)
        return x + y

    x = net.norm('1', net.convolution('0', x))
    for name in blocks(net.p):
        x = block(name, x)
    return net.dense(head(net.p), x.mean([2, 3]))


# IR-Net's ResNet-20 (arXiv:1909.10788, htqin/IR-Net CIFAR-10/ResNet20/1w1a).


def ede(x, value, t):
    k = 1 / t if t < 1 else 1.0
    return Through.apply(x, value, (k * t * (1 - torch.tanh(t * x) ** 2)).detach())


def ir_net(net, x, progress):
    t = 10 ** (-3 + 4 * progress)

    def product(name, x):
        w = net.p[f'{name}.kernel']
        flat = w.view(len(w), -1)
        u = (w - flat.mean(1).view(-1, 1, 1, 1)) / flat.std(1).view(-1, 1, 1, 1)
        scale = (2.0 ** torch.round(torch.log2(u.view(len(w), -1).abs().mean(1)))).detach()
        weight = ede(u, sign(u), t) * scale.view(-1, 1, 1, 1)
        return binary_convolution(ede(x, sign(x), t), weight, sign(u), scale, stride(w), 1)

    def half(name, x):
        y = net.norm(f'{name}.body.layers.1', product(f'{name}.body.layers.0', x))
        c = y.shape[1]
        if c > x.shape[1]:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, c // 4, c // 4))
        return F.hardtanh(x + y)

    x = F.hardtanh(net.norm('1', net.convolution('0', x)))
    for name in blocks(net.p):
        x = half(name, x)
    last = head(net.p)
    return net.dense(last, net.norm(f'{last - 1}', x.mean([2, 3])))


# ReCU's ResNet-18 (arXiv:2103.12369, z-hXu/ReCU cifar/models_cifar/resnet2.py, modules/binarized_modules.py, main.py).


def recu(net, x, progress):
    a = (0.99 - 0.85) / (math.e - 1)
    tau = a * math.exp(progress) + 0.85 - a

    def product(name, x):
        w = net.p[f'{name}.kernel']
        w0 = w - w.mean([1, 2, 3], keepdim=True)
        w1 = w0 / (torch.sqrt(w0.var([1, 2, 3], keepdim=True) + 1e-5) / 2 / math.sqrt(2))
        largest = (-w1.abs().mean() * math.log(2 - 2 * tau)).item()
        w2 = torch.clamp(w1, -largest, largest)
        weight = Through.apply(w2, sign(w2), torch.ones_like(w2))
        x0 = x / torch.sqrt(x.var([1, 2, 3], keepdim=True) + 1e-5) if net.training else x
        signs = Through.apply(x0, sign(x0), (2 - (2 * x0).abs()).clamp(min=0).detach())
        y = F.conv2d(signs, weight, stride=stride(w), padding=1)
        return y * net.p[f'{name}.weight.alpha'].view(1, -1, 1, 1)

    def block(name, x):
        y = F.hardtanh(net.norm(f'{name}.body.layers.1', product(f'{name}.body.layers.0', x)))
        y = net.norm(f'{name}.body.layers.4', product(f'{name}.body.layers.3', y))
        c = y.shape[1]
        if c > x.shape[1]:
            x = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, c // 4, c // 4))
        return F.hardtanh(x + y)

    x = net.norm('1', net.convolution('0', x))
    for name in blocks(net.p):
        x = block(name, x)
    last = head(net.p)
    return net.dense(last, net.norm(f'{last - 1}', x.mean([2, 3])))


# BinaryNet's network for CIFAR-10 (arXiv:1602.02830, MatthieuCourbariaux/BinaryNet Train-time/cifar10.py, binary_net.py),
# without biases, which the normalization that follows takes out again.


def binarynet(net, x, progress):
    def hard_sigmoid_signs(x):
        # 2 round(clip((x + 1) / 2, 0, 1)) - 1, the rounding's derivative 1: that of the clip is left.
        return Through.apply(x, sign(x), ((x >= -1) & (x <= 1)).to(x))

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
        x = Through.apply(x, torch.sign(x), (x.abs() < 1).to(x))
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
    targets = 2 * F.one_hot(labels, logits.shape[1]) - 1
    return (torch.clamp(1 - targets * logits, min=0) ** 2).mean()


class Sgd:
    """Momentum 0.9; decays: name -> L2."""

    def __init__(self, rate, decays):
        self.rate, self.decays, self.buffers = rate, decays, {}

    def step(self, i, p):
        for name, v in p.items():
            g = v.grad + self.decays(name) * v
            self.buffers[name] = g if i == 0 else 0.9 * self.buffers[name] + g
            v -= self.rate(i) * self.buffers[name]


def plain_step(net, forward_and_backward):
    return forward_and_backward()


class OnlyRounding(Exception):
    """A gradient that is 0 but for rounding, and that Adam makes as large as any other: that of the weights of a feature with
    one sign in the whole batch, say. No two programs agree on such a run, so another seed is taken."""


class Adam:
    """Algorithm 1 of arXiv:1412.6980. factors: name and shape -> what multiplies its step. With `exact` set, a gradient that is
    only rounding raises OnlyRounding."""

    def __init__(self, rate, decay=0.0, factors=lambda name, v: 1.0):
        self.rate, self.decay, self.factors, self.exact, self.m, self.v = rate, decay, factors, False, {}, {}

    def step(self, i, p):
        for name, x in p.items():
            g = x.grad + self.decay * x
            if self.exact and (g.abs() < 1e-10 * g.abs().max()).any():
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


def residual(name):
    """Whether these are latent weights of a residual network."""
    return '.body.' in name and name.endswith('.kernel')


def kernel(name):
    """Whether these are latent weights of BinaryNet, all of whose layers are binary."""
    return name.endswith('.kernel')


def of_nin(name):
    """Whether these are latent weights of NIN."""
    return name in {f'{product}.kernel' for _, product, _ in NIN}


class Loop(NamedTuple):
    """One recipe."""

    # (network, images, progress) -> logits.
    forward: Callable
    # (logits, labels) -> loss.
    loss: Callable
    # (rate of each step) -> optimizer.
    optimizer: Callable
    eps: float = 1e-5
    # Whether the running variance is unbiased.
    unbiased: bool = False
    # What surrounds the forward and backward pass of a step.
    around: Callable = plain_step
    # Whether a parameter of this name is latent weights.
    latent: Callable = residual
    # Whether latent weights are clipped to [-1, 1] after each update, in the library's recipe (BIREAL) or in the source (BNN).
    clipped: bool = False


LOOPS = {
    'BIREAL': Loop(
        bireal, cross_entropy, partial(Sgd, decays=lambda name: 0.0 if residual(name) else 1e-4), clipped=True
    ),
    'IRNET': Loop(ir_net, cross_entropy, partial(Sgd, decays=lambda name: 1e-4), unbiased=True),
    'RECU': Loop(recu, cross_entropy, partial(Sgd, decays=lambda name: 5e-4), unbiased=True),
    'BNN': Loop(binarynet, squared_hinge, partial(Adam, factors=glorot), eps=1e-4, latent=kernel, clipped=True),
    'XNOR_PYTORCH_CIFAR': Loop(
        nin, cross_entropy, partial(Adam, decay=1e-5), eps=1e-4, unbiased=True, around=nin_step, latent=of_nin
    ),
}
