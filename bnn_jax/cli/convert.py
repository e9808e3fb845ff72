"""`bnn-jax convert`: from a checkpoint of a run to a packed file."""

import contextlib
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from bnn_jax.cli.inputs import Shape, class_names, random_images

if TYPE_CHECKING:
    from bnn_jax.training.restore import TrainedRun


def convert(
    module: tyro.conf.Positional[str],
    output: Annotated[Path, tyro.conf.arg(aliases=['-o'])],
    workdir: Path | None = None,
    best: bool = False,
    samples: int = 64,
    input: Shape | None = None,
    classes: Path | None = None,
    tolerance: float | None = None,
) -> None:
    """Convert a checkpoint of a run to a packed file, print a report, and check that both give the same logits.

    Args:
        module: the module that started the run as `python -m MODULE`, such as experiments.digits_vgg_small.
        output: the file to write; nothing is written if the logits differ.
        workdir: folder of the run, which records its scheme and options; by default the folder of the module's first row.
        best: convert the checkpoint with the best test result (from a run with --keep_best) instead of the newest one.
        samples: number of images on which logits are compared: test images of the run (all, if there are fewer), unless
            --input is given.
        input: height, width and channels of random images to use instead, if the test images are not available.
        classes: text file of class names, one per line, to store in the packed file; by default those of the data set,
            or none with --input.
        tolerance: largest allowed difference of a logit; by default 0. A network without binary inputs (BinaryConnect,
            BWN) adds in a different order when packed, so its default is 1e-5 of the range of the logits.

    Example:
        bnn-jax convert experiments.digits_vgg_small -o digits.safetensors --workdir=runs/digits
    """
    from bnn_jax.inference import serialization
    from bnn_jax.inference.converter import convert as packed_of
    from bnn_jax.training.memory import allocate_for_training
    from bnn_jax.training.recipe import recipe_of
    from bnn_jax.training.restore import trained
    from bnn_jax.training.results import deployed, preprocessing

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # `python -m MODULE` finds the module there.
    recipe = recipe_of(module)
    allocate_for_training()  # `trained` trains a missing teacher again.
    run = trained(recipe, workdir, best=best)
    images, which, known = _sample_images(run, samples, input)
    stated = preprocessing(run.config, images.shape[1:], class_names(classes, run.model.num_classes) or known)
    described = None if stated is None else stated.described()
    model = deployed(run.config, run.model)
    packed = packed_of(model)
    with tempfile.TemporaryDirectory(dir=_folder_of(output), prefix='.bnn-jax-') as folder:
        written = serialization.save(packed, Path(folder) / output.name, preprocessing=described)
        print(f'{run.workdir}, step {run.step}\n{packed.report}')
        _check_equal(model, serialization.load(written), images, which, tolerance)
        os.replace(written, output)
    print(f'wrote {output}: {output.stat().st_size:,} bytes')
    if stated is None:
        print('a file cannot describe all preprocessing of this run, so predict will ask for --preprocessing')


def _folder_of(output: Path) -> Path:
    """The folder of a file to write. Raises ValueError if the folder is missing, or if the path is a folder itself."""
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f'output: got {output}, expected a file in a folder that exists')
    return output.parent


def _sample_images(
    run: 'TrainedRun', samples: int, input_shape: Shape | None
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Prepared images, a phrase that names them in messages, and the names of their classes if known."""
    from bnn_jax.training.images import test_batches
    from bnn_jax.training.results import class_names as names_of

    if samples < 1:
        raise ValueError(f'samples: got {samples}, expected at least 1')
    if input_shape is not None:
        return random_images((samples, *input_shape)), 'random images', ()
    config = dataclasses.replace(run.config, batch_size=samples, accumulate=1, workers=0)
    try:
        source = config.data('test', config.data_dir)
        with contextlib.closing(test_batches(config, source)) as batches:
            return next(batches)['image'], 'test images of the run', names_of(run.model, source)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"the run's test images cannot be read ({error}); to compare random images, give --input HEIGHT WIDTH CHANNELS"
        ) from error


def _check_equal(model, packed, images: np.ndarray, which: str, tolerance: float | None) -> None:
    """Raises ValueError if a logit is not finite, or differs from the model's by more than the tolerance.

    A tolerance of None is the default of `convert`.
    """
    from bnn_jax.training.evaluation import logits_of

    ours, theirs = (np.asarray(logits_of(network)(images)) for network in (model, packed))
    finite = (np.isfinite(ours) & np.isfinite(theirs)).reshape(len(images), -1).all(1)
    if not finite.all():
        raise ValueError(
            f'logits are not finite on {int((~finite).sum())} of {len(images)} {which}, so they cannot be compared; nothing '
            'was written. Convert the best checkpoint (--best, after a run with --keep_best), or remove images with a NaN or '
            'an infinity'
        )
    if tolerance is None:
        binary_inputs = any(row.became == 'xnor + popcount' for row in packed.report.rows)
        tolerance = 0.0 if binary_inputs else 1e-5 * float(np.ptp(ours))
    difference = np.abs(ours - theirs)
    if not (difference <= tolerance).all():
        raise ValueError(
            f'the packed network differs from the checkpoint on {int((difference > tolerance).any(1).sum())} of '
            f'{len(images)} {which}, by up to {difference.max():.3g}, expected at most {tolerance:.3g}; nothing was written. '
            'On GPU and TPU rounding may differ: convert with JAX_PLATFORMS=cpu, or give --tolerance'
        )
    exact = 'equal to the last bit' if difference.max() == 0 else f'different by at most {difference.max():.3g}'
    print(f'logits of {len(images)} {which}: {exact}')
