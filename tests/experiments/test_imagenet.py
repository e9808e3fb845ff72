"""The ImageNet rows: each is what its source says, its training step traces, and its docstring tells what it costs."""

import dataclasses
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import bnn_jax as bnn
from bnn_jax.data import (
    Standardize,
    SubtractMean,
    center_crop,
    flip,
    random_crop,
    resize_short,
    resize_short_between,
    resize_to,
)
from bnn_jax.schemes import presets
from bnn_jax.training import Config
from bnn_jax.training.progress import Progress
from bnn_jax.training.results import deployed
from experiments import imagenet, imagenet_alexnet, imagenet_extraction, imagenet_resnet18, shared

ROOT = Path(__file__).parents[2]
STEPS = 58_000
"""The number of steps of a whole run, in these tests."""

ALEXNET = (96 * 55**2 * 363) + (614_400 * 27**2) + (2 * 884_736 + 1_327_104) * 13**2 + 9216 * 4096 + 4096 * 5096
RESNET18 = 1_676_279_808 + 137_793_536
EXTRACTION = 4_259_340_288

TENFOLD_AT_4_8_12 = {0: 1, 4 / 16: 0.1, 8 / 16: 0.01, 12 / 16: 0.001}
AT_30_40 = {0: 1, 30 / 58: 0.1, 40 / 58: 0.01}
LUA = {0: 1, 18 / 55: 0.5, 29 / 55: 0.1, 43 / 55: 0.05, 52 / 55: 0.01}
AT_30_60_90 = {0: 1, 0.3: 0.1, 0.6: 0.01, 0.9: 0.001}
POLYNOMIAL = {0: 1, 0.25: 0.75**4, 0.5: 0.5**4, 0.75: 0.25**4}

ROWS = {
    # scheme, epochs, batch, largest rate, rate by share of the run, multiply-adds, last published figure
    'imagenet_alexnet FLOAT': (bnn.FLOAT, 16, 512, 0.1, TENFOLD_AT_4_8_12, ALEXNET, None),
    'imagenet_alexnet BC': (bnn.BC, 16, 512, 0.1, TENFOLD_AT_4_8_12, ALEXNET, 0.3539),
    'imagenet_alexnet BWN_PAPER': (presets.BWN_PAPER, 16, 512, 0.1, TENFOLD_AT_4_8_12, ALEXNET, 0.5382),
    'imagenet_alexnet BNN': (bnn.BNN, 16, 512, 1e-3, TENFOLD_AT_4_8_12, ALEXNET, 0.2543),
    'imagenet_alexnet XNOR_PAPER': (presets.XNOR_PAPER, 16, 512, 1e-3, TENFOLD_AT_4_8_12, ALEXNET, 0.442),
    'imagenet_alexnet BWN_LUA': (presets.BWN_LUA, 55, 128, 1e-2, LUA, ALEXNET, None),
    'imagenet_alexnet XNOR_LUA': (presets.XNOR_LUA, 52, 800, 1e-3, LUA, ALEXNET, None),
    'imagenet_alexnet XNOR_PYTORCH_IMAGENET': (
        presets.XNOR_PYTORCH_IMAGENET,
        100,
        256,
        1e-3,
        AT_30_60_90,
        ALEXNET,
        None,
    ),
    'imagenet_resnet18 FLOAT': (bnn.FLOAT, 58, 256, 0.1, AT_30_40, RESNET18, None),
    'imagenet_resnet18 BWN_PAPER': (presets.BWN_PAPER, 58, 256, 0.1, AT_30_40, RESNET18, 0.6083),
    'imagenet_resnet18 XNOR_PAPER': (presets.XNOR_PAPER, 58, 256, 1e-3, AT_30_40, RESNET18, 0.512),
    'imagenet_extraction FLOAT': (bnn.FLOAT, 80, 128, 0.1, POLYNOMIAL, EXTRACTION, None),
    'imagenet_extraction BWN_PAPER': (presets.BWN_PAPER, 80, 128, 0.1, POLYNOMIAL, EXTRACTION, None),
}


RECIPES = {module.RECIPE.name: module.RECIPE for module in (imagenet_alexnet, imagenet_resnet18, imagenet_extraction)}


@pytest.fixture
def row(request) -> tuple[str, str, Config]:
    """Name, what the recipe says of it, and the config that its command runs."""
    recipe, row = RECIPES[request.param.split()[0]], request.param.split()[1]
    (said,) = re.findall(rf'^- {row}: (.*(?:\n  .*)*)', recipe.description or '', re.M)
    return request.param, said, recipe.row(row)


each_row = pytest.mark.parametrize('row', ROWS, indirect=True)


def expected(row: tuple) -> tuple:
    return ROWS[row[0]]


def test_every_row_is_here():
    assert {f'{name} {row}' for name, recipe in RECIPES.items() for row in recipe.rows} == set(ROWS)


@each_row
def test_a_row_is_what_its_source_says(row):
    (_, _, config), (scheme, epochs, batch_size, rate, rates, _, last) = row, expected(row)
    assert config.model.keywords['scheme'] is scheme
    assert (config.epochs, config.batch_size, config.learning_rate) == (epochs, batch_size, rate)
    with jax.numpy_dtype_promotion('standard'):
        schedule = config.schedule(rate, STEPS)
        for share, factor in rates.items():
            step = int(share * STEPS + 1e-6)
            np.testing.assert_allclose(schedule(step), rate * factor, rtol=1e-4)
            if rates is not POLYNOMIAL and step:
                assert schedule(step - 1) > 1.5 * rate * factor
    assert (config.anchors[-1] == (epochs, last)) if last else config.anchors == ()
    assert [epoch for epoch, _ in config.anchors] == sorted({epoch for epoch, _ in config.anchors})


@each_row
def test_the_docstring_tells_source_command_cost_and_figures(row):
    (name, said, config), (*_, macs, _) = row, expected(row)
    recipe, hours = RECIPES[name.split()[0]], imagenet.hours(config.epochs, macs)
    text = recipe.description or ''
    for part in ('Source: ', f'python -m experiments.{recipe.name} --scheme=SCHEME --data_dir=FOLDER', 'not run'):
        assert part in text
    assert said.startswith('top-1')
    known = f'{config.epochs} epochs, {hours:.1f} hours', f'{config.epochs} epochs should take {hours:.1f} hours'
    assert known[0] in said or known[1] in text
    line = f'| `{name.replace(" ", " --scheme=")}` | {config.epochs} | {hours:.1f} |'
    (row_of_the_table,) = [
        s for s in (ROOT / 'experiments' / 'README.md').read_text().splitlines() if s.startswith(line)
    ]
    assert all(figure in row_of_the_table for figure in re.findall(r'top-\d ([\d.]+)%', said))
    (rate,) = re.findall(r'must\s+decode\s+([\d,]+)\s+images', text)
    assert int(rate.replace(',', '')) == int(0.2 * 156e12 / (6 * macs))


def test_hours_are_operations_by_rate():
    assert imagenet.hours(2, 10**9) == pytest.approx(2 * 1_281_167 * 10**9 * 6 / 31.2e12 / 3600)
    assert (imagenet.ALEXNET_MACS, imagenet.RESNET18_MACS) == (ALEXNET, RESNET18)
    assert imagenet.EXTRACTION_MACS == EXTRACTION


@each_row
def test_evaluation_uses_the_image_size_of_training(row):
    """The training step on them is lowered in test_lowering.py."""
    config = row[2]
    pixels, rng = np.zeros((300, 400, 3), np.uint8), np.random.default_rng(0)
    images = []
    for augmentations in (config.augmentations, config.evaluation_augmentations):
        image = pixels
        for augmentation in augmentations:
            image = augmentation(image, rng)
        images.append(config.standardize(image))
    assert images[0].shape == images[1].shape


IMAGES = {
    'alexnet': (resize_short(256), random_crop(224), flip),
    'resnet18': (resize_short_between(256, 480), random_crop(224), flip),
    'extraction': (resize_short_between(256, 320), random_crop(224), flip),
    'pytorch': (resize_to(256, 256), random_crop(227), flip),
}
DECAY = {
    'imagenet_alexnet FLOAT': 5e-4,
    'imagenet_resnet18 FLOAT': 1e-4,
    'imagenet_extraction FLOAT': 5e-4,
    'imagenet_alexnet BWN_LUA': 5e-4,
}


@each_row
def test_its_images_and_weight_decay(row):
    name, _, config = row
    ours = 'pytorch' if 'PYTORCH' in name else name.split()[0].removeprefix('imagenet_')
    assert config.augmentations == IMAGES[ours]
    middle = (resize_to(256, 256), center_crop(227)) if ours == 'pytorch' else (resize_short(256), center_crop(224))
    assert config.evaluation_augmentations == middle
    standard = Standardize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert config.standardize == (SubtractMean() if ours == 'pytorch' else standard)
    (change,) = updates(config.optimizer(lambda step: 0.01), [0.0], weight=0.0625)
    if name.endswith(
        ('XNOR_LUA', 'XNOR_PYTORCH_IMAGENET')
    ):  # Adam: a first step of the rate's length, whatever the decay
        assert change == pytest.approx(0.0625 - 0.01, abs=2e-4)
    else:
        decay = DECAY.get(name, 0.0)
        assert change == pytest.approx(0.0625 * (1 - 0.01 * decay), abs=2e-8)


@pytest.mark.parametrize(
    'row',
    ['imagenet_alexnet BWN_LUA', 'imagenet_alexnet XNOR_PYTORCH_IMAGENET', 'imagenet_resnet18 XNOR_PAPER'],
    indirect=True,
)
def test_what_it_trains_converts(row):
    config = row[2]
    width = 1 / 64
    model = config.model(rngs=nnx.Rngs(0), width=width)
    model.eval()
    packed = bnn.convert(deployed(dataclasses.replace(config, width=width), model))
    assert (
        packed.report.bytes < bnn.summarize(model, (1, *config.model.keywords.get('input_shape', (224, 224, 3)))).bytes
    )


# What the recipes are made of.


def test_falls_move_with_the_length_of_the_run():
    falls = shared.Falls(4, ((1, 0.5), (3, 0.1)))
    assert [float(falls(8.0, 8)(step)) for step in range(8)] == pytest.approx([8, 8, 4, 4, 4, 4, 0.8, 0.8])
    assert [float(falls(8.0, 2)(step)) for step in range(2)] == pytest.approx([4, 0.8])


def updates(tx, gradients, weight=1.0):
    """The values of one weight under tx, step by step."""
    with jax.numpy_dtype_promotion('standard'):
        params = np.float32(weight)
        state, path = tx.init(params), []
        for gradient in gradients:
            change, state = tx.update(np.float32(gradient), state, params)
            params = params + np.asarray(change)
            path.append(float(params))
    return path


def test_sgd_has_momentum_and_l2_in_the_gradient():
    weight, velocity, path = 1.0, 0.0, []
    for gradient in (1.0, -2.0, 0.5):
        velocity = 0.9 * velocity + gradient + 0.1 * weight
        weight -= 0.01 * velocity
        path.append(weight)
    assert updates(shared.sgd(lambda step: 0.01, decay=0.1), (1.0, -2.0, 0.5)) == pytest.approx(path)


def test_l2_of_adam_is_in_the_gradient():
    """Its first step is the rate times the gradient's sign, here that of the decay alone."""
    assert updates(shared.adam(lambda step: 0.01, decay=0.1), (0.0,)) == pytest.approx([0.99])


def test_the_lua_decay_ends_with_the_second_rate():
    schedule = imagenet_alexnet.LUA_FALLS(1e-2, 55)
    tx = imagenet_alexnet.lua_decay(schedule)
    with jax.numpy_dtype_promotion('standard'):
        state, decays = tx.init(np.float32(1)), []
        for _ in range(55):
            change, state = tx.update(np.float32(0), state, np.float32(1))
            decays.append(float(change))
    assert decays == pytest.approx([5e-4] * 29 + [0.0] * 26)


# Where images come from.


def photos(folder: Path, splits=('train', 'validation')) -> Path:
    for split in splits:
        for synset in ('n01440764', 'n01443537'):
            (folder / split / synset).mkdir(parents=True)
            Image.new('RGB', (20, 10), 'red').save(folder / split / synset / f'{synset}_1.JPEG')
    return folder


@pytest.mark.parametrize('validation', ['validation', 'val'])
def test_images_from_folders(tmp_path, capsys, validation):
    folder = str(photos(tmp_path, ('train', validation)))
    train, test = imagenet.source('train', folder), imagenet.source('test', folder)
    assert [train[i]['label'] for i in range(2)] == [0, 1] and test[0]['image'].shape == (10, 20, 3)
    assert f'test: 2 images from {tmp_path / validation}' in capsys.readouterr().err


def test_images_from_tfds_come_first(tmp_path, capsys, monkeypatch):
    (photos(tmp_path) / 'imagenet2012').mkdir()
    asked = []
    monkeypatch.setattr(imagenet, 'tfds_source', lambda *arguments: asked.append(arguments) or [0] * 50_000)
    imagenet.source('test', str(tmp_path))
    assert asked == [('imagenet2012', 'validation', tmp_path)]
    assert f'test: 50,000 images from {tmp_path / "imagenet2012"}' in capsys.readouterr().err


def test_scaled_images_are_read_where_they_are(tmp_path, monkeypatch):
    (tmp_path / 'imagenet' / '1.0.0').mkdir(parents=True)
    (tmp_path / 'imagenet' / '1.0.0' / 'imagenet-val.array_record-00000-of-00001').touch()
    asked = []
    monkeypatch.setattr(imagenet, 'tfds_source', lambda *arguments: asked.append(arguments) or [0])
    imagenet.source('test', str(tmp_path))
    assert asked == [('imagenet', 'val', tmp_path)]


def test_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match='has neither imagenet2012.*nor train and val .*--data_dir=FOLDER'):
        imagenet.source('train', str(tmp_path))


# The comparison.


@each_row
def test_anchors_are_for_runs_like_the_published_one(row):
    config = row[2]
    assert config.comparable_anchors() == config.anchors
    assert dataclasses.replace(config, epochs=1).comparable_anchors() == ()
    assert dataclasses.replace(config, width=0.5).comparable_anchors() == ()


def test_progress_shows_a_published_figure_beside_ours(capsys):
    record = partial(dict, train_loss=6.0, train_accuracy=0.1, test_loss=5.0)
    with Progress(0, 30, 10, 0.0, ((1, 0.2009), (3, 0.3132))) as progress:
        for epoch, accuracy in enumerate((0.18, 0.25, 0.5), start=1):
            progress.epoch(record(epoch=epoch, step=10 * epoch, test_accuracy=accuracy))
        # With a loss of one's own there may be no accuracies.
        progress.epoch(dict(epoch=1, step=10, train_loss=6.0, test_loss=5.0))
    lines = [' '.join(line.split()) for line in capsys.readouterr().err.replace('\n', ' ').split('epoch')[1:]]
    assert lines[0].endswith('accuracy 18.00% published 20.09% (-2.09 points here)')
    assert lines[1].endswith('accuracy 25.00%')
    assert lines[2].endswith('published 31.32% (+18.68 points here)')
    assert lines[3].endswith('test loss 5.0000')
