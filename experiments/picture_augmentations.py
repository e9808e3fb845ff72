"""The picture of docs/augmentations.md: all augmentations but cutout on one photograph, all panels on one scale.

    python -m experiments.picture_augmentations docs/augmentations.png

The photograph is scikit-learn's china.jpg, by danielbuechele (CC BY 2.0).
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from bnn_jax.data import (
    center_crop,
    crop,
    flip,
    inception_crop,
    lighting,
    random_crop,
    resize_short,
    resize_short_between,
    resize_to,
)
from experiments import run_command

PANELS: list[tuple[str, tuple[Callable, ...], int]] = [
    ('the photograph', (), 0),
    ('resize_short(256)', (resize_short(256),), 0),
    ('resize_short_between(256, 480)', (resize_short_between(256, 480),), 0),
    ('... drawn again', (resize_short_between(256, 480),), 1),
    ('resize_to(256, 256)', (resize_to(256, 256),), 0),
    ('resize_short(256), center_crop(224)', (resize_short(256), center_crop(224)), 0),
    ('resize_short(256), random_crop(224)', (resize_short(256), random_crop(224)), 0),
    ('... drawn again', (resize_short(256), random_crop(224)), 1),
    ('resize_to(256, 256), random_crop(227)', (resize_to(256, 256), random_crop(227)), 0),
    ('inception_crop(224)', (inception_crop(224),), 0),
    ('... drawn again', (inception_crop(224),), 1),
    ('... drawn again', (inception_crop(224),), 2),
    ('resize_short(256), flip', (resize_short(256), flip), 2),
    ('center_crop(224), crop(padding=40)', (center_crop(224), crop(40)), 0),
    ('resize_short(256), lighting(0.1)', (resize_short(256), lighting(0.1)), 13),
    ('resize_short(256), lighting(1)', (resize_short(256), lighting(1)), 13),
]
"""Title, augmentations, seed."""

COLUMNS = 4


def picture() -> Image.Image:
    """The panels, in a palette of 128 colors."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_sample_image

    photo, images = load_sample_image('china.jpg'), []
    for _, augmentations, seed in PANELS:
        image, rng = photo, np.random.default_rng(seed)
        for augmentation in augmentations:
            image = augmentation(image, rng)
        images.append(image)
    width = max(image.shape[1] for image in images)
    heights = [
        max(image.shape[0] for image in images[first : first + COLUMNS]) for first in range(0, len(images), COLUMNS)
    ]
    size = (9.6, 2.4 * sum(heights) / width + 0.4 * len(heights))
    figure, axes = plt.subplots(
        len(heights), COLUMNS, figsize=size, dpi=100, layout='constrained', height_ratios=heights
    )
    for axis in axes.flat:
        axis.axis('off')
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation='antialiased')
        axis.set(xlim=(0, width), ylim=(heights[i // COLUMNS], 0))
        axis.set_title(f'{PANELS[i][0]}\n{image.shape[0]} x {image.shape[1]}', fontsize=7, loc='left')
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    plt.close(figure)
    return Image.open(buffer).convert('RGB').quantize(128)


def main(path: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the picture.

    Args:
        path: PNG file to write.
    """
    picture().save(path, optimize=True)
    print(f'{path}: {path.stat().st_size:,} bytes')


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'picture_augmentations', __doc__, arguments)


if __name__ == '__main__':
    command()
