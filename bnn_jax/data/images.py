"""Decode images of all kinds that collections of photographs hold, and find damaged ones."""

import io
import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from bnn_jax.command import of_extra
from bnn_jax.data.source import Source, Subset
from bnn_jax.data.threads import in_threads

if TYPE_CHECKING:
    from jaxtyping import UInt8

FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'PPM', 'TIFF')
LARGEST = 2**25
"""The number of pixels above which an image is read at a smaller size: 100 MB in color, far more than any network sees."""

STRIP = 2**22
"""About how many pixels of a large image are in an array at a time while it is scaled down."""

SHOWN = 5
"""How many damaged images a message names at most."""


def printable(name: str | os.PathLike) -> str:
    r"""Escape line breaks, control characters and bytes that are not UTF-8 in a file name, for messages.

    Args:
        name: any file name.

    Example:
        >>> print(printable('two\nlines'))
        two\nlines
    """
    text = os.fsencode(name).decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


class CorruptImage(ValueError):
    """The error for bytes that are not a whole image. The message begins with the name of the file or record.

    Example:
        >>> from bnn_jax import data
        >>> try:
        ...     decode(b'no image', 'a.jpg')
        ... except data.CorruptImage as error:
        ...     print(str(error)[:5])
        a.jpg
    """


def decode(data: bytes, name: str, channels: int = 3) -> "UInt8[np.ndarray, 'H W channels']":
    """Decode an image to uint8 (H, W, channels).

    The bytes, not the file name, determine the format: JPEG, PNG, BMP, GIF (first frame), WebP, PPM or TIFF (first page).
    Gray is repeated, palettes are looked up, opacity is dropped, and only the upper 8 of 16 bits are kept. As in TFDS and
    torchvision, rotation by EXIF is not applied. CMYK becomes R = (255 - C)(255 - K)/255, where 0 is no ink. Adobe's files,
    which have an APP14 marker, store 255 - C; other files store C. An image of more than `LARGEST` pixels, such as a scan, is
    read at a half, a quarter or an eighth of its height and width. JPEG's decoder does this for a JPEG; other images are
    averaged over squares of pixels.

    Args:
        data: the bytes of the file.
        name: the name of the file, for messages.
        channels: 3 (RGB) or 1 (gray).

    Raises:
        CorruptImage: Pillow cannot decode the whole image or refuses it for its size (more than about 179 million
            pixels), or it is gray with 32 bits a pixel. A JPEG whose compressed data were altered, not cut short, may
            still be decoded.
        ValueError: channels is neither 1 nor 3.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new('L', (4, 2)).save(file, 'PNG')
        >>> decode(file.getvalue(), 'a.png').shape
        (2, 4, 3)
    """
    with of_extra('deploy'):
        from PIL import Image, UnidentifiedImageError

    if channels not in (1, 3):
        raise ValueError(f'channels: got {channels}, expected 1 (gray) or 3 (RGB)')
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            wanted = smaller_by(*image.size)
            if wanted > 1:  # JPEG can be decoded at a smaller size; for most formats this does nothing.
                image.draft(None, (max(1, image.width // wanted), max(1, image.height // wanted)))
            image.load()
            left = smaller_by(*image.size)
            mode = 'RGB' if channels == 3 else 'L'
            return _pixels(image, mode, image.format) if left == 1 else _means(image, mode, left)
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for damaged bytes.
        known = not isinstance(error, UnidentifiedImageError)
        reason = f'{type(error).__name__}: {error}' if known else f'no {", ".join(FORMATS)}'
        raise CorruptImage(
            f'{name}: {len(data)} bytes that cannot be decoded as an image ({reason}); '
            'restore the file, or leave such files out with bnn_jax.data.skip_corrupt(source)'
        ) from error


def smaller_by(width: int, height: int) -> int:
    """The smallest power of two that both sides of an image must be divided by to leave at most `LARGEST` pixels.

    Args:
        width: the width of the image.
        height: the height of the image.
    """
    factor = 1
    while -(-width // factor) * -(-height // factor) > LARGEST:
        factor *= 2
    return factor


def _means(image, mode: str, factor: int) -> np.ndarray:
    """Average squares of factor x factor pixels, strip by strip: an array of the whole image would double the memory."""
    from PIL import Image

    lines = max(1, STRIP // image.width // factor) * factor
    strips = []
    for top in range(0, image.height, lines):
        strip = image.crop((0, top, image.width, min(top + lines, image.height)))  # Its format is None.
        pixels = _pixels(strip, mode, image.format)
        strips.append(np.asarray(Image.fromarray(pixels.squeeze(-1) if mode == 'L' else pixels).reduce(factor)))
    means = np.concatenate(strips)
    return means if means.ndim == 3 else means[..., None]


def _pixels(image, mode: str, format: str | None) -> np.ndarray:
    """The pixels of a Pillow image read from this format, in mode 'RGB' or 'L': uint8 (H, W, channels)."""
    from PIL import Image

    if image.mode == 'CMYK' and format == 'JPEG' and 'adobe' not in image.info:
        # Pillow inverts the CMYK numbers of all JPEG files, which is right only for Adobe's.
        image = Image.merge('CMYK', [band.point(lambda x: 255 - x) for band in image.split()])
    if image.mode == 'F' or (image.mode == 'I' and format == 'TIFF'):
        raise ValueError(
            f'pixels of mode {image.mode}, 32 bits each, whose range is not known; save them with 8 or 16 bits'
        )
    if image.mode.startswith('I'):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == 'P' and 'transparency' in image.info:
        image = image.convert('RGBA')
    pixels = np.asarray(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def skip_corrupt(source: Source) -> Subset:
    """A source without its damaged images.

    Each image is decoded once, in threads, before the first batch. Batches then depend on seed and step alone, and evaluation
    knows how many images there are. For a data set that many runs read, prepare a copy without damaged images instead:
    `python -m bnn_jax.data.prepare_folder --skip_corrupt`. If there are damaged images, a warning states their number.

    Args:
        source: any source.

    Returns:
        A source whose attribute `skipped` has the error messages.

    Raises:
        ValueError: all images are damaged.

    Example:
        >>> import warnings
        >>> from bnn_jax import data
        >>> class Photographs:
        ...     def __len__(self):
        ...         return 3
        ...     def __getitem__(self, index):
        ...         if index == 1:
        ...             raise data.CorruptImage('b.jpg: cut short')
        ...         return {'image': np.zeros((8, 8, 3), np.uint8), 'label': 0}
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter('ignore')
        ...     source = data.skip_corrupt(Photographs())
        >>> len(source), source.skipped
        (2, ('b.jpg: cut short',))
    """

    def message(index: int) -> str | None:
        try:
            source[index]
        except CorruptImage as error:
            return str(error)
        return None

    messages = list(in_threads(message, range(len(source))))
    kept = np.asarray([index for index, text in enumerate(messages) if text is None], np.int64)
    skipped = tuple(text for text in messages if text is not None)
    if skipped and not len(kept):
        raise ValueError(f'data set: all {len(skipped)} images are damaged, the first one: {skipped[0]}')
    if skipped:
        warnings.warn(skipped_message(skipped, len(source)), stacklevel=2)
    return Subset(source, kept, skipped)


def skipped_message(skipped: tuple[str, ...], total: int) -> str:
    """A sentence on how many images were skipped, with the first few messages.

    Args:
        skipped: the error messages.
        total: the number of all images.
    """
    more = ' ...' if len(skipped) > SHOWN else ''
    names = '; '.join(text.split(';')[0] for text in skipped[:SHOWN])
    return f'skipped {len(skipped):,} of {total:,} images that cannot be decoded: {names}{more}'
