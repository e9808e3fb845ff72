"""The whole job in miniature: train an XNOR-Net and its float twin on real images, convert, answer from bits.

Handwritten digits (8x8, embedded), VGG-small at a quarter of its width. Leaves runs/demo-<seed>/xnor and .../float, each
with results.json, metrics.jsonl and curves.png, and the packed network in .../xnor/packed.safetensors.
"""

import dataclasses

from bnn_jax import FLOAT, XNOR
from bnn_jax.tables import render
from bnn_jax.training.experiment import run_or_exit, with_options
from experiments.digits_vgg_small import config


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


if __name__ == '__main__':
    xnor = with_options('demo', __doc__, dataclasses.replace(config(XNOR), epochs=12))
    twin_of = config(FLOAT, 1e-3)  # the float network wants another learning rate; all else is the same
    float_twin = dataclasses.replace(xnor, model=twin_of.model, learning_rate=twin_of.learning_rate)
    print('XNOR-Net', flush=True)
    ours = run_or_exit('demo: XNOR-Net', dataclasses.replace(xnor, workdir=f'{xnor.workdir}/xnor'))
    print('its float twin', flush=True)
    twin = run_or_exit('demo: float', dataclasses.replace(float_twin, workdir=f'{xnor.workdir}/float'))
    print(table(twin, ours, xnor.batch_size))
    print(f'curves, metrics, results and the packed network are in {xnor.workdir}')
