"""The reading paths of docs/architecture.md: the functions do run, and the files stay short."""

import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax.kernels import native

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'architecture.md').read_text()


def path(title: str) -> list[tuple[str, str]]:
    """(file, function) of a path, in order."""
    section = PAGE.partition(f'## {title}\n')[2].partition('\n## ')[0]
    return re.findall(r'^\| (bnn_jax/\S+\.py) \| `(\w+)` \|', section, re.M)


def called(function) -> list[tuple[str, str]]:
    """(file, function) of everything of this library that the call enters, by name.

    Under differentiation JAX enters `_f_fwd` in place of a function f with its own gradient.
    """
    seen: dict[tuple[str, str], None] = {}
    library = str(ROOT / 'bnn_jax')  # Made once: the profile is called at every call of Python.

    def profile(frame, event, argument):
        name = frame.f_code.co_filename
        if event == 'call' and name.startswith(library):
            function_name = re.sub(r'^_(\w+)_fwd$', r'\1', frame.f_code.co_name)
            seen.setdefault((Path(name).relative_to(ROOT).as_posix(), function_name))

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(seen)


IMAGES = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)


def built():
    return bnn.models.vgg_small(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0), width=0.03, input_shape=(8, 8, 3))


def training():
    """One gradient of the loss to the latent weights, from the constructor on."""

    def action():
        graphdef, params, rest = nnx.split(nnx.eval_shape(built), nnx.Param, ...)

        def loss(params, rest):
            return nnx.merge(graphdef, params, rest, copy=True)(IMAGES).sum()

        jax.eval_shape(jax.grad(loss), params, rest)  # Tracing enters all that runs.

    return action


def running():
    """One image from bits."""
    model = built()
    model.eval()
    packed = bnn.convert(model)
    return lambda: packed(IMAGES)


@pytest.mark.parametrize(
    ('title', 'prepare', 'files', 'lines'),
    [('How an XNOR convolution trains', training, 10, 1400), ('How it runs from bits', running, 8, 1000)],
)
def test_a_reading_path(title, prepare, files, lines):
    steps, action = path(title), prepare()
    assert 5 < len(steps) <= files
    assert sum(len((ROOT / file).read_text().splitlines()) for file, _ in steps) <= lines
    jax.clear_caches()  # Functions that are compiled already would not be entered again.
    entered = called(action)
    if native.missing() is not None:  # Without a compiler another backend ends the path.
        steps = [step for step in steps if step[0] != 'bnn_jax/kernels/native.py']
    assert set(steps) <= set(entered)
