"""Published weights against networks computed in NumPy, in PyTorch's layout: NCHW, OIHW, dense (out, in)."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from networks import evaluated

import bnn_jax as bnn
from bnn_jax import models, presets, schemes
from bnn_jax.published import load_state_dict, start_from

TORCHVISION = dataclasses.replace(bnn.FLOAT, eps=1e-5)


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
    """norm, sign, [flatten,] alpha sign of the centred and clamped weights, bias, ReLU."""
    w = p[f'{name}.{kind}.weight'].astype(np.float64)
    w = np.clip(w - w.mean(1, keepdims=True), -1, 1)
    w = np.abs(w).mean(tuple(range(1, w.ndim)), keepdims=True) * np.sign(w)
    x = np.sign(norm(p, f'{name}.bn', x, 1e-4, least))
    x = x.reshape(len(x), -1) if kind == 'linear' else x
    return relu(product(p, f'{name}.{kind}', x, padding=padding, weight=w))


def lenet5_weights(features_normalised=False):
    p = Weights()
    p.product('conv1', 4, 1, 5, 5)
    p.norm('bn_conv1', 4, affine=False)
    p.norm('bin_conv2.bn', 4)
    p.product('bin_conv2.conv', 10, 4, 5, 5)
    p.norm('bin_ip1.bn', 60 if features_normalised else 10)
    p.product('bin_ip1.linear', 100, 60)
    p.product('ip2', 10, 100)
    return p


def lenet5(p, x):
    x = max_pool(relu(norm(p, 'bn_conv1', product(p, 'conv1', x), 1e-4)), 2, 2)
    x = max_pool(binary(p, 'bin_conv2', x), 2, 2)
    x = x.reshape(len(x), -1) if len(p['bin_ip1.bn.weight']) == 60 else x
    return product(p, 'ip2', binary(p, 'bin_ip1', x, 'linear'))


def build_lenet5(scheme=presets.XNOR_PYTORCH, **keywords):
    keywords = {'width': 0.2, 'input_shape': (24, 20, 1), **keywords}
    return models.lenet5(10, scheme=scheme, rngs=nnx.Rngs(0), **keywords)


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


def build_resnet18(scheme, **keywords):
    keywords = {'width': 1 / 16, 'input_shape': (35, 45, 3), **keywords}
    return models.resnet18(6, scheme=scheme, rngs=nnx.Rngs(0), **keywords)


def build_nin():
    return models.nin(10, scheme=presets.XNOR_PYTORCH_CIFAR, width=0.1, input_shape=(12, 15, 3), rngs=nnx.Rngs(0))


def build_alexnet():
    scheme, shape = presets.XNOR_PYTORCH_IMAGENET, (99, 147, 3)
    return models.alexnet(7, scheme=scheme, width=0.04, input_shape=shape, padding=0, rngs=nnx.Rngs(0))


def build_early_lenet5():
    chain = schemes.feature_norm_product_relu_pool
    return build_lenet5(dataclasses.replace(presets.XNOR_PYTORCH, chain=chain))


NETWORKS = {
    'lenet5': (build_lenet5, lenet5_weights, lenet5, (3, 24, 20, 1)),
    'early lenet5': (build_early_lenet5, lambda: lenet5_weights(True), lenet5, (3, 24, 20, 1)),
    'nin': (build_nin, nin_weights, nin, (2, 12, 15, 3)),
    'alexnet': (build_alexnet, alexnet_weights, alexnet, (2, 99, 147, 3)),
    'resnet18': (lambda: build_resnet18(TORCHVISION), resnet18_weights, resnet18, (2, 35, 45, 3)),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_predictions_are_those_of_the_published_network(name):
    build, weights, network, shape = NETWORKS[name]
    model, p = build(), weights()
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    before = evaluated(model, images)
    expected = network(p, images.astype(np.float64).transpose(0, 3, 1, 2))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(evaluated(load_state_dict(model, p), images), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(evaluated(model, images), before)  # The model given is left as it was.


def numbers(model):
    """Path -> array of all parameters and statistics."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {'.'.join(map(str, path)): np.asarray(variable[...]) for path, variable in state}


def assert_same(one, other):
    one, other = numbers(one), numbers(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)


def test_checkpoints_of_parallel_runs_and_of_other_precision():
    p, model = lenet5_weights(), build_lenet5()
    loaded = load_state_dict(model, p)
    assert_same(load_state_dict(model, {'state_dict': p, 'best_acc': 99.2, 'epoch': 3}), loaded)
    assert_same(load_state_dict(model, {f'module.{name}': value for name, value in p.items()}), loaded)
    doubles = {name: value.astype(np.float64) for name, value in p.items() if value.dtype == np.float32}
    assert_same(load_state_dict(model, doubles), loaded)
    parts = {name.replace('features.', 'features.module.'): value for name, value in alexnet_weights().items()}
    assert_same(load_state_dict(build_alexnet(), parts), load_state_dict(build_alexnet(), alexnet_weights()))


def test_mode_is_kept():
    model = build_lenet5()
    assert not load_state_dict(model, lenet5_weights()).body.layers[1].use_running_average
    model.eval()
    assert load_state_dict(model, lenet5_weights()).body.layers[1].use_running_average


def test_all_numbers_of_the_model_are_replaced():
    model = build_lenet5()
    loaded = numbers(load_state_dict(model, lenet5_weights()))
    for name, value in numbers(model).items():
        assert not np.any(value == loaded[name]), name


def without(p, *names):
    return {name: value for name, value in p.items() if name not in names}


P = lenet5_weights()
WRONG = {
    'width': (
        {**P, 'conv1.weight': np.zeros((5, 1, 5, 5), np.float32)},
        r"'conv1' has .*\(5, 1, 5, 5\).*\(4, 1, 5, 5\)",
    ),
    'tensor missing': (without(P, 'bin_conv2.conv.bias'), r"'bin_conv2.conv' has .*expected .*'bias'.*convolution 5"),
    'tensor left over': (
        {**P, 'conv1.alpha': np.zeros(4, np.float32)},
        r"'conv1' has .*'alpha'.*expected .*convolution 0",
    ),
    'gamma unexpected': (
        {**P, 'bn_conv1.weight': np.zeros(4, np.float32)},
        "'bn_conv1' has .*'weight'.*normalisation 1",
    ),
    'layer missing': (without(P, 'ip2.weight', 'ip2.bias'), r'got 6 layers.*expected 7.*12 dense layer'),
    'layer left over': ({**P, 'ip3.weight': np.zeros((2, 2), np.float32)}, r"got 8 layers.*expected 7.*\['ip3'\]"),
    'sorted by name': (dict(sorted(P.items())), "'bin_conv2.bn' has .*expected .*convolution 0.*order of the layers"),
    'twice': ({**P, 'module.ip2.bias': P['ip2.bias']}, "'module.ip2.bias' twice"),
    'empty': ({}, 'got 0 layers.*expected 7'),
}


@pytest.mark.parametrize('what', WRONG)
def test_what_does_not_fit_is_named_on_both_sides(what):
    state_dict, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        load_state_dict(build_lenet5(), state_dict)


def test_other_types():
    with pytest.raises(TypeError, match='got list, expected a mapping'):
        load_state_dict(build_lenet5(), [])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="'conv1.weight': got dtype int64, expected floating"):
        load_state_dict(build_lenet5(), {'conv1.weight': np.zeros((4, 1, 5, 5), np.int64)})
    with pytest.raises(TypeError, match='load_state_dict: got str, expected a Network'):
        load_state_dict('lenet5', lenet5_weights())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match='start_from: got str, expected a Network'):
        start_from(build_lenet5(), 'lenet5')  # pyright: ignore[reportArgumentType]


def kernels(model, into_shortcuts=False):
    """Of the products in order, those of shortcuts apart."""
    found = numbers(model)
    names = [name for name in found if name.endswith('kernel') and ('shortcut' in name) == into_shortcuts]
    by_position = sorted(names, key=lambda name: [int(part) for part in name.split('.') if part.isdigit()])
    return [found[name] for name in by_position]


@pytest.mark.parametrize(
    'scheme', [bnn.BWN, bnn.BC, bnn.XNOR, bnn.BIREAL, bnn.BNN], ids=['BWN', 'BC', 'XNOR', 'BIREAL', 'BNN']
)
def test_a_binary_run_starts_from_the_kernels_of_a_float_network(scheme):
    p = resnet18_weights()
    trained = load_state_dict(build_resnet18(TORCHVISION), p)
    model = start_from(build_resnet18(scheme), trained)
    main = [name for name in p if name.endswith('.weight') and p[name].ndim > 1 and 'downsample' not in name]
    assert [main[0], main[-1]] == ['conv1.weight', 'fc.weight'] and len(main) == 18
    for name, kernel in zip(main, kernels(model), strict=True):
        np.testing.assert_array_equal(kernel, p[name].transpose((1, 0) if p[name].ndim == 2 else (2, 3, 1, 0)), name)
    shortcuts = [p[f'layer{stage}.0.downsample.0.weight'].transpose(2, 3, 1, 0) for stage in (2, 3, 4)]
    for kernel, expected in zip(kernels(model, into_shortcuts=True), shortcuts, strict=True):
        np.testing.assert_array_equal(kernel, expected)
    report = bnn.convert(model).report
    assert sum(row.became != 'float' for row in report.rows) >= 16


def test_a_binary_weight_network_may_take_the_state_dict_itself():
    p = resnet18_weights()
    direct = load_state_dict(build_resnet18(bnn.BWN), p)
    assert_same(start_from(build_resnet18(bnn.BWN), load_state_dict(build_resnet18(TORCHVISION), p)), direct)


def test_normalisations_follow_their_products():
    p = resnet18_weights()
    trained = load_state_dict(build_resnet18(TORCHVISION), p)
    fresh = build_resnet18(bnn.XNOR)
    block, untouched = start_from(fresh, trained).body.layers[4].body.layers, fresh.body.layers[4].body.layers
    for name, torch_name in (('scale', 'weight'), ('bias', 'bias'), ('mean', 'running_mean'), ('var', 'running_var')):
        np.testing.assert_array_equal(getattr(block[2], name)[...], p[f'layer1.0.bn1.{torch_name}'])
        np.testing.assert_array_equal(getattr(block[0], name)[...], getattr(untouched[0], name)[...])


def test_networks_that_do_not_match():
    with pytest.raises(
        ValueError, match=r'got the products .*\(7, 7, 3, 8\).*expected those of the model: .*\(7, 7, 3, 4\)'
    ):
        start_from(build_resnet18(bnn.BWN), build_resnet18(bnn.FLOAT, width=1 / 8))
    with pytest.raises(ValueError, match='products of shortcuts'):
        scheme = dataclasses.replace(bnn.FLOAT, downsample=lambda parts: [])
        start_from(build_resnet18(bnn.BWN), build_resnet18(scheme))
    with pytest.raises(ValueError, match='got a bias at 5, expected none.*layer 5 of the model.*bias=True'):
        start_from(build_lenet5(bnn.XNOR), build_lenet5())
