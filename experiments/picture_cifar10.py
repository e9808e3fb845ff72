"""The plot of docs/accuracy_and_bytes.md: published CIFAR-10 accuracies and ours, against packed bytes.

    python -m experiments.picture_cifar10 docs/cifar10_bytes.png

The bytes are those of the network of a recipe here, packed. Codes that train the same network under another method may store
a few more or fewer numbers for each filter.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from flax import nnx

import bnn_jax as bnn
from experiments import recipes, run_command


class Point(NamedTuple):
    """One accuracy."""

    # Recipe and row of the network, whose packed bytes are drawn.
    recipe: str
    row: str
    # What the plot calls it.
    method: str
    # In percent, of the test images.
    accuracy: float
    # How far the label is moved to the right and up, in points.
    moved: tuple[float, float] = (7, -3)


# Published: IR-Net arXiv:1909.10788, RBNN arXiv:2009.13055, SiMaN arXiv:2102.07981, ReCU arXiv:2103.12369, AdaBin
# arXiv:2208.08084, BinaryNet arXiv:1602.02830, XNOR-Net-PyTorch (its README). ReCU, AdaBin and XNOR-Net-PyTorch report
# the best epoch on the test images, and IR-Net's code keeps the network of that epoch.
PUBLISHED = [
    Point('cifar10_resnet20', 'IRNET', 'IR-Net, RBNN', 86.5),
    Point('cifar10_resnet20', 'IRNET', 'SiMaN, ReCU', 87.4),
    Point('cifar10_resnet20', 'IRNET', '', 87.5),
    Point('cifar10_resnet20', 'IRNET', 'AdaBin', 88.1, (7, 2)),
    Point('cifar10_nin', 'XNOR_PYTORCH_CIFAR', 'XNOR-Net-PyTorch', 86.28),
    Point('cifar10_vgg_small_one_dense', 'IRNET', 'IR-Net', 90.4, (-35, -5)),
    Point('cifar10_vgg_small_one_dense', 'IRNET', 'RBNN', 91.3, (-35, -5)),
    Point('cifar10_vgg_small_one_dense', 'IRNET', 'ReCU, AdaBin, SiMaN', 92.2, (-103, 2)),
    Point('cifar10_vgg_small_one_dense', 'IRNET', '', 92.3),
    Point('cifar10_vgg_small_one_dense', 'IRNET', '', 92.5),
    Point('cifar10_resnet18', 'RECU', 'IR-Net', 91.5),
    Point('cifar10_resnet18', 'RECU', 'RBNN', 92.2),
    Point('cifar10_resnet18', 'RECU', 'SiMaN', 92.5, (7, -1)),
    Point('cifar10_resnet18', 'RECU', 'ReCU', 92.8, (7, 3)),
    Point('cifar10_vgg_small', 'BNN', 'BinaryNet', 89.85),
]
# experiments/README.md has the runs.
OURS = [
    Point('cifar10_resnet20', 'BIREAL', 'BIREAL, 100 epochs', 81.22),
    Point('cifar10_resnet20', 'BIREAL_L2', 'BIREAL_L2, 100 epochs', 83.67),
]
NETWORKS = {
    'cifar10_resnet20': 'ResNet-20',
    'cifar10_nin': 'NIN',
    'cifar10_vgg_small_one_dense': 'VGG-small',
    'cifar10_resnet18': 'ResNet-18',
    'cifar10_vgg_small': "BinaryNet's VGG-small",
}
"""Recipe -> the name of its network in the plot."""


@cache
def packed_bytes(recipe: str, row: str) -> int:
    """The bytes of the network of a row, packed."""
    model = recipes()[recipe].row(row).model
    return bnn.summarize(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))), (1, 32, 32, 3)).packed_bytes


def main(path: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the plot.

    Args:
        path: PNG file to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(8, 4.8), layout='constrained')
    axes = figure.subplots()
    for label, points, marker, color in (('published', PUBLISHED, 'o', '#7f7f7f'), ('here', OURS, '*', '#d62728')):
        sizes = [packed_bytes(point.recipe, point.row) for point in points]
        axes.scatter(sizes, [point.accuracy for point in points], marker=marker, s=70, color=color, label=label)
        for size, point in zip(sizes, points, strict=True):
            at = (size, point.accuracy)
            axes.annotate(point.method, at, xytext=point.moved, textcoords='offset points', fontsize=8)
        # The name of each network stands below its lowest point.
        lowest = {
            size: point for size, point in sorted(zip(sizes, points, strict=True), key=lambda pair: -pair[1].accuracy)
        }
        for size, point in lowest.items():
            name, at = NETWORKS[point.recipe], (size, point.accuracy)
            axes.annotate(
                name, at, xytext=(0, -18), textcoords='offset points', ha='center', fontsize=9, fontweight='bold'
            )
    axes.set_xscale('log')
    axes.set(xlim=(3.5e4, 4e6), ylim=(79.5, 93.5), xlabel='packed bytes', ylabel='test accuracy, %')
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes.grid(alpha=0.3, which='both')
    axes.legend(loc='lower right')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f'{path}: {path.stat().st_size:,} bytes')


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'picture_cifar10', __doc__, arguments)


if __name__ == '__main__':
    command()
