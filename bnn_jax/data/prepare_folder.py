"""Shrink the photographs of a folder tree once, and write them in TFDS's ArrayRecord layout: for machines with few cores.

    python -m bnn_jax.data.prepare_folder imagenet_256 --source=IMAGENET --data_dir=FOLDER

This command reads IMAGENET/train/<class>/*.JPEG and IMAGENET/val/..., scales the short side to 256 pixels and writes JPEGs.
Afterward `tfds_source('imagenet_256', 'train', FOLDER)` reads the training images. The network's inputs differ slightly from
those made from the originals, because the images were scaled and compressed once more. A recipe that scales
short sides to random sizes from 256 to 480 pixels needs --short_side=480.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from bnn_jax.command import of_extra, one_line
from bnn_jax.data.augmentations import scale_short_side
from bnn_jax.data.folder import FolderSource, folder_source
from bnn_jax.data.images import CorruptImage, printable, skipped_message
from bnn_jax.data.prepare import write
from bnn_jax.data.threads import in_threads
from bnn_jax.files.bounds import shown

VERSION = '1.0.0'


def stop(error: CorruptImage) -> NoReturn:
    """The default for damaged files: raise the error."""
    raise error


def prepare_folder(
    name: str,
    source: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    splits: Sequence[str] = ('train', 'val'),
    short_side: int = 256,
    quality: int = 95,
    on_corrupt: Callable[[CorruptImage], object] = stop,
) -> Path:
    """Write the folder trees source/split as a TFDS data set of small JPEGs.

    Images are RGB with chroma at half resolution. Each example also has a `file_name`, its path in the split, such as
    class/file. Labels are those of `folder_source`.

    Args:
        name: the name of the data set: lower-case letters, digits and _, with no digit first.
        source: the folder above the splits.
        data_dir: where to write the data set.
        splits: the folders in source that become splits.
        short_side: in pixels; larger images are shrunk and smaller ones enlarged, as by `resize_short`.
        quality: the quality of the JPEGs.
        on_corrupt: called with the error of each damaged file, which is then left out; by default it raises the error.

    Returns:
        The folder of the data set.

    Raises:
        FileExistsError: the data set is there already.
        FileNotFoundError: `folder_source` raises it.
        OSError: the data set cannot be written.
        ValueError: the name is not allowed, splits is empty, an image is damaged (with the default `on_corrupt`) or
            would get too many pixels, all images of a split are damaged, splits have different classes, or
            `folder_source` raises it.
    """
    with of_extra('train'):
        import tensorflow_datasets as tfds

    if not splits:
        raise ValueError('splits: got none, expected the names of folders in source')
    if not (name.isidentifier() and name == name.lower()):
        raise ValueError(
            f'data set: got {name!r}, expected lower-case letters, digits and _, with no digit first, such as imagenet_256'
        )
    target = Path(data_dir).expanduser() / name / VERSION
    if target.exists():
        raise FileExistsError(f'{target} is there already; remove it to prepare it again, or choose another name')
    sources = {split: folder_source(source, split) for split in splits}
    classes = {split: images.classes for split, images in sources.items()}
    if len(set(classes.values())) > 1:
        raise ValueError(f'{source}: got splits with different classes, expected equal ones: {shown(classes)}')
    features = {
        'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
        'label': tfds.features.ClassLabel(names=list(next(iter(classes.values())))),
        'file_name': tfds.features.Text(),
    }
    examples = {split: _examples(images, short_side, quality, on_corrupt) for split, images in sources.items()}
    return write(name, VERSION, features, examples, data_dir)


def _examples(
    source: FolderSource, short_side: int, quality: int, on_corrupt: Callable[[CorruptImage], object]
) -> Iterator[tuple[str, dict]]:
    def small(index: int) -> bytes | CorruptImage:
        from PIL import Image

        try:
            image = scale_short_side(source[index]['image'], short_side)
        except CorruptImage as error:
            return error
        except ValueError as error:
            raise ValueError(f'{printable(source.path(index))}: {error}') from error
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, 'JPEG', quality=quality)
        return buffer.getvalue()

    written = 0
    for index, result in enumerate(in_threads(small, range(len(source)))):
        if isinstance(result, CorruptImage):
            on_corrupt(result)
            continue
        name = printable(source.path(index).relative_to(source.folder))
        yield name, {'image': io.BytesIO(result), 'label': int(source.labels[index]), 'file_name': name}
        written += 1
    if not written:
        raise ValueError(f'{source.folder}: all {len(source)} images are damaged, expected at least one that is not')


def main() -> None:
    """Run the command line."""
    from typing import Annotated

    import tyro

    def command(
        name: Annotated[str, tyro.conf.Positional],
        source: Path,
        data_dir: Path,
        splits: tuple[str, ...] = ('train', 'val'),
        short_side: int = 256,
        quality: int = 95,
        skip_corrupt: bool = False,
    ) -> None:
        """Prepare a data set of small JPEGs from a folder tree.

        Args:
            name: name of the data set.
            source: the folder above the splits.
            data_dir: folder for the prepared data set.
            splits: the folders that become splits.
            short_side: pixels of the short side.
            quality: quality of the JPEGs, 1 to 95.
            skip_corrupt: leave damaged files out and count them, instead of stopping at the first one.
        """
        skipped: list[CorruptImage] = []
        on_corrupt = skipped.append if skip_corrupt else stop
        options = {'splits': splits, 'short_side': short_side, 'quality': quality, 'on_corrupt': on_corrupt}
        print(prepare_folder(name, source, data_dir, **options))
        if skipped:
            total = sum(len(folder_source(source, split)) for split in splits)
            print(skipped_message(tuple(str(error) for error in skipped), total))

    with one_line():
        tyro.cli(command, prog='python -m bnn_jax.data.prepare_folder', description=__doc__)


if __name__ == '__main__':
    main()
