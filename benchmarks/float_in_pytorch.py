"""A float network of this library in PyTorch, with the same parameters, as a baseline."""

from typing import Any

import numpy as np

from bnn_jax.nn.containers import Network, Residual, Sequential
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Convolution
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import AvgPool, Flatten, GlobalAveragePool, MaxPool, Relu


def in_pytorch(network: Network) -> Any:
    """A torch.nn.Module in evaluation mode, from images (N, C, H, W) to logits. Every layer is a PyTorch layer; none is folded.

    Raises ImportError without PyTorch, TypeError for a layer that is binary or not supported here.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Sum(nn.Module):
        def __init__(self, body, shortcut):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    class Features(nn.Module):
        def forward(self, x):
            """Flatten in this library's order: row, column, channel."""
            return x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    def filled(module, **arrays):
        module.load_state_dict(
            {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, strict=False
        )
        return module

    def product(layer: Product):
        kernel = np.asarray(layer.kernel[...])
        bias = {} if layer.bias is None else {'bias': layer.bias[...]}
        if not isinstance(layer.operation, Convolution):
            return filled(nn.Linear(layer.in_features, layer.out_features, bias=bool(bias)), weight=kernel.T, **bias)
        window = layer.operation.window
        pads = [before for before, _ in _symmetric(window)]
        more = {'dilation': window.dilation, 'groups': layer.operation.groups, 'bias': bool(bias)}
        module = nn.Conv2d(layer.in_features, layer.out_features, window.size, window.strides, pads, **more)
        return filled(module, weight=kernel.transpose(3, 2, 0, 1), **bias)

    def norm(layer: Norm, flat: bool):
        module = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(layer.num_features, layer.epsilon)
        assert layer.bias is not None
        numbers = {'weight': layer.gamma, 'bias': layer.bias[...]}
        return filled(module, **numbers, running_mean=layer.mean[...], running_var=layer.var[...])

    def chain(layers):
        modules, flat = [], False
        for layer in layers:
            flat = flat or isinstance(layer, Flatten | GlobalAveragePool)
            modules.append(norm(layer, flat) if isinstance(layer, Norm) else of(layer))
        return nn.Sequential(*modules)

    def of(layer):
        match layer:
            case Sequential():
                return chain(layer.layers)
            case Residual():
                return Sum(of(layer.body), of(layer.shortcut))
            case Product() if layer.scheme.weight is None and layer.scheme.activation is None:
                return product(layer)
            case Relu():
                return nn.ReLU()
            case MaxPool() | AvgPool():
                # PyTorch's average counts the zeros of the padding too.
                window, pool = layer.window, nn.MaxPool2d if isinstance(layer, MaxPool) else nn.AvgPool2d
                return pool(window.size, window.strides, [before for before, _ in _symmetric(window)])
            case GlobalAveragePool():
                return Mean()
            case Flatten():
                return Features()
        raise TypeError(f'in_pytorch: got a {type(layer).__name__}, expected a layer of a float network')

    return of(network.body).eval()


def _symmetric(window):
    """The padding of a window, which must be the same on both sides."""
    pads = ((0, 0), (0, 0)) if window.padding == 'VALID' else window.padding
    if isinstance(pads, str) or any(before != after for before, after in pads):
        raise TypeError(f'in_pytorch: got padding {pads!r}, expected the same on both sides')
    return pads
