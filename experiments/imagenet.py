"""What the ImageNet recipes share: data, the recipes of XNOR-Net's paper, the cost of a row.

--data_dir=FOLDER holds either FOLDER/imagenet2012, which TFDS prepared as ArrayRecord, or the folder trees
FOLDER/train/<synset>/*.JPEG and FOLDER/val/... (or validation). The run prints which of them it reads. On a machine with
few cores, make the images smaller once (docs/augmentations.md):

    python -m bnn_jax.data.prepare_folder imagenet --source=FOLDER --data_dir=FOLDER

The run then reads FOLDER/imagenet, unless there is a FOLDER/imagenet2012. imagenet_resnet18 needs --short_side=480 here, and
imagenet_extraction --short_side=320.

The paper (arXiv:1603.05279v4, p. 11-13) leaves these choices open. The rows that follow the paper choose:
- Fall of the learning rate, AlexNet: "0.01 every 4 epochs" is read as division by 10 after epochs 4, 8 and 12. Division by
  100 would leave 1e-7 after epoch 12, where the published curves still jump. ResNet-18: division by 10 after epochs 30 and
  40, as in the text, although the curve also jumps at epoch 53.
- Largest learning rate: the paper gives 0.1. With Adam (XNOR, BNN) that is implausible, so these rows have the 1e-3 of the
  published codes.
- Weight decay: the paper gives none. Float rows take that of the code from which their network comes, binary rows take
  none.
- Flipping: the paper does not mention it; both published codes flip. Normalization: mean and deviation of ImageNet's
  channels.
- Presets: XNOR_PAPER and BWN_PAPER follow the paper's text. BC and BNN are the library's schemes.

The rate falls at fixed fractions of the run, so other --epochs move the falls.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from bnn_jax.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Source,
    Standardize,
    center_crop,
    flip,
    folder_source,
    random_crop,
    resize_short,
    tfds_source,
)
from bnn_jax.schemes import Scheme
from bnn_jax.training import Config, named
from experiments import print_help
from experiments.shared import adam, sgd

IMAGES = 1_281_167
"""Training images of ILSVRC 2012."""

ALEXNET_MACS, RESNET18_MACS, EXTRACTION_MACS = 1_135_256_096, 1_814_073_344, 4_259_340_288
"""Multiply-adds of one image of 224 x 224 (AlexNet: also of 227 x 227 without padding)."""

PEAK, SHARE = 156e12, 0.2
"""Published TF32 peak of one NVIDIA A100, operations a second, and the share of it that `hours` assumes."""


def hours(epochs: float, macs: int) -> float:
    """Hours of training on one NVIDIA A100, computed, not measured: operations / (0.2 x 156e12 a second).

    An image costs 3 passes (forward, gradients of inputs and of weights) of 2 operations a multiply-add. This holds if
    decoding keeps up, which `python -m benchmarks.input` measures.
    """
    return epochs * IMAGES * macs * 3 * 2 / (SHARE * PEAK) / 3600


@named('imagenet.images')
def source(split: str, data_dir: str) -> Source:
    """ImageNet's images, 'train' or 'test' (the 50,000 of validation), from what is in data_dir; prints which.

    Raises FileNotFoundError if data_dir holds neither a prepared set nor the folder train.
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
            'folders); give the folder that has one of them as --data_dir=FOLDER'
        )
    print(f'{split}: {len(images):,} images from {place}', file=sys.stderr)
    return images


STANDARD = Standardize(IMAGENET_MEAN, IMAGENET_STD)
CROPPED, CENTER = (resize_short(256), random_crop(224), flip), (resize_short(256), center_crop(224))

row = partial(
    Config, data=source, standardize=STANDARD, augmentations=CROPPED, evaluation_augmentations=CENTER, workers=8
)
"""A Config on ImageNet, short side 256, random crops of 224 for training and the central one for evaluation."""


def optimizer_of(scheme: Scheme, *, decay: float = 0.0) -> dict[str, Any]:
    """`optimizer` and `learning_rate` of a Config: Adam from 1e-3 for binary activations, else SGD (momentum 0.9) from 0.1.

    Args:
        scheme: what is trained.
        decay: L2 for a float network; none for binary ones.
    """
    if scheme.activation is not None:
        return {'optimizer': adam, 'learning_rate': 1e-3}
    return {'optimizer': partial(sgd, decay=decay) if scheme.weight is None and decay else sgd, 'learning_rate': 0.1}


if __name__ == '__main__':
    print_help(__doc__)
