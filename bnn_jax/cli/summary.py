"""`bnn-jax summary`: the layers of a network."""

import functools
import json
from pathlib import Path

import tyro

from bnn_jax.cli.inputs import Shape


def summary(
    file: tyro.conf.Positional[Path | None] = None,
    model: str = '',
    scheme: str = 'XNOR',
    num_classes: int = 1000,
    input: Shape = (224, 224, 3),
    width: float = 1.0,
) -> None:
    """List the layers of a packed file or of a named network.

    Args:
        file: a packed network; omit it if you give --model.
        model: a function of bnn_jax.models: alexnet, resnet18, ...
        scheme: a scheme of bnn_jax.schemes or preset of bnn_jax.presets: XNOR, BNN, BWN, XNOR_PAPER, ...
        num_classes: number of classes of the network.
        input: height, width and channels of an image.
        width: factor on the number of filters in each layer but the last.

    Example:
        bnn-jax summary --model=resnet18 --scheme=BIREAL
    """
    if (file is None) == (model == ''):
        got = 'neither' if file is None else 'both'
        raise ValueError(f'summary: got {got}, expected either a packed FILE or --model NAME')
    if file is not None:
        from bnn_jax.inference.serialization import load, preprocessing_of

        network, stated = load(file), preprocessing_of(file)
        print(network.report)
        print(
            f'{file}: {file.stat().st_size:,} bytes, {network.channels} channels in, {network.num_classes} classes out'
        )
        print(f'preprocessing: {"not stated" if stated is None else json.dumps(stated)}')
        return
    print(_summary_of(model, scheme, num_classes, input, width))


def _summary_of(model: str, scheme: str, num_classes: int, input_shape: Shape, width: float):
    """The summary of a network of `bnn_jax.models`. Its arrays are not allocated."""
    from flax import nnx

    from bnn_jax import models, summarize
    from bnn_jax.training.recipe import public_schemes

    values = public_schemes()
    if model not in models.__all__ or model.endswith('_stem'):
        names = ', '.join(name for name in models.__all__ if not name.endswith('_stem'))
        raise ValueError(f'model: got {model!r}, expected one of {names}')
    if scheme not in values:
        raise ValueError(f'scheme: got {scheme!r}, expected one of {", ".join(sorted(values))}')
    build = functools.partial(getattr(models, model), num_classes, scheme=values[scheme], input_shape=input_shape)
    return summarize(nnx.eval_shape(lambda: build(width=width, rngs=nnx.Rngs(0))), (1, *input_shape))
