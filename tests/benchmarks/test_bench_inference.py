"""The benchmark of inference: its arithmetic by hand, the networks in PyTorch by a stand-in, one tiny run."""

import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bnn_jax as bnn
from benchmarks import figure4, float_in_pytorch, peak_memory
from benchmarks import inference as bench_inference
from benchmarks import layers as bench_layers
from benchmarks import networks as bench_networks
from benchmarks.layers import Layer
from benchmarks.networks import Shape

TINY = Shape(image=(32, 32, 3), classes=10, width=0.05)


def test_multiply_adds_of_the_four_stages_are_the_same():
    assert {layer.macs for layer in bench_layers.STAGES} == {56**2 * 9 * 64 * 64}
    assert Layer(5, 2, 3, size=4, padding=0).macs == 2 * 2 * 16 * 2 * 3


def test_a_speedup_is_the_median_of_the_rounds():
    assert bench_layers.speedup({'a': [2.0, 8.0, 9.0], 'b': [1.0, 1.0, 3.0]}, 'b', 'a') == 3


def test_milliseconds_are_median_and_middle_half():
    assert bench_layers.milliseconds([0.005, 0.001, 0.002, 0.003, 0.004]) == ['3.000', '2.000 .. 4.000']


def test_alone_is_not_in_turns():
    called = []
    times = bench_layers.alone({name: lambda name=name: called.append(name) for name in 'ab'}, 0, lambda: 0.0)
    assert ''.join(called) == 'aaaabbbb'  # One call of each is not counted.
    assert times == {'a': [0.0] * 3, 'b': [0.0] * 3}


def test_the_pace_of_the_median_call():
    assert bench_layers.pace(3 * 10**9, [1.0, 2.0, 9.0]) == '1.5'


def test_the_pace_in_the_first_cache_is_the_best_of_its_runs(monkeypatch):
    """A clock that goes 1, then 4, then 2, then 8 ms a run; 100 products a round."""
    monkeypatch.setattr(bench_layers.native, 'limit', lambda times: 100 * times)
    steps = itertools.chain([1e-3, 4e-3], itertools.cycle([2e-3, 8e-3]))
    readings = (time for step in steps for time in (0.0, step))
    # Doubled to 2 rounds, whose run takes 1 ms, and to 4, whose run takes 4; then 4 rounds in 2 ms or in 8.
    assert bench_layers.per_second(0, lambda: next(readings)) == pytest.approx(400 / 2e-3)


def test_integers_that_differ_are_refused(monkeypatch):
    monkeypatch.setattr(bench_layers, 'packed_step', lambda layer, backend: lambda x, w, sums: jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(RuntimeError, match='xla, 4 x 4 x 5: its integers differ'):
        bench_layers.steps_of(Layer(4, 5, 3), ['xla'])


def test_another_backend_is_compiled_under_auto():
    """Only the dense program has more than the real layers' products of floats; only the others count bits."""
    shape = Shape(image=(28, 28, 1), classes=10, width=0.05)
    network, images = bnn.convert(shape.network('lenet5', 'XNOR')), jnp.asarray(shape.images())
    programs = {}

    class Recorded:
        def __init__(self, function):
            self.jitted = jit(function)

        def lower(self, *operands):
            lowered = self.jitted.lower(*operands)
            programs[backend] = lowered.as_text()
            return lowered

    jit = jax.jit
    for backend in ('dense', 'xla', 'reference'):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench_networks.jax, 'jit', Recorded)
            bench_networks.packed_step(network, images, backend)
    floats = {backend: program.count('stablehlo.convolution') for backend, program in programs.items()}
    assert floats['dense'] > floats['xla'] == floats['reference']
    assert len(set(programs.values())) == 3
    assert 'popcnt' not in programs['dense']
    assert 'popcnt' in programs['xla']


def test_agreement_says_whether_logits_are_the_same_bits():
    logits = np.asarray([[1.0, 2.0]], np.float32)
    assert 'to the last bit' in bench_networks.agreement(logits, logits.copy())
    assert 'DIFFER from those in training arithmetic by up to 5.0e-01' in bench_networks.agreement(logits, logits + 0.5)


class Module:
    """A layer of PyTorch's as far as its parameters go: name -> shape, each to be filled once."""

    def __init__(self, *parts, **shapes):
        self.parts, self.shapes, self.filled = parts, shapes, {}

    def load_state_dict(self, arrays, strict):
        assert not self.filled
        for name, array in arrays.items():
            assert array.shape == self.shapes[name], name
        assert set(arrays) == set(self.shapes)
        self.filled = arrays

    def eval(self):
        return self

    def modules(self):
        yield self
        for part in (*self.parts, getattr(self, 'body', None), getattr(self, 'shortcut', None)):
            if isinstance(part, Module):
                yield from part.modules()


def stand_in() -> types.ModuleType:
    """A module `torch` that has the layers' shapes, as PyTorch documents them, and computes nothing."""

    def convolution(into, out, size, strides, pads, dilation, groups, bias):
        return Module(weight=(out, into // groups, *size), **({'bias': (out,)} if bias else {}))

    def linear(into, out, bias):
        return Module(weight=(out, into), **({'bias': (out,)} if bias else {}))

    def norm(channels, eps):
        return Module(**dict.fromkeys(('weight', 'bias', 'running_mean', 'running_var'), (channels,)))

    torch = types.ModuleType('torch')
    torch.from_numpy = lambda array: array  # pyright: ignore[reportAttributeAccessIssue]
    torch.nn = types.SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        Module=Module,
        Sequential=Module,
        Conv2d=convolution,
        Linear=linear,
        BatchNorm1d=norm,
        BatchNorm2d=norm,
        ReLU=Module,
        MaxPool2d=lambda *_: Module(),
        AvgPool2d=lambda *_: Module(),
    )
    return torch


@pytest.mark.parametrize('model', ['resnet18', 'alexnet', 'vgg_small', 'nin', 'lenet5'])
def test_the_network_in_pytorch_has_every_number_of_ours(model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', stand_in())
    image = {'alexnet': (64, 64, 3), 'lenet5': (28, 28, 1)}.get(model, (32, 32, 3))
    network = Shape(image=image, classes=10, width=0.05).network(model, 'FLOAT')
    arrays = [array for module in float_in_pytorch.in_pytorch(network).modules() for array in module.filled.values()]
    ours = jax.tree.leaves(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    assert sorted(map(float, (np.sum(a, dtype=np.float64) for a in arrays))) == pytest.approx(
        sorted(map(float, (np.sum(np.asarray(a), dtype=np.float64) for a in ours)))
    )


def test_only_float_layers_go_to_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', stand_in())
    with pytest.raises(TypeError, match='got a Product, expected a layer of a float network'):
        float_in_pytorch.in_pytorch(TINY.network('resnet18', 'XNOR'))


def test_a_float_network_read_from_its_file_gives_the_same_logits(tmp_path, monkeypatch):
    network = TINY.network('resnet18', 'FLOAT')
    peak_memory.leaves_to(tmp_path / 'float.npz', network)
    logits = peak_memory.answer(tmp_path / 'float.npz', 'resnet18', TINY.classes, TINY.width, 2, TINY.image)
    np.testing.assert_allclose(logits, network(jnp.zeros((2, *TINY.image))), rtol=1e-6)


def test_a_fresh_process_says_how_far_it_grew(tmp_path):
    """More than the 64 MiB of its images; of `ru_maxrss` it would have this process's, which it does not reach."""
    shape = Shape(batch=64, image=(512, 512, 1), classes=10, width=0.02)
    path = bnn.save(bnn.convert(shape.network('resnet18', 'XNOR')), tmp_path / 'packed.safetensors')
    assert 64 < float(bench_networks.growth(path, [], shape, tmp_path)) < 640


def test_a_process_that_fails_is_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_networks.sys, 'executable', 'false')
    with pytest.raises(RuntimeError, match='false -m benchmarks.peak_memory'):
        bench_networks.growth(tmp_path / 'packed.safetensors', [], TINY, tmp_path)


def test_the_formula_is_that_of_the_paper():
    """Points of its Fig. 4, read off."""
    read = {(3, 3): 18.99, (64, 3): 57.6, (1024, 3): 63.56, (256, 1): 51.2, (256, 3): 62.27, (256, 16): 63.94}
    for (channels, size), speedup in read.items():
        assert figure4.formula(channels, size) == pytest.approx(speedup, abs=0.005)


def test_megabytes_are_those_of_the_known_networks():
    """4 bytes for each of AlexNet's weights; its first and last layer stay real: 96 x 3 x 11 x 11 and 4096 x 1000."""
    real, packed = figure4.megabytes('alexnet')
    weights, kept = 62_367_776, 96 * 3 * 121 + 4096 * 1000
    assert real == pytest.approx(4e-6 * weights, rel=2e-3)
    assert packed == pytest.approx(4e-6 * (kept + (weights - kept) / 32), rel=1e-2)


def test_a_tiny_run_prints_everything(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_layers, 'STAGES', (Layer(5, 33, 7),))
    monkeypatch.setattr(bench_layers, 'MAPS', ((6, 33),))
    for name, value in {'CHANNELS': (3, 40), 'SIZES': (1, 2), 'OUT': 3, 'FILTERS': 8, 'DEPTH': 33}.items():
        monkeypatch.setattr(figure4, name, value)
    monkeypatch.setattr(bench_networks, 'growth', lambda path, options, shape, cache: f'{path.stat().st_size}')
    picture = tmp_path / 'pictures' / 'figure4.png'
    bench_inference.main(
        networks=('lenet5/BNN', 'lenet5/BWN'), image_size=28, width=0.05, seconds=0.001, picture=picture
    )
    printed = capsys.readouterr().out
    for text in (
        'jax 0.',
        'cores may be used',
        'native kernels',
        'G products of signs a second and core',
        '5 x 5 x 33',
        'geometric mean',
        'alone, G/s',
        '6 x 6 x 33',
        'lenet5: 1 x (28, 28, 1), width 0.05',
        'float32, PyTorch',
        'BNN, dense: logits equal',
        'BNN, xla: logits equal',
        'BNN, native: logits equal',
        'BWN, no product of two signs: logits',
        'lenet5 FLOAT',
        'lenet5 BWN',
    ):
        assert text in printed, text
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_where_native_cannot_run_every_table_says_why(capsys, monkeypatch):
    monkeypatch.setattr(bench_layers, 'STAGES', (Layer(4, 8, 4),))
    monkeypatch.setattr(bench_layers.native, 'missing', lambda: 'they are lost')
    bench_inference.main(networks=('lenet5/XNOR',), image_size=28, width=0.05, seconds=0.001, memory=False)
    printed = capsys.readouterr().out
    assert 'native kernels not here: they are lost' in printed
    assert 'native: they are lost' in printed
    assert 'XNOR, native: they are lost' in printed
    assert 'of signs a second' not in printed


@pytest.mark.parametrize('name', ['resnet19/XNOR', 'resnet18', 'resnet18/FLOAT'])
def test_unknown_networks_are_refused(name):
    with pytest.raises(SystemExit, match='got network .*, expected one such as resnet18/XNOR'):
        bench_inference.main(networks=(name,))


def test_unknown_backends_are_refused():
    with pytest.raises(SystemExit, match="got backends .'numpy'., expected some of"):
        bench_inference.main(backends=('xla', 'numpy'))
