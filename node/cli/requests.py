"""`rsfed node requests`: who asks for which found image and why, and the operator's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home, print_table

if TYPE_CHECKING:
    from node.requests import AccessRequest
    from node.resolve import Resolved
    from rsfed.home import Home

app = typer.Typer(no_args_is_help=True, help="Who asks for an image of this archive: list, show, approve, deny.")
RequestArgument = Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id, or how it begins.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.add_typer(app, name="requests")


@app.command("list")
def list_requests(
    home: HomeOption = DEFAULT_HOME,
    everything: Annotated[bool, typer.Option("--all", help="Those too that have ended.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the requests that wait for an answer or to be collected, the oldest first."""
    from node.requests import State  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    now = utc_now()
    found = _matching(node_home(home), "")
    shown = [each for each in found if everything or each.state_at(now) in {State.OPEN, State.APPROVED}]
    if output is Output.JSON:
        typer.echo(json.dumps({"requests": [_as_json(each) for each in shown]}, indent=1))
    elif shown:
        print_table(
            ("request", "requester", "want", "asked", "state", "until", "reason"),
            [_row(each) for each in shown],
        )
    else:
        typer.echo("nobody waits for an answer")


@app.command("show")
def show(
    request: RequestArgument,
    picture: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE.png", help="Also draw the patch into this picture.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say who asks for which own file and why, and what would leave; with --picture, draw the patch.

    The look-up of the file is noted in the home, as that of `rsfed node resolve` is.
    """
    from node.delivery import quicklook, size_of  # noqa: PLC0415 - loaded only when used
    from node.resolve import resolve  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.errors import RasterRejected  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    asked = _one(place, request)
    (found,) = resolve(place, [asked.handle.hex()], operator=_operator(), now=utc_now())
    try:
        size: int | None = size_of(found.item, asked.want)
    except RasterRejected as error:  # to be seen all the same: it can be denied
        typer.echo(f"the file cannot be read: {error.public}", err=True)
        size = None
    if output is Output.JSON:
        typer.echo(json.dumps(_as_json(asked) | _found_json(found, size), indent=1))
    else:
        typer.echo(_as_table(asked, found, size))
    if picture is not None:
        picture.write_bytes(quicklook(found.item)[1])
        typer.echo(f"picture written to {picture}", err=True)


@app.command("approve")
def approve(request: RequestArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """Let go what is asked for: sealed now for who asked, to be collected within 7 days."""
    from node.approval import approve as give  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    asked = give(place, _one(place, request).id, operator=_operator(), now=utc_now())
    typer.echo(f"approved: {asked.want} of {asked.sealed_size:,} bytes, sealed for {asked.requester}")
    typer.echo(f"it can be collected until {asked.expires:%Y-%m-%d %H:%M} UTC, while `rsfed node serve` runs", err=True)


@app.command("deny")
def deny(
    request: RequestArgument,
    note: Annotated[str, typer.Option(help="What who asked gets to read, at most 500 characters.")] = "",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Say no; of an approved request, take the approval back. What was collected by then stays collected."""
    from node.approval import deny as refuse  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    asked = refuse(place, _one(place, request).id, operator=_operator(), note=note, now=utc_now())
    collected = f"; it was collected on {asked.collected:%Y-%m-%d %H:%M} UTC" if asked.collected else ""
    typer.echo(f"{asked.state.value}{collected}")


def _matching(home: Home, beginning: str) -> list[AccessRequest]:
    from contextlib import closing  # noqa: PLC0415 - loaded only when used

    from node.requests import matching  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    load_config(NodeConfig, home.path)  # says what to do where there is no node
    with closing(open_state(home)) as connection:
        return matching(connection, beginning)


def _one(home: Home, beginning: str) -> AccessRequest:
    """Return the one request whose id begins so."""
    from rsfed.errors import UnknownHandle  # noqa: PLC0415 - loaded only when used

    found = _matching(home, beginning) if beginning else []
    if len(found) != 1:
        raise UnknownHandle(
            f"{len(found) or 'no'} requests to this archive begin so; see `rsfed node requests list --all`",
            reason="UNKNOWN_REQUEST",
            detail=beginning,
        )
    return found[0]


def _operator() -> str:
    import psutil  # noqa: PLC0415 - loaded only when used

    return str(psutil.Process().username())


def _as_json(asked: AccessRequest) -> dict[str, Any]:
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    return {
        "request": asked.id.hex(),
        "requester": asked.requester,
        "handle": asked.handle.hex(),
        "want": asked.want.value,
        "reason": asked.reason,
        "asked": asked.asked.isoformat(timespec="seconds"),
        "expires": asked.expires.isoformat(timespec="seconds"),
        "state": asked.state_at(utc_now()).value,
        "answered": asked.answered and asked.answered.isoformat(timespec="seconds"),
        "operator": asked.operator,
        "note": asked.note,
        "sealed_bytes": asked.sealed_size,
        "collected": asked.collected and asked.collected.isoformat(timespec="seconds"),
    }


def _found_json(found: Resolved, size: int | None) -> dict[str, Any]:
    window = found.item.window
    return {
        "path": str(found.item.path),
        "window": {"col": window.col, "row": window.row, "width": window.width, "height": window.height},
        "modality": found.item.modality,
        "labels": list(found.labels),
        "item_state": found.state,
        "query": found.query.query_id.hex(),
        "bytes": size,
    }


def _row(asked: AccessRequest) -> tuple[str, ...]:
    shown = _as_json(asked)
    times = [f"{moment:%Y-%m-%d %H:%M}" for moment in (asked.asked, asked.expires)]
    return (shown["request"][:12], asked.requester, shown["want"], times[0], shown["state"], times[1], asked.reason)


def _as_table(asked: AccessRequest, found: Resolved, size: int | None) -> str:
    window, shown = found.item.window, _as_json(asked)
    whole = ", with whatever else it holds" if shown["want"] == "file" else ""
    rows = {
        "request": f"{shown['request']} ({shown['state']})",
        "from": f"{asked.requester} on {asked.asked:%Y-%m-%d %H:%M} UTC",
        "why": asked.reason,
        "file": f"{found.item.path}{'' if found.state == 'present' else f' ({found.state})'}",
        "window": f"{window.width} x {window.height} pixels at column {window.col}, row {window.row}",
        "labels": ", ".join(found.labels) or "none",
        "wants": f"the {shown['want']}{'' if size is None else f', about {size:,} bytes{whole}'}",
        "until": f"{asked.expires:%Y-%m-%d %H:%M} UTC",
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())
