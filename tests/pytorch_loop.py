"""XNOR-Net's training loop in PyTorch, written in NumPy from its formulas, float64: an oracle for the preset.

One LeNet-5: convolution, batch norm without gamma and beta, ReLU, pool; batch norm, sign, binary convolution, ReLU, pool;
batch norm, sign, binary dense layer, ReLU; dense layer. Parameters by the names of the library's layers, NHWC and HWIO.
"""

import numpy as np

BINARY = ('5.kernel', '10.kernel')
EPS = 1e-4


def convolve(x, w):
    """Valid convolution of stride 1; returns y and the function g -> (dx, dw)."""
    kh, kw = w.shape[:2]
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    taps = [(i, j, np.s_[:, i : i + rows, j : j + columns]) for i in range(kh) for j in range(kw)]
    y = sum(x[window] @ w[i, j] for i, j, window in taps)

    def backward(g):
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for i, j, window in taps:
            dx[window] += g @ w[i, j].T
            dw[i, j] = np.einsum('nhwc,nhwf->cf', x[window], g)
        return dx, dw

    return y, backward


def pool(x):
    """Maximum of 2 x 2; the first of equals gets the gradient."""
    n, height, width, c = x.shape
    windows = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, c)
    windows = np.moveaxis(windows, 2, 3).reshape(n, height // 2, width // 2, 4, c)
    which = windows.argmax(3)[:, :, :, None]

    def backward(g):
        spread = np.zeros_like(windows)
        np.put_along_axis(spread, which, g[:, :, :, None], 3)
        spread = np.moveaxis(spread.reshape(n, height // 2, width // 2, 2, 2, c), 3, 2)
        dx = np.zeros_like(x)
        dx[:, : height // 2 * 2, : width // 2 * 2] = spread.reshape(n, height // 2 * 2, width // 2 * 2, c)
        return dx

    return windows.max(3), backward


def normalize(x, gamma, beta):
    """Batch normalization in training; returns y, (mean, variance, values a channel) and g -> (dx, dgamma, dbeta)."""
    axes = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    mean, var = x.mean(axes), x.var(axes)
    deviation = np.sqrt(var + EPS)
    normal = (x - mean) / deviation

    def backward(g):
        dgamma, dbeta = (g * normal).sum(axes), g.sum(axes)
        return gamma / deviation * (g - dbeta / n - normal * dgamma / n), dgamma, dbeta

    return gamma * normal + beta, (mean, var, n), backward


def filters(w):
    """All axes but the last."""
    return tuple(range(w.ndim - 1))


def restored(w):
    """Centered over the input channels, clamped."""
    return np.clip(w - w.mean(-2, keepdims=True), -1, 1)


def binarized(w):
    return np.abs(w).mean(filters(w), keepdims=True) * np.sign(w)


def gradient_of_latent(w, g, factor):
    """The exact derivative of alpha sign(W) times (1 - 1/C) n, times factor."""
    n, alpha, s = w.size // w.shape[-1], np.abs(w).mean(filters(w), keepdims=True), np.sign(w)
    exact = alpha * g + s / n * (g * s).sum(filters(w), keepdims=True)
    return exact * (1 - 1 / w.shape[-2]) * n * factor


def forward_backward(p, running, images, labels):
    """Loss and gradients at the (binarized) parameters p; running statistics are updated in place."""
    d = {}
    ones, zeros = np.ones(p['0.bias'].shape), np.zeros(p['0.bias'].shape)
    c1, conv1 = convolve(images, p['0.kernel'])
    b1, stats1, norm1 = normalize(c1 + p['0.bias'], ones, zeros)
    p1, pool1 = pool(np.maximum(b1, 0))
    b2, stats4, norm2 = normalize(p1, p['4.scale'], p['4.bias'])
    # Integers first, alpha afterwards: sums of +-alpha are rounded, and that rounding, not the formulas, would decide which
    # of equal numbers is the maximum of a pool.
    _, conv2 = convolve(np.sign(b2), p['5.kernel'])
    c2 = convolve(np.sign(b2), np.sign(p['5.kernel']))[0] * np.abs(p['5.kernel']).max((0, 1, 2)) + p['5.bias']
    p2, pool2 = pool(np.maximum(c2, 0))
    b3, stats8, norm3 = normalize(p2, p['8.scale'], p['8.bias'])
    flat = np.sign(b3).reshape(len(images), -1)
    hidden = flat @ p['10.kernel'] + p['10.bias']
    rectified = np.maximum(hidden, 0)
    logits = rectified @ p['12.kernel'] + p['12.bias']
    for name, (mean, var, n) in {'1': stats1, '4': stats4, '8': stats8}.items():
        running[f'{name}.mean'] = 0.9 * running[f'{name}.mean'] + 0.1 * mean
        running[f'{name}.var'] = 0.9 * running[f'{name}.var'] + 0.1 * var * n / (n - 1)

    shifted = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()

    g = (probabilities - np.eye(logits.shape[1])[labels]) / len(labels)
    d['12.kernel'], d['12.bias'] = rectified.T @ g, g.sum(0)
    g = (g @ p['12.kernel'].T) * (hidden > 0)
    d['10.kernel'], d['10.bias'] = flat.T @ g, g.sum(0)
    g = (g @ p['10.kernel'].T).reshape(b3.shape) * (np.abs(b3) < 1)
    g, d['8.scale'], d['8.bias'] = norm3(g)
    g = pool2(g) * (c2 > 0)
    d['5.bias'] = g.sum((0, 1, 2))
    g, d['5.kernel'] = conv2(g)
    g, d['4.scale'], d['4.bias'] = norm2(g * (np.abs(b2) < 1))
    g = norm1(pool1(g) * (b1 > 0))[0]
    d['0.bias'] = g.sum((0, 1, 2))
    _, d['0.kernel'] = conv1(g)
    return loss, d


def train(params, running, batches, *, rate, decay, factor):
    """The loop: center, clamp, binarize, forward, backward, restore, transform the gradients, Adam with L2.

    Returns losses, parameters as stored after each step, running statistics after each step.
    """
    p, running = dict(params), dict(running)
    m, v = ({name: np.zeros_like(value) for name, value in p.items()} for _ in range(2))
    losses, stored, statistics = [], [], []
    for step, (images, labels) in enumerate(batches, 1):
        p.update({name: restored(p[name]) for name in BINARY})
        p.update({name: np.maximum(p[name], 0.01) for name in ('4.scale', '8.scale')})
        loss, d = forward_backward({**p, **{name: binarized(p[name]) for name in BINARY}}, running, images, labels)
        d.update({name: gradient_of_latent(p[name], d[name], factor) for name in BINARY})
        for name in p:
            g = d[name] + decay * p[name]
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            m_hat, v_hat = m[name] / (1 - 0.9**step), v[name] / (1 - 0.999**step)
            p[name] = p[name] - rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        losses.append(loss)
        stored.append(dict(p))
        statistics.append(dict(running))
    return losses, stored, statistics
