"""The architecture: floors of packages, forbidden constructions, docstrings, documents that stay true."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bnn_jax as bnn

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / 'bnn_jax').rglob('*.py'))


def test_each_floor_imports_only_from_below():
    command = [Path(sys.executable).parent / 'lint-imports', '--no-cache']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source(path):
    text = path.read_text()
    used = {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    transformations = ('jit', 'grad', 'value_and_grad', 'vmap', 'scan', 'custom_vjp', 'Optimizer')
    unused = {f'nnx.{name}' for name in transformations} | {'jnp.empty', 'jnp.empty_like', 'jax.default_backend'}
    assert not used & unused, 'not used in this library'
    # x + stop_gradient(q - x) is not exactly +-1 in bfloat16.
    assert not re.search(r'\+\s*(jax\.lax\.|lax\.)?stop_gradient\(', text)
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'):
            assert ast.get_docstring(node), f'{node.name} has no docstring'


def test_importing_the_library_needs_no_extra_and_touches_no_device():
    # `load` needs no Flax, which takes as long to import as JAX.
    heavy = ['grain', 'tensorflow_datasets', 'orbax.checkpoint', 'matplotlib', 'tyro', 'sklearn', 'tensorflow']
    code = (
        'import sys; import bnn_jax as bnn; bnn.load; print("flax" in sys.modules)\n'
        'from bnn_jax import *; from jax._src import xla_bridge\n'
        f'print([m for m in {heavy} if m in sys.modules], xla_bridge._backends)'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ['False', '[]', '{}']


def documented() -> list[str]:
    """The modules that have examples."""
    names = (
        '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for path in SOURCES
        if re.search(r'^ +>>> ', path.read_text(), re.M)
    )
    return [name.removesuffix('.__init__') for name in names]


@pytest.mark.parametrize('name', documented())
def test_examples_of_docstrings(name):
    results = doctest.testmod(importlib.import_module(name))
    assert not results.failed


def test_the_root_is_small():
    modules = [path for path in (ROOT / 'bnn_jax').iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()]
    rooms = [path for path in modules if not path.name.startswith('__')]
    assert len(rooms) <= 16, sorted(path.name for path in rooms)


def test_public_names():
    for name in ('FLOAT', 'BC', 'BC_STOCHASTIC', 'BWN', 'BNN', 'XNOR', 'XNOR_K', 'BIREAL', 'DOREFA', 'IRNET', 'RECU'):
        assert getattr(bnn, name) is getattr(bnn.schemes, name)
    assert bnn.bits.WORD_BITS == 32
    for name in ('init', 'train_step', 'evaluate', 'model_of', 'fit'):
        assert callable(getattr(bnn.training, name))


def test_names_that_the_documents_use_need_no_further_import():
    documents = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'docs').rglob('*.ipynb'), *SOURCES]
    used = {name for path in documents for name in re.findall(r'\bbnn\.(\w+)', path.read_text())}
    assert 'ops' in used
    assert used <= {*bnn.__all__}, used - {*bnn.__all__}
    for name in {*bnn.__all__} - {*vars(bnn)} | {'ops'}:
        bnn.__getattr__(name)  # Python calls it for a name that nothing has imported yet.


def test_the_readme_example_and_commands_are_real():
    readme = (ROOT / 'README.md').read_text()
    assert readme.count('```sh\nmake demo\nmake test\n```') == 1
    for name in re.findall(r'\]\(([^)#]+)\)', readme):
        assert (ROOT / name).exists(), name
    for module in re.findall(r'-m experiments\.([a-z0-9_]+)', readme):
        assert (ROOT / 'experiments' / f'{module}.py').exists(), module
    (first,) = re.findall(r'```python\n(.*?)```', readme, re.S)
    smaller = first.replace('224, 224', '32, 32').replace(
        'resnet18(num', 'resnet18(width=0.1, filters=(64, 128), blocks=(1, 1), num'
    )
    smaller = smaller.replace("'resnet18.safetensors'", 'path')
    namespace = {'path': str(ROOT / '.pytest_cache' / 'readme.safetensors')}
    (ROOT / '.pytest_cache').mkdir(exist_ok=True)
    exec(smaller, namespace)


PAGES = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').rglob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_in_documents_exist(page):
    """Names that begin with the library, or in backticks with one of its packages."""
    packages = {path.name for path in (ROOT / 'bnn_jax').iterdir() if (path / '__init__.py').exists()}
    packages -= {'native'}  # in the documents this is the backend, kernels.native
    text = page.read_text()
    names = re.findall(r'\bbnn(?:_jax)?\.((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)', text)
    names += re.findall(rf'`((?:{"|".join(sorted(packages))})\.\w+)`', text)
    assert [name for name in dict.fromkeys(names) if not exists(name)] == []


def exists(name: str) -> bool:
    found = bnn
    parts = name.split('.')
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            try:
                importlib.import_module('.'.join(['bnn_jax', *parts[: i + 1]]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


def test_no_versions_are_joined_that_do_not_fit():
    """jax from 0.11 on needs flax from 0.12.10 on, which need Python 3.12; Python 3.11 ends at jax 0.10 and flax 0.12.8."""
    stated = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['dependencies']
    for python, of_jax, of_flax, fit in (
        ('3.11', '0.10.0', '0.12.8', True),
        ('3.12', '0.11.1', '0.12.10', True),
        ('3.13', '0.12.0', '0.12.12', True),
        ('3.12', '0.11.1', '0.12.8', False),
        ('3.12', '0.12.0', '0.12.9', False),
    ):
        asked = [
            r for r in map(Requirement, stated) if r.marker is None or r.marker.evaluate({'python_version': python})
        ]
        versions = {'jax': of_jax, 'flax': of_flax}
        known = [r for r in asked if r.name in versions]
        assert all(r.specifier.contains(versions[r.name]) for r in known) == fit
