"""CIFAR-10 in a few files to carry to another machine: lossless WebP, pieces of at most 55 MB, checked by hash.

    python -m experiments.pieces --data_dir=FOLDER --output=gpu_pieces     # about 108 MB in all

The file `pieces.json` beside the pieces lists them. With them, `experiments.gpu_day` trains on a machine that has neither
TFDS nor an internet connection.
"""

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bnn_jax.data import ArraySource
from bnn_jax.files import write
from bnn_jax.training import named
from experiments import cifar10, run_command

LARGEST = 52_000_000
"""Bytes of images in a piece, without lengths, labels and the file's own structure."""

SPLITS = ('test', 'train')
"""The splits, in the order in which they are cut into pieces."""


def write_pieces(folder: Path, sources: dict[str, ArraySource], largest: int = LARGEST) -> list[Path]:
    """Write the pieces of these splits, and pieces.json; returns the paths of the pieces.

    Args:
        folder: where to; made if need be.
        sources: split -> images of 3 channels.
        largest: bytes of images in a piece, at most.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        files = {split: list(pool.map(_encoded, sources[split].images)) for split in SPLITS}
    entries = [(split, i) for split in SPLITS for i in range(len(files[split]))]
    pieces: list[list[tuple[str, int]]] = [[]]
    size = 0
    for split, i in entries:
        length = len(files[split][i])
        if pieces[-1] and size + length > largest:
            pieces.append([])
            size = 0
        pieces[-1].append((split, i))
        size += length
    described, paths = {}, []
    for number, piece in enumerate(pieces):
        path = folder / f'piece_{number}.npz'
        arrays = {
            'data': np.frombuffer(b''.join(files[split][i] for split, i in piece), np.uint8),
            'lengths': np.array([len(files[split][i]) for split, i in piece], np.int32),
            'labels': np.array([sources[split].labels[i] for split, i in piece], np.int32),
            'splits': np.array([SPLITS.index(split) for split, _ in piece], np.uint8),
        }
        np.savez(path, **arrays)
        described[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        paths.append(path)
    pixels = {split: _digest(sources[split].images, sources[split].labels) for split in SPLITS}
    write(folder / 'pieces.json', json.dumps({'pieces': described, 'pixels': pixels}, indent=2) + '\n')
    return paths


def missing(folder: Path) -> list[str]:
    """The names of missing pieces, or `pieces.json` alone if that file is missing; [] if nothing is."""
    path = folder / 'pieces.json'
    if not path.exists():
        return [path.name]
    return [name for name in json.loads(path.read_text())['pieces'] if not (folder / name).exists()]


@functools.cache
def read_pieces(folder: Path) -> dict[str, ArraySource]:
    """Split -> its images and labels.

    Raises:
        FileNotFoundError: pieces are missing.
        ValueError: a piece, or the images and labels decoded from all pieces, have another checksum than pieces.json states.
    """
    if lacking := missing(folder):
        raise FileNotFoundError(f'{folder} lacks {", ".join(lacking)}; make them with `make gpu-pieces` and copy all')
    stated = json.loads((folder / 'pieces.json').read_text())
    found: dict[str, list] = {split: [] for split in SPLITS}
    for name, digest in stated['pieces'].items():
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f'{folder / name}: its checksum differs, so it was changed on the way; copy it again')
        with np.load(io.BytesIO(content)) as arrays:
            data, ends = arrays['data'].tobytes(), np.cumsum(arrays['lengths'].astype(np.int64))
            parts = [data[end - length : end] for end, length in zip(ends, arrays['lengths'], strict=True)]
            with ThreadPoolExecutor() as pool:
                images = pool.map(_decoded, parts)
            for image, label, split in zip(images, arrays['labels'], arrays['splits'], strict=True):
                found[SPLITS[split]].append((image, label))
    sources = {}
    for split, examples in found.items():
        images, labels = (np.stack(column) for column in zip(*examples, strict=True))
        if _digest(images, labels) != stated['pixels'][split]:
            raise ValueError(
                f'{folder}: the decoded {split} images differ from those that were written; use the same version of Pillow'
            )
        sources[split] = ArraySource(images, labels)
    return sources


@named('pieces.images')
def images(split: str, data_dir: str) -> ArraySource:
    """A split of what the pieces in data_dir hold: the `data` of a Config."""
    return read_pieces(Path(data_dir))[split]


def _encoded(image: np.ndarray) -> bytes:
    box = io.BytesIO()
    Image.fromarray(image).save(box, 'WEBP', lossless=True, quality=100, method=4)
    return box.getvalue()


def _decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(np.asarray(labels, np.int32).tobytes())
    return digest.hexdigest()


def main(data_dir: str = '~/tensorflow_datasets', output: Path = Path('gpu_pieces'), images: int = 0) -> None:
    """Cut CIFAR-10 into pieces.

    Args:
        data_dir: folder in which TFDS prepared cifar10.
        output: folder of the pieces.
        images: number of images of each split, for a trial; 0: all.
    """
    sources = {split: cifar10.source(split, data_dir) for split in SPLITS}
    if images:
        sources = {split: ArraySource(s.images[:images], s.labels[:images]) for split, s in sources.items()}
    for path in write_pieces(output, sources):
        print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with options; arguments: by default those of this process."""
    run_command(main, 'pieces', __doc__, arguments)


if __name__ == '__main__':
    command()
