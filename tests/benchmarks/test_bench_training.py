"""The benchmark of the training step: its clockwork by hand-made clocks, and one tiny run."""

import itertools

import pytest

from benchmarks import training as bench_training
from benchmarks.training import Size, row, take_turns


def test_steps_take_turns_and_the_first_round_is_not_counted():
    calls = []
    ticks = itertools.count()
    steps = {name: (lambda name=name: calls.append(name)) for name in 'ab'}
    times = take_turns(steps, 0, lambda: float(next(ticks) ** 2))
    assert calls == ['a', 'b'] * 4
    # Calls to the clock: 0 1 | 2 3 | 4 5 ...; a difference of squares is the sum of its neighbors.
    assert times == {'a': [1, 9, 17], 'b': [5, 13, 21]}


def test_a_row_is_medians_and_the_median_ratio_round_by_round():
    assert row('XNOR', [1, 2, 4], [1, 1, 4], 8) == ['XNOR', '4.0', '3.0 .. 6.0', '1.00']
    assert row('XNOR', [3, 6, 9], [2, 4, 6], 1800)[1:] == ['300.0', '250.0 .. 450.0', '1.50']


def test_a_tiny_run_prints_every_scheme_device_and_versions(capsys):
    bench_training.main(models=('lenet5',), schemes=('FLOAT', 'XNOR'), batch_size=2, width=0.05, seconds=0.01)
    printed = capsys.readouterr().out
    for text in ('jax 0.', '1 x cpu', 'lenet5: 2 x (28, 28, 1), width 0.05', 'time / FLOAT', 'XNOR', 'PyTorch, float'):
        assert text in printed, text
    assert ('torch not installed' in printed) == (printed.count('not installed') >= 2)


@pytest.mark.parametrize(
    ('model', 'size'), [('lenet5', Size(2, (28, 28, 1), 10)), ('vgg_small', Size(2, (32, 32, 3), 10))]
)
def test_the_network_in_pytorch_has_the_same_parameters(model, size, monkeypatch):
    """Without PyTorch: its layers only counted, against the parameters of ours."""
    import sys
    import types

    import jax
    from flax import nnx

    import bnn_jax as bnn

    counts = {
        'Conv2d': lambda into, out, kernel, padding, bias: into * out * kernel**2,
        'Linear': lambda into, out, bias=True: into * out + bias * out,
        'BatchNorm2d': lambda channels, eps: 2 * channels,
        'BatchNorm1d': lambda channels, eps: 2 * channels,
        **dict.fromkeys(('ReLU', 'MaxPool2d', 'Flatten'), lambda *_: 0),
    }
    torch = types.ModuleType('torch')
    torch.nn = types.SimpleNamespace(**counts)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, 'torch', torch)
    network = getattr(bnn.models, model)(10, scheme=bnn.FLOAT, rngs=nnx.Rngs(0), width=0.1, input_shape=size.image)
    expected = sum(p.size for p in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert sum(bench_training.torch_layers(model, size, 0.1)) == expected


def test_unknown_names_are_refused():
    with pytest.raises(SystemExit, match="got .'resnet19'., expected models of"):
        bench_training.main(models=('resnet19',))
