"""Arithmetic without policy: bits, windows, convolution, pooling, normalization, sums in a fixed order."""
