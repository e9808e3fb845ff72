"""What a conversion made of every layer, as a table."""

import dataclasses

from bnn_jax.nn.tables import as_html, render


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of a report. path: where it stands. became: its arithmetic. bytes: its stored tensors. reason: why."""

    path: str
    became: str
    bytes: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What every layer of a packed network became."""

    rows: tuple[Row, ...]

    @property
    def bytes(self) -> int:
        """All stored tensors."""
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        return render(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = [[row.path, row.became, f'{row.bytes:,}', row.reason] for row in self.rows]
        return 'conversion', ['layer', 'became', 'bytes', 'why'], [*rows, ['total', '', f'{self.bytes:,}', '']]
