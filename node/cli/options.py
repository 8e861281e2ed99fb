"""Options and helpers that the node's commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rsfed.home import Home

DEFAULT_HOME = Path("~/.rsfed/node")


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
