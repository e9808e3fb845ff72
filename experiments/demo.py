"""The whole workflow in small: train an XNOR-Net and its float baseline on real images, convert, predict from bits.

The data are handwritten digits (8x8, from scikit-learn), the network is VGG-small at a quarter of its width. The demo writes
runs/demo-<seed>/xnor and runs/demo-<seed>/float, each with results.json, metrics.jsonl and curves.png. The packed network
is runs/demo-<seed>/xnor/packed.safetensors.
"""

import dataclasses
from collections.abc import Sequence

from bnn_jax.nn.tables import render
from bnn_jax.training.experiment import run_or_exit, with_options
from experiments import digits_vgg_small


def table(twin: dict, ours: dict, batch_size: int) -> str:
    """Float, XNOR in training arithmetic and XNOR from bits, side by side."""
    columns = [
        ('float', twin['test_accuracy'], twin['float32_bytes'], twin['milliseconds_per_batch']),
        ('XNOR, training arithmetic', ours['test_accuracy'], ours['float32_bytes'], ours['milliseconds_per_batch']),
        ('XNOR, from bits', ours['packed_test_accuracy'], ours['packed_bytes'], ours['packed_milliseconds_per_batch']),
    ]
    rows = [
        ['test accuracy', *(f'{accuracy:.2%}' for _, accuracy, _, _ in columns)],
        ['bytes', *(f'{size:,}' for _, _, size, _ in columns)],
        [f'ms per batch of {batch_size}', *(f'{milliseconds:.2f}' for *_, milliseconds in columns)],
        ['predictions equal to training arithmetic', '', '', f'{ours["prediction_agreement"]:.2%}'],
    ]
    return render('handwritten digits, 360 test images', ['', *(name for name, *_ in columns)], rows)


def command(arguments: Sequence[str] | None = None) -> None:
    """Train both and compare them; arguments: the options, by default those of this process."""
    rows = digits_vgg_small.RECIPE
    xnor = with_options('demo', __doc__, dataclasses.replace(rows.row('XNOR'), epochs=12), arguments)
    twin_of = rows.row('FLOAT')  # the float network wants another learning rate; all else is the same
    own = {name: getattr(twin_of, name) for name in ('model', 'deployed', 'learning_rate', 'row')}
    print('XNOR-Net', flush=True)
    ours = run_or_exit('demo: XNOR-Net', dataclasses.replace(xnor, workdir=f'{xnor.workdir}/xnor'))
    print('its float baseline', flush=True)
    twin = run_or_exit('demo: float', dataclasses.replace(xnor, workdir=f'{xnor.workdir}/float', **own))
    print(table(twin, ours, xnor.batch_size))
    print(f'curves, metrics, results and the packed network are in {xnor.workdir}')


if __name__ == '__main__':
    command()
