"""Augmentations (image, rng) -> image, and normalizations image -> image. Each is a value that a config can hold.

Images are uint8 or floating, (H, W, C), with any number of channels, unless an annotation says otherwise. The normalization
comes last and makes them float32. All random numbers come from `rng`. docs/augmentations.md shows what each augmentation does.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bnn_jax.command import of_extra

if TYPE_CHECKING:  # Each process that decodes images imports this file; importing jaxtyping takes a fifth of a second.
    from jaxtyping import Float, Float32, Real, UInt8

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Normalization = Callable[[np.ndarray], np.ndarray]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's training images in 0..1, for red, green and blue, as in fb.resnet.torch."""


RGB_DEVIATIONS = (0.2175, 0.0188, 0.0045)
"""Standard deviations along the principal axes of ImageNet's pixels in 0..1 (fb.resnet.torch calls them eigenvalues)."""

RGB_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""The principal axes: a row for each of red, green and blue, a column for each axis (fb.resnet.torch)."""


LARGEST = 2**26
"""The largest number of pixels after scaling by the short side: 200 MB in color. A strip of 1 x 20,000 pixels
would exceed it if scaled to a short side of 256."""


def flip(image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator) -> "Real[np.ndarray, 'H W C']":
    """Mirror an image left-right with probability 1/2.

    Args:
        image: uint8 or floating.
        rng: the source of random numbers.

    Example:
        >>> from bnn_jax import data
        >>> images = [data.flip(np.array([[[1], [2]]]), np.random.default_rng(seed)) for seed in range(9)]
        >>> sorted({tuple(image.ravel().tolist()) for image in images})
        [(1, 2), (2, 1)]
    """
    return image[:, ::-1] if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class crop:
    """Pad all four sides with zeros, and cut out a random window of the original size.

    Example:
        >>> from bnn_jax import data
        >>> data.crop(padding=4)(np.ones((32, 32, 3), np.uint8), np.random.default_rng(0)).shape
        (32, 32, 3)
    """

    # How many zeros each side gets.
    padding: int = 4

    def __call__(self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator) -> "Real[np.ndarray, 'H W C']":
        p, (height, width) = self.padding, image.shape[:2]
        top, left = rng.integers(0, 2 * p + 1, size=2)
        padded = np.pad(image, ((p, p), (p, p), (0, 0)))
        return padded[top : top + height, left : left + width]


@dataclasses.dataclass(frozen=True)
class cutout:
    """Set a square around a random pixel to zeros. The part of the square outside the image is ignored.

    The pixel is at (size // 2, size // 2) in the square. The published code cuts out after the normalization, so its zeros are
    the mean color. Here the zeros are black, like the zeros of `crop`.

    Raises:
        ValueError: size is below 1.

    Source: DeVries and Taylor (arXiv:1708.04552).

    Example:
        >>> from bnn_jax import data
        >>> int((data.cutout(size=1)(np.ones((8, 8, 1), np.uint8), np.random.default_rng(0)) == 0).sum())
        1
    """

    # The side of the square in pixels.
    size: int = 16

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f'cutout: got size {self.size}, expected at least 1')

    def __call__(self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator) -> "Real[np.ndarray, 'H W C']":
        top, left = (int(rng.integers(length)) - self.size // 2 for length in image.shape[:2])
        holed = image.copy()
        holed[max(top, 0) : top + self.size, max(left, 0) : left + self.size] = 0
        return holed


def bilinear(image: "Real[np.ndarray, 'H W C']", height: int, width: int) -> "Real[np.ndarray, 'height width C']":
    """Scale an image with Pillow's BILINEAR filter, as torchvision does. Unlike OpenCV's, this filter averages when it shrinks.

    Output pixel i is centered at c = (i + 1/2) f in the input, with f = input size / output size. It averages the input pixels
    j with weights proportional to max(0, 1 - |j + 1/2 - c| / max(f, 1)), a triangle that widens when shrinking. The width is
    scaled first, then the height; uint8 is rounded after each. Each channel is scaled separately.

    Args:
        image: uint8 or floating.
        height: the height of the result.
        width: the width of the result.

    Returns:
        uint8 or float32; the image itself if it has this size already.

    Raises:
        ValueError: the image has another size, and its pixels are neither uint8 nor floating.

    Example:
        >>> bilinear(np.array([[[0], [100]]], np.uint8), 1, 1).tolist()
        [[[50]]]
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
    # Channels are scaled one by one: Pillow treats the last of two or four channels as opacity, and blanks transparent pixels.
    return np.stack([scaled(np.ascontiguousarray(channel)) for channel in np.moveaxis(image, -1, 0)], axis=-1)


def scale_short_side(image: "Real[np.ndarray, 'H W C']", size: int) -> "Real[np.ndarray, 'height width C']":
    """Scale with `bilinear` to a short side of `size` pixels. The long side keeps the ratio, rounded down as in torchvision.

    Args:
        image: uint8 or floating.
        size: pixels of the short side.

    Raises:
        ValueError: the result would have more than `LARGEST` pixels.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    tall, wide = size * height // short, size * width // short
    if tall * wide > LARGEST:
        raise ValueError(
            f'image: {height} x {width} pixels scaled to a short side of {size} would be {tall:,} x {wide:,}, expected at '
            f'most {LARGEST:,} pixels; crop or remove this image, or scale with resize_to(height, width)'
        )
    return bilinear(image, tall, wide)


@dataclasses.dataclass(frozen=True)
class resize_short:
    """Scale to a short side of `size` pixels, keeping the aspect ratio; filter: `bilinear`.

    Example:
        >>> from bnn_jax import data
        >>> data.resize_short(256)(np.zeros((512, 600, 3), np.uint8), None).shape
        (256, 300, 3)
    """

    # In pixels.
    size: int = 256

    def __call__(
        self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator
    ) -> "Real[np.ndarray, 'height width C']":
        return scale_short_side(image, self.size)


@dataclasses.dataclass(frozen=True)
class resize_short_between:
    """Scale as `resize_short` does, to a random size from smallest to largest (scale jittering). All sizes are equally likely.

    Example:
        >>> from bnn_jax import data
        >>> scale = data.resize_short_between(2, 3)
        >>> scale(np.zeros((8, 8, 1), np.uint8), np.random.default_rng(0)).shape in {(2, 2, 1), (3, 3, 1)}
        True
    """

    # Bounds of the short side in pixels, both included.
    smallest: int = 256
    largest: int = 480

    def __call__(
        self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator
    ) -> "Real[np.ndarray, 'height width C']":
        return scale_short_side(image, int(rng.integers(self.smallest, self.largest + 1)))


@dataclasses.dataclass(frozen=True)
class resize_to:
    """Scale to height x width pixels, whatever the aspect ratio of the image; filter: `bilinear`.

    Example:
        >>> from bnn_jax import data
        >>> data.resize_to(4, 6)(np.zeros((8, 8, 3), np.uint8), None).shape
        (4, 6, 3)
    """

    height: int = 256
    width: int = 256

    def __call__(
        self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator
    ) -> "Real[np.ndarray, 'height width C']":
        return bilinear(image, self.height, self.width)


def scaled_first(augmentations: tuple[Augmentation, ...], input_shape: tuple[int, ...]) -> tuple[Augmentation, ...]:
    """Put a `resize_to` before the augmentations if they all keep the size of an image.

    Photographs of any size then fit a network whose input shape is known. No `resize_to` is added if one of the
    augmentations is a user's own, because it may change the size.

    Args:
        augmentations: the augmentations of a run.
        input_shape: (H, W, C) of the network.
    """
    keep = all(step is flip or isinstance(step, crop | cutout | lighting) for step in augmentations)
    return (resize_to(*input_shape[:2]), *augmentations) if keep else augmentations


def _window(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return image[top : top + size, left : left + size]


def _slack(image: np.ndarray, size: int) -> tuple[int, int]:
    """How far a window of `size` can move down and right in an image. Raises ValueError for a smaller image."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f'image: got {height} x {width} pixels, expected at least {size} x {size} for a crop; '
            f'put resize_short({size}), or a larger size, before it'
        )
    return height - size, width - size


@dataclasses.dataclass(frozen=True)
class random_crop:
    """Cut out a random window of size x size pixels. A call raises ValueError for a smaller image.

    Example:
        >>> from bnn_jax import data
        >>> data.random_crop(2)(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)).shape
        (2, 2, 3)
    """

    # In pixels.
    size: int = 224

    def __call__(
        self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator
    ) -> "Real[np.ndarray, 'size size C']":
        down, right = _slack(image, self.size)
        return _window(image, int(rng.integers(down + 1)), int(rng.integers(right + 1)), self.size)


@dataclasses.dataclass(frozen=True)
class center_crop:
    """Cut out the middle window of size x size pixels. If several are equally central, take the upper left one.

    A call raises ValueError for a smaller image.

    Example:
        >>> from bnn_jax import data
        >>> data.center_crop(1)(np.arange(3)[None, :, None].repeat(3, 0), None).tolist()
        [[[1]]]
    """

    # In pixels.
    size: int = 224

    def __call__(
        self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator
    ) -> "Real[np.ndarray, 'size size C']":
        down, right = _slack(image, self.size)
        return _window(image, down // 2, right // 2, self.size)


@dataclasses.dataclass(frozen=True)
class inception_crop:
    """Cut out a window of random area, aspect ratio and position, and scale it to size x size; filter: `bilinear`.

    If none of ten random windows fits into the image, take the largest central window with an allowed aspect ratio.

    Source: Szegedy et al. (arXiv:1409.4842) section 6; details as in torchvision's RandomResizedCrop.

    Example:
        >>> from bnn_jax import data
        >>> data.inception_crop(4)(np.zeros((16, 12, 3), np.uint8), np.random.default_rng(0)).shape
        (4, 4, 3)
    """

    # Height and width of the result, in pixels.
    size: int = 224
    # Bounds of the window's share of the image's area. The share is drawn uniformly between them.
    area: tuple[float, float] = (0.08, 1.0)
    # Bounds of width / height. Its logarithm is drawn uniformly between the logarithms of the bounds.
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(
        self, image: "Real[np.ndarray, 'H W C']", rng: np.random.Generator
    ) -> "Real[np.ndarray, 'size size C']":
        top, left, height, width = self.window(image.shape[0], image.shape[1], rng)
        return bilinear(image[top : top + height, left : left + width], self.size, self.size)

    def window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a random window in an image of height x width."""
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
    """Add a random color to all pixels of an image, as a change of light would.

    The color is `255 sum_i RGB_AXES[c, i] RGB_DEVIATIONS[i] a_i` in channel c, with a_i normal of mean 0 and deviation std. The
    result is rounded (halves to even) and clipped to 0..255, so that images stay uint8.

    Raises:
        ValueError: std is negative or NaN. A call raises ValueError for an image that is not uint8 RGB.

    Source: AlexNet (Krizhevsky et al. 2012) section 4.1 with the numbers of fb.resnet.torch, which adds the color to floats and
    neither rounds nor clips. The published code of Bi-Real Net applies it with std 0.1, after the crop and before the flip.

    Example:
        >>> from bnn_jax import data
        >>> data.lighting(std=0.0)(np.full((1, 1, 3), 7, np.uint8), np.random.default_rng(0)).tolist()
        [[[7, 7, 7]]]
    """

    # Standard deviation of a_i.
    std: float = 0.1

    def __post_init__(self):
        if not self.std >= 0:
            raise ValueError(f'lighting: got std {self.std!r}, expected a standard deviation of at least 0')

    def __call__(self, image: "UInt8[np.ndarray, 'H W 3']", rng: np.random.Generator) -> "UInt8[np.ndarray, 'H W 3']":
        drawn = rng.normal(0, self.std, 3)
        color = 255 * np.asarray(RGB_AXES) @ (np.asarray(RGB_DEVIATIONS) * drawn)
        return np.clip(np.rint(_checked(image, 3, '') + color), 0, 255).astype(np.uint8)


def _checked(
    image: np.ndarray,
    channels: int | None,
    for_floats: str = '; for float images use standardize=bnn_jax.data.Unchanged()',
) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or channels not in (None, image.shape[-1]):
        expected = 'C' if channels is None else channels
        remedy = for_floats if np.issubdtype(image.dtype, np.floating) else ''
        raise ValueError(f'image: got {image.dtype}{list(image.shape)}, expected uint8 (H, W, {expected}){remedy}')
    return image.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Standardize:
    """Normalize each channel: (image / 255 - mean) / std, float32.

    Example:
        >>> from bnn_jax import data
        >>> data.Standardize((0.5,), (0.25,))(np.array([[[255]]], np.uint8)).tolist()
        [[[2.0]]]
    """

    # For each channel, of images in 0..1.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: "UInt8[np.ndarray, 'H W C']") -> "Float32[np.ndarray, 'H W C']":
        scaled = _checked(image, len(self.mean)) / np.float32(255)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


@dataclasses.dataclass(frozen=True)
class SubtractMean:
    """Subtract the mean of each channel: image - 255 mean, float32.

    The PyTorch code of XNOR-Net does the same for AlexNet: it standardizes with a standard deviation of 1/255.

    Example:
        >>> from bnn_jax import data
        >>> data.SubtractMean((0.2,))(np.array([[[255]]], np.uint8)).tolist()
        [[[204.0]]]
    """

    # For each channel, of images in 0..1.
    mean: tuple[float, ...] = IMAGENET_MEAN

    def __call__(self, image: "UInt8[np.ndarray, 'H W C']") -> "Float32[np.ndarray, 'H W C']":
        return _checked(image, len(self.mean)) - np.asarray([255 * m for m in self.mean], np.float32)


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """Keep the numbers of a floating image, as float32. Use it for arrays that are scaled already or are not photographs.

    Example:
        >>> from bnn_jax import data
        >>> data.Unchanged()(np.array([[[0.25]]])).tolist()
        [[[0.25]]]
    """

    def __call__(self, image: "Float[np.ndarray, 'H W C']") -> "Float32[np.ndarray, 'H W C']":
        image = np.asarray(image)
        if image.ndim != 3 or not np.issubdtype(image.dtype, np.floating):
            raise ValueError(
                f'image: got {image.dtype}{list(image.shape)}, expected floating (H, W, C); '
                'for uint8 use PlusMinusOne() or Standardize(mean, std)'
            )
        return image.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PlusMinusOne:
    """Scale to [-1, 1]: image / 127.5 - 1, float32, for any number of channels.

    Example:
        >>> from bnn_jax import data
        >>> data.PlusMinusOne()(np.array([[[0], [255]]], np.uint8)).tolist()
        [[[-1.0], [1.0]]]
    """

    def __call__(self, image: "UInt8[np.ndarray, 'H W C']") -> "Float32[np.ndarray, 'H W C']":
        return _checked(image, None) / np.float32(127.5) - np.float32(1)
