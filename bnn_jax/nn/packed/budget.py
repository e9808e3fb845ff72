"""Whether the layers of a packed network fit each other and its images, and how much they may make of one."""

from typing import Any

from bnn_jax.ops.shapes import as_map, merged, numbers, text

LARGEST_MAP = 256
"""Numbers of a map, the padding counted, for each number of the image and each byte of the tensors, at most."""
ALL_MAPS = 4096
"""Numbers of all maps together, likewise."""


def expect_within(network: Any, shape: tuple[Any, ...]) -> None:
    """Raises ValueError unless an image of this shape gives logits, of num_classes, and no map larger than a file explains.

    So that a small file asks for no terabytes; a real network stays far below these bounds.

    Args:
        network: a `PackedNetwork`.
        shape: (H, W, C); None, or a symbol of an export, for what is not known: that is checked where it is.
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
                f'a map of shape {text(last)}, {total:,} numbers with those before: expected at most {LARGEST_MAP} in a map '
                f'and {ALL_MAPS} in all for each of the {explained:,} numbers of the image and bytes of the tensors'
            )
    merged('logits', last, (network.num_classes,))
