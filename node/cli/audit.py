"""`rsfed node audit`: the log of what left the node, and proofs that it only grew."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home

app = typer.Typer(no_args_is_help=True, help="The log of what left this node: show, verify, export, restart.")


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.add_typer(app, name="audit")


@app.command("show")
def show(
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(min=1, max=2**31, help="How many entries, the newest.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what this node answered and refused, training, releases and look-ups of handles; newest entries last.

    The log holds digests. Names and ids are shown beside them where this node still has them: of queries for 90 days.
    The table shortens ids and digests; `--output json` has all of them.
    """
    from node import audit  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.audit_cli import print_entries  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    load_config(NodeConfig, place.path)  # says what to do where there is no node
    with closing(open_state(place)) as connection:
        lines = audit.lines(place, connection, last=last)
    if output is Output.JSON:
        rows = [asdict(line) | {"at": line.at.isoformat(timespec="milliseconds")} for line in lines]
        typer.echo(json.dumps({"audit": rows}, indent=1))
    elif lines:
        print_entries(lines)
    else:
        typer.echo("nothing was asked of this node yet")


@app.command("verify")
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export, of any member; else this node's own log.")] = None,
    home: HomeOption = DEFAULT_HOME,
    older: Annotated[Path | None, typer.Option(help="An earlier export, which must be the beginning.")] = None,
    ca_fingerprint: Annotated[
        str, typer.Option(help="SHA-256 fingerprint of the federation's CA; else that which this home trusts.")
    ] = "",
) -> None:
    """Check that this node's log is whole and only grew, or that an export proves what it says; needs no connection."""
    if file is not None:
        from rsfed.audit_cli import say_verified  # noqa: PLC0415 - loaded only when used

        say_verified(file, older=older, ca_fingerprint=ca_fingerprint, identity=node_home(home).identity)
        return
    from node import audit  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.audit_cli import open_export  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    load_config(NodeConfig, place.path)
    known = None
    if older is not None:
        known = open_export(older, ca_fingerprint=ca_fingerprint, identity=place.identity).head.position
    with closing(open_state(place)) as connection:
        position = audit.check(place, connection, older=known)
    typer.echo(f"the log is whole: {position.size} entries, log {position.log}, root {position.root.hex()}")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")],
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many entries, the newest.")] = 1000,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only entries of this query: its digest or the first digits of that, or its id if answered.",
        ),
    ] = None,
    since: Annotated[int, typer.Option(min=0, help="Prove also that the first SINCE entries are unchanged.")] = 0,
) -> None:
    """Write entries with proofs under a signed head: a file that others check with `rsfed node audit verify FILE`.

    It holds what `show` lists, without names and ids.
    """
    from node import audit  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.audit_cli import say_exported, write_export  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.identity import load_identity  # noqa: PLC0415 - loaded only when used

    place, now = node_home(home), utc_now()
    identity = load_identity(place.identity)
    if query is not None:
        with closing(open_state(place)) as connection:
            query = audit.digest_of_query(connection, query.lower(), now=now)
    data = audit.export_part(place, identity, now=now, last=last, query=query, since=since)
    write_export(file, data)
    say_exported(file, data, identity)


@app.command("restart")
def restart(home: HomeOption = DEFAULT_HOME) -> None:
    """Begin a new log, where the old one is damaged, missing or too long; `serve` must not run.

    The old one stays beside it under its own name. The coordinator sees that this node began anew. At levels that
    publish, nothing more is counted or refined before the federation's next release: no log shows any longer that the
    record of what was spent is not an older one.
    """
    from node import auditing  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    load_config(NodeConfig, place.path)
    with place.lock(), closing(open_state(place)) as connection:
        position = auditing.restart(place, connection, now=utc_now())
    typer.echo(f"a new audit log began: {position.log}; the old one stays in {place.audit}")
    typer.echo("counts and refine rest until the next release, as `rsfed node policy explain` says", err=True)
