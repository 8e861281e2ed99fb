"""`rsfed node audit`: what left the node and what its operator looked up."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home, print_table


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("audit")(show_audit)


def show_audit(
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(min=1, help="How many lines, the newest.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what left this node, queries answered and training, and which handles were looked up; newest lines last.

    Answered queries are kept for 90 days.
    """
    from node import audit  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    load_config(NodeConfig, place.path)  # says what to do where there is no node
    with closing(open_state(place)) as connection:
        entries = audit.entries(connection, last=last)
    if output is Output.JSON:
        rows = [asdict(entry) | {"at": entry.at.isoformat(timespec="seconds")} for entry in entries]
        typer.echo(json.dumps({"audit": rows}, indent=1))
    elif entries:
        print_table(
            ("at", "kind", "subject", "data"),
            [(e.at.isoformat(timespec="seconds"), e.kind, e.subject, json.dumps(e.data)) for e in entries],
        )
    else:
        typer.echo("nothing left this node yet, and no handle was looked up")
