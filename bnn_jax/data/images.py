"""Encoded images to arrays: every kind of file that photograph collections hold, and what to do with damaged ones."""

import io
import os
import warnings

import numpy as np

from bnn_jax.command import of_extra
from bnn_jax.data.source import Source, Subset
from bnn_jax.data.threads import in_threads

FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'PPM', 'TIFF')
LARGEST = 2**25
"""Pixels beyond which an image is read smaller: 100 MB in color. No network sees more than a few thousandths of them."""

STRIP = 2**22
"""Pixels of an image that are an array at a time, about, while it is made smaller."""

SHOWN = 5
"""How many damaged images a message names."""


def printable(name: str | os.PathLike) -> str:
    r"""A name as it can be printed: bytes that are no UTF-8, line breaks and control characters as escapes, \xe9 or \n."""
    text = os.fsencode(name).decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


class CorruptImage(ValueError):
    """Bytes that are no whole image; the message begins with the name of the file or record."""


def decode(data: bytes, name: str, channels: int = 3) -> np.ndarray:
    """The image in `data` as uint8 (H, W, channels), channels 3 (RGB) or 1 (gray), whatever its file name promises.

    The format is told by the bytes: JPEG, PNG, BMP, GIF (first frame), WebP, PPM, TIFF (first page). Gray is repeated,
    palettes are looked up, opacity is dropped, of 16 bits the upper 8 are kept, rotation by EXIF is not applied (as TFDS
    and torchvision).
    CMYK: R = (255 - C)(255 - K)/255 with 0 for no ink; Adobe's files, known by their APP14 marker, store 255 - C, others
    C. An image of more than `LARGEST` pixels, such as a scan, is read at a half, a quarter or an eighth of its size, the
    largest that has no more: a JPEG by the sums that its decoder leaves out, others by the means of squares of pixels.

    Raises CorruptImage where Pillow cannot decode the whole image, and for pixels of 32 bits; a JPEG whose
    entropy-coded data were altered, not cut short, is decoded to something.
    """
    with of_extra('deploy'):
        from PIL import Image, UnidentifiedImageError

    if channels not in (1, 3):
        raise ValueError(f'channels: got {channels}, expected 1 (gray) or 3 (RGB)')
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            wanted = smaller_by(*image.size)
            if wanted > 1:  # where the format can do so; most cannot
                image.draft(None, (max(1, image.width // wanted), max(1, image.height // wanted)))
            image.load()
            left = smaller_by(*image.size)
            mode = 'RGB' if channels == 3 else 'L'
            return _pixels(image, mode) if left == 1 else _means(image, mode, left)
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for damaged bytes.
        known = not isinstance(error, UnidentifiedImageError)
        reason = f'{type(error).__name__}: {error}' if known else f'no {", ".join(FORMATS)}'
        raise CorruptImage(
            f'{name}: {len(data)} bytes that cannot be decoded as an image ({reason}); '
            'restore the file, or leave such files out: bnn_jax.data.skip_corrupt(source)'
        ) from error


def smaller_by(width: int, height: int) -> int:
    """The least power of two by which both sides must be divided for an image to have at most `LARGEST` pixels."""
    factor = 1
    while -(-width // factor) * -(-height // factor) > LARGEST:
        factor *= 2
    return factor


def _means(image, mode: str, factor: int) -> np.ndarray:
    """The means of factor x factor pixels, of strips of the image, for all of it as an array would be as large again."""
    from PIL import Image

    lines = max(1, STRIP // image.width // factor) * factor
    strips = []
    for top in range(0, image.height, lines):
        pixels = _pixels(image.crop((0, top, image.width, min(top + lines, image.height))), mode)
        strips.append(np.asarray(Image.fromarray(pixels.squeeze(-1) if mode == 'L' else pixels).reduce(factor)))
    means = np.concatenate(strips)
    return means if means.ndim == 3 else means[..., None]


def _pixels(image, mode: str) -> np.ndarray:
    from PIL import Image

    if image.mode == 'CMYK' and image.format == 'JPEG' and 'adobe' not in image.info:
        image = Image.merge('CMYK', [band.point(lambda x: 255 - x) for band in image.split()])  # Pillow inverts all.
    if image.mode == 'F' or (image.mode == 'I' and image.format == 'TIFF'):
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
    """`source` without the images that raise CorruptImage; `.skipped` holds their messages, a warning tells the count.

    Every image is decoded once, in threads, before the first batch: so batches stay a function of seed and step, and
    evaluation counts what there is. For a set that is read often, `python -m bnn_jax.data.prepare_folder --skip_corrupt`
    pays that once. Raises ValueError where no image is left.
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
    """One line for people: how many of how many images were skipped, and the first few."""
    more = ' ...' if len(skipped) > SHOWN else ''
    names = '; '.join(text.split(';')[0] for text in skipped[:SHOWN])
    return f'skipped {len(skipped):,} of {total:,} images that cannot be decoded: {names}{more}'
