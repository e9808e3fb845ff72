"""The command `bnn-jax`: summary, convert, predict and bench. Each command imports what it needs when it runs."""

import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

if TYPE_CHECKING:
    from bnn_jax.data.preprocessing import Preprocessing
    from bnn_jax.training.deploy import Trained

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit("error: the command line needs the extra `train`: pip install 'bnn_jax[train]'") from None

Shape = tuple[int, int, int]
TOP = 5
BATCH = 32
TIMED_CALLS = 20
EXAMPLE = (
    '{"input_shape": [224, 224, 3], "steps": [{"kind": "resize_short", "size": 256}, {"kind": "centre_crop", "size": 224}], '
    '"normalisation": {"kind": "Standardize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}'
)


def summary(
    file: tyro.conf.Positional[Path | None] = None,
    model: str = '',
    scheme: str = 'XNOR',
    num_classes: int = 1000,
    input: Shape = (224, 224, 3),
    width: float = 1.0,
) -> None:
    """What a packed file, or a network by its name, is made of, layer by layer.

    Args:
        file: a packed network; leave it out to give --model.
        model: a function of bnn_jax.models: alexnet, resnet18, ...
        scheme: of bnn_jax.schemes or bnn_jax.presets: XNOR, BNN, BWN, XNOR_PAPER, ...
        num_classes: of the network.
        input: height, width and channels of an image.
        width: factor on the network's filters.
    """
    if (file is None) == (model == ''):
        raise ValueError('summary: expected either a packed FILE or --model NAME')
    if file is not None:
        from bnn_jax.artifact import load, preprocessing_of

        network, stated = load(file), preprocessing_of(file)
        print(network.report)
        print(
            f'{file}: {file.stat().st_size:,} bytes, {network.channels} channels in, {network.num_classes} classes out'
        )
        print(f'preprocessing: {"not stated" if stated is None else json.dumps(stated)}')
        return
    print(_summary_of(model, scheme, num_classes, input, width))


def _summary_of(model: str, scheme: str, num_classes: int, input_shape: Shape, width: float):
    from flax import nnx

    from bnn_jax import models, presets, schemes, summarize

    values = {k: v for module in (presets, schemes) for k, v in vars(module).items() if isinstance(v, schemes.Scheme)}
    if model not in models.__all__ or model.endswith('_stem'):
        names = ', '.join(name for name in models.__all__ if not name.endswith('_stem'))
        raise ValueError(f'model: got {model!r}, expected one of {names}')
    if scheme not in values:
        raise ValueError(f'scheme: got {scheme!r}, expected one of {", ".join(sorted(values))}')
    build = functools.partial(getattr(models, model), num_classes, scheme=values[scheme], input_shape=input_shape)
    return summarize(nnx.eval_shape(lambda: build(width=width, rngs=nnx.Rngs(0))), (1, *input_shape))


def convert(
    module: tyro.conf.Positional[str],
    output: Annotated[Path, tyro.conf.arg(aliases=['-o'])],
    workdir: Path | None = None,
    samples: int = 64,
    input: Shape | None = None,
    classes: Path | None = None,
    tolerance: float = 0.0,
) -> None:
    """The newest checkpoint of a run to a packed file, with a report, if both give the same logits.

    Args:
        module: what started the run as `python -m MODULE`, such as experiments.digits_vgg_small_xnor.
        output: the file to write; it appears, or is replaced, only when all is well.
        workdir: the run's folder; by default that of the module.
        samples: how many test images of the run to compare on.
        input: height, width and channels of random images to compare on, where the test images are not at hand.
        classes: a text file with a class name a line, to keep in the file.
        tolerance: the largest difference of a logit that is let pass.
    """
    from bnn_jax import artifact
    from bnn_jax.convert import convert as packed_of
    from bnn_jax.training.deploy import trained
    from bnn_jax.training.experiment import deployed, preprocessing

    run = trained(module, workdir)
    images, which = _sample_images(run, samples, input)
    stated = preprocessing(run.config, images.shape[1:])
    names = _class_names(classes, run.model.num_classes)
    described = None if stated is None else {**stated.described(), 'classes': list(names)}
    model = deployed(run.config, run.model)
    packed = packed_of(model)
    with tempfile.TemporaryDirectory(dir=_folder_of(output), prefix='.bnn-jax-') as folder:
        written = artifact.save(packed, Path(folder) / output.name, preprocessing=described)
        print(f'{run.workdir}, step {run.step}\n{packed.report}')
        _check_equal(model, artifact.load(written), images, which, tolerance)
        os.replace(written, output)
    print(f'wrote {output}: {output.stat().st_size:,} bytes')
    if stated is None:
        print('its preprocessing has parts that a file cannot name: predict will ask for --preprocessing')


def _folder_of(output: Path) -> Path:
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f'{output}: expected a file in a folder that exists')
    return output.parent


def _sample_images(run: 'Trained', samples: int, input_shape: Shape | None) -> tuple[np.ndarray, str]:
    """Images as the network takes them, and what they are."""
    import contextlib
    import dataclasses

    from bnn_jax.training.fit import test_batches

    if samples < 1:
        raise ValueError(f'samples: got {samples}, expected at least 1')
    if input_shape is not None:
        return _random_images((samples, *input_shape)), 'random images'
    config = dataclasses.replace(run.config, batch_size=samples, accumulate=1, workers=0)
    try:
        with contextlib.closing(test_batches(config, config.data('test', config.data_dir))) as batches:
            return next(batches)['image'], 'test images of the run'
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"the run's test images cannot be read ({error}); to compare on random images: --input HEIGHT WIDTH CHANNELS"
        ) from error


def _check_equal(model, packed, images: np.ndarray, which: str, tolerance: float) -> None:
    """Raises ValueError where a logit of the packed network differs from the model's by more than tolerance."""
    from bnn_jax.training.step import logits_of

    ours, theirs = (np.asarray(logits_of(network)(images)) for network in (model, packed))
    difference = np.abs(ours - theirs)
    if not (difference <= tolerance).all():
        raise ValueError(
            f'the packed network differs from the checkpoint on {int((difference > tolerance).any(1).sum())} of '
            f'{len(images)} {which}, by up to {difference.max():.3g}, expected {tolerance}; nothing was written. On CPU '
            '(JAX_PLATFORMS=cpu) both are equal; where sums of real numbers may differ, state --tolerance'
        )
    exact = 'equal to the last bit' if difference.max() == 0 else f'equal to {difference.max():.3g}'
    print(f'logits of {len(images)} {which}: {exact}')


def predict(
    file: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    preprocessing: Path | None = None,
    classes: Path | None = None,
) -> None:
    """The five likeliest classes of each image, with their probabilities.

    Args:
        file: a packed network.
        images: JPEG, PNG, BMP, GIF, WebP or PPM files.
        preprocessing: a JSON file that says how images were prepared in training, where the network's file does not.
        classes: a text file with a class name a line.
    """
    from bnn_jax.artifact import load
    from bnn_jax.tables import listing

    network, prepare = load(file), _preprocessing(file, preprocessing)
    if prepare.input_shape[2] != network.channels:
        raise ValueError(f'preprocessing: gives {prepare.input_shape[2]} channels, the network has {network.channels}')
    names = _class_names(classes, network.num_classes) or prepare.classes or map(str, range(network.num_classes))
    names = tuple(names)
    if not images:
        raise ValueError('predict: got no images, expected at least one file')
    prepared = [prepare(_bytes(path), str(path)) for path in images]
    probabilities = _probabilities(network, prepared)
    rows = []
    for path, shares in zip(images, probabilities, strict=True):
        for rank, index in enumerate(np.argsort(-shares, kind='stable')[:TOP]):
            rows.append(['' if rank else str(path), str(rank + 1), names[index], f'{shares[index]:.2%}'])
    print(listing(f'{file}: {json.dumps({**prepare.described(), "classes": len(names)})}', _COLUMNS, rows))


_COLUMNS = ['image', 'rank', 'class', 'probability']


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f'there is no image {path}')
    return path.read_bytes()


def _probabilities(network, images: Sequence[np.ndarray]) -> np.ndarray:
    """Softmax of the logits in float64, in batches of one size, so that one compilation serves all."""
    from bnn_jax.training.step import logits_of

    logits, size = logits_of(network), min(BATCH, len(images))
    parts = []
    for first in range(0, len(images), size):
        part = np.stack(images[first : first + size])
        filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(np.asarray(logits(filled), np.float64)[: len(part)])
    values = np.concatenate(parts)
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def bench(
    file: tyro.conf.Positional[Path],
    batch: int = 1,
    input: Shape | None = None,
    float: bool = False,
    calls: int = TIMED_CALLS,
) -> None:
    """Median time of a batch, images in, logits out, on this machine; random images.

    Args:
        file: a packed network.
        batch: images a batch.
        input: height, width and channels of an image, where the file does not say it.
        float: also the same network with every bit unpacked to a float32 number, by XLA's own products.
        calls: how many calls are timed, after one that compiles.
    """
    from bnn_jax.artifact import load, preprocessing_of
    from bnn_jax.tables import listing
    from bnn_jax.training.experiment import device, versions
    from bnn_jax.training.step import logits_of
    from bnn_jax.unpacked import in_floats

    if batch < 1 or calls < 1:
        raise ValueError(f'bench: got batch {batch} and calls {calls}, expected at least 1')
    network, stated = load(file), preprocessing_of(file)
    if input is None and stated is None:
        raise ValueError(f'{file} does not say the size of its images; state it: --input HEIGHT WIDTH CHANNELS')
    shape = _preprocessing(file, None).input_shape if input is None else input
    images = _random_images((batch, *shape))
    networks = {'packed': network} | ({'float32': in_floats(network)} if float else {})
    rows = []
    for name, one in networks.items():
        times = _milliseconds(logits_of(one), images, calls)
        median = statistics.median(times)
        bytes_of = sum(leaf.nbytes for leaf in _arrays(one))
        spread = f'{min(times):.3f} to {max(times):.3f}'
        rows.append([name, f'{median:.3f}', spread, f'{1000 * batch / median:,.1f}', f'{bytes_of:,}'])
    title = f'{file}, batch {batch} of {"x".join(map(str, shape))}, {calls} calls, {device()}'
    print(listing(title, ['arithmetic', 'median ms', 'ms', 'images/s', 'bytes in memory'], rows))
    print(', '.join(f'{name} {version}' for name, version in versions().items()))


def _arrays(network) -> list[Any]:
    import jax

    return jax.tree.leaves(network)


def _milliseconds(logits: Callable, images: np.ndarray, calls: int) -> list[float]:
    import jax

    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        jax.block_until_ready(logits(images))
        times.append(1000 * (time.perf_counter() - start))
    return times[1:]  # The first one compiled.


def _random_images(shape: tuple[int, ...]) -> np.ndarray:
    if min(shape) < 1:
        raise ValueError(f'images: got shape {shape}, expected positive numbers')
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _preprocessing(file: Path, stated: Path | None) -> 'Preprocessing':
    """What `stated` says, or else the network's file. Raises ValueError where neither says it."""
    from bnn_jax.artifact import preprocessing_of
    from bnn_jax.data.preprocessing import Preprocessing

    described = preprocessing_of(file) if stated is None else _json(stated)
    if described is None:
        raise ValueError(
            f'{file} does not say how images were prepared in training, and other images give other answers; state it: '
            f'--preprocessing FILE, a JSON file such as {EXAMPLE}'
        )
    return Preprocessing.of(described)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not JSON ({error}); expected something like {EXAMPLE}') from error


def _class_names(path: Path | None, num_classes: int) -> tuple[str, ...]:
    if path is None:
        return ()
    names = tuple(path.read_text().splitlines())
    if len(names) != num_classes:
        raise ValueError(f'{path}: got {len(names)} lines, expected {num_classes} class names, one a line')
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected error ends with its message and exit status 1.

    arguments: those of this process by default.
    """
    app = tyro.extras.SubcommandApp()
    for command in (summary, convert, predict, bench):
        app.command(command)
    try:
        app.cli(prog='bnn-jax', description='Binary networks from the command line.', args=arguments or sys.argv[1:])
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
