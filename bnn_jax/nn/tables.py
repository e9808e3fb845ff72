"""Tables as text that fits the terminal, and as HTML for notebooks."""

import html
import shutil
from collections.abc import Sequence

# The smallest and the largest width that a table may take, in characters. Between them it may be as wide as the terminal.
# Where there is no terminal, it may be NARROWEST wide.
NARROWEST, WIDEST = 80, 160
# Wider columns of text count as this wide when a table is divided into parts; they may be folded.
FOLDED = 24

Rows = Sequence[Sequence[str]]


def render(title: str, columns: Sequence[str], rows: Rows) -> str:
    """A table as text, like `listing`, but the last row is the total, below a line."""
    return _text(title, columns, rows[:-1], rows[-1:])


def listing(title: str, columns: Sequence[str], rows: Rows) -> str:
    """A table as text, without a total.

    Text is folded to fit. If the table is still too wide, it is split into parts; each has the first column.

    Example:
        >>> print(listing('sizes', ['name', 'bytes'], [['a', '1,024']]))
        sizes
        ┏━━━━━━┳━━━━━━━┓
        ┃ name ┃ bytes ┃
        ┡━━━━━━╇━━━━━━━┩
        │ a    │ 1,024 │
        └──────┴───────┘
    """
    return _text(title, columns, rows, ())


def as_html(title: str, columns: Sequence[str], rows: Rows) -> str:
    """The table of `render` as HTML, for a notebook."""

    def line(cells: Sequence[str], tag: str) -> str:
        return f'<tr>{"".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)}</tr>'

    body = [line(row, 'td') for row in rows[:-1]] + [line(row, 'th') for row in rows[-1:]]
    head = f'<caption>{html.escape(title)}</caption><thead>{line(columns, "th")}</thead>'
    return f'<table>{head}<tbody>{"".join(body)}</tbody></table>'


def _text(title: str, columns: Sequence[str], rows: Rows, totals: Rows) -> str:
    width = min(max(NARROWEST, shutil.get_terminal_size((NARROWEST, 24)).columns), WIDEST)
    cells = [*rows, *totals]
    # A column of numbers is aligned to the right and never folded; the first column has names.
    numeric = [i > 0 and all(row[i][:1].isdigit() or not row[i] for row in cells) for i in range(len(columns))]
    parts = _parts(columns, cells, numeric, width)
    texts = []
    for part in parts:
        above, below = ([[row[i] for i in part] for row in lines] for lines in (rows, totals))
        heads = [(columns[i], numeric[i]) for i in part]
        texts.append(_one('' if texts else title, heads, above, below, width))
    return '\n'.join(texts)


def _parts(columns: Sequence[str], cells: Rows, numeric: Sequence[bool], width: int) -> list[list[int]]:
    """The columns divided into parts that fit the width. Every part begins with the first column."""

    def narrowest(i: int) -> int:
        longest = max(len(row[i]) for row in cells) if cells else 0
        heading = max(map(len, columns[i].split()), default=0)  # A heading is folded between words.
        return max(longest, heading) if numeric[i] else min(max(longest, heading), FOLDED)

    parts = [[0]]
    for i in range(1, len(columns)):
        part = [*parts[-1], i]
        if sum(map(narrowest, part)) + 3 * len(part) + 1 > width and len(parts[-1]) > 1:
            parts.append([0, i])
        else:
            parts[-1] = part
    return parts


def _one(title: str, columns: Sequence[tuple[str, bool]], rows: Rows, totals: Rows, width: int) -> str:
    """One part as text. Cells are printed as they are: rich's markup and emoji codes have no effect."""
    # Imported here, because every program that loads or converts a network imports this module, but few print a table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify='left')
    for column, numeric in columns:
        table.add_column(Text(column), justify='right' if numeric else 'left', overflow='fold')
        if numeric:  # Numbers are never folded, headings are.
            longest = max((len(cell) for row in (*rows, *totals) for cell in [row[len(table.columns) - 1]]), default=0)
            table.columns[-1].min_width = max(longest, *map(len, column.split()), 1)
    for row in rows:
        table.add_row(*map(Text, row))
    if totals:
        table.add_section()
    for row in totals:
        table.add_row(*map(Text, row))
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return '\n'.join(line.rstrip() for line in capture.get().rstrip().splitlines())
