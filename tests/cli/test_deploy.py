"""The extra `deploy` is enough to use a packed network: nothing of training is imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / 'inference'))
import foreign  # noqa: E402

# Packages of the extras `train` and `test` that are not in `deploy`. Flax itself imports optax.
TRAINING = ['chex', 'grain', 'matplotlib', 'onnx', 'orbax', 'sklearn', 'tensorboardX', 'tensorflow_datasets']

PROGRAM = f"""
import sys
sys.modules |= dict.fromkeys({TRAINING})
from bnn_jax.cli import main
for command in (
    ['summary', 'network'],
    ['predict', 'network', 'image.png'],
    ['bench', 'network', '--calls=1'],
    ['export', 'network', '--c=c'],
    ['export', 'network', '--onnx=network.onnx'],
):
    main(command)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a network that names its classes, and a larger image."""
    tree, tensors, beside = foreign.dense_network(0)
    normalization = {'kind': 'Standardize', 'mean': [0.5] * 3, 'std': [0.25] * 3}
    names = [f'class {i}' for i in range(tree['num_classes'])]
    stated = {'input_shape': foreign.SHAPE, 'steps': [], 'normalisation': normalization, 'classes': names}
    content = foreign.written((tree, tensors, beside | {'preprocessing': json.dumps(stated)}))
    (tmp_path / 'network').write_bytes(content)
    Image.fromarray(np.full((9, 9, 3), 77, np.uint8)).save(tmp_path / 'image.png')
    return tmp_path


def test_commands_import_nothing_of_training(folder):
    done = subprocess.run([sys.executable, '-c', PROGRAM], cwd=folder, capture_output=True, text=True)
    assert 'class 3' in done.stdout and 'images/s' in done.stdout and (folder / 'c' / 'network.h').exists()
    assert done.stderr.startswith('error: ModuleNotFoundError: onnx: not installed, expected the extra `onnx`')
