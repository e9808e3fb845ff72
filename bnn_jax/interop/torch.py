"""Load published PyTorch checkpoints into networks of this library, and start a binary network from a trained one.

PyTorch itself is not needed: a state dict is a mapping from names to arrays, in the order of the layers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential, expect_network
from bnn_jax.nn.head import with_classes
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Dense
from bnn_jax.nn.product import Product


def load_state_dict(model: Network, state_dict: Mapping) -> Network:
    """A copy of the model with the tensors of a PyTorch state dict as its parameters and statistics.

    Each tensor fills one variable of a product or normalization, layer by layer, and each such variable is filled.
    Parameters of other layers, such as PReLU, and of trained quantizers keep the model's values. Convolutions
    (out, in, h, w) become HWIO, and dense layers (out, in) become (in, out). Where a dense layer or a normalization of
    features reads a flattened image, its features are reordered from C, H, W to H, W, C. Numbers are cast to the dtype
    of the model.

    Published checkpoints fit these networks, in the scheme that they were trained with:

    - LeNet-5: `models.lenet5(10, scheme=presets.XNOR_PYTORCH)`. Early versions of XNOR-Net-PyTorch normalized the
      800 inputs of the first dense layer feature by feature; for their checkpoints use
      replace(XNOR_PYTORCH, chain=schemes.feature_norm_product_relu_pool).
    - NIN: `models.nin(10, scheme=presets.XNOR_PYTORCH_CIFAR)`.
    - AlexNet: `models.alexnet(1000, scheme=presets.XNOR_PYTORCH_IMAGENET, input_shape=(227, 227, 3), padding=0)`.
    - torchvision's ResNet-18 (or -34): `models.resnet18(1000, scheme=replace(FLOAT, eps=1e-5))`. PyTorch's default epsilon is
      1e-5; no state dict contains it. `start_from` starts a binary run from such a network.

    For published networks with sign(0) = 0 see `presets.deployable`.

    Args:
        model: a model of the same architecture.
        state_dict: name -> array, as `{k: v.numpy() for k, v in tensors.items()}` makes it from PyTorch's tensors, in
            the order of the layers; a file sorted by name must be put in order first. The last part of a name says
            which tensor of a layer it is; tensors with the same other parts belong to one layer. `module` of
            DataParallel is dropped, `num_batches_tracked` is ignored, and a checkpoint {'state_dict': ...} is unwrapped.

    Returns:
        The copy.

    Raises:
        TypeError: model is not an `nn.Network`, state_dict is not a mapping, or a tensor is not floating.
        ValueError: a layer or tensor is missing, left over or of another shape; the message names both sides.

    Source: jiecaoyu/XNOR-Net-PyTorch and torchvision, for the layouts.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> state_dict = {'fc.weight': np.ones((3, 4), np.float32)}
        >>> state_dict |= {f'bn.{name}': np.ones(3, np.float32) for name in ('weight', 'bias', 'running_mean', 'running_var')}
        >>> load_state_dict(model, state_dict).num_classes
        3
    """
    model = _copy(model, 'load_state_dict')
    groups = _grouped(state_dict)
    slots = list(_slots(model.body, model.channels))
    for (name, tensors), slot in zip(groups.items(), slots, strict=False):
        _load(name, tensors, slot)
    if len(groups) > len(slots):
        raise ValueError(
            f'load_state_dict: got {len(groups)} layers with tensors, expected {len(slots)}: the model has no layers for '
            f'{list(groups)[len(slots) :]}'
        )
    if len(groups) < len(slots):
        missing = [f'{slot.path} {slot.kind}' for slot in slots[len(groups) :]]
        raise ValueError(
            f'load_state_dict: got {len(groups)} layers with tensors, expected {len(slots)}: the state dict has no tensors for '
            f'the layers of the model {missing}'
        )
    return model


def start_from(model: Network, trained: Network) -> Network:
    """A copy of the model that starts from a trained network of the same architecture in another scheme.

    Usually `trained` is real and `model` binary: the real kernels become latent weights, unchanged, and the scheme's projection
    clips or centers them from the first update on. Products are matched in order, those of shortcuts separately.

    All kernels are copied; a bias is copied if the model has one; a normalization directly after a product is copied if
    both networks have one with gamma and beta. All else, such as XNOR-Net's other normalizations, keeps the model's
    values. If the numbers of classes differ, the last products (also of auxiliary heads) and the normalizations of
    logits keep the model's values too, and `new_layers` of the result names them. (`nn.with_classes` changes the number
    of classes within one scheme.)

    Args:
        model: the network that gets the weights.
        trained: the network that has the weights.

    Returns:
        The copy.

    Raises:
        TypeError: model or trained is not an `nn.Network`.
        ValueError: products differ in number or shape, and the message names both sides; or the model has no place for
            a bias of `trained` (a bias before a normalization is subtracted from the running mean); or the numbers of classes
            differ, and one of the networks does not end with a product that computes the logits.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> sizes = dict(rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> trained = bnn.models.mlp(3, scheme=bnn.FLOAT, **sizes)
        >>> binary = start_from(bnn.models.mlp(3, scheme=bnn.BNN, **sizes), trained)
        >>> type(binary.body.layers[1].kernel).__name__
        'Latent'
    """
    model = _copy(model, 'start_from')
    expect_network('start_from', trained)
    new: set[str] = set()
    if model.num_classes != trained.num_classes:
        trained = with_classes(trained, model.num_classes, rngs=nnx.Rngs(0))
        # The head of the model's own scheme may have other layers.
        model.new_layers = with_classes(model, model.num_classes, rngs=nnx.Rngs(0)).new_layers
        new = {path.removeprefix('body.layers.').replace('.layers', '') for path in trained.new_layers}
    pairs = zip(_products(model.body, ''), _products(trained.body, ''), strict=True)
    for role, (ours, theirs) in zip(('products', 'products of shortcuts'), pairs, strict=True):
        got, expected = ([(one.path, one.product.kernel.shape) for one in side] for side in (theirs, ours))
        if [shape for _, shape in got] != [shape for _, shape in expected]:
            raise ValueError(f'start_from: got the {role} {got}, expected those of the model: {expected}')
        for target, source in zip(ours, theirs, strict=True):
            if source.path not in new:
                _start(target, source)
    return model


@dataclasses.dataclass(frozen=True)
class _Slot:
    """A layer with parameters."""

    path: str
    layer: Product | Norm
    # The channels of the image that the layer reads, flattened or not.
    channels: int

    @property
    def kind(self) -> str:
        if isinstance(self.layer, Norm):
            return 'normalization'
        return 'dense layer' if isinstance(self.layer.operation, Dense) else 'convolution'


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A variable of a layer and its tensor in PyTorch."""

    variable: nnx.Variable
    # The shape of the tensor in PyTorch.
    shape: tuple[int, ...]
    # The tensor in PyTorch -> the numbers of the variable.
    ours: Callable[[np.ndarray], np.ndarray]


def _copy(model: Network, caller: str) -> Network:
    expect_network(caller, model)
    return nnx.merge(*nnx.split(model), copy=True)


def _grouped(state_dict: Mapping) -> dict[str, dict[str, np.ndarray]]:
    """Name of a layer, in order -> last part of the name of a tensor -> the tensor."""
    if isinstance(state_dict, Mapping) and isinstance(state_dict.get('state_dict'), Mapping):
        state_dict = state_dict['state_dict']
    if not isinstance(state_dict, Mapping):
        raise TypeError(f'load_state_dict: got {type(state_dict).__name__}, expected a mapping from names to arrays')
    groups = {}
    for full, value in state_dict.items():
        name, _, last = '.'.join(part for part in full.split('.') if part != 'module').rpartition('.')
        if last == 'num_batches_tracked':
            continue
        tensors = groups.setdefault(name, {})
        if last in tensors:
            raise ValueError(f'load_state_dict: got {full!r} twice, with and without module, expected each tensor once')
        tensors[last] = np.asarray(value)
        if tensors[last].dtype.kind != 'f':
            raise TypeError(f'load_state_dict: {full!r}: got dtype {tensors[last].dtype}, expected floating numbers')
    return groups


def _slots(layers: Sequential, channels: int, path: str = '') -> Iterator[_Slot]:
    """The layers with parameters in PyTorch's order, the body of a block before its shortcut."""
    for i, layer in enumerate(layers.layers):
        match layer:
            case Residual():
                yield from _slots(layer.body, channels, f'{path}{i}.body.')
                yield from _slots(layer.shortcut, channels, f'{path}{i}.shortcut.')
                channels = _channels_after(layer.body, channels)
            case Branches():
                for k, branch in enumerate(layer.branches):
                    yield from _slots(branch, channels, f'{path}{i}.branch{k}.')
                channels = sum(_channels_after(branch, channels) for branch in layer.branches)
            case Auxiliary():
                yield from _slots(layer.head, channels, f'{path}{i}.head.')
            case Product() | Norm():
                yield _Slot(f'{path}{i}', layer, channels)
                channels = layer.out_features if isinstance(layer, Product) else channels


def _channels_after(layers: Sequential, channels: int) -> int:
    """The channels after a chain inside a block, which its last product decides."""
    return next((layer.out_features for layer in reversed(list(layers.layers)) if isinstance(layer, Product)), channels)


def _tensors(slot: _Slot) -> dict[str, _Tensor]:
    """Last part of the name of a tensor in PyTorch -> what it fills."""
    layer = slot.layer
    if isinstance(layer, Norm):
        n = layer.num_features
        variables = {'running_mean': layer.mean, 'running_var': layer.var}
        if isinstance(layer.scale, nnx.Param):  # Without gamma and beta PyTorch stores neither.
            variables = {'weight': layer.scale, 'bias': layer.bias, **variables}
        return {name: _Tensor(one, (n,), lambda v: _channels_last(v, slot.channels)) for name, one in variables.items()}
    if isinstance(layer.operation, Dense):
        shape = (layer.out_features, layer.in_features)
        tensors = {'weight': _Tensor(layer.kernel, shape, lambda v: _channels_last(v.T, slot.channels))}
    else:
        height, width, into, out = layer.kernel.shape
        tensors = {'weight': _Tensor(layer.kernel, (out, into, height, width), lambda v: v.transpose(2, 3, 1, 0))}
    if layer.bias is not None:
        tensors['bias'] = _Tensor(layer.bias, (layer.out_features,), lambda v: v)
    return tensors


def _channels_last(v: np.ndarray, channels: int) -> np.ndarray:
    """Reorder the first axis, the features of a flattened image, from (C, pixels) to (pixels, C)."""
    return v.reshape(channels, -1, *v.shape[1:]).swapaxes(0, 1).reshape(v.shape)


def _load(name: str, tensors: dict[str, np.ndarray], slot: _Slot) -> None:
    targets = _tensors(slot)
    if 'weights' in tensors and 'weight' in targets and tensors['weights'].size == np.prod(targets['weight'].shape):
        # The published code of Bi-Real Net stores a kernel as one column, named `weights`.
        tensors = {'weight': tensors['weights'].reshape(targets['weight'].shape)} | {
            last: value for last, value in tensors.items() if last != 'weights'
        }
    got = {last: value.shape for last, value in tensors.items()}
    expected = {last: target.shape for last, target in targets.items()}
    if got != expected:
        raise ValueError(
            f'load_state_dict: {name!r} has {got}, expected {expected}, the {slot.kind} {slot.path} of the model; '
            'the state dict must be in the order of the layers and of the same architecture, width and image size'
        )
    for last, target in targets.items():
        _set(target.variable, target.ours(tensors[last]))


def _set(variable: nnx.Variable, value) -> None:
    variable[...] = jnp.asarray(value, variable[...].dtype)


@dataclasses.dataclass(frozen=True)
class _Normed:
    """A product and the normalization directly after it."""

    path: str
    product: Product
    norm: Norm | None


def _products(layers: Sequential, path: str) -> tuple[list[_Normed], list[_Normed]]:
    """The products on the main path, and those of shortcuts."""
    main, shortcuts = [], []
    for i, layer in enumerate(layers.layers):
        chains: list = []
        match layer:
            case Product():
                following = next(iter(layers.layers[i + 1 : i + 2]), None)
                main.append(_Normed(f'{path}{i}', layer, following if isinstance(following, Norm) else None))
            case Residual():
                chains = [(layer.body, 'body')]
                shortcuts += _products(layer.shortcut, f'{path}{i}.shortcut.')[0]
            case Branches():
                chains = [(branch, f'branch{k}') for k, branch in enumerate(layer.branches)]
            case Auxiliary():
                chains = [(layer.head, 'head')]
        for chain, name in chains:
            more = _products(chain, f'{path}{i}.{name}.')
            main, shortcuts = main + more[0], shortcuts + more[1]
    return main, shortcuts


def _start(target: _Normed, source: _Normed) -> None:
    _set(target.product.kernel, source.product.kernel[...])
    if source.product.bias is not None:
        if target.product.bias is not None:
            _set(target.product.bias, source.product.bias[...])
        elif target.norm is None:
            raise ValueError(
                f'start_from: got a bias at {source.path}, expected none, because layer {target.path} of the model has none; '
                'give its scheme bias=True'
            )
    if _has_affine(target.norm) and _has_affine(source.norm):
        for name in ('scale', 'bias', 'mean', 'var'):
            _set(getattr(target.norm, name), getattr(source.norm, name)[...])
    if source.product.bias is not None and target.product.bias is None and target.norm is not None:
        _set(target.norm.mean, target.norm.mean[...] - source.product.bias[...])


def _has_affine(norm: Norm | None) -> bool:
    return norm is not None and isinstance(norm.scale, nnx.Param)
