"""Types for a window along height and width."""

# (height, width).
Pair = tuple[int, int]
# ((top, bottom), (left, right)).
Pads = tuple[Pair, Pair]
