"""A server that runs a packed network with NumPy and Pillow, without JAX. POST an image or a NumPy array, get JSON:

python -m examples.serve packed.safetensors 8000
curl --data-binary @cat.jpg http://localhost:8000
"""

import io
import json
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from bnn_jax import runtime
from bnn_jax.data.preprocessing import Preprocessing

LARGEST = 2**26
"""The largest request, in bytes."""


class Classifier:
    """A packed network and how its images are prepared. Several threads may call it at the same time."""

    def __init__(self, path: str):
        self.network = runtime.load(path)
        described = self.network.preprocessing
        self.prepare = None if described is None else Preprocessing.of(described)
        numbers = tuple(map(str, range(self.network.num_classes)))
        self.classes = (self.prepare.classes if self.prepare else ()) or numbers
        if len(self.classes) != len(numbers):
            raise ValueError(f'{path}: names {len(self.classes)} classes, the network has {len(numbers)}')

    def __call__(self, content: bytes) -> list[list[dict[str, Any]]]:
        """The five most likely classes of each image in the body of a request. Raises ValueError if the body has no image."""
        images = self._array(content) if content.startswith(b'\x93NUMPY') else self._photograph(content)
        logits = self.network(images).astype(np.float64)
        if not np.isfinite(logits).all():
            raise ValueError('images: got numbers that are NaN or infinite, expected finite ones')
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return [[self._named(image, label) for label in np.argsort(-image, kind='stable')[:5]] for image in shares]

    def _named(self, shares: np.ndarray, label: int) -> dict[str, Any]:
        return {'class': self.classes[label], 'label': int(label), 'probability': float(shares[label])}

    def _photograph(self, content: bytes) -> np.ndarray:
        if self.prepare is None:
            raise ValueError('the file of the network does not say how images are prepared, expected a NumPy array')
        return self.prepare(content, 'image')[None]

    def _array(self, content: bytes) -> np.ndarray:
        """One image (H, W, C) or several: uint8, which the network normalizes, or floats prepared as in training."""
        try:
            images = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError, MemoryError) as error:
            raise ValueError(f'the NumPy array cannot be read ({error})') from error
        images = images[None] if images.ndim == 3 else images
        expected = self.network.input_shape
        if expected is not None and images.shape[1:] != expected:
            raise ValueError(f'images: got shape {images.shape}, expected (N, {", ".join(map(str, expected))})')
        return images


class Handler(BaseHTTPRequestHandler):
    """Answers a POST request with the classes of its images, or with an error message."""

    # Seconds to wait for the next bytes of a client.
    timeout = 30

    def __init__(self, classifier: Classifier, *connection: Any):
        self.classifier = classifier
        super().__init__(*connection)

    def do_POST(self) -> None:
        length = self.headers.get('Content-Length', '')
        if not length.isdecimal():
            return self._answer(411, {'error': 'expected the header Content-Length'})
        if int(length) > LARGEST:
            return self._answer(413, {'error': f'got {length} bytes, expected at most {LARGEST}'})
        try:
            return self._answer(200, {'images': self.classifier(self.rfile.read(int(length)))})
        except (ValueError, TypeError) as error:
            return self._answer(400, {'error': str(error)})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def server(path: str, port: int) -> ThreadingHTTPServer:
    """A server that only this machine can reach, with a thread for each request. Port 0 chooses a free port."""
    return ThreadingHTTPServer(('127.0.0.1', port), partial(Handler, Classifier(path)))


if __name__ == '__main__':
    server(sys.argv[1], int(sys.argv[2])).serve_forever()
