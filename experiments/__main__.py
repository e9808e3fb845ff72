"""`python -m experiments` lists what can be run; `python -m experiments NAME [OPTIONS]` runs it."""

import difflib
import runpy
import sys
import textwrap
from collections.abc import Sequence

from experiments import commands, recipes

WIDTH = 80


def main(arguments: Sequence[str] = ()) -> None:
    """Print what each recipe does, with its rows, and what each other command does; or run the one that is named.

    Args:
        arguments: none, options, or a name and its options.
    """
    if arguments and not arguments[0].startswith('-'):
        run(arguments[0], list(arguments[1:]))
        return
    print('python -m experiments.NAME [--scheme=ROW]; --help lists the other options')
    for name, recipe in recipes().items():
        print(_entry(name, f'{_first_line(recipe.description)} [{" ".join(recipe.rows)}]'))
    for name, text in commands().items():
        print(_entry(name, _first_line(text)))


def run(name: str, options: list[str]) -> None:
    """Run a recipe or command by its name. For an unknown name, exit with a message that lists similar names."""
    names = [*recipes(), *commands()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f'; is it {" or ".join(near)}?' if near else ''
        raise SystemExit(f'error: got {name!r}, expected one of those that `python -m experiments` lists{hint}')
    sys.argv = [name, *options]
    runpy.run_module(f'experiments.{name}', run_name='__main__', alter_sys=True)


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f'{name}  {text}', WIDTH, subsequent_indent='    ', break_on_hyphens=False)


def _first_line(text: str | None) -> str:
    return (text or '').partition('\n')[0]


if __name__ == '__main__':
    main(sys.argv[1:])
