"""What MkDocs cannot do by itself: pages from outside docs/ and links to them, the API reference, formulas as MathML."""

import ast
import html
import os
import posixpath
import re
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# The page of the site -> its source in the repository.
OUTSIDE = {
    'changelog.md': 'CHANGELOG.md',
    'contributing.md': 'CONTRIBUTING.md',
    'results.md': 'experiments/README.md',
    **{
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix() for path in ROOT.glob('examples/[a-z]*.py')
    },
}
PAGES = {source: page for page, source in OUTSIDE.items()}
# The packages and modules of the API reference, a page each.
PACKAGES = [
    'quantizers',
    'schemes',
    'nn',
    'models',
    'training',
    'optim',
    'inference',
    'interop',
    'kernels',
    'ops',
    'data',
    'runtime',
]


def on_files(files, config):
    """Adds the pages whose source lies outside docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for package in PACKAGES:
        files.append(File.generated(config, f'reference/{package}.md', content=reference(package)))
    return files


def reference(package: str) -> str:
    """The page of a package: its docstring, and every name that it exports."""
    folder = ROOT / 'bnn_jax' / package
    if not folder.is_dir():
        return f'# bnn_jax.{package}\n\n::: bnn_jax.{package}\n    options: {{show_root_heading: false}}'
    tree = ast.parse((folder / '__init__.py').read_text())
    (exported,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'
    )
    sections = [f'# bnn_jax.{package}', ast.get_docstring(tree) or '']
    for name in sorted(exported, key=str.lower):
        path, file = f'bnn_jax.{package}.{name}', folder / f'{name}.py'
        # A file hides the function of the same name that it defines.
        if file.exists() and re.search(rf'^def {name}\(', file.read_text(), re.MULTILINE):
            path = f'{path}.{name}'
        sections.append(f'::: {path}')
    return '\n\n'.join(sections)


def on_page_markdown(markdown, page, config, files):
    """Links as the repository has them -> links as the site has them."""
    here = page.file.src_uri
    source = OUTSIDE.get(here, f'docs/{here}')

    def relinked(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith('docs/'):
            target = target.removeprefix('docs/')
        else:
            return match[0]
        return f']({posixpath.relpath(target, posixpath.dirname(here) or ".")}'

    return re.sub(r'\]\((?!\w+:)([^)#\s]+)', relinked, markdown)


# Drawn by the site's own style: a page loads nothing from elsewhere.
COLAB = (
    '<p><a class="md-button" href="https://colab.research.google.com/github/{}/blob/main/docs/{}">Open in Colab</a></p>'
)


def on_page_content(content, page, config, files):
    """Formulas become MathML, which browsers draw without a script. A notebook gets its badge."""
    # Colab opens notebooks of a public repository; the workflow that builds the site there sets its name.
    repository = os.environ.get('GITHUB_REPOSITORY')
    if repository and page.file.src_uri.endswith('.ipynb'):
        content = COLAB.format(repository, page.file.src_uri) + content

    def formula(match, display):
        return convert(html.unescape(match[1]), display=display)

    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: formula(m, 'inline'), content, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', lambda m: formula(m, 'block'), content, flags=re.DOTALL
    )


class Docstrings(griffe.Extension):
    """What Griffe would not see of our docstrings."""

    def on_object(self, *, obj, **kwargs):
        """We say Example, one each; Griffe knows the section as Examples."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r'^Example:$', 'Examples:', obj.docstring.value, flags=re.MULTILINE)

    def on_attribute_instance(self, *, node, attr, **kwargs):
        """The text of a scheme is an argument of the call that makes it."""
        call = getattr(node, 'value', None)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == 'named_scheme':
            attr.docstring = griffe.Docstring(ast.literal_eval(call.args[1]), parent=attr)
            attr.value = None
