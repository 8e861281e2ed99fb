"""Options and helpers that the node's commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rsfed.home import Home

DEFAULT_HOME = Path("~/.rsfed/node")
_UNCUT = 1000  # columns of a table that goes to a file or pipe


class Output(StrEnum):
    """How a result is printed on standard output."""

    TABLE = "table"
    JSON = "json"


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="RSFED_NODE_HOME",
        file_okay=False,
        help="Folder with the node's configuration, keys and state.",
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", help="How the result is printed.")]


def node_home(path: Path) -> Home:
    """Return the node's home; `~` is the user's folder."""
    return Home(path.expanduser().absolute())


def unsearched(recorded: int, covered: int, same_place: int) -> str:
    """Say how many patches are recorded and not searched, and why."""
    reasons = {
        "have too little data": recorded - covered - same_place,
        "are under clouds, shadow or snow": covered,
        "show the place of another": same_place,
    }
    told = ", ".join(f"{count} {why}" for why, count in reasons.items() if count)
    return f"{recorded} recorded and not searched" + (f": {told}" if told else "")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of texts on standard output."""
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.table import Table  # noqa: PLC0415 - loaded only when used
    from rich.text import Text  # noqa: PLC0415 - loaded only when used

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    (console if console.is_terminal else Console(width=_UNCUT)).print(table)
