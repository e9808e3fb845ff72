"""How a photograph is prepared for a network, as a value that the network's file can hold."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from bnn_jax.data.augmentations import (
    Augmentation,
    Normalization,
    PlusMinusOne,
    Standardize,
    SubtractMean,
    center_crop,
    resize_short,
    resize_to,
)
from bnn_jax.data.images import decode
from bnn_jax.files.bounds import Integer, Number, at, shown

if TYPE_CHECKING:
    from jaxtyping import Float32

# Name in files -> class. A name in files stays the same if the class is renamed.
_STEPS = {'resize_short': resize_short, 'resize_to': resize_to, 'centre_crop': center_crop}
_NORMALIZATIONS = {'Standardize': Standardize, 'SubtractMean': SubtractMean, 'PlusMinusOne': PlusMinusOne}
_NAMES = {kind: name for name, kind in (_STEPS | _NORMALIZATIONS).items()}

SIDE, NUMBER, MOST_STEPS = Integer(1, 2**13), Number(), 16
"""The rule for a side of an image in pixels, the rule for a number of a normalization, and the largest number of steps."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Prepares an image file as evaluation does: (bytes, name) -> float32 (H, W, C), decoded, scaled, cropped and normalized.

    Raises:
        ValueError: the shape, a step or the normalization is not allowed. A call raises CorruptImage, a ValueError, for bytes
            that are not an image, and ValueError for a size that does not fit.

    Example:
        >>> from bnn_jax import data
        >>> preprocessing = Preprocessing((28, 28, 1), data.PlusMinusOne())
        >>> preprocessing.described()['normalisation']
        {'kind': 'PlusMinusOne'}
    """

    # (H, W, C) after the steps. Without steps, `resize_to` scales each image to it; with steps, any other result is refused.
    input_shape: tuple[int, int, int]
    # `Standardize`, `SubtractMean` or `PlusMinusOne`.
    normalization: Normalization
    # `resize_short`, `resize_to` and `center_crop`, in order.
    steps: tuple[Augmentation, ...] = ()
    # A name for each class, or ().
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        shape = self.input_shape
        whole = len(shape) == 3 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
        if not whole or shape[2] not in (1, 3):
            raise ValueError(f'input_shape: got {shown(shape)}, expected (height, width, 1 or 3 channels)')
        with at('input_shape'):
            tuple(map(SIDE, shape))
        if len(self.steps) > MOST_STEPS:
            raise ValueError(f'preprocessing: got {len(self.steps)} steps, expected {MOST_STEPS} at most')
        for part, kinds in (*((step, _STEPS) for step in self.steps), (self.normalization, _NORMALIZATIONS)):
            if type(part) not in kinds.values():
                names = ', '.join(kind.__name__ for kind in kinds.values())
                raise ValueError(f'preprocessing: got {part!r}, expected one of {names}')
            _check_numbers(part)
        with np.errstate(all='ignore'):
            normal = self.normalization(np.zeros((1, 1, shape[2]), np.uint8))
        if not np.isfinite(normal).all():
            raise ValueError(f'preprocessing: {self.normalization} gives numbers that are not finite')

    def __call__(self, data: bytes, name: str) -> "Float32[np.ndarray, 'H W C']":
        image = decode(data, name, self.input_shape[2])
        try:
            for step in self.steps or (resize_to(*self.input_shape[:2]),):
                image = step(image, _NO_RANDOMNESS)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        if image.shape != self.input_shape:
            height, width = image.shape[:2]
            raise ValueError(
                f'{name}: {height} x {width} pixels after its preprocessing, expected {self.input_shape[0]} x '
                f'{self.input_shape[1]}; resize it, or state another preprocessing, with a resize_to for example'
            )
        return self.normalization(image)

    def described(self) -> dict[str, Any]:
        """The JSON value that `of` reads; docs/format.md has the fields."""
        return {
            'input_shape': list(self.input_shape),
            'steps': [_described(step) for step in self.steps],
            'normalisation': _described(self.normalization),
            'classes': list(self.classes),
        }

    @staticmethod
    def of(described: dict[str, Any]) -> 'Preprocessing':
        """The preprocessing that a JSON value describes. Raises ValueError if it describes none."""
        try:
            return Preprocessing(
                input_shape=tuple(described['input_shape']),
                steps=tuple(_built(step, _STEPS) for step in described.get('steps', ())),
                normalization=_built(described['normalisation'], _NORMALIZATIONS),
                classes=tuple(map(str, described.get('classes', ()))),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'preprocessing: got {shown(described)} ({type(error).__name__}: {error}), expected input_shape, steps, '
                'normalisation and classes as in docs/format.md'
            ) from error


_NO_RANDOMNESS: Any = None


def _described(part) -> dict[str, Any]:
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {'kind': _NAMES[type(part)]} | {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _built(described: dict[str, Any], kinds: dict[str, Any]):
    fields = dict(described)
    kind = fields.pop('kind')
    if kind not in kinds:
        raise ValueError(f'preprocessing: got {shown(kind)}, expected one of {", ".join(kinds)}')
    return kinds[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def _check_numbers(part) -> None:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        with at(f'preprocessing: {type(part).__name__}.{field.name}'):
            if isinstance(value, tuple):
                tuple(map(NUMBER, value))
            else:
                SIDE(value)
