"""What each of XNOR-Net's training choices is worth: one small network, one change at a time, three seeds each.

    python -m experiments.ablation --data_dir=FOLDER
    python -m experiments.ablation --table

The first command trains the runs that are not finished, each in WORKDIR/VARIANT-SEED. You can stop it anywhere; started
again, it resumes and gives the same results. The second command prints the finished runs as Markdown and draws
docs/ablation.png.

Network: VGG-small at an eighth of its width; Adam from 1e-2 with cosine decay to 0, batch 100, a few epochs.

Data: the first 20,000 training images of CIFAR-10 and all 10,000 test images, without augmentation. FOLDER holds CIFAR-10
as TFDS prepares it.

The base is `schemes.XNOR`. `VARIANTS` names the other variants, what each changes, and where the choice comes from:
- `relu` also changes the head: that of XNOR has a ReLU of its own, so the output of the last block would be rectified twice.
- `faster_unclipped` is to be compared with `faster`: at the base's learning rate no latent weight reaches the clip.
- `bnn` and `float`, at the end, change more than one thing. They are there for orientation.
- `alpha_constant` is a control. The next normalization removes a filter's scale, up to its epsilon, so the gradient through
  alpha is nearly 0. This variant differs from the base only by chance.

Limits: the network is small and its training is short, so a result shows what a choice does to a few hundred steps. A
choice that slows the start but wins at the end looks bad here. Accuracies are far below those of a full run. The learning
rate was not tuned for any variant. A difference that is shown holds for this network and this recipe. A difference that is
not shown may still exist.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean
from types import MappingProxyType

import optax

from bnn_jax import BNN, FLOAT, XNOR
from bnn_jax.data import ArraySource, tfds_source
from bnn_jax.files import write
from bnn_jax.models import vgg_small
from bnn_jax.optim.parameter_groups import by_kind, latent_weights
from bnn_jax.quantizers import scaled_sign_paper, scaled_sign_ste_const_alpha, sign_approx
from bnn_jax.quantizers.published import scaled_sign_identity
from bnn_jax.schemes import Scheme, constant_k, flowing_k, norm_pool_product, norm_product_relu_pool
from bnn_jax.schemes.projections import center, clip
from bnn_jax.training import Config, NonFiniteLoss, experiment, named
from bnn_jax.training.memory import allocate_for_training
from experiments import run_command
from experiments.cifar10 import STANDARD
from experiments.shared import others

IMAGES, EPOCHS, WIDTH = 20_000, 2, 0.125


@named('ablation.images')
@cache
def source(images: int, split: str, data_dir: str) -> ArraySource:
    """CIFAR-10, decoded once for all runs: the first training images, or all test images."""
    return tfds_source('cifar10', f'train[:{images}]' if split == 'train' else split, data_dir).in_memory()


def latents_by(latents: optax.GradientTransformation, schedule) -> optax.GradientTransformation:
    """The optimizer `latents` for latent weights, Adam for all other parameters."""
    return by_kind({latent_weights: latents, others: optax.adam(schedule)})


@named('ablation.l2')
def l2(decay: float, schedule) -> optax.GradientTransformation:
    """L2 for latent weights: Adam gets the sum of the gradient and `decay` times the weight."""
    return latents_by(optax.chain(optax.add_decayed_weights(decay), optax.adam(schedule)), schedule)


@named('ablation.decoupled')
def decoupled(decay: float, schedule) -> optax.GradientTransformation:
    """AdamW for latent weights: each step also shrinks them by the rate times decay."""
    return latents_by(optax.adamw(schedule, weight_decay=decay), schedule)


@named('ablation.faster')
def faster(factor: float, schedule) -> optax.GradientTransformation:
    """For latent weights Adam at factor times the rate."""
    return latents_by(optax.adam(lambda step: factor * schedule(step)), schedule)


def config(scheme: Scheme = XNOR, optimizer=optax.adam, learning_rate: float = 1e-2) -> Config:
    """The recipe with this scheme and optimizer."""
    return Config(
        model=partial(vgg_small, 10, scheme=scheme),
        data=partial(source, IMAGES),
        standardize=STANDARD,
        optimizer=optimizer,
        epochs=EPOCHS,
        batch_size=100,
        learning_rate=learning_rate,
        width=WIDTH,
        watch_every=0,
    )


def xnor(**changes) -> Config:
    """The recipe with a variant of XNOR: `changes` are new values for fields of the scheme."""
    return config(dataclasses.replace(XNOR, **changes))


BASE = 'base'
VARIANTS = {
    BASE: (
        'XNOR: exact gradient, centered and clipped after the update, no K, no ReLU after binary products, pad 0, STE, '
        'momentum 0.9',
        config(),
    ),
    'alpha_constant': ("gradient: alpha a constant (Bi-Real Net's paper)", xnor(weight=scaled_sign_ste_const_alpha)),
    'gradient_paper': ("gradient: as in the paper's text", xnor(weight=scaled_sign_paper)),
    'gradient_identity': (
        "gradient: g everywhere, without a mask (the paper's Algorithm 1)",
        xnor(weight=scaled_sign_identity),
    ),
    'clip_only': ('clipped, not centered (BinaryConnect, Theano code)', xnor(projection=clip)),
    'centre_only': (
        'centered, not clipped (equal to the base in every step: no weight reaches the clip)',
        xnor(projection=center),
    ),
    'no_projection': ('neither centered nor clipped (the paper)', xnor(projection=None)),
    'k_constant': ('K without a gradient (eq. 11; Caffe code)', xnor(input_scale=constant_k)),
    'k_flowing': ('K with its gradient (Theano code)', xnor(input_scale=flowing_k)),
    'pad_plus': ('binary convolutions padded with +1', xnor(pad_value=1)),
    'pad_minus': ('binary convolutions padded with -1', xnor(pad_value=-1)),
    'relu': (
        'ReLU after binary products, none before the last layer (PyTorch code)',
        xnor(chain=norm_product_relu_pool, head=norm_pool_product),
    ),
    'sign_approx': ('sign with the gradient of ApproxSign (Bi-Real Net)', xnor(activation=sign_approx)),
    'l2': ('L2 of 1e-4 in the gradient of latent weights (PyTorch: 1e-5)', config(optimizer=partial(l2, 1e-4))),
    'decoupled': ('latent weights shrunk by 0.1 x rate a step (AdamW)', config(optimizer=partial(decoupled, 0.1))),
    'momentum_0.99': ('running statistics with momentum 0.99 (Darknet)', xnor(momentum=0.99)),
    'momentum_0.5': ('running statistics with momentum 0.5', xnor(momentum=0.5)),
    'faster': ('latent weights at ten times the rate, so that clipping acts', config(optimizer=partial(faster, 10))),
    'faster_unclipped': (
        'the same, centered, not clipped',
        config(dataclasses.replace(XNOR, projection=center), partial(faster, 10)),
    ),
    'bnn': ('all layers binary, no alpha, BinaryNet', config(BNN)),
    'float': ('real weights and activations, learning rate 1e-3', config(FLOAT, learning_rate=1e-3)),
}
"""Name -> the difference from the base in words, and the config."""

DIVERGED = 'diverged.txt'
"""The file in the folder of a diverged run that says why it has no results."""


def train(name: str, config: Config) -> None:
    """Run a variant that was not run before; note a divergence in DIVERGED. Raises ValueError for results of another config."""
    path = Path(config.workdir) / 'results.json'
    if path.exists():
        there, wanted = json.loads(path.read_text())['config'], config.decisive()
        if other := [field for field in wanted if there.get(field) != wanted[field]]:
            raise ValueError(f'{path} is of a run with another {other[0]}; choose another --workdir')
        print(f'{config.workdir}: finished before')
        return
    diverged = Path(config.workdir) / DIVERGED
    if diverged.exists():
        print(f'{config.workdir}: {diverged.read_text()}')
        return
    try:
        results = experiment.run(name, config)
        print(f'{config.workdir}: {results["test_accuracy"]:.2%} in {results["train_seconds"]:.0f} s', flush=True)
    except NonFiniteLoss as error:
        write(diverged, str(error))
        print(f'{config.workdir}: {error}', flush=True)


def results(workdir: Path) -> dict[str, list[float]]:
    """Test accuracies of the finished runs, in points, by variant.

    Raises ValueError if no run of the base is finished, if the runs differ in data, epochs or width, or if a run has another
    config than its variant in this file.
    """
    found = {name: sorted(workdir.glob(f'{name}-*/results.json')) for name in VARIANTS}
    runs = {name: [json.loads(path.read_text()) for path in paths] for name, paths in found.items() if paths}
    if BASE not in runs:
        raise ValueError(f'{workdir} has no finished run of {BASE}, expected at least one; start it without --table')
    same = ('data', 'epochs', 'width')
    for name, group in runs.items():
        wanted = {k: v for k, v in VARIANTS[name][1].decisive().items() if k not in (*same, 'seed')}
        if other := [k for run in group for k in wanted if run['config'].get(k) != wanted[k]]:
            raise ValueError(f'{workdir} has a run of {name} with another {other[0]}; delete it and train it again')
    recipes = {json.dumps([run['config'][name] for name in same]) for group in runs.values() for run in group}
    if len(recipes) > 1:
        raise ValueError(f'{workdir} has runs that differ in {", ".join(same)}; expected one recipe for all')
    return {name: [100 * run['test_accuracy'] for run in group] for name, group in runs.items()}


def markdown(found: dict[str, list[float]], diverged: Mapping[str, int] = MappingProxyType({})) -> str:
    """The table of results as Markdown. `diverged`: how many runs of each variant diverged and so have no accuracy.

    A variant is beyond the spread if its mean differs from the base's by more than the larger of their two ranges. With one
    seed there is no range. A simulation, with three normally distributed accuracies for each variant, shows how often this rule
    is wrong. If nothing differs, 5% of the comparisons are beyond the spread; in more than a third of the tables with 19
    variants and a base, at least one is. A true difference of two standard deviations is missed more often than not, a
    difference of three standard deviations in a quarter of the cases.
    """
    columns = ('variant', 'what', 'seeds', 'mean, %', 'smallest to largest', 'difference', 'beyond the spread')
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    base = found[BASE]
    for name, values in found.items():
        difference, spread = mean(values) - mean(base), max(max(group) - min(group) for group in (values, base))
        lost = f' and {diverged[name]} diverged' if diverged.get(name) else ''
        cells = [f'`{name}`', VARIANTS[name][0], f'{len(values)}{lost}', f'{mean(values):.2f}']
        cells += [f'{min(values):.2f} to {max(values):.2f}', '' if name == BASE else f'{difference:+.2f}']
        told = name != BASE and min(len(values), len(base)) > 1
        cells += [('yes' if abs(difference) > spread else 'no') if told else '']
        lines.append(f'| {" | ".join(cells)} |')
    for name in [name for name in diverged if name not in found]:
        lines.append(f'| `{name}` | {VARIANTS[name][0]} | {diverged[name]} diverged | | | | |')
    return '\n'.join(lines)


def draw(found: dict[str, list[float]], path: Path) -> None:
    """Draw one dot for each seed and a bar at the mean; shade the range of the base."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.27 * len(found)), layout='constrained')
    axes = figure.subplots()
    axes.axvspan(min(found[BASE]), max(found[BASE]), color='C0', alpha=0.2, label='range of the base')
    for row, values in enumerate(found.values()):
        axes.plot(values, [row] * len(values), 'o', color='C0', markersize=4)
        axes.plot([mean(values)], [row], '|', color='k', markersize=12)
    axes.set(yticks=range(len(found)), yticklabels=list(found), xlabel='test accuracy, %')
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(
    data_dir: str = '~/tensorflow_datasets',
    workdir: Path = Path('runs/ablation'),
    variants: tuple[str, ...] = tuple(VARIANTS),
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: int = EPOCHS,
    images: int = IMAGES,
    width: float = WIDTH,
    table: bool = False,
) -> None:
    """Train what is not finished, or show what is.

    Args:
        data_dir: folder in which TFDS prepared cifar10.
        workdir: folder of all runs.
        variants: names of the variants to train; all by default.
        seeds: seeds of every variant.
        epochs: passes over the training images; fewer for a trial.
        images: number of training images; fewer for a trial.
        width: factor on the architecture's filters; smaller for a trial.
        table: train nothing; print the table of finished runs and draw docs/ablation.png.
    """
    if table:
        found = results(workdir)
        print(markdown(found, Counter(path.parent.name.rpartition('-')[0] for path in workdir.glob(f'*/{DIVERGED}'))))
        draw(found, Path('docs/ablation.png'))
        return
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f'variants: got {", ".join(unknown)}, expected some of {", ".join(VARIANTS)}')
    allocate_for_training()
    for seed in seeds:
        for name in variants:
            place = f'{workdir}/{name}-{seed}'
            shape = {'epochs': epochs, 'width': width, 'data': partial(source, images)}
            train(name, dataclasses.replace(VARIANTS[name][1], seed=seed, workdir=place, data_dir=data_dir, **shape))


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'ablation', __doc__, arguments)


if __name__ == '__main__':
    command()
