"""Tables for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def render(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text; the last row is set apart as the total."""
    table = Table(title=title, title_justify='left')
    for i, column in enumerate(columns):
        numeric = i > 0 and all(row[i][:1].isdigit() or not row[i] for row in rows)
        table.add_column(column, justify='right' if numeric else 'left', overflow='fold', no_wrap=numeric)
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    console = Console(width=160, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
