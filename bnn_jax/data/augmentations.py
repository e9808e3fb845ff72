"""What is done to an image before a batch: augmentations (image, rng) -> image, and normalizations, all values.

Images are uint8 or floating (H, W, C) with any number of channels, and stay so until the normalization, the last one.
Randomness comes from `rng` alone. docs/augmentations.md shows what each does.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from bnn_jax.command import of_extra

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Normalization = Callable[[np.ndarray], np.ndarray]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's training images in 0..1, red, green, blue: the numbers in use since fb.resnet.torch."""


RGB_DEVIATIONS = (0.2175, 0.0188, 0.0045)
"""Along the principal axes of ImageNet's pixels in 0..1 (fb.resnet.torch, which calls them eigenvalues)."""

RGB_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Those axes: a row for red, green and blue, a column for each axis (fb.resnet.torch)."""


LARGEST = 2**26
"""Pixels of an image scaled by its short side: 200 MB in color. A strip of 1 x 20,000 would take gigabytes."""


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror left-right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class crop:
    """Pad all four sides by `padding` zeros and cut a random window of the original size."""

    padding: int = 4

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        p, (height, width) = self.padding, image.shape[:2]
        top, left = rng.integers(0, 2 * p + 1, size=2)
        padded = np.pad(image, ((p, p), (p, p), (0, 0)))
        return padded[top : top + height, left : left + width]


@dataclasses.dataclass(frozen=True)
class cutout:
    """Set a size x size square to zeros; every pixel is equally likely to be its middle, and what lies outside is left out.

    The middle is (size // 2, size // 2) in it. Raises ValueError for a size below 1. Source: DeVries and Taylor 2017
    (arXiv:1708.04552), whose code does it after the normalization, so that its zeros are the mean color; here they are black,
    as those of `crop` are.
    """

    size: int = 16

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f'cutout: got size {self.size}, expected at least 1')

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = (int(rng.integers(length)) - self.size // 2 for length in image.shape[:2])
        holed = image.copy()
        holed[max(top, 0) : top + self.size, max(left, 0) : left + self.size] = 0
        return holed


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image at another size by Pillow's BILINEAR filter, which torchvision uses too (unlike OpenCV's, it averages).

    Output pixel i is centered at c = (i + 1/2) f in the input, f = input/output size, and averages the input's pixels j
    by weights proportional to max(0, 1 - |j + 1/2 - c| / max(f, 1)): a triangle that widens when shrinking. First rows,
    then columns, of uint8 rounded after each; floats become float32. Every channel is scaled on its own, whatever their
    number. The image itself where it has the size. Raises ValueError for pixels of another dtype.
    """
    if image.shape[:2] == (height, width):
        return image
    with of_extra('deploy'):
        from PIL import Image
    if np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
    elif image.dtype != np.uint8:
        raise ValueError(f'image: got pixels of dtype {image.dtype}, expected uint8 or a floating dtype')

    def scaled(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))

    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return scaled(image)
    # Pillow takes two or four channels for a color with opacity, and blanks what the last channel calls transparent.
    return np.stack([scaled(np.ascontiguousarray(channel)) for channel in np.moveaxis(image, -1, 0)], axis=-1)


def scale_short_side(image: np.ndarray, size: int) -> np.ndarray:
    """The image with a short side of `size`, the long one in proportion, rounded down (as torchvision); by `bilinear`.

    Raises ValueError where that has more than `LARGEST` pixels.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    tall, wide = size * height // short, size * width // short
    if tall * wide > LARGEST:
        raise ValueError(
            f'image: {height} x {width} pixels with a short side of {size} would be {tall:,} x {wide:,}, expected at most '
            f'{LARGEST:,} pixels; cut or remove this image, or scale with resize_to(height, width)'
        )
    return bilinear(image, tall, wide)


@dataclasses.dataclass(frozen=True)
class resize_short:
    """`scale_short_side`."""

    size: int = 256

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return scale_short_side(image, self.size)


@dataclasses.dataclass(frozen=True)
class resize_short_between:
    """`resize_short` to a size drawn uniformly from the integers smallest..largest, both included (scale jittering)."""

    smallest: int = 256
    largest: int = 480

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return scale_short_side(image, int(rng.integers(self.smallest, self.largest + 1)))


@dataclasses.dataclass(frozen=True)
class resize_to:
    """Scale to height x width, not keeping the aspect ratio; filter: `bilinear`."""

    height: int = 256
    width: int = 256

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return bilinear(image, self.height, self.width)


def scaled_first(augmentations: tuple[Augmentation, ...], input_shape: tuple[int, ...]) -> tuple[Augmentation, ...]:
    """The augmentations after a `resize_to` the network's size, where none of them gives an image another size.

    So photographs of any size fit a network that says its own. Steps that this module does not know may size images.
    """
    keep = all(step is flip or isinstance(step, crop | cutout | lighting) for step in augmentations)
    return (resize_to(*input_shape[:2]), *augmentations) if keep else augmentations


def _window(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return image[top : top + size, left : left + size]


def _slack(image: np.ndarray, size: int) -> tuple[int, int]:
    """How far a window of `size` may move down and right. Raises ValueError where the image is smaller."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f'image: got {height} x {width} pixels, expected at least {size} x {size} for a crop; '
            f'put resize_short({size}) or more before it'
        )
    return height - size, width - size


@dataclasses.dataclass(frozen=True)
class random_crop:
    """A size x size window, every position equally likely. Raises ValueError for a smaller image."""

    size: int = 224

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        down, right = _slack(image, self.size)
        return _window(image, int(rng.integers(down + 1)), int(rng.integers(right + 1)), self.size)


@dataclasses.dataclass(frozen=True)
class center_crop:
    """The size x size window in the middle; of two middles the upper, left one. Raises ValueError for a smaller image."""

    size: int = 224

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        down, right = _slack(image, self.size)
        return _window(image, down // 2, right // 2, self.size)


@dataclasses.dataclass(frozen=True)
class inception_crop:
    """A window of random area and aspect ratio, scaled to size x size (filter: `bilinear`).

    Its share of the image's area is uniform in `area`, the logarithm of width / height uniform in `ratio`, its position
    uniform. After ten windows that do not fit: the largest central one with a ratio in `ratio`. Szegedy et al. 2014,
    section 6, with the details of torchvision's RandomResizedCrop.
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left, height, width = self.window(image.shape[0], image.shape[1], rng)
        return bilinear(image[top : top + height, left : left + width], self.size, self.size)

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the window in an image of height x width."""
        for _ in range(10):
            pixels = height * width * rng.uniform(self.area[0], self.area[1])
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        h = min(height, max(1, round(width / self.ratio[0])))
        w = min(width, max(1, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class lighting:
    """Another light: one color drawn for the image is added to all its pixels.

    Color c: 255 sum over axes i of `RGB_AXES[c][i] RGB_DEVIATIONS[i]` a_i, a_i normal with mean 0 and deviation std; rounded
    (halves to even) and clipped to 0..255, for images stay uint8. Raises ValueError for an image that is not RGB, and a std
    below 0. Source: AlexNet (Krizhevsky et al. 2012, section 4.1) with the numbers of fb.resnet.torch, which adds it to
    floats, not rounded or clipped; Bi-Real Net's code, after its crop and before its flip, has std 0.1.
    """

    std: float = 0.1

    def __post_init__(self):
        if not self.std >= 0:
            raise ValueError(f'lighting: got std {self.std!r}, expected a standard deviation of at least 0')

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.normal(0, self.std, 3)
        color = 255 * np.asarray(RGB_AXES) @ (np.asarray(RGB_DEVIATIONS) * drawn)
        return np.clip(np.rint(_checked(image, 3) + color), 0, 255).astype(np.uint8)


def _checked(image: np.ndarray, channels: int | None) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or channels not in (None, image.shape[-1]):
        expected = 'C' if channels is None else channels
        floats = np.issubdtype(image.dtype, np.floating)
        remedy = '; float images are taken as they are by standardize=bnn_jax.data.Unchanged()' if floats else ''
        raise ValueError(f'image: got {image.dtype}{list(image.shape)}, expected uint8 (H, W, {expected}){remedy}')
    return image.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Standardize:
    """uint8 image -> float32 (image / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        scaled = _checked(image, len(self.mean)) / np.float32(255)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


@dataclasses.dataclass(frozen=True)
class SubtractMean:
    """uint8 image -> float32 255 (image / 255 - mean): 0..255 less the mean, per channel; mean is given in 0..1.

    What the PyTorch code of XNOR-Net feeds its AlexNet (a standard deviation of 1/255).
    """

    mean: tuple[float, ...] = IMAGENET_MEAN

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _checked(image, len(self.mean)) - np.asarray([255 * m for m in self.mean], np.float32)


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """Floating image -> the same numbers as float32: for arrays that are scaled already, or are no photographs."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        image = np.asarray(image)
        if image.ndim != 3 or not np.issubdtype(image.dtype, np.floating):
            raise ValueError(
                f'image: got {image.dtype}{list(image.shape)}, expected floating (H, W, C); '
                'for uint8 take PlusMinusOne() or Standardize(mean, std)'
            )
        return image.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PlusMinusOne:
    """uint8 image -> float32 image / 127.5 - 1, in [-1, 1], for any number of channels."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _checked(image, None) / np.float32(127.5) - np.float32(1)
