"""The server of examples/serve.py: what it answers, and that it needs no JAX."""

import http.client
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnn_jax import runtime
from examples import serve

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / 'inference'))
import foreign  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (3, *foreign.SHAPE), np.uint8)


def network(**stated) -> bytes:
    tree, tensors, beside = foreign.dense_network(0)
    return foreign.written((tree, tensors, beside | {name: json.dumps(value) for name, value in stated.items()}))


NAMES = ['ant', 'bee', 'cat', 'dog']
NORMALIZATION = {'kind': 'PlusMinusOne'}
STATED = {'input_shape': foreign.SHAPE, 'steps': [], 'normalisation': NORMALIZATION, 'classes': NAMES}


@pytest.fixture
def ask(tmp_path):
    """content, network -> status and answer of a server of this network."""
    servers = []

    def post(body: bytes, content: bytes, **headers: str) -> tuple[int, dict]:
        path = tmp_path / f'{len(servers)}.safetensors'
        path.write_bytes(content)
        servers.append(serve.server(str(path), 0))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,)).start()
        connection = http.client.HTTPConnection('127.0.0.1', servers[-1].server_address[1], timeout=30)
        connection.request('POST', '/', body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    yield post
    for server in servers:
        server.shutdown()
        server.server_close()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_images_and_arrays_have_the_classes_of_the_network(ask):
    content = network(preprocessing=STATED)
    expected = runtime.load(io.BytesIO(content))(PIXELS)
    picture = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(picture, 'png')
    for body, count in ((saved(PIXELS), 3), (saved(PIXELS[0]), 1), (picture.getvalue(), 1)):
        status, answer = ask(body, content)
        assert status == 200 and len(answer['images']) == count
        for one, logits in zip(answer['images'], expected, strict=False):
            assert [each['class'] for each in one] == [NAMES[i] for i in np.argsort(-logits)]
            differences = np.diff(np.log([each['probability'] for each in one]))
            np.testing.assert_allclose(differences, np.diff(-np.sort(-logits)), rtol=1e-5, atol=1e-6)


def test_what_is_no_image_is_refused_in_a_sentence(ask):
    content = network(preprocessing=STATED)
    floats = np.full((1, *foreign.SHAPE), np.nan, np.float32)
    for body, part in (
        (b'', 'cannot be decoded as an image'),
        (saved(PIXELS[:, :2]), 'expected (N, 6, 5, 3)'),
        (saved(PIXELS.astype(np.int64)), 'got dtype int64'),
        (saved(floats), 'NaN or infinite'),
        (saved(PIXELS)[:-1], 'cannot be read'),
        (saved(np.asarray([None])), 'pickle'),
    ):
        status, answer = ask(body, content)
        assert status == 400 and part in answer['error'], answer
    status, answer = ask(b'\xff\xd8', network())
    assert status == 400 and 'expected a NumPy array' in answer['error']
    assert ask(b'', content, **{'Content-Length': str(2**27)})[0] == 413


def test_names_of_other_classes_are_refused_at_the_start(tmp_path):
    path = tmp_path / 'network.safetensors'
    path.write_bytes(network(preprocessing=STATED | {'classes': NAMES[:3]}))
    with pytest.raises(ValueError, match='names 3 classes, the network has 4'):
        serve.server(str(path), 0)


def test_it_needs_no_jax():
    code = 'import sys, examples.serve; print([name for name in ("jax", "flax", "PIL") if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=TESTS.parent, capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'
