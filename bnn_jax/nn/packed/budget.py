"""Checks that the layers of a packed network fit each other and the images, and that no map is too large.

Without these checks, a small file could ask for terabytes of memory. Real networks stay far below the bounds.
"""

from typing import Any

from bnn_jax.ops.shapes import as_map, merged, numbers, text

# The largest number of elements in a padded map, divided by the elements of the image plus the bytes of the tensors.
LARGEST_MAP = 256
# The same for all maps together.
ALL_MAPS = 4096


def expect_within(network: Any, shape: tuple[Any, ...]) -> None:
    """Checks that the network turns an image into logits, and that no map exceeds the bounds.

    Args:
        network: a `PackedNetwork`.
        shape: the shape of the image, (H, W, C). An unknown number is None or a symbol of an export; the sizes of
            maps are then not checked.

    Raises:
        ValueError: the image or a layer does not fit, the output is not num_classes logits, or a map is too large.
    """
    known = tuple(n if isinstance(n, int) else None for n in shape)
    as_map('images', known, network.channels)
    image = numbers(known)
    total, last, explained = 0, known, 0 if image is None else image + network.stored_bytes()
    for last in network.maps(known):
        count = numbers(last)
        if image is None or count is None:
            continue
        total += count
        if count > LARGEST_MAP * explained or total > ALL_MAPS * explained:
            raise ValueError(
                f'map: got shape {text(last)}, {total:,} numbers in all maps so far, expected at most '
                f'{LARGEST_MAP * explained:,} in a map and {ALL_MAPS * explained:,} in all ({LARGEST_MAP} and {ALL_MAPS} times '
                f'{explained:,}, the numbers of the image plus the bytes of the tensors)'
            )
    merged('logits', last, (network.num_classes,))
