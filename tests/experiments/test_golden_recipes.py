"""Five recipes step by step: 20 steps of the real training step against loops in PyTorch (tests/golden/make_recipes.py)."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import abstract

from bnn_jax import training
from bnn_jax.nn import Progress
from bnn_jax.schemes.presets import XNOR_PYTORCH_CIFAR
from experiments import cifar10_nin, cifar10_resnet18, cifar10_resnet20, cifar10_vgg_small

GOLDEN = np.load(Path(__file__).parents[1] / 'golden' / 'recipes.npz')
SMALL = {'input_shape': (8, 8, 3)}
RESNET = {'blocks': (1, 1), 'filters': (4, 8), **SMALL}
# Rates and progress are those of a run of 33 steps, of which 20 are made: progress is then exact in float32.
RUN = 33

ROWS = {
    # the recipe's row, and its network made small; NIN without dropout, because PyTorch draws other masks
    'BIREAL': (cifar10_resnet20.RECIPE.row('BIREAL'), RESNET),
    'IRNET': (cifar10_resnet20.RECIPE.row('IRNET'), RESNET),
    'RECU': (cifar10_resnet18.RECIPE.row('RECU'), RESNET),
    'BNN': (cifar10_vgg_small.RECIPE.row('BNN'), {'width': 1 / 64, **SMALL}),
    'XNOR_PYTORCH_CIFAR': (
        cifar10_nin.RECIPE.row('XNOR_PYTORCH_CIFAR'),
        {'width': 1 / 32, 'scheme': dataclasses.replace(XNOR_PYTORCH_CIFAR, dropout=0.0), **SMALL},
    ),
}


def named(state) -> dict[str, nnx.Variable]:
    """Variables by 'layer.name', the layer's number in the network first."""
    return {'.'.join(map(str, path[2:])): variable for path, variable in nnx.to_flat_state(state)}


def flattened(state) -> np.ndarray:
    """As the golden arrays: numbers by name, flattened."""
    values = named(state)
    return np.concatenate([np.asarray(values[name][...]).ravel() for name in sorted(values)])


def started(make, name: str) -> nnx.Module:
    """The network with the golden initial parameters, statistics 0 and 1, all in float64."""
    model = abstract(make)
    state, numbers = nnx.state(model), GOLDEN[f'{name}/0'].astype(np.float64)
    trained = named(nnx.state(model, nnx.Param))
    assert sorted(trained) == GOLDEN[f'{name}/names'].tolist()
    for key, variable in sorted(named(state).items()):
        shape = variable.shape
        if key in trained:
            value, numbers = numbers[: math.prod(shape)].reshape(shape), numbers[math.prod(shape) :]
        else:
            value = np.full(shape, float(key.endswith(('.var', '.scale'))))
        variable.set_value(jnp.asarray(value, jnp.float32 if isinstance(variable, Progress) else jnp.float64))
    assert not numbers.size
    nnx.update(model, state)
    return model


@pytest.mark.parametrize('name', ROWS)
def test_the_training_step_agrees_with_the_pytorch_loop(name):
    config, sizes = ROWS[name]
    images, labels = (GOLDEN['pixels'].astype(np.float64) - 128) / 64, GOLDEN['labels'].astype(np.int32)
    if name == 'BNN':  # Its batches consist of four of these.
        images, labels = (np.concatenate([np.roll(a, -i, 0) for i in range(4)], 1) for a in (images, labels))
    losses = GOLDEN[f'{name}/losses']
    assert len(losses) == len(images) == 20
    with jax.enable_x64(True):
        model = started(partial(config.model, **sizes), name)
        tx = config.optimizer(config.schedule(config.learning_rate, RUN))
        # Jitted, because separate compilations for each shape would take longer than the steps.
        state = jax.jit(lambda: training.init(model, tx, config.loss(), steps=RUN))()
        for i, loss in enumerate(losses):
            state, metrics = training.train_step(state, {'image': images[i], 'label': labels[i]})
            # The sums have another order. 20 steps and normalization enlarge this rounding of float64.
            np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-9, err_msg=f'loss of step {i + 1}')
            if f'{name}/{i + 1}' in GOLDEN:
                expected = GOLDEN[f'{name}/{i + 1}']
                np.testing.assert_allclose(flattened(state.params), expected, rtol=1e-8, atol=1e-9)
        statistics = nnx.filter_state(state.rest, nnx.BatchStat)
        np.testing.assert_allclose(flattened(statistics), GOLDEN[f'{name}/statistics'], rtol=1e-8, atol=1e-9)
