"""`rsfed node backup` and `rsfed node restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, node_home
from rsfed.clock import utc_now


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist yet.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write configuration, keys, releases and state to one file; serve may go on meanwhile.

    The images stay where they are. The file holds the node's private keys: keep it as safe as those.
    """
    from node.backup import back_up  # noqa: PLC0415 - loaded only when used

    size = back_up(node_home(home), file, now=utc_now())
    typer.echo(f"backup of {size / 1e6:.1f} MB written to {file}; it holds private keys, keep it safe")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `rsfed node backup` wrote.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make a node from a backup, in a home that is empty or does not exist.

    A restored node never repeats an item id, a salt or an answer to a query. Run it instead of the lost node, never
    beside it.
    """
    from node.backup import restore as restore_node  # noqa: PLC0415 - loaded only when used

    target = node_home(home)
    made = restore_node(file, target, now=utc_now())
    typer.echo(f"restored to {target.path} from the backup of {made:%Y-%m-%d %H:%M} UTC")
    typer.echo("next: `rsfed node ingest` to take up what changed since, then `rsfed node doctor`", err=True)
