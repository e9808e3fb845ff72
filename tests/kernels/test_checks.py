"""The checks of a convolution's `tap_sums`; test_kernels.py has those of the other operands."""

import numpy as np
import pytest

from bnn_jax.kernels import packed_conv2d


@pytest.mark.parametrize(
    ('tap_sums', 'error', 'message'),
    [
        (np.ones((3, 3, 5), np.float32), TypeError, 'tap_sums: got dtype float32, expected int32'),
        (np.ones((3, 3, 7), np.int32), ValueError, r'tap_sums: got shape \(3, 3, 7\), expected \(3, 3, 5\)'),
    ],
)
def test_tap_sums_that_do_not_fit(tap_sums, error, message):
    x_words, w_words = np.zeros((1, 4, 4, 2), np.uint32), np.zeros((3, 3, 2, 5), np.uint32)
    with pytest.raises(error, match=message):
        packed_conv2d(x_words, w_words, 33, tap_sums=tap_sums)
