"""Find by bisection where a predicate of an integer changes, for many channels at once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int32


def bisect(
    is_negative: Callable[[Int32[np.ndarray, ' channels']], Bool[np.ndarray, ' channels']], k: int, channels: int
) -> tuple[Int32[np.ndarray, ' channels'], Bool[np.ndarray, ' channels']]:
    """Write a predicate of an integer as one comparison in each channel.

    is_negative(a) == (a < thresholds) ^ flip for each integer a from -k to k.

    Args:
        is_negative: the predicate. In each channel it changes at most once as its integer goes from -k to k.
        k: the largest integer, below 2^30.
        channels: how many channels there are.

    Returns:
        thresholds from -k to k + 1, and flip. Where the predicate never changes, flip is False and the threshold lies at an
        end.

    Example:
        >>> import numpy as np
        >>> thresholds, flip = bisect(lambda a: np.array([a[0] < 3, a[1] >= -2]), 10, 2)
        >>> thresholds.tolist(), flip.tolist()
        ([3, -2], [False, True])
    """
    lowest, highest = (np.full(channels, end, np.int32) for end in (-k, k))
    at_lowest, at_highest = (np.asarray(is_negative(end)) for end in (lowest, highest))
    # A predicate that becomes true as the integer rises is the opposite of a comparison with `<`.
    flip = ~at_lowest & at_highest
    below, above = lowest, highest
    for _ in range(int(2 * k).bit_length()):  # This many halvings reduce the range to 1.
        middle = below + (above - below) // 2
        is_below = np.asarray(is_negative(middle)) != flip
        below, above = np.where(is_below, middle, below), np.where(is_below, above, middle)
    # Where the predicate never changes, the threshold k + 1 makes it true for each integer, and -k makes it false.
    constant = np.where(at_lowest, highest + 1, lowest)
    return np.where(at_lowest == at_highest, constant, above), flip
