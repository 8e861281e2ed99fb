"""`rsfed node serve` and `rsfed node resolve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home

if TYPE_CHECKING:
    from node.resolve import Resolved


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("serve")(serve)
    app.command("resolve")(resolve)


def serve(
    home: HomeOption = DEFAULT_HOME,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> int:
    """Answer the federation's queries until told to stop; logs go to standard error.

    The policy level of node.toml is named at the start; `rsfed node policy explain` says what it gives away. SIGTERM
    lets calls in progress end and exits with 0; Ctrl-C does the same and exits with 130.
    """
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used
    from rsfed.telemetry import configure_logs  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    config = load_config(NodeConfig, place.path)
    level = f"policy level {config.policy.level}: `rsfed node policy explain` says what it gives away"
    configure_logs(verbose=verbose)

    from node.serve import serve as serving  # noqa: PLC0415 - grpc, only once the configuration will do
    from rsfed.transport.loop import run  # noqa: PLC0415 - as above

    return run(serving(place, config, starting=lambda: typer.echo(level, err=True)))


def resolve(
    handles: Annotated[
        list[str],
        typer.Argument(
            metavar="HANDLE...",
            help="Handles of hits, 32 hexadecimal digits each; the first digits of one that `audit show` lists.",
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say which of this node's own files handles mean, and in whose query they were given.

    Every look-up is noted in the home with user, time and handle. Handles older than 90 days mean nothing any more.
    """
    import json  # noqa: PLC0415 - loaded only when used

    import psutil  # noqa: PLC0415 - loaded only when used

    from node.resolve import resolve as look_up  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    found = look_up(node_home(home), handles, operator=psutil.Process().username(), now=utc_now())
    if output is Output.JSON:
        typer.echo(json.dumps([_as_json(each) for each in found], indent=1))
    else:
        typer.echo("\n\n".join(map(_as_table, found)))


def _as_json(found: Resolved) -> dict[str, Any]:
    window = found.item.window
    return {
        "handle": found.handle.hex(),
        "path": str(found.item.path),
        "window": {"col": window.col, "row": window.row, "width": window.width, "height": window.height},
        "modality": found.item.modality,
        "labels": list(found.labels),
        "classes": list(found.item.labels),
        "state": found.state,
        "requester": found.query.requester,
        "query": found.query.query_id.hex(),
        "time": found.query.created.isoformat(timespec="seconds"),
    }


def _as_table(found: Resolved) -> str:
    window = found.item.window
    rows = {
        "handle": found.handle.hex(),
        "file": f"{found.item.path}{'' if found.state == 'present' else f' ({found.state})'}",
        "window": f"{window.width} x {window.height} pixels at column {window.col}, row {window.row}",
        "labels": ", ".join(found.labels) or "none",
        "given to": f"{found.query.requester} on {found.query.created:%Y-%m-%d %H:%M} UTC",
        "in query": found.query.query_id.hex(),
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())
