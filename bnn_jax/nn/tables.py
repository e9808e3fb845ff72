"""Tables for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def render(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text; the last row is set apart as the total."""
    return _text(title, columns, rows[:-1], rows[-1:])


def listing(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, without a total."""
    return _text(title, columns, rows, ())


def _text(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], totals: Sequence[Sequence[str]]) -> str:
    """Cells are printed as they are: rich's markup and emoji codes mean nothing here."""
    table = Table(title=Text(title), title_justify='left')
    for i, column in enumerate(columns):
        numeric = i > 0 and all(row[i][:1].isdigit() or not row[i] for row in (*rows, *totals))
        table.add_column(Text(column), justify='right' if numeric else 'left', overflow='fold', no_wrap=numeric)
    for row in rows:
        table.add_row(*map(Text, row))
    if totals:
        table.add_section()
    for row in totals:
        table.add_row(*map(Text, row))
    console = Console(width=160, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
