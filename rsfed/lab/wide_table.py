"""A table for terminals of any width: columns that find no room go on below, so no figure is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2  # characters between two columns


@dataclass(frozen=True, slots=True)
class WideTable:
    """Rows of text with figures to the right of their names.

    Attributes:
        headings: Heading of each column.
        rows: Cells, one for each heading.
        names: Number of leading columns that say what a row is; they stand in every part.
    """

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    names: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw as many tables below each other as the width takes."""
        widths = [max(map(cell_len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        taken = sum(widths[: self.names]) + _GAP * (self.names - 1)
        for number, part in enumerate(parts(widths[self.names :], options.max_width - taken)):
            if number:
                yield ""
            yield self._part([*range(self.names), *(self.names + each for each in part)])

    def _part(self, columns: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for column in columns:
            table.add_column(self.headings[column], justify="right" if column else "left", no_wrap=column >= self.names)
        for row in self.rows:
            table.add_row(*(Text(row[column]) for column in columns))
        return table


def parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Return which columns stand beside each other: in order, each part as full as the room allows, none empty."""
    found: list[list[int]] = [[]]
    left = room
    for column, width in enumerate(widths):
        if found[-1] and left < _GAP + width:
            found.append([])
            left = room
        found[-1].append(column)
        left -= _GAP + width
    return found
