"""Options and helpers that the analyst's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsfed.home import Home

DEFAULT_HOME = Path("~/.rsfed/analyst")

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="RSFED_ANALYST_HOME",
        file_okay=False,
        help="Folder with the analyst's configuration and keys.",
    ),
]


def analyst_home(path: Path) -> Home:
    """Return the analyst's home; `~` is the user's folder."""
    return Home(path.expanduser().absolute())
