"""The command line: every command on a small run, in this process and one in another, and every expected mistake."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from networks import build, evaluated, images, randomize_norms
from PIL import Image

import bnn_jax as bnn
from bnn_jax import cli
from bnn_jax.data import Standardize, center_crop, digits, evaluation_batches, resize_short
from bnn_jax.data.preprocessing import Preprocessing
from bnn_jax.inference.float_twin import float_twin
from bnn_jax.inference.serialization import preprocessing_of
from bnn_jax.training import Recipe, evaluate, experiment, fit
from bnn_jax.training.recipe import recipe_of
from bnn_jax.training.restore import trained
from experiments import digits_vgg_small

ROOT = Path(__file__).parents[2]

MODULE = """
from bnn_jax import {scheme}
from bnn_jax.training import Recipe
from bnn_jax.training.experiment import main
from experiments.digits_vgg_small import config

RECIPE = Recipe('ours', 'A run.', {{'XNOR': config({scheme})}})

if __name__ == '__main__':
    main(RECIPE)
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with a module `ours` and the run of its recipe, of one epoch, in runs/ours_xnor-0."""
    folder = tmp_path_factory.mktemp('cli')
    for name, scheme in (('ours', 'XNOR'), ('changed', 'BNN')):
        (folder / f'{name}.py').write_text(MODULE.format(scheme=scheme))
    (folder / 'nothing.py').write_text('')
    (folder / 'broken.py').write_text('import no_such_package')
    config = dataclasses.replace(OURS.row(), epochs=1, width=0.03125, workdir=str(folder / 'runs' / 'ours_xnor-0'))
    with jax.numpy_dtype_promotion('standard'):  # optax.adam mixes dtypes.
        fit(config)
    for i in range(3):
        Image.fromarray(digits('test')[i]['image'][..., 0]).save(folder / f'{i}.png')
    return folder


OURS = Recipe('ours', 'A run.', {'XNOR': digits_vgg_small.config(bnn.XNOR)})
"""The recipe of that module."""


@pytest.fixture(scope='module')
def converted(run):
    """The file that `convert` makes of the run."""
    path = run / 'converted.safetensors'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        patch.setattr(sys, 'path', list(sys.path))
        cli.main(['convert', 'ours', '-o', str(path)])
    return path


@pytest.fixture(scope='module')
def unprepared(tmp_path_factory):
    """A file that says nothing of its images: three channels."""
    model = build('lenet5', bnn.BNN, input_shape=(20, 20, 3))
    randomize_norms(model)
    return bnn.save(bnn.convert(model), tmp_path_factory.mktemp('files') / 'unprepared.safetensors')


@pytest.fixture
def start(monkeypatch, run):
    """`bnn-jax arguments` in this process, in the run's folder."""

    def command(*arguments) -> None:
        monkeypatch.chdir(run)
        monkeypatch.setattr(sys, 'path', list(sys.path))  # to which `convert` adds the present folder
        cli.main([*map(str, arguments)])

    return command


def refused(start, *arguments) -> str:
    """The message of a command that ends with status 1."""
    with pytest.raises(SystemExit) as error:
        start(*arguments)
    message = error.value.code
    assert isinstance(message, str) and message.startswith('error: ')  # which Python prints, and ends with status 1
    return message


def test_convert_reports_compares_and_writes(run, start, capsys):
    output = run / 'again.safetensors'
    start('convert', 'ours', '--output', output, '--samples=5')
    text = capsys.readouterr().out
    for part in (
        'runs/ours_xnor-0, step 22',
        'xnor + popcount',
        'logits of 5 test images of the run: equal to the last bit',
    ):
        assert part in text
    assert f'wrote {output}: {output.stat().st_size:,} bytes' in text
    described = preprocessing_of(output)
    assert described is not None and described['input_shape'] == [8, 8, 1]
    assert Preprocessing.of(described) == Preprocessing((8, 8, 1), Standardize((0.305,), (0.376,)))
    assert not list(run.glob('.bnn-jax-*'))


def test_the_best_checkpoint_is_read_where_it_is_asked_for(run, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    shutil.copy(run / 'runs/ours_xnor-0/config.json', tmp_path)
    shutil.copytree(run / 'runs/ours_xnor-0/checkpoints', tmp_path / 'best')
    assert trained(OURS, tmp_path, best=True).step > 0
    with pytest.raises(ValueError, match='checkpoints is empty'):
        trained(OURS, tmp_path)


def test_what_is_converted_is_the_trained_network(run, converted, monkeypatch):
    monkeypatch.chdir(run)
    model = trained(OURS).model
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(evaluated(bnn.load(converted), x), evaluated(model, x))


def test_what_goes_before_a_run_is_part_of_it(run):
    """A recipe that prepares its config gives the network of the prepared one; nothing is trained."""

    def after(config):
        return dataclasses.replace(config, model=OURS.row().model)

    prepared = Recipe('ours', 'A run.', {'XNOR': digits_vgg_small.config(bnn.BNN)}, prepare=after)
    ours, theirs = (trained(recipe, run / 'runs' / 'ours_xnor-0') for recipe in (OURS, prepared))
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.leaves(nnx.state(one.model)) for one in (ours, theirs)))
    assert (ours.step, ours.config.epochs, ours.config.width) == (22, 1, 0.03125)


def test_reading_a_recipe_does_not_change_sys(run, monkeypatch):
    monkeypatch.syspath_prepend(run)
    path, arguments = list(sys.path), list(sys.argv)
    assert recipe_of('ours').row().described() == OURS.row().described()
    assert (sys.path, sys.argv) == (path, arguments) and sys.modules['ours'].__name__ == 'ours'


def test_a_difference_is_refused_and_nothing_written(run, start, monkeypatch):
    head = run / 'head.safetensors'
    model = build('vgg_small', bnn.XNOR, input_shape=(8, 8, 1), width=0.03125)
    changed = bnn.convert(model)
    monkeypatch.setattr('bnn_jax.inference.serialization.load', lambda path: changed)
    message = refused(start, 'convert', 'ours', '-o', head, '--samples=4')
    assert 'differs from the checkpoint on 4 of 4 test images' in message and 'nothing was written' in message
    assert not head.exists() and not list(run.glob('.bnn-jax-*'))


def test_logits_that_are_not_finite_are_refused(run, start, monkeypatch):
    monkeypatch.setattr(
        'bnn_jax.training.evaluation.logits_of', lambda network: lambda x: np.full((len(x), 10), np.nan)
    )
    message = refused(start, 'convert', 'ours', '-o', run / 'nan.safetensors', '--samples=4')
    assert 'logits are not finite on 4 of 4 test images' in message and not (run / 'nan.safetensors').exists()


def test_convert_on_random_images_where_there_are_no_others(run, start, capsys, monkeypatch):
    def missing(split, data_dir):
        raise FileNotFoundError('no such data set')

    monkeypatch.setattr(digits_vgg_small, 'digits', lambda split: missing(split, ''))
    output = run / 'random.safetensors'
    assert '--input HEIGHT WIDTH CHANNELS' in refused(start, 'convert', 'ours', '-o', output)
    start('convert', 'ours', '-o', output, '--samples', 3, '--input', 8, 8, 1)
    assert 'logits of 3 random images: equal to the last bit' in capsys.readouterr().out


def test_another_recipe_is_refused_by_what_differs(run, start):
    message = refused(start, 'convert', 'changed', '-o', 'x.safetensors', '--workdir', 'runs/ours_xnor-0')
    assert 'runs/ours_xnor-0: its run has model.scheme' in message and 'ours now has' in message
    message = refused(
        start, 'convert', 'experiments.digits_vgg_small', '-o', 'x.safetensors', '--workdir', 'runs/ours_xnor-0'
    )
    assert 'runs/ours_xnor-0: its run is of the recipe ours, got digits_vgg_small' in message
    assert not (run / 'x.safetensors').exists()


def test_a_run_of_an_earlier_version_is_refused_with_what_to_do(run, start, tmp_path):
    shutil.copytree(run / 'runs' / 'ours_xnor-0', tmp_path / 'old')
    stated = json.loads((tmp_path / 'old' / 'config.json').read_text())
    for name in ('description', 'recipe', 'row'):
        del stated[name]
    (tmp_path / 'old' / 'config.json').write_text(json.dumps(stated))
    message = refused(start, 'convert', 'ours', '-o', 'x.safetensors', '--workdir', tmp_path / 'old')
    assert 'its config has form 1, expected form 2' in message
    assert 'use the version of bnn_jax that wrote it, or train again in another --workdir' in message


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('no_such_module', '-o', 'x'), 'no_such_module cannot be imported'),
        (('broken', '-o', 'x'), "broken cannot be imported (No module named 'no_such_package')"),
        (('nothing', '-o', 'x'), 'nothing has no recipe'),
        (('json', '-o', 'x'), 'json has no recipe'),
        (('ours', '-o', 'x', '--workdir', 'nowhere'), 'nowhere has no checkpoints'),
        (('ours', '-o', 'no/folder/x'), 'expected a file in a folder that exists'),
        (('ours', '-o', 'x', '--samples', '0'), 'samples: got 0'),
        (
            ('ours', '-o', 'x', '--best'),
            'runs/ours_xnor-0/best is missing, expected the folder that a run with --keep_best',
        ),
    ],
)
def test_what_cannot_be_converted(start, arguments, message):
    assert message in refused(start, 'convert', *arguments)


def test_predict(converted, run, start, capsys):
    (run / 'names.txt').write_text(''.join(f'digit {i}\n' for i in range(10)))
    start('predict', converted, '0.png', '2.png', '--classes', 'names.txt')
    lines = [line for line in capsys.readouterr().out.splitlines() if '│' in line]
    assert len(lines) == 2 * 5 and '0.png' in lines[0] and '2.png' in lines[5]
    prepare = Standardize((0.305,), (0.376,))
    x = np.stack([prepare(digits('test')[i]['image']) for i in (0, 2)])
    logits = evaluated(bnn.load(converted), x).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for image, first in ((0, 0), (1, 5)):
        for rank, index in enumerate(np.argsort(-probabilities[image])[:5]):
            assert f'digit {index}' in lines[first + rank]
            assert f'{probabilities[image, index]:.2%}' in lines[first + rank]


def test_predict_refuses_to_guess_the_preprocessing(unprepared, run, start, capsys):
    Image.fromarray(np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)).save(run / 'photo.jpg')
    message = refused(start, 'predict', unprepared, 'photo.jpg')
    assert 'does not say how test images were prepared' in message
    described = json.loads(message[message.index('{') :])  # The example it shows is a valid one.
    assert Preprocessing.of(described).input_shape == (224, 224, 3)
    described |= {'input_shape': [20, 20, 3]}
    described['steps'] = [{'kind': 'resize_short', 'size': 24}, {'kind': 'centre_crop', 'size': 20}]
    (run / 'p.json').write_text(json.dumps(described))
    start('predict', unprepared, 'photo.jpg', '--preprocessing', 'p.json')
    assert '"size": 24' in capsys.readouterr().out
    (run / 'bad.json').write_text('{"input_shape": [20, 20, 3]}')
    assert "KeyError: 'normalisation'" in refused(
        start, 'predict', unprepared, 'photo.jpg', '--preprocessing', 'bad.json'
    )
    (run / 'bad.json').write_text('not json')
    assert 'bad.json is not JSON' in refused(start, 'predict', unprepared, 'photo.jpg', '--preprocessing', 'bad.json')


def test_predict_reads_folders_and_writes_files(converted, run, start, capsysbinary):
    folder = run / 'photos'
    names = [b'a[red].png', b'b\xe9.png', b'deep/:smile:\n.tif', b'wide.png']
    (folder / 'deep').mkdir(parents=True)
    for name, size in zip(names, ((8, 8), (8, 8), (8, 8), (30, 20)), strict=True):
        with open(os.path.join(os.fsencode(folder), name), 'wb') as file:
            Image.new('L', size, 200).save(file, 'TIFF' if name.endswith(b'tif') else 'PNG')
    (folder / 'broken.png').write_bytes(b'no image')
    printed = [
        'photos/' + name for name in ('a[red].png', 'broken.png', 'b\\xe9.png', 'deep/:smile:\\n.tif', 'wide.png')
    ]
    assert '1 of 5 images have no answer' in refused(start, 'predict', converted, 'photos')
    table = capsysbinary.readouterr().out.decode()
    assert all((name in table) == (name != 'photos/broken.png') for name in printed)
    for suffix in ('csv', 'json', 'jsonl'):
        assert '1 of 5' in refused(start, 'predict', converted, 'photos', '-o', run / f'answers.{suffix}')
    objects = json.loads((run / 'answers.json').read_text())
    assert [answer['image'] for answer in objects] == printed
    assert objects == [json.loads(line) for line in (run / 'answers.jsonl').read_text().splitlines()]
    rows = list(csv.DictReader((run / 'answers.csv').read_text().splitlines()))
    for row, answer in zip(rows, objects, strict=True):
        assert row['image'] == answer['image'] and row['error'] == answer.get('error', '')
        for rank, one in enumerate(answer.get('classes', ()), start=1):
            assert row[f'class{rank}'] == one['class'] == str(one['label'])
            assert float(row[f'probability{rank}']) == one['probability']
    assert [len(answer.get('classes', ())) for answer in objects] == [5, 0, 5, 5, 5]


def test_a_checkpoint_is_evaluated_without_training(run, converted, capsys, monkeypatch):
    workdir = run / 'runs' / 'ours_xnor-0'
    before = (workdir / 'metrics.jsonl').read_bytes()
    configs, results_of = [], experiment.results_of
    noted = lambda name, config, *others: configs.append(config) or results_of(name, config, *others)
    monkeypatch.setattr(experiment, 'results_of', noted)
    # The row of the run, which the command line need not name.
    rows = dataclasses.replace(OURS, rows={'BNN': digits_vgg_small.config(bnn.BNN), **OURS.rows})
    # Options that decide nothing may differ from the run's, and a path may be named like a field.
    line = ['--evaluate', f'--workdir={workdir}', '--data-dir', 'model', '--epochs=1', '--max-minutes=9']
    experiment.main(rows, line)
    results = json.loads(capsys.readouterr().out)
    batches = evaluation_batches(digits('test'), batch_size=64, standardize=Standardize((0.305,), (0.376,)))
    assert configs[0].data_dir == 'model' and results['experiment'] == 'ours_xnor'
    assert results['step'] == 22 and results['packed_test_accuracy'] == results['test_accuracy']
    assert results['test_accuracy'] == evaluate(bnn.load(converted), batches)['accuracy']
    assert (workdir / 'metrics.jsonl').read_bytes() == before and not (workdir / 'results.json').exists()
    with pytest.raises(
        SystemExit, match='^error: epochs: got 2 for an evaluation, expected 1, with which .* leave out'
    ):
        experiment.main(rows, [*line, '--epochs=2'])
    with pytest.raises(SystemExit, match="^error: scheme: got 'BNN' for an evaluation, expected 'XNOR'"):
        experiment.main(rows, [*line, '--scheme=BNN'])
    with pytest.raises(SystemExit, match='^error: .*nowhere-0 has no checkpoints'):
        experiment.main(OURS, ['--evaluate', '--seeds=2', f'--workdir={run / "nowhere"}'])


def test_what_cannot_be_predicted(converted, run, start, capsys):
    (run / 'text.png').write_text('no image')
    message = refused(start, 'predict', converted, '0.png', 'text.png')
    assert '1 of 2 images have no answer, the first: text.png: 8 bytes that cannot be decoded' in message
    assert '0.png' in capsys.readouterr().out
    assert 'there is no image missing.png' in refused(start, 'predict', converted, 'missing.png')
    (run / 'empty').mkdir()
    assert 'got no images' in refused(start, 'predict', converted, 'empty')
    assert 'expected a file that ends in .csv' in refused(start, 'predict', converted, '0.png', '-o', 'answers.txt')
    cropped = {'input_shape': [8, 8, 1], 'normalisation': {'kind': 'PlusMinusOne'}}
    for steps, size, part in (
        ([{'kind': 'centre_crop', 'size': 9}], (9, 9), '9 x 9 pixels after its preprocessing, expected 8 x 8'),
        (
            [{'kind': 'resize_short', 'size': 256}],
            (1, 2000),
            'would be 512,000 x 256, expected at most 67,108,864 pixels',
        ),
    ):
        Image.new('L', size).save(run / 'other.png')
        (run / 'cropped.json').write_text(json.dumps(cropped | {'steps': steps}))
        message = refused(start, 'predict', converted, 'other.png', '--preprocessing', 'cropped.json')
        assert message.startswith('error: other.png: ') and part in message
    (run / 'three.txt').write_text('a\nb\nc\n')
    assert 'got 3 lines, expected 10' in refused(start, 'predict', converted, '0.png', '--classes', 'three.txt')


@pytest.mark.parametrize('command', ['summary', 'predict', 'bench'])
def test_damaged_files_are_refused(command, converted, run, start):
    more = ['0.png'] if command == 'predict' else []
    assert 'there is no file' in refused(start, command, 'missing.safetensors', *more)
    (run / 'short.safetensors').write_bytes(converted.read_bytes()[:-9])
    assert 'truncated' in refused(start, command, 'short.safetensors', *more)
    assert 'not a safetensors file' in refused(start, command, '0.png', *more)


def test_summary_of_a_file_and_of_a_name(converted, start, capsys):
    start('summary', converted)
    text = capsys.readouterr().out
    for part in ('xnor + popcount', f'{converted.stat().st_size:,} bytes', '10 classes out', '"mean": [0.305]'):
        assert part in text
    start('summary', '--model=lenet5', '--scheme=BNN', '--num_classes=10', '--input', 28, 28, 1, '--width=0.5')
    model = bnn.models.lenet5(10, scheme=bnn.BNN, width=0.5, rngs=nnx.Rngs(0))
    assert capsys.readouterr().out.strip() == str(bnn.summarize(model, (1, 28, 28, 1)))


def test_summaries_that_are_refused(converted, start):
    assert 'expected either a packed FILE or --model' in refused(start, 'summary')
    assert 'expected either a packed FILE or --model' in refused(start, 'summary', converted, '--model=mlp')
    assert 'expected one of alexnet' in refused(start, 'summary', '--model=strided_stem')
    assert "scheme: got 'xnor'" in refused(start, 'summary', '--model=mlp', '--scheme=xnor')
    assert 'use larger images' in refused(start, 'summary', '--model=alexnet', '--input', 5, 5, 3)


def test_bench(converted, unprepared, start, capsys):
    start('bench', converted, '--batch=2', '--calls=2', '--float')
    lines = capsys.readouterr().out.splitlines()
    assert 'batch 2 of 8x8x1' in lines[0] and f'jax {jax.__version__}' in lines[-1]
    assert any('packed' in line for line in lines) and any('float32' in line for line in lines)
    assert 'give --input' in refused(start, 'bench', unprepared)
    start('bench', unprepared, '--calls=1', '--input', 20, 20, 3)
    assert 'float32' not in capsys.readouterr().out
    assert 'expected at least 1' in refused(start, 'bench', converted, '--batch=0')


def test_export(converted, unprepared, start, tmp_path, capsys):
    start('export', converted, '--c', tmp_path / 'c')
    assert 'weights' in (said := capsys.readouterr().out) and 'scratch' in said and 'code: about' in said
    assert 'void network_bytes(' in (tmp_path / 'c' / 'network.h').read_text()
    assert 'expected --input HEIGHT WIDTH CHANNELS' in refused(start, 'export', unprepared, '--c', tmp_path)
    places = [tmp_path / name for name in ('a.onnx', 'b.onnx', 'c.stablehlo')]
    start('export', converted, '--onnx', places[0], '--qonnx', places[1], '--stablehlo', places[2])
    assert capsys.readouterr().out.count(' bytes') == 3
    assert places[0].stat().st_size < places[1].stat().st_size
    assert jax.export.deserialize(bytearray(places[2].read_bytes())).out_avals[0].shape[1] == 10
    assert 'expected --c FOLDER, or --onnx' in refused(start, 'export', converted)


@pytest.mark.parametrize(('architecture', 'scheme'), [('resnet20', 'XNOR'), ('lenet5', 'XNOR_K'), ('lenet5', 'BWN')])
def test_floats_give_the_answers_of_the_bits(architecture, scheme):
    model = build(architecture, getattr(bnn, scheme))
    randomize_norms(model)
    packed, x = bnn.convert(model), images(architecture)
    floats, bits = evaluated(float_twin(packed), x), evaluated(packed, x)
    # BWN's real inputs are added up in another order.
    np.testing.assert_allclose(floats, bits, rtol=0, atol=1e-5 * np.ptp(bits) if scheme == 'BWN' else 0)


def test_float_twin_refuses_an_unknown_layer():
    packed = bnn.convert(build('mlp', bnn.BNN))
    strange = dataclasses.replace(packed, body=dataclasses.replace(packed.body, layers=(7,)))
    with pytest.raises(TypeError, match='got a int'):
        float_twin(strange)


def test_another_process(converted, run):
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    command = partial(subprocess.run, cwd=run, env=environment, capture_output=True, text=True, timeout=300)
    done = command([sys.executable, '-W', 'error', '-m', 'bnn_jax', 'predict', converted, '0.png'])
    assert done.returncode == 0 and done.stderr == '' and 'probability' in done.stdout
    done = command([sys.executable, '-m', 'bnn_jax', 'predict', converted, 'missing.png'])
    assert (done.returncode, done.stdout) == (1, '') and done.stderr == 'error: there is no image missing.png\n'


# The preprocessing.


def test_a_preprocessing_is_its_steps_and_survives_json():
    steps = (resize_short(12), center_crop(10))
    prepare = Preprocessing((10, 10, 3), Standardize((0.5,) * 3, (0.25,) * 3), steps, ('a', 'b'))
    assert Preprocessing.of(json.loads(json.dumps(prepare.described()))) == prepare
    pixels = np.random.default_rng(0).integers(0, 256, (17, 20, 3), dtype=np.uint8)
    content = b'P6 20 17 255\n' + pixels.tobytes()
    expected = pixels
    for step in steps:
        expected = step(expected, np.random.default_rng(0))
    np.testing.assert_array_equal(
        prepare(content, 'x'), (expected / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'input_shape': [10, 10, 4]}, 'expected .height, width, 1 or 3 channels'),
        ({'input_shape': [10, 10]}, 'expected .height'),
        ({'steps': [{'kind': 'flip'}]}, "got 'flip', expected one of resize_short"),
        ({'input_shape': [10**6, 10, 3]}, 'input_shape: got 1000000, expected an integer, 1 to 8192'),
        ({'steps': [{'kind': 'resize_short', 'size': 0}]}, 'resize_short.size: got 0, expected an integer, 1 to 8192'),
        ({'steps': [{'kind': 'resize_short', 'size': '9'}]}, "got '9', expected an integer"),
        ({'steps': 17 * [{'kind': 'resize_short', 'size': 9}]}, 'got 17 steps, expected 16 at most'),
        (
            {'normalisation': {'kind': 'Standardize', 'mean': 3 * [0.5], 'std': 3 * [10**400]}},
            'expected a number, finite',
        ),
        ({'steps': [{'kind': 'resize_short', 'length': 9}]}, 'TypeError'),
        ({'normalisation': {'kind': 'Standardize', 'mean': [0.5], 'std': [0.5]}}, 'expected uint8'),
        ({'normalisation': {'kind': 'os.system'}}, 'expected one of Standardize'),
        ({'normalisation': 7}, 'TypeError|AttributeError'),
    ],
)
def test_an_invalid_preprocessing_is_refused(change, message):
    described = Preprocessing((10, 10, 3), Standardize((0.5,) * 3, (0.25,) * 3)).described()
    with pytest.raises(ValueError, match=message):
        Preprocessing.of({**described, **change})


def test_a_random_step_is_refused():
    with pytest.raises(ValueError, match='expected one of resize_short'):
        Preprocessing((10, 10, 3), Standardize((0.5,) * 3, (0.25,) * 3), (lambda image, rng: image,))


@pytest.mark.parametrize('place', [1, 2])
def test_an_unknown_option_is_refused(place):
    arguments = ['bench', 'file.safetensors']
    arguments[place:place] = ['--bach', '3']
    with pytest.raises(
        SystemExit, match=r'error: --bach: unknown option \(is it --batch\?\); bnn-jax bench --help lists'
    ):
        cli.main(arguments)
