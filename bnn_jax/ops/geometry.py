"""Types of what a window does along height and width."""

# (height, width).
Pair = tuple[int, int]
# ((top, bottom), (left, right)).
Pads = tuple[Pair, Pair]
