"""`rsfed coordinator audit`: what happened in the federation, proofs of it, and a node that explained its own log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import (
    DEFAULT_HOME,
    HomeOption,
    Output,
    OutputOption,
    coordinator_home,
    open_federation,
)

app = typer.Typer(no_args_is_help=True, help="What happened in the federation: show, verify, export, accept.")


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.add_typer(app, name="audit")


@app.command("show")
def show(
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(min=1, max=2**63 - 1, help="How many lines, the newest.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what happened: who was invited, joined, renewed, left; releases; who asked and which archives took part.

    The table shortens ids and digests; `--output json` has all of them.
    """
    from coordinator import audit  # noqa: PLC0415 - loaded only when used
    from rsfed.audit_cli import print_entries  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (_, state, _config), state.reading() as connection:
        entries = audit.entries(connection, last=last)
    if output is Output.JSON:
        rows = [asdict(entry) | {"at": entry.at.isoformat(timespec="seconds")} for entry in entries]
        typer.echo(json.dumps({"audit": rows}))
    else:
        print_entries(entries)


@app.command("verify")
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export, of any member; else the own log.")] = None,
    home: HomeOption = DEFAULT_HOME,
    older: Annotated[Path | None, typer.Option(help="An earlier export, which must be the beginning.")] = None,
    ca_fingerprint: Annotated[
        str, typer.Option(help="SHA-256 fingerprint of the federation's CA; else that which this home trusts.")
    ] = "",
) -> None:
    """Check that the coordinator's log is whole, or that an export proves what it says; needs no connection."""
    from rsfed.audit_cli import open_export, say_verified  # noqa: PLC0415 - loaded only when used

    identity = coordinator_home(home).identity
    if file is not None:
        say_verified(file, older=older, ca_fingerprint=ca_fingerprint, identity=identity)
        return
    from coordinator import proofs  # noqa: PLC0415 - loaded only when used

    known = None
    if older is not None:
        known = open_export(older, ca_fingerprint=ca_fingerprint, identity=identity).head.position
    with open_federation(home) as (_, state, _config), state.reading() as connection:
        position = proofs.check(connection, older=known)
    typer.echo(f"the log is whole: {position.size} entries, log {position.log}, root {position.root.hex()}")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")],
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines, the newest.")] = 1000,
    query: Annotated[
        str | None, typer.Option(metavar="ID", help="Only lines of this query: its id, or the first digits of that.")
    ] = None,
    since: Annotated[int, typer.Option(min=0, help="Prove also that the first SINCE lines are unchanged.")] = 0,
) -> None:
    """Write lines with proofs under a signed head: a file that others check with `rsfed coordinator audit verify FILE`.

    It names members, as `show` does.
    """
    from coordinator import proofs  # noqa: PLC0415 - loaded only when used
    from rsfed.audit_cli import say_exported, write_export  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.identity import load_identity  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (place, state, _config), state.reading() as connection:
        identity = load_identity(place.identity)
        data = proofs.export_part(connection, identity, now=utc_now(), last=last, query=query, since=since)
    write_export(file, data)
    say_exported(file, data, identity)


@app.command("accept")
def accept(
    node: Annotated[str, typer.Argument(help="Name of the node, from `members`.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Begin anew with a node whose audit log contradicted itself, once its operator explained why.

    What the node signed is printed in hexadecimal digits and forgotten: keep it where it may be needed.
    """
    from coordinator import audit  # noqa: PLC0415 - loaded only when used
    from coordinator.heads import forget_head  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.errors import UsageError  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (_, state, _config), state.writing() as connection:
        kept = forget_head(connection, node)
        if kept is None:
            raise UsageError("nothing is kept of the audit log of such a node; see `rsfed coordinator members`")
        audit.record(
            connection, utc_now(), "audit.accepted", node, reason=kept.reason, position=kept.position.to_text()
        )
    typer.echo(f"{kept.signed.hex()}\n{kept.contradiction.hex()}")
    typer.echo(f"{node} begins anew: the next head that it signs is kept", err=True)
