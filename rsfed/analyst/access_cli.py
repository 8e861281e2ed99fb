"""`rsfed access`: ask an archive for an item that a query found."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsfed.analyst.options import DEFAULT_HOME, HomeOption, analyst_home
from rsfed.errors import ExitCode, RsfedError, UsageError

if TYPE_CHECKING:
    from sqlite3 import Connection

    from rsfed.analyst.access import AccessClient, Delivered
    from rsfed.analyst.state import Asked
    from rsfed.home import Home

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Ask an archive for an item that a query found.")
_ENDED = {"denied", "withdrawn", "expired"}


class Want(StrEnum):
    """What of an item is asked for."""

    QUICKLOOK = "quicklook"
    CROP = "crop"
    FILE = "file"


class Output(StrEnum):
    """How the list is printed on standard output."""

    TABLE = "table"
    JSON = "json"


Requests = Annotated[
    list[str] | None, typer.Argument(metavar="[REQUEST]...", help="Requests, or how they begin; else all.")
]


@app.command("request")
def request(
    handle: Annotated[str, typer.Argument(help="Handle of a hit, 32 hexadecimal digits.")],
    reason: Annotated[str, typer.Option(help="Why: the archive's operator reads it. At most 500 characters.")],
    want: Annotated[
        Want,
        typer.Option(help="A small picture, the pixels of the patch in all bands, or the whole file it was cut from."),
    ] = Want.QUICKLOOK,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Ask the archive that holds a hit for it.

    The archive's operator sees who asks, why and for which image, and approves or denies; `rsfed access collect`
    fetches what was approved. Request and answer are sealed: the coordinator passes them on and cannot read them.
    """
    from rsfed.analyst.access import new_request  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.state import find, open_state, put  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    text = " ".join(reason.split())
    if not text or len(text) > 500 or not text.isprintable():
        raise UsageError("--reason takes 1 to 500 characters")
    place = analyst_home(home)
    with closing(open_state(place)) as state:
        found = find(state, handle)
        asked = new_request(found, want.value, text, utc_now())
        put(state, asked)  # before it is sent: an answer may get lost

        async def ask(client: AccessClient) -> Asked:
            return await client.ask(asked, found)

        put(state, _run(place, ask))
    typer.echo(asked.id.hex())
    typer.echo(f"asked {found.node} for the {want.value}; its operator has to approve", err=True)
    typer.echo("next: `rsfed access list`, then `rsfed access collect`", err=True)


@app.command("list")
def list_requests(
    home: HomeOption = DEFAULT_HOME,
    output: Annotated[Output, typer.Option(help="How the list is printed.")] = Output.TABLE,
) -> int:
    """List what was asked for and what became of it, as the archives say now."""
    from rsfed.analyst.state import all_asked, open_state, put  # noqa: PLC0415 - loaded only when used

    place = analyst_home(home)
    with closing(open_state(place)) as state:
        known = all_asked(state)

        async def look(client: AccessClient) -> list[Asked]:
            return [each if each.state in _ENDED else await _looked(client, each) for each in known]

        newest = _run(place, look) if known else []
        for each in newest:
            put(state, each)
    if output is Output.JSON:
        typer.echo(json.dumps({"requests": [_as_json(each) for each in newest]}, indent=1))
    elif newest:
        _print_table(newest)
    else:
        typer.echo("nothing was asked for yet")
    return ExitCode.DONE


@app.command("collect")
def collect(
    requests: Requests = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to put the files into.")] = Path(),
    home: HomeOption = DEFAULT_HOME,
) -> int:
    """Fetch what was approved, and print the names of the files.

    Each is opened here with this home's key, once it is proven that the archive sealed it for this request. Files are
    named after archive and request. The code of a crop or file is computed here and compared with what the archive
    claimed of the image when a query found it. Of an archive whose claim does not hold, later queries show no more than
    its share of each ranking, until `rsfed access believe`.

    Exit codes: 0 done, 1 something that was named or approved could not be had.
    """
    from rsfed.analyst.state import all_asked, chosen, open_state, put  # noqa: PLC0415 - loaded only when used
    from rsfed.home import check_writable  # noqa: PLC0415 - loaded only when used

    place, folder = analyst_home(home), out.expanduser().absolute()
    check_writable(folder)
    with closing(open_state(place)) as state:
        waiting = [each for each in all_asked(state) if each.file is None and each.state not in _ENDED]
        wanted = chosen(state, requests) if requests else waiting

        async def fetch(client: AccessClient) -> bool:
            whole = True
            for each in wanted:
                try:
                    newest, delivered = await client.collect(each)
                except RsfedError as error:
                    _tell(each, f"{error} [{error.reason}]")
                    whole = False
                    continue
                if delivered is None:
                    _tell(each, f"{newest.state} at {each.node}")
                    whole = whole and not requests
                else:
                    file = _written(folder, each, delivered)
                    typer.echo(str(file))
                    newest = replace(newest, file=str(file), claim=_checked(place, state, each, file))
                put(state, newest)
            return whole

        if not wanted:
            typer.echo(
                "nothing to collect: all that was asked for was collected or has ended; `rsfed access list`", err=True
            )
            return ExitCode.DONE
        return ExitCode.DONE if _run(place, fetch) else ExitCode.FAILURE


@app.command("withdraw")
def withdraw(
    requests: Annotated[list[str], typer.Argument(metavar="REQUEST...")], home: HomeOption = DEFAULT_HOME
) -> None:
    """Take requests back, answered or not; what was collected stays."""
    from rsfed.analyst.state import chosen, open_state, put  # noqa: PLC0415 - loaded only when used

    place = analyst_home(home)
    with closing(open_state(place)) as state:
        wanted = chosen(state, requests)

        async def take_back(client: AccessClient) -> None:
            for each in wanted:
                now = await client.withdraw(each)
                put(state, now)
                typer.echo(f"{now.id.hex()}: {now.state}")

        _run(place, take_back)


@app.command("believe")
def believe(node: Annotated[str, typer.Argument(help="Name of the archive.")], home: HomeOption = DEFAULT_HOME) -> None:
    """Believe an archive again whose claim did not hold, once that is explained."""
    from rsfed.analyst.state import forgive, open_state  # noqa: PLC0415 - loaded only when used

    with closing(open_state(analyst_home(home))) as state:
        known = forgive(state, node)
    typer.echo(f"{node} is believed again" if known else f"no claim of {node} failed to hold; nothing changed")


def _checked(home: Home, state: Connection, asked: Asked, file: Path) -> str:
    """Hold what came against what its archive claimed, say what that shows, and return the verdict."""
    from rsfed.analyst.checking import check  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.claims import Verdict  # noqa: PLC0415 - loaded only when used

    verdict, why = check(home, state, asked, file)
    if verdict is not Verdict.BROKEN:
        _tell(
            asked,
            f"what {asked.node} claimed of it {'holds' if verdict is Verdict.HOLDS else f'is not checked: {why}'}",
        )
    else:
        _tell(asked, f"WHAT {asked.node} CLAIMED OF IT DOES NOT HOLD: the image has another code than it was found by")
        _tell(asked, f"from now on {asked.node} has no more than its share of a ranking; ask its operator")
        _tell(asked, f"once that is explained, `rsfed access believe {asked.node}`")
    return verdict.value


def _run(home: Home, act: Callable[[AccessClient], Awaitable[Any]]) -> Any:  # noqa: ANN401 - what the act returns
    from rsfed.analyst.access import AccessClient  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.connection import Connection  # noqa: PLC0415 - loaded only when used
    from rsfed.transport.loop import run  # noqa: PLC0415 - loaded only when used

    async def connected() -> Any:  # noqa: ANN401 - as above
        connection = Connection(home)
        try:
            await connection.refresh()
            return await act(AccessClient(connection))
        finally:
            await connection.close()

    return run(connected())


async def _looked(client: AccessClient, asked: Asked) -> Asked:
    """Return a request as its node knows it; where that cannot be asked now, as it was known."""
    try:
        return await client.look(asked)
    except RsfedError as error:
        _tell(asked, f"{error} [{error.reason}]")
        return asked


def _tell(asked: Asked, what: str) -> None:
    typer.echo(f"{asked.id.hex()}: {what}", err=True)


def _written(folder: Path, asked: Asked, delivered: Delivered) -> Path:
    """Write a delivery under a name that nobody else chose."""
    from rsfed.home import make_folder  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.identity import write_atomically  # noqa: PLC0415 - loaded only when used

    make_folder(folder)
    file = folder / f"{asked.node}-{asked.want}-{asked.id.hex()[:12]}{delivered.suffix}"
    write_atomically(file, delivered.content)
    return file


def _as_json(asked: Asked) -> dict[str, Any]:
    return {
        "request": asked.id.hex(),
        "node": asked.node,
        "handle": asked.handle.hex(),
        "want": asked.want,
        "reason": asked.reason,
        "asked": asked.asked.isoformat(timespec="seconds"),
        "state": _state(asked),
        "expires": asked.expires and asked.expires.isoformat(timespec="seconds"),
        "note": asked.note,
        "file": asked.file,
        "claim": asked.claim,
    }


def _state(asked: Asked) -> str:
    """Return what became of a request, in one word: that of its node until what was approved is here."""
    return "collected" if asked.file else asked.state


def _print_table(rows: list[Asked]) -> None:
    """Print requests as a table that fits 80 columns; ids stay whole, to be copied."""
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.table import Table  # noqa: PLC0415 - loaded only when used
    from rich.text import Text  # noqa: PLC0415 - loaded only when used

    table = Table(box=None, pad_edge=False)
    for column in ("request", "want", "asked", "state", "until"):
        table.add_column(column, no_wrap=True)
    table.add_column("node", overflow="fold", max_width=24)
    table.add_column("note", overflow="fold")
    for each in rows:
        until = f"{each.expires:%m-%d %H:%M}" if each.expires and each.state not in _ENDED else ""
        cells = (each.id.hex()[:12], each.want, f"{each.asked:%Y-%m-%d}", _state(each), until, each.node, each.note)
        table.add_row(*map(Text, cells))
    Console().print(table)
