"""Loaded PyTorch weights give the predictions of `published_networks`, which computes in NumPy in PyTorch's layout."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from networks import evaluated
from published_networks import (
    alexnet,
    alexnet_weights,
    lenet5,
    lenet5_weights,
    nin,
    nin_weights,
    resnet18,
    resnet18_weights,
)

import bnn_jax as bnn
from bnn_jax import models, schemes
from bnn_jax.interop.torch import load_state_dict, start_from
from bnn_jax.schemes import presets

TORCHVISION = dataclasses.replace(bnn.FLOAT, eps=1e-5)


def build_lenet5(scheme=presets.XNOR_PYTORCH, **keywords):
    keywords = {'width': 0.2, 'input_shape': (24, 20, 1), **keywords}
    return models.lenet5(10, scheme=scheme, rngs=nnx.Rngs(0), **keywords)


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
    np.testing.assert_array_equal(evaluated(model, images), before)  # The model itself is unchanged.


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


def test_a_published_network_is_converted_as_deployable():
    model = load_state_dict(build_lenet5(presets.deployable(presets.XNOR_PYTORCH)), lenet5_weights())
    images = np.random.default_rng(1).normal(size=(3, 24, 20, 1)).astype(np.float32)
    expected = lenet5(lenet5_weights(), images.astype(np.float64).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(evaluated(bnn.convert(model), images), expected, rtol=1e-4, atol=1e-4)


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
        "'bn_conv1' has .*'weight'.*normalization 1",
    ),
    'layer missing': (without(P, 'ip2.weight', 'ip2.bias'), r'got 6 layers.*expected 7.*12 dense layer'),
    'layer left over': ({**P, 'ip3.weight': np.zeros((2, 2), np.float32)}, r"got 8 layers.*expected 7.*\['ip3'\]"),
    'sorted by name': (dict(sorted(P.items())), "'bin_conv2.bn' has .*expected .*convolution 0.*order of the layers"),
    'twice': ({**P, 'module.ip2.bias': P['ip2.bias']}, "'module.ip2.bias' twice"),
    'empty': ({}, 'got 0 layers.*expected 7'),
}


@pytest.mark.parametrize('what', WRONG)
def test_a_mismatch_names_the_layers_of_both_sides(what):
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
    """The kernels of the products in order: those of shortcuts, or all others."""
    found = numbers(model)
    names = [name for name in found if name.endswith('kernel') and ('shortcut' in name) == into_shortcuts]
    by_position = sorted(names, key=lambda name: [int(part) for part in name.split('.') if part.isdigit()])
    return [found[name] for name in by_position]


@pytest.fixture(scope='module')
def trained():
    return load_state_dict(build_resnet18(TORCHVISION), resnet18_weights())


@pytest.mark.parametrize('scheme', [bnn.BWN, bnn.XNOR, bnn.BIREAL, bnn.BNN], ids=['BWN', 'XNOR', 'BIREAL', 'BNN'])
def test_a_binary_run_starts_from_the_kernels_of_a_float_network(scheme, trained):
    p = resnet18_weights()
    model = start_from(build_resnet18(scheme), trained)
    main = [name for name in p if name.endswith('.weight') and p[name].ndim > 1 and 'downsample' not in name]
    assert [main[0], main[-1]] == ['conv1.weight', 'fc.weight'] and len(main) == 18
    for name, kernel in zip(main, kernels(model), strict=True):
        np.testing.assert_array_equal(kernel, p[name].transpose((1, 0) if p[name].ndim == 2 else (2, 3, 1, 0)), name)
    shortcuts = [p[f'layer{stage}.0.downsample.0.weight'].transpose(2, 3, 1, 0) for stage in (2, 3, 4)]
    for kernel, expected in zip(kernels(model, into_shortcuts=True), shortcuts, strict=True):
        np.testing.assert_array_equal(kernel, expected)
    packed = ('xnor + popcount', '1-bit storage, float product')
    assert sum(row.became in packed for row in bnn.convert(model).report.rows) >= 16


def test_a_binary_weight_network_may_take_the_state_dict_itself():
    p = resnet18_weights()
    direct = load_state_dict(build_resnet18(bnn.BWN), p)
    assert_same(start_from(build_resnet18(bnn.BWN), load_state_dict(build_resnet18(TORCHVISION), p)), direct)


def test_normalizations_follow_their_products():
    p = resnet18_weights()
    trained = load_state_dict(build_resnet18(TORCHVISION), p)
    fresh = build_resnet18(bnn.XNOR)
    block, untouched = start_from(fresh, trained).body.layers[4].body.layers, fresh.body.layers[4].body.layers
    for name, torch_name in (('scale', 'weight'), ('bias', 'bias'), ('mean', 'running_mean'), ('var', 'running_var')):
        np.testing.assert_array_equal(getattr(block[2], name)[...], p[f'layer1.0.bn1.{torch_name}'])
        np.testing.assert_array_equal(getattr(block[0], name)[...], getattr(untouched[0], name)[...])


def test_a_bias_before_a_normalization_moves_into_its_mean():
    def build(bias, seed):
        sizes = {'hidden': (4,), 'input_shape': (2, 2, 1), 'rngs': nnx.Rngs(seed)}
        return models.mlp(3, scheme=dataclasses.replace(bnn.FLOAT, bias=bias), **sizes)

    trained = build(bias=True, seed=0)
    product, norm = trained.body.layers[1:3]
    product.bias[...], norm.mean[...] = np.float32([1, -2, 3, 4]), np.float32([1, 1, 2, 2])
    images = np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
    for bias in (False, True):  # With a place for the bias, the mean stays as it is.
        copy = start_from(build(bias, seed=1), trained)
        np.testing.assert_array_equal(
            copy.body.layers[2].mean[...], norm.mean[...] - (0 if bias else product.bias[...])
        )
        # Only the sum of product, bias and mean is rounded differently.
        np.testing.assert_allclose(evaluated(copy, images), evaluated(trained, images), rtol=1e-5, atol=1e-6)


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
