"""The report of a conversion: what each layer became, as a table."""

import dataclasses

from bnn_jax.nn.tables import as_html, render


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer in a report.

    Args:
        path: where the layer is in the network.
        became: the arithmetic of the packed layer.
        bytes: the bytes of its stored tensors.
        reason: why it became this.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.nn.Row('1', 'xnor + popcount', 64, 'binary weights, binary input').bytes
        64
    """

    path: str
    became: str
    bytes: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What each layer of a packed network became. `packed.report` returns the report; printed, it is a table.

    Args:
        rows: one for each layer, first to last.

    Example:
        >>> import bnn_jax as bnn
        >>> rows = bnn.nn.Row('0', 'float32', 32, 'real'), bnn.nn.Row('1', 'xnor + popcount', 64, 'binary')
        >>> print(bnn.nn.Report(rows))
        conversion
        ┏━━━━━━━┳━━━━━━━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━┓
        ┃ layer ┃ became          ┃ bytes ┃ why    ┃
        ┡━━━━━━━╇━━━━━━━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━┩
        │ 0     │ float32         │    32 │ real   │
        │ 1     │ xnor + popcount │    64 │ binary │
        ├───────┼─────────────────┼───────┼────────┤
        │ total │                 │    96 │        │
        └───────┴─────────────────┴───────┴────────┘
    """

    rows: tuple[Row, ...]

    @property
    def bytes(self) -> int:
        """The bytes of all stored tensors."""
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        return render(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = [[row.path, row.became, f'{row.bytes:,}', row.reason] for row in self.rows]
        # The last row is the total, which `render` sets apart.
        return 'conversion', ['layer', 'became', 'bytes', 'why'], [*rows, ['total', '', f'{self.bytes:,}', '']]
