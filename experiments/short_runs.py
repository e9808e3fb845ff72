"""The first few hundred steps of the rows on CIFAR-10 and Fashion-MNIST, with their flips: the runs of docs/what_trains.md.

    python -m experiments.short_runs --data_dir=FOLDER                      # all rows that have no result yet
    python -m experiments.short_runs --data_dir=FOLDER --rows nin_xnor_1e-3 nin_float_1e-3 --seed=1
    python -m experiments.short_runs --table-only                           # the results as Markdown

Each result is a line of JSON in docs/short_runs.jsonl. A run whose row, seed, steps and width have a line is skipped, so a
stopped command resumes at its next row. A row is a recipe at the width, batch and learning rate of its line. Its name says
what is changed, if anything. Adam's rate is constant, as in the first part of a long run, except in resnet20_bireal_adam,
where it falls linearly to 0. SGD's rate falls by cosine to 0; in resnet18_recu it rises first, from
a fifth.

A few hundred steps with one seed show what makes a network fail at once. They do not show which of two good recipes is
better in the end.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

from bnn_jax import BC, BIREAL, BNN, BWN, FLOAT, XNOR, quantizers
from bnn_jax.data import evaluation_batches, training_batches
from bnn_jax.data.pipeline import steps_from
from bnn_jax.models import lenet5, nin
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import Relu
from bnn_jax.quantizers.gradient_factors import less_one_channel, times_n
from bnn_jax.quantizers.published import sign_ste_exclusive
from bnn_jax.schemes.presets import BIREAL_SCALED_GRADIENT, XNOR_PYTORCH_CIFAR
from bnn_jax.training import Config, constant, init, model_of
from bnn_jax.training.diagnostics import alphas, by_statistics, signs, statistics_record, watch
from bnn_jax.training.memory import allocate_for_training
from bnn_jax.training.step import update
from experiments import (
    cifar10_nin,
    cifar10_resnet18,
    cifar10_resnet20,
    cifar10_upscaled_alexnet,
    cifar10_vgg_small,
    fashion_mnist_lenet5,
    run_command,
)
from experiments.shared import adam, l2_then, sgd

RESULTS = Path('docs/short_runs.jsonl')
WATCH_EVERY, LAST, TEST_BATCHES, TEST_BATCH = 25, 50, 10, 100


def linear(learning_rate: float, steps: int) -> optax.Schedule:
    """From this rate to 0, as in Bi-Real Net's code."""
    return optax.linear_schedule(learning_rate, 0.0, steps)


def rectified_twice(model: Callable[..., Network], **arguments) -> Network:
    """The network with a second ReLU, after its last convolution."""
    network = model(**arguments)
    *layers, average = network.body.layers
    return Network([*layers, Relu(), average], channels=network.channels, num_classes=network.num_classes)


def short_nin(scheme, learning_rate: float, **changes) -> Config:
    """Network in network at full width, batch 32."""
    row = cifar10_nin.config(scheme, learning_rate=learning_rate)
    return dataclasses.replace(row, schedule=constant, batch_size=32, **changes)


def short_vgg(scheme, learning_rate: float = 1e-3) -> Config:
    """BinaryNet's network at a quarter of its width, batch 50."""
    return dataclasses.replace(
        cifar10_vgg_small.config(scheme), schedule=constant, width=0.25, learning_rate=learning_rate
    )


def short_resnet20(scheme, **changes) -> Config:
    """ResNet-20 at half its width, batch 128."""
    return dataclasses.replace(cifar10_resnet20.config(scheme), width=0.5, **changes)


def short_resnet18(scheme, **changes) -> Config:
    """ResNet-18 at an eighth of its width, batch 64."""
    return dataclasses.replace(cifar10_resnet18.config(scheme), width=0.125, batch_size=64, **changes)


def short_lenet5(scheme, learning_rate: float) -> Config:
    """LeNet-5 on Fashion-MNIST, batch 128."""
    row = fashion_mnist_lenet5.config(scheme)
    return dataclasses.replace(
        row, model=partial(lenet5, 10, scheme=scheme), schedule=constant, learning_rate=learning_rate
    )


published = partial(short_nin, learning_rate=1e-2, optimizer=partial(adam, decay=1e-5))
"""The PyTorch implementation's recipe, L2 on latent weights included."""

PYTORCH = XNOR_PYTORCH_CIFAR
NO_SIGN_0 = dataclasses.replace(
    PYTORCH,
    weight=times_n(less_one_channel(quantizers.scaled_sign_ste)),
    sign=quantizers.sign,
    activation=sign_ste_exclusive,
)
ADAM = {'optimizer': partial(l2_then, adam, 1e-4), 'learning_rate': 1e-3, 'schedule': constant}

ROWS: dict[str, Callable[[], Config]] = {
    'nin_xnor_before': lambda: published(XNOR, model=partial(rectified_twice, partial(nin, 10, scheme=XNOR))),
    'nin_xnor_1e-3': lambda: short_nin(XNOR, 1e-3),
    'nin_xnor_3e-3': lambda: short_nin(XNOR, 3e-3),
    'nin_xnor_pytorch': lambda: published(PYTORCH),
    'nin_float_1e-2': lambda: short_nin(FLOAT, 1e-2),
    'nin_float_1e-3': lambda: short_nin(FLOAT, 1e-3),
    'nin_bwn_1e-2': lambda: short_nin(BWN, 1e-2),
    'nin_bwn_1e-3': lambda: short_nin(BWN, 1e-3),
    'resnet20_bireal_scaled': lambda: short_resnet20(BIREAL_SCALED_GRADIENT),
    'resnet20_bireal': lambda: short_resnet20(BIREAL),
    'resnet20_bireal_l2_on_all': lambda: short_resnet20(BIREAL, optimizer=partial(sgd, decay=1e-4)),
    'resnet20_bireal_l2_5e-4_on_all': lambda: short_resnet20(BIREAL, optimizer=partial(sgd, decay=5e-4)),
    'resnet20_bireal_ste': lambda: short_resnet20(dataclasses.replace(BIREAL, activation=quantizers.sign_ste)),
    'resnet20_bireal_adam': lambda: short_resnet20(BIREAL, optimizer=adam, learning_rate=1e-3, schedule=linear),
    'resnet20_irnet': lambda: dataclasses.replace(cifar10_resnet20.RECIPE.row('IRNET'), width=0.5),
    'resnet20_xnor_sgd': lambda: short_resnet20(XNOR),
    'resnet20_xnor_adam': lambda: short_resnet20(XNOR, **ADAM),
    'vgg_small_bnn': lambda: short_vgg(BNN),
    'vgg_small_xnor': lambda: short_vgg(XNOR),
    'vgg_small_bc': lambda: short_vgg(BC),
    'vgg_small_bwn': lambda: short_vgg(BWN),
    'vgg_small_bwn_3e-4': lambda: short_vgg(BWN, 3e-4),
    'vgg_small_xnor_3e-4': lambda: short_vgg(XNOR, 3e-4),
    'resnet18_bireal_scaled': lambda: short_resnet18(BIREAL_SCALED_GRADIENT),
    'resnet18_bireal': lambda: short_resnet18(BIREAL),
    'resnet18_recu': lambda: dataclasses.replace(cifar10_resnet18.RECIPE.row('RECU'), width=0.125, batch_size=64),
    'lenet5_xnor_1e-2': lambda: short_lenet5(XNOR, 1e-2),
    'lenet5_xnor_1e-3': lambda: short_lenet5(XNOR, 1e-3),
    'alexnet_xnor': lambda: dataclasses.replace(cifar10_upscaled_alexnet.RECIPE.row(), schedule=constant),
    'nin_xnor_pytorch_normal': lambda: published(dataclasses.replace(PYTORCH, init=nnx.initializers.normal(0.05))),
    'nin_xnor_pytorch_unaugmented': lambda: published(PYTORCH, augmentations=()),
    'nin_xnor_pytorch_unbiased': lambda: published(dataclasses.replace(PYTORCH, bias=False)),
    'nin_xnor_pytorch_free_gamma': lambda: published(dataclasses.replace(PYTORCH, gamma_before=None)),
    'nin_xnor_pytorch_no_sign_0': lambda: published(NO_SIGN_0),
}
"""Name -> the recipe."""


def results(path: Path) -> list[dict]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_finished(path: Path, row: str, config: Config, steps: int) -> bool:
    """Whether this row has a result of this seed, length and width."""
    wanted = row, config.seed, steps, config.width
    return any((r['row'], r['seed'], r['steps'], r['width']) == wanted for r in results(path))


def batches_of(config: Config, steps: int) -> Iterator[dict]:
    """The training batches of a run, from the first one."""
    batches, _ = training_batches(
        config.data('train', config.data_dir),
        batch_size=config.batch_size,
        seed=config.seed,
        standardize=config.standardize,
        augmentations=config.augmentations,
    )
    return steps_from(batches, 0, steps)


def test_batches_of(config: Config) -> Iterator[dict]:
    """The first thousand test images."""
    batches = evaluation_batches(
        config.data('test', config.data_dir),
        batch_size=TEST_BATCH,
        standardize=config.standardize,
        augmentations=config.evaluation_augmentations,
    )
    return islice(batches, TEST_BATCHES)


def summary(losses: list[float], correct: list[float], looks: list[dict], totals: np.ndarray) -> dict:
    """The result of a run. Flips and equal logits are means over the watched steps of its second half."""
    late = looks[len(looks) // 2 :]
    at_end = [value for name, value in looks[-1].items() if name.startswith('alpha_over_start/')]
    return {
        'train_loss': float(np.mean(losses[-LAST:])),
        'train_accuracy': float(np.mean(correct[-LAST:])),
        **statistics_record(totals),
        'equal_logits': float(np.mean([look['equal_logits'] for look in late])),
        'flips': float(np.mean([look['flips'] for look in late])) if 'flips' in late[0] else None,
        'alpha_over_start': [min(at_end), max(at_end)] if at_end else None,
        'looks': [
            {
                'step': look['step'],
                'equal_logits': look['equal_logits'],
                'flips': look.get('flips'),
                'least_alpha': min((v for k, v in look.items() if k.startswith('alpha_over_start/')), default=None),
            }
            for look in looks
        ],
    }


def trained(config: Config, steps: int) -> dict:
    """Train for this number of steps and return the result."""
    tx = config.optimizer(config.schedule(config.learning_rate, steps))
    state = init(config.model(rngs=nnx.Rngs(config.seed), width=config.width), tx, config.loss(), steps=steps)
    step, see_signs, see = jax.jit(update, donate_argnums=0), jax.jit(signs), jax.jit(watch)
    start = {name: float(alpha) for name, alpha in jax.jit(alphas)(state).items()}
    losses, correct, looks = [], [], []
    for number, batch in enumerate(batches_of(config, steps), start=1):
        watched = number % WATCH_EVERY == 0
        before = see_signs(state) if watched else {}
        state, metrics = step(state, batch)
        losses.append(float(metrics['loss']))
        correct.append(float(metrics['accuracy']))
        if watched:
            look = see(before, state, batch['image'], start)
            looks.append({'step': number} | {name: float(value) for name, value in look.items()})
    return summary(losses, correct, looks, by_statistics(model_of(state), test_batches_of(config)))


def append(path: Path, row: str, config: Config, steps: int, started: float, result: dict) -> None:
    """Append a result to the file."""
    about = {'row': row, 'seed': config.seed, 'steps': steps, 'batch': config.batch_size, 'width': config.width}
    about |= {'learning_rate': config.learning_rate, 'seconds': round(time.monotonic() - started)}
    with path.open('a') as file:
        file.write(json.dumps(about | result) + '\n')


def table(finished: list[dict]) -> str:
    """Markdown, one line a result."""
    lines = [
        '| row, seed | width, batch, steps | rate | train loss | train | test, running | test, batch | equal logits '
        '| flips a step | alpha over start |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for r in finished:
        flips = '' if r['flips'] is None else f'{100 * r["flips"]:.3f} %'
        alpha = '' if r['alpha_over_start'] is None else '{:.2f} to {:.2f}'.format(*r['alpha_over_start'])
        cells = [
            f'{r["row"]}, {r["seed"]}',
            f'{r["width"]:g}, {r["batch"]}, {r["steps"]}',
            f'{r["learning_rate"]:g}',
            f'{r["train_loss"]:.3f}',
            f'{100 * r["train_accuracy"]:.1f} %',
            f'{100 * r["running_statistics/accuracy"]:.1f} %',
            f'{100 * r["batch_statistics/accuracy"]:.1f} %',
            f'{100 * r["equal_logits"]:.1f} %',
            flips,
            alpha,
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def config_of(row: str, seed: int, data_dir: str, width: float | None) -> Config:
    """The config of a row. width: None for the row's own."""
    config = ROWS[row]()
    return dataclasses.replace(config, seed=seed, data_dir=data_dir, width=width or config.width)


def check(rows: Sequence[str], known: Sequence[str], steps: int) -> None:
    """Raises ValueError for an unknown row, or for too few steps."""
    unknown = [row for row in rows if row not in known]
    if unknown:
        raise ValueError(f'rows: got {unknown[0]!r}, expected some of {", ".join(known)}')
    if steps < WATCH_EVERY:
        raise ValueError(f'steps: got {steps}, expected at least {WATCH_EVERY}, the first watched step')


def main(
    data_dir: str = '~/tensorflow_datasets',
    rows: tuple[str, ...] = tuple(ROWS),
    seed: int = 0,
    steps: int = 300,
    width: float | None = None,
    out: Path = RESULTS,
    table_only: bool = False,
) -> None:
    """Train what has no result yet, or print the results.

    Args:
        data_dir: folder of the data sets cifar10 and fashion_mnist, as TFDS prepares them.
        rows: names of the rows to run.
        seed: seed of weights, order and augmentation.
        steps: steps of every run.
        width: width of every network; by default the row's.
        out: file of the results.
        table_only: run nothing; print the results as Markdown.

    Raises:
        ValueError: a name in `rows` is not that of a row, or there are fewer steps than up to the first watched one.
    """
    if table_only:
        print(table(results(out)))
        return
    check(rows, tuple(ROWS), steps)
    allocate_for_training()
    for row in rows:
        config = config_of(row, seed, data_dir, width)
        if is_finished(out, row, config, steps):
            continue
        started = time.monotonic()
        append(out, row, config, steps, started, trained(config, steps))
        print(table(results(out)[-1:]).splitlines()[-1], flush=True)


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'short_runs', __doc__, arguments)


if __name__ == '__main__':
    command()
