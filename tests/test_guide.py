"""The code of the site's guide runs: all blocks of a page, one after the other, as a reader types them."""

import json
import re
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).parents[1] / 'docs'
PAGES = [DOCS / 'index.md', *sorted((DOCS / 'guide').glob('*.md')), *sorted((DOCS / 'coming_from').glob('*.md'))]


def blocks(page: Path) -> list[str]:
    """But for the recipe, a module of its own, which tests/experiments runs."""
    return re.findall(r'```python\n(?!# mine.py)(.*?)```', page.read_text(), re.S)


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_code_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {'__name__': page.stem}
    # Flax's own layers and Optax rely on JAX's usual promotion.
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        for block in blocks(page):
            exec(compile(block, str(page), 'exec'), namespace)


def test_notebooks_are_stored_without_outputs():
    """`make docs` executes them."""
    notebooks = sorted((DOCS / 'notebooks').glob('*.ipynb'))
    assert len(notebooks) == 3
    for notebook in notebooks:
        code = [cell for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == 'code']
        assert code and all(cell['outputs'] == [] and cell['execution_count'] is None for cell in code), notebook.name
