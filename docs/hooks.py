"""What MkDocs cannot do by itself: pages from outside docs/, links to them, formulas as MathML, examples in docstrings."""

import html
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


def on_files(files, config):
    """Adds the pages whose source lies outside docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


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


def on_page_content(content, page, config, files):
    """Formulas become MathML, which browsers draw without a script."""

    def formula(match, display):
        return convert(html.unescape(match[1]), display=display)

    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: formula(m, 'inline'), content, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', lambda m: formula(m, 'block'), content, flags=re.DOTALL
    )


class Examples(griffe.Extension):
    """Our docstrings say Example, one each; Griffe knows the section as Examples."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r'^Example:$', 'Examples:', obj.docstring.value, flags=re.MULTILINE)
