"""XNOR-Net's networks in PyTorch and torchvision's ResNet-18, small, in NumPy and float64, with random state dicts.

PyTorch's layout throughout: NCHW, OIHW, dense (out, in), flattened channel by channel; names as the published ones.
"""

import numpy as np


class Weights(dict):
    """A state dict made layer by layer, in PyTorch's order, of random numbers."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def put(self, name, *shape, low=-1.0, high=1.0):
        self[name] = self.rng.uniform(low, high, shape).astype(np.float32)

    def norm(self, name, n, affine=True):
        if affine:
            self.put(f'{name}.weight', n)  # Below 0.01 in places.
            self.put(f'{name}.bias', n)
        self.put(f'{name}.running_mean', n)
        self.put(f'{name}.running_var', n, low=0.5, high=3)
        self[f'{name}.num_batches_tracked'] = np.asarray(7, np.int64)

    def product(self, name, *shape, bias=True):
        bound = 3 / np.sqrt(np.prod(shape[1:]))
        self.put(f'{name}.weight', *shape, low=-bound, high=bound)
        if bias:
            self.put(f'{name}.bias', shape[0])


def windows(x, size, stride, padding, outside=0.0):
    """(N, C, H, W) -> (N, C, rows, columns, size, size)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=outside)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]


def max_pool(x, size, stride, padding=0):
    return windows(x, size, stride, padding, -np.inf).max((-2, -1))


def average_pool(x, size, stride, padding=0):
    return windows(x, size, stride, padding).mean((-2, -1))


def relu(x):
    return np.maximum(x, 0)


def product(p, name, x, stride=1, padding=0, weight=None):
    weight = p[f'{name}.weight'].astype(np.float64) if weight is None else weight
    bias = p.get(f'{name}.bias', np.zeros(len(weight)))
    if weight.ndim == 2:
        return x @ weight.T + bias
    y = np.einsum('nchwij,ocij->nohw', windows(x, weight.shape[-1], stride, padding), weight)
    return y + bias[:, None, None]


def norm(p, name, x, eps, least=-np.inf):
    n = len(p[f'{name}.running_mean'])
    gamma, beta = np.maximum(p.get(f'{name}.weight', np.ones(n)), least), p.get(f'{name}.bias', np.zeros(n))
    factor = gamma / np.sqrt(p[f'{name}.running_var'].astype(np.float64) + eps)
    shift = beta - p[f'{name}.running_mean'] * factor
    shape = (n,) + (1,) * (x.ndim - 2)
    return x * factor.reshape(shape) + shift.reshape(shape)


def binary(p, name, x, kind='conv', padding=0, least=0.01):
    """norm, sign, [flatten,] alpha sign of the centered and clamped weights, bias, ReLU."""
    w = p[f'{name}.{kind}.weight'].astype(np.float64)
    w = np.clip(w - w.mean(1, keepdims=True), -1, 1)
    w = np.abs(w).mean(tuple(range(1, w.ndim)), keepdims=True) * np.sign(w)
    x = np.sign(norm(p, f'{name}.bn', x, 1e-4, least))
    x = x.reshape(len(x), -1) if kind == 'linear' else x
    return relu(product(p, f'{name}.{kind}', x, padding=padding, weight=w))


def lenet5_weights(features_normalized=False):
    p = Weights()
    p.product('conv1', 4, 1, 5, 5)
    p.norm('bn_conv1', 4, affine=False)
    p.norm('bin_conv2.bn', 4)
    p.product('bin_conv2.conv', 10, 4, 5, 5)
    p.norm('bin_ip1.bn', 60 if features_normalized else 10)
    p.product('bin_ip1.linear', 100, 60)
    p.product('ip2', 10, 100)
    return p


def lenet5(p, x):
    x = max_pool(relu(norm(p, 'bn_conv1', product(p, 'conv1', x), 1e-4)), 2, 2)
    x = max_pool(binary(p, 'bin_conv2', x), 2, 2)
    x = x.reshape(len(x), -1) if len(p['bin_ip1.bn.weight']) == 60 else x
    return product(p, 'ip2', binary(p, 'bin_ip1', x, 'linear'))


NIN = {3: (16, 19, 1), 4: (10, 16, 1), 6: (19, 10, 5), 7: (19, 19, 1), 8: (19, 19, 1), 10: (19, 19, 3), 11: (19, 19, 1)}


def nin_weights():
    p = Weights()
    p.product('xnor.0', 19, 3, 5, 5)
    p.norm('xnor.1', 19, affine=False)
    for i, (out, into, size) in NIN.items():
        p.norm(f'xnor.{i}.bn', into)
        p.product(f'xnor.{i}.conv', out, into, size, size)
    p.norm('xnor.12', 19, affine=False)
    p.product('xnor.13', 10, 19, 1, 1)
    return p


def nin(p, x):
    x = relu(norm(p, 'xnor.1', product(p, 'xnor.0', x, padding=2), 1e-4))
    for i, (_, _, size) in NIN.items():
        x = binary(p, f'xnor.{i}', x, padding=size // 2)
        x = {4: max_pool, 8: average_pool}[i](x, 3, 2, 1) if i in (4, 8) else x
    return relu(product(p, 'xnor.13', norm(p, 'xnor.12', x, 1e-4))).mean((2, 3))


ALEXNET = {4: (10, 4, 5), 6: (15, 10, 3), 7: (15, 15, 3), 8: (10, 15, 3)}


def alexnet_weights():
    p = Weights()
    p.product('features.0', 4, 3, 11, 11)
    p.norm('features.1', 4)
    for i, (out, into, size) in ALEXNET.items():
        p.norm(f'features.{i}.bn', into)
        p.product(f'features.{i}.conv', out, into, size, size)
    for i, (out, into) in enumerate(((164, 60), (164, 164))):
        p.norm(f'classifier.{i}.bn', into)
        p.product(f'classifier.{i}.linear', out, into)
    p.norm('classifier.2', 164)
    p.product('classifier.4', 7, 164)
    return p


def alexnet(p, x):
    x = max_pool(relu(norm(p, 'features.1', product(p, 'features.0', x, 4), 1e-4)), 3, 2)
    for i, (_, _, size) in ALEXNET.items():
        x = binary(p, f'features.{i}', x, padding=size // 2, least=-np.inf)
        x = max_pool(x, 3, 2) if i in (4, 8) else x
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = binary(p, f'classifier.{i}', x, 'linear', least=-np.inf)
    return product(p, 'classifier.4', norm(p, 'classifier.2', x, 1e-3))


def resnet18_weights():
    p = Weights()
    p.product('conv1', 4, 3, 7, 7, bias=False)
    p.norm('bn1', 4)
    into = 4
    for stage, out in enumerate((4, 8, 16, 32), 1):
        for block in range(2):
            name = f'layer{stage}.{block}'
            for i, c in ((1, into), (2, out)):
                p.product(f'{name}.conv{i}', out, c, 3, 3, bias=False)
                p.norm(f'{name}.bn{i}', out)
            if into != out:
                p.product(f'{name}.downsample.0', out, into, 1, 1, bias=False)
                p.norm(f'{name}.downsample.1', out)
            into = out
    p.product('fc', 6, 32)
    return p


def resnet18(p, x):
    x = max_pool(relu(norm(p, 'bn1', product(p, 'conv1', x, 2, 3), 1e-5)), 3, 2, 1)
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            y = relu(norm(p, f'{name}.bn1', product(p, f'{name}.conv1', x, stride, 1), 1e-5))
            y = norm(p, f'{name}.bn2', product(p, f'{name}.conv2', y, 1, 1), 1e-5)
            if f'{name}.downsample.0.weight' in p:
                x = norm(p, f'{name}.downsample.1', product(p, f'{name}.downsample.0', x, stride), 1e-5)
            x = relu(x + y)
    return product(p, 'fc', x.mean((2, 3)))
