"""Options and helpers that the coordinator's commands share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.errors import ConfigError, DeadlineExceeded, Unreachable, UsageError
from rsfed.home import Home

if TYPE_CHECKING:
    from coordinator.authority import Authority
    from coordinator.state import State
    from rsfed.config import CoordinatorConfig

DEFAULT_HOME = Path("~/.rsfed/coordinator")
_WIDTH = 100  # columns of a table that goes to a file or pipe


class Output(StrEnum):
    """How a result is printed on standard output."""

    TABLE = "table"
    JSON = "json"


class MemberRole(StrEnum):
    """Roles that can be invited."""

    NODE = "node"
    ANALYST = "analyst"


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="RSFED_COORDINATOR_HOME",
        file_okay=False,
        help="Folder with the coordinator's configuration, keys and state.",
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", help="How the result is printed.")]


def coordinator_home(path: Path) -> Home:
    """Return the coordinator's home; `~` is the user's folder."""
    return Home(path.expanduser().absolute())


@contextmanager
def open_federation(path: Path) -> Iterator[tuple[Home, State, CoordinatorConfig]]:
    """Open the state of an existing federation.

    Raises:
        ConfigError: there is none in this home.
    """
    from coordinator.state import State  # noqa: PLC0415 - loaded only when used
    from rsfed.config import CoordinatorConfig, load_config  # noqa: PLC0415 - loaded only when used

    home = coordinator_home(path)
    config = load_config(CoordinatorConfig, home.path)
    if not home.database.exists():
        raise ConfigError("the state of the federation is missing; restore a backup", detail=str(home.path))
    state = State(home)
    try:
        yield home, state, config
    finally:
        state.close()


@contextmanager
def open_authority(path: Path) -> Iterator[tuple[Home, Authority]]:
    """Open an existing federation to change its members."""
    from coordinator.authority import Authority  # noqa: PLC0415 - loaded only when used

    with open_federation(path) as (home, state, config):
        yield home, Authority(home, state, config)


def notify_serve(home: Home) -> bool:
    """Tell a running `serve` that the state changed and say whether one heard it; it looks by itself, too."""
    if not home.control_socket.exists():
        return False
    return asyncio.run(_notify(home))


async def _notify(home: Home) -> bool:
    from rsfed.clock import Deadline  # noqa: PLC0415 - loaded only when used
    from rsfed.transport.channel import call, open_control_channel  # noqa: PLC0415 - loaded only when used
    from rsfed.v1.control_pb2 import ControlServiceNotifyRequest  # noqa: PLC0415 - loaded only when used
    from rsfed.v1.control_pb2_grpc import ControlServiceStub  # noqa: PLC0415 - loaded only when used

    async with open_control_channel(home.control_socket) as channel:
        stub = ControlServiceStub(channel)
        try:
            await call(stub.Notify, ControlServiceNotifyRequest(), Deadline.after(5.0), what="the coordinator's serve")
        except (Unreachable, DeadlineExceeded):
            return False
    return True


def level_named(name: str) -> int:
    """Return the policy level of a name; 0 for "".

    Raises:
        UsageError: there is no such level.
    """
    from rsfed.trust.scope import LEVELS  # noqa: PLC0415 - loaded only when used

    if name and name not in LEVELS:
        raise UsageError(f"there is no policy level {name!r}; use {' or '.join(LEVELS)}")
    return int(LEVELS[name]) if name else 0


def print_result(output: Output, name: str, rows: Sequence[dict[str, object]], columns: Sequence[str]) -> None:
    """Print rows as a table of some columns, or as one JSON object with all of them.

    Args:
        output: Which of the two.
        name: Key of the rows in the JSON object, and the word for them in an empty table.
        rows: The rows; moments are whole seconds in JSON, minutes in the table.
        columns: Keys of the columns of the table.
    """
    if output is Output.JSON:
        typer.echo(json.dumps({name: rows}, default=_iso))
        return
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.table import Table  # noqa: PLC0415 - loaded only when used
    from rich.text import Text  # noqa: PLC0415 - loaded only when used

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table if rows else f"no {name} yet")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def _iso(value: object) -> str:
    """Return a moment as JSON has it.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} is no part of a result")
    return value.isoformat(timespec="seconds")
