"""`bnn-jax predict`: the likeliest classes of images."""

import contextlib
import csv
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import tyro

from bnn_jax.cli.inputs import class_names
from bnn_jax.cli.inputs import preprocessing as preparation

TOP = 5
"""The largest number of classes in an answer."""

BATCH = 32
"""How many images are decoded at a time."""

Answer = dict[str, Any]
"""`image` and `classes`, the likeliest first, each with `class`, `label` and `probability`; or `image` and `error`."""


def predict(
    file: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    preprocessing: Path | None = None,
    classes: Path | None = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=['-o'])] = None,
) -> None:
    """Show the most likely classes of each image, five at most, with their probabilities.

    If an image is damaged, its error is reported, the other images are classified, and the exit status is 1. If a path does not
    exist, nothing is classified.

    Args:
        file: a packed network.
        images: JPEG, PNG, BMP, GIF, WebP, PPM or TIFF files, or folders that contain such files (except PPM) at any depth.
        preprocessing: JSON file that says how test images were prepared; required if the network's file does not.
        classes: text file of class names, one per line; by default those in the preprocessing, or else numbers.
        output: .csv, .json or .jsonl file (one object per line) for the results, instead of a table.

    Example:
        bnn-jax predict digits.safetensors images/ -o answers.csv
    """
    from bnn_jax.data.images import printable
    from bnn_jax.inference.serialization import load
    from bnn_jax.training.evaluation import logits_of

    network, prepare = load(file), preparation(file, preprocessing)
    if prepare.input_shape[2] != network.channels:
        raise ValueError(f'preprocessing: gives {prepare.input_shape[2]} channels, the network has {network.channels}')
    names = class_names(classes, network.num_classes) or prepare.classes or map(str, range(network.num_classes))
    names = tuple(names)
    if len(names) != network.num_classes:
        raise ValueError(f'preprocessing: names {len(names)} classes, the network has {network.num_classes}')
    if output is not None and output.suffix not in WRITERS:
        raise ValueError(f'output: got {output}, expected a file that ends in {", ".join(WRITERS)}')
    paths = _paths(images)
    first = next(paths, None)
    if first is None:
        raise ValueError('predict: got no images, expected at least one file, or a folder that contains images')

    def prepared(path: Path) -> np.ndarray | Exception:
        try:
            return prepare(_bytes(path), printable(path))
        except (OSError, ValueError) as error:
            return error

    answers = _answers(logits_of(network), prepared, itertools.chain([first], paths), names)
    print(f'preprocessing: {json.dumps({k: v for k, v in prepare.described().items() if k != "classes"})}')
    if output is None:
        count, failed, message = _counted(_print(file.name, answers))
    else:
        count, failed, message = _write(output, answers)
        print(f'wrote {output}: {count - failed:,} images')
    if failed:
        raise ValueError(
            message if count == 1 else f'{failed:,} of {count:,} images have no answer, the first: {message}'
        )


def _paths(given: Iterable[Path]) -> Iterator[Path]:
    """The given files, and the image files in the given folders.

    Raises FileNotFoundError for a missing path, before anything is read.
    """
    from bnn_jax.data.folder import image_files
    from bnn_jax.data.images import printable

    given = tuple(given)
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f'there is no image {printable(path)}')
    return itertools.chain.from_iterable(image_files(path) if path.is_dir() else (path,) for path in given)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f'there is no image {path}')
    return path.read_bytes()


def _answers(
    logits: Callable, prepared: Callable[[Path], np.ndarray | Exception], paths: Iterator[Path], names: Sequence[str]
) -> Generator[Answer, None, None]:
    """Yield an answer for each image, in order. Threads decode one batch of images at a time."""
    from bnn_jax.data.images import printable

    # JAX compiles a network once for each size of batch.
    size = None  # All batches get the size of the first one, so that the network is compiled only once.
    with ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(paths, BATCH)):
            images = list(pool.map(prepared, batch))
            size = size or len(batch)
            good = [image for image in images if not isinstance(image, Exception)]
            shares = iter(_probabilities(logits, good, size))
            for path, image in zip(batch, images, strict=True):
                if isinstance(image, Exception):
                    yield {'image': printable(path), 'error': str(image)}
                    continue
                of_image = next(shares)
                likeliest = np.argsort(-of_image, kind='stable')[:TOP]
                yield {
                    'image': printable(path),
                    'classes': [
                        {'class': names[i], 'label': int(i), 'probability': float(of_image[i])} for i in likeliest
                    ],
                }


def _probabilities(logits: Callable, images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """The softmax, in float64, of the logits of images. The batch is padded to `size` images."""
    if not images:
        return np.zeros((0, 0))
    batch = np.stack(images)
    filled = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
    values = np.asarray(logits(filled), np.float64)[: len(batch)]
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def _print(title: str, answers: Iterable[Answer]) -> Iterator[Answer]:
    """Print a table for each batch of answers as soon as the batch is complete, and yield the answers."""
    from bnn_jax.nn.tables import listing

    answers = iter(answers)
    while part := list(itertools.islice(answers, BATCH)):
        rows = [
            ['' if rank else answer['image'], str(rank + 1), one['class'], f'{one["probability"]:.2%}']
            for answer in part
            for rank, one in enumerate(answer.get('classes', ()))
        ]
        if rows:
            print(listing(title, ['image', 'rank', 'class', 'probability'], rows), flush=True)
        for answer in part:
            if 'error' in answer:
                print(answer['error'], file=sys.stderr)
            yield answer


def _counted(answers: Iterable[Answer]) -> tuple[int, int, str]:
    """The number of answers, the number of errors among them, and the first error."""
    count, failed, first = 0, 0, ''
    for answer in answers:
        count += 1
        if 'error' in answer:
            failed, first = failed + 1, first or answer['error']
    return count, failed, first


def _csv(answers: Iterable[Answer], file: TextIO) -> Iterator[Answer]:
    rows = csv.writer(file, lineterminator='\n')
    rows.writerow(['image', *(f'{name}{i}' for i in range(1, TOP + 1) for name in ('class', 'probability')), 'error'])
    for answer in answers:
        cells = [cell for one in answer.get('classes', ()) for cell in (one['class'], repr(one['probability']))]
        rows.writerow([answer['image'], *cells, *[''] * (2 * TOP - len(cells)), answer.get('error', '')])
        yield answer


def _json(answers: Iterable[Answer], file: TextIO) -> Iterator[Answer]:
    for i, answer in enumerate(answers):
        file.write((',\n' if i else '[\n') + json.dumps(answer))
        yield answer
    file.write('\n]\n')


def _json_lines(answers: Iterable[Answer], file: TextIO) -> Iterator[Answer]:
    for answer in answers:
        file.write(f'{json.dumps(answer)}\n')
        yield answer


WRITERS = {'.csv': _csv, '.json': _json, '.jsonl': _json_lines}
"""Suffix of a file -> a function that writes answers to such a file and yields them."""


def _write(output: Path, answers: Iterable[Answer]) -> tuple[int, int, str]:
    """Write all answers to a temporary file, then rename it to `output`. Returns what `_counted` returns."""
    handle, temporary = tempfile.mkstemp(dir=output.absolute().parent, prefix='.bnn-jax-')
    try:
        with open(handle, 'w', encoding='utf-8', newline='') as file:
            counts = _counted(WRITERS[output.suffix](answers, file))
        os.chmod(temporary, 0o644)
        os.replace(temporary, output)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return counts
