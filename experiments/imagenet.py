"""What the ImageNet rows share: data, recipes of XNOR-Net's paper, what a row costs.

--data_dir=FOLDER holds either FOLDER/imagenet2012, which TFDS prepared as ArrayRecord, or the folder trees
FOLDER/train/<synset>/*.JPEG and FOLDER/val/... (or validation); the run prints which of them it reads. For a machine with
few cores, scale the trees once (docs/augmentations.md); FOLDER/imagenet is then read instead:
`python -m bnn_jax.data.prepare_folder imagenet --source=FOLDER --data_dir=FOLDER`.

The paper (arXiv:1603.05279v4, p. 11-13) leaves open, and here is chosen, for all rows:
- Fall of the learning rate, AlexNet: "0.01 every 4 epochs" is read as tenfold after epochs 4, 8 and 12; a hundredfold
  would leave 1e-7 after epoch 12, where the published curves still jump. ResNet-18: tenfold after epochs 30 and 40, as
  the text says, though the curve jumps once more at epoch 53.
- Largest learning rate: 0.1 is the paper's. With Adam (XNOR, BNN) that is implausible; 1e-3 is the published codes'.
- Weight decay: none is given. Float rows take that of the code their network is from, binary rows none.
- Flipping: not mentioned; both published codes flip. Normalisation: mean and deviation of ImageNet's channels.
- Presets: XNOR and BWN are the paper's text (`presets.XNOR_PAPER`, `presets.BWN_PAPER`), BC and BNN the library's.
Falls are placed by share of the run: with other --epochs, they move along.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bnn_jax.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Source,
    Standardize,
    centre_crop,
    flip,
    folder_source,
    random_crop,
    resize_short,
    resize_short_between,
    tfds_source,
)
from bnn_jax.models import alexnet, extraction, resnet18
from bnn_jax.nn.variables import Latent
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config

IMAGES = 1_281_167
"""Training images of ILSVRC 2012."""

ALEXNET_MACS, RESNET18_MACS, EXTRACTION_MACS = 1_135_256_096, 1_814_073_344, 4_259_340_288
"""Multiply-adds of one image of 224 x 224 (AlexNet: also of 227 x 227 without padding)."""

PEAK, SHARE = 156e12, 0.2
"""Published TF32 peak of one NVIDIA A100, operations a second, and the share of it that `hours` assumes."""


def hours(epochs: float, macs: int) -> float:
    """Hours of training on one NVIDIA A100, computed, not measured: operations / (0.2 x 156e12 a second).

    An image costs 3 passes (forward, gradients of inputs and of weights) of 2 operations a multiply-add. Decoding must
    keep up, else it decides: `python -m experiments.bench_input`.
    """
    return epochs * IMAGES * macs * 3 * 2 / (SHARE * PEAK) / 3600


def source(split: str, data_dir: str) -> Source:
    """ImageNet's images, 'train' or 'test' (the 50,000 of validation), from what is in data_dir; prints which.

    Raises FileNotFoundError where data_dir holds neither a prepared set nor the folder train.
    """
    folder = Path(data_dir).expanduser()
    names = {'train': ('train',), 'test': ('validation', 'val')}[split]
    prepared = next((name for name in ('imagenet2012', 'imagenet') if (folder / name).is_dir()), None)
    if prepared:
        place = folder / prepared
        part = next((name for name in names if any(place.glob(f'*/*-{name}.array_record*'))), names[0])
        images = tfds_source(prepared, part, folder)
    elif (folder / 'train').is_dir():
        part = next((name for name in names if (folder / name).is_dir()), names[0])
        images, place = folder_source(folder, part), folder / part
    else:
        raise FileNotFoundError(
            f'{folder} has neither imagenet2012 (prepared by TFDS as ArrayRecord) nor train and val (folders of class '
            'folders); name the folder that has: --data_dir=FOLDER'
        )
    print(f'{split}: {len(images):,} images from {place}', file=sys.stderr)
    return images


@dataclasses.dataclass(frozen=True)
class Falls:
    """A learning rate that falls at the end of epochs: a Config's schedule.

    factors: (epoch, factor on the largest rate from there on), in order. epochs: those of the whole recipe; in a run of
    another length the falls are at the same shares of it.
    """

    epochs: int
    factors: tuple[tuple[int, float], ...]

    def __call__(self, learning_rate: float, steps: int) -> optax.Schedule:
        rates = [learning_rate, *(learning_rate * factor for _, factor in self.factors)]
        boundaries = [steps * epoch // self.epochs for epoch, _ in self.factors]
        return optax.join_schedules([optax.constant_schedule(rate) for rate in rates], boundaries)


def polynomial(learning_rate: float, steps: int) -> optax.Schedule:
    """learning_rate (1 - step / steps)^4."""
    return optax.polynomial_schedule(learning_rate, 0.0, power=4, transition_steps=steps)


def sgd(schedule: optax.Schedule, decay: float = 0.0) -> optax.GradientTransformation:
    """SGD with momentum 0.9; decay: L2, added to the gradient."""
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9))


def adam(schedule: optax.Schedule, decay: float = 0.0) -> optax.GradientTransformation:
    """Adam; decay: L2, added to the gradient (not decoupled)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.adam(schedule))


def l2_except_latent(decay: float) -> optax.GradientTransformation:
    """L2, added to the gradient, of every parameter but latent weights.

    The loss of a binary layer depends on the signs and the scale of its latent weights. Their gradient is small (it carries
    alpha), so that L2 would shrink alpha, the gradient with it, and Adam would enlarge what is left: signs flip at random.
    """

    def mask(params):
        return jax.tree.map(lambda v: not isinstance(v, Latent), params, is_leaf=lambda v: isinstance(v, nnx.Variable))

    return optax.add_decayed_weights(decay, mask=mask)


def lua_decay(schedule: optax.Schedule) -> optax.GradientTransformation:
    """The Lua code's L2: 5e-4 during the first two learning rates (1 and 1/2 of the largest), then none."""
    largest = jnp.asarray(schedule(0))
    return optax.add_decayed_weights(lambda count: jnp.where(jnp.asarray(schedule(count)) > 0.3 * largest, 5e-4, 0.0))


LUA_FALLS = Falls(55, ((18, 0.5), (29, 0.1), (43, 0.05), (52, 0.01)))
"""The Lua code's falls, both of BWN (from 1e-2) and of XNOR (from 1e-3)."""

STANDARD = Standardize(IMAGENET_MEAN, IMAGENET_STD)
CROPPED, CENTRE = (resize_short(256), random_crop(224), flip), (resize_short(256), centre_crop(224))

row = partial(
    Config, data=source, standardize=STANDARD, augmentations=CROPPED, evaluation_augmentations=CENTRE, workers=8
)
"""A Config on ImageNet, short side 256, random crops of 224 for training and the central one for evaluation."""


def alexnet_row(scheme: Scheme, *, learning_rate: float = 0.1, optimizer=sgd, anchors: tuple = ()) -> Config:
    """AlexNet by the paper's recipe: 16 epochs, batch 512, rate falling tenfold every 4 epochs."""
    return row(
        model=partial(alexnet, 1000, scheme=scheme),
        optimizer=optimizer,
        schedule=Falls(16, ((4, 0.1), (8, 0.01), (12, 0.001))),
        epochs=16,
        batch_size=512,
        learning_rate=learning_rate,
        anchors=anchors,
    )


def resnet18_row(scheme: Scheme, *, learning_rate: float = 0.1, optimizer=sgd, anchors: tuple = ()) -> Config:
    """ResNet-18 by the paper's recipe: 58 epochs, batch 256, short side of 256 to 480, falls after epochs 30 and 40."""
    return row(
        model=partial(resnet18, 1000, scheme=scheme),
        augmentations=(resize_short_between(256, 480), random_crop(224), flip),
        optimizer=optimizer,
        schedule=Falls(58, ((30, 0.1), (40, 0.01))),
        epochs=58,
        batch_size=256,
        learning_rate=learning_rate,
        anchors=anchors,
    )


def extraction_row(scheme: Scheme, *, optimizer=sgd) -> Config:
    """The GoogLeNet variant by the paper's recipe: 80 epochs, batch 128, short side of 256 to 320, polynomial rate."""
    return row(
        model=partial(extraction, 1000, scheme=scheme),
        augmentations=(resize_short_between(256, 320), random_crop(224), flip),
        optimizer=optimizer,
        schedule=polynomial,
        epochs=80,
        batch_size=128,
        learning_rate=0.1,
    )
