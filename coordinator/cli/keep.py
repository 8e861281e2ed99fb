"""`rsfed coordinator backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import DEFAULT_HOME, HomeOption, coordinator_home


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    file: Annotated[Path, typer.Argument(help="The backup to write; it must not exist yet.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write a backup of the federation; `serve` may go on. The file holds all keys: keep it safe."""
    from coordinator.backup import back_up  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    size = back_up(coordinator_home(home), file, now=utc_now())
    typer.echo(f"{size / 1e6:.1f} MB written to {file}")
    typer.echo("whoever has this file has the keys of the federation: keep it safe", err=True)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup that `rsfed coordinator backup` wrote.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Restore a federation into an empty home."""
    from coordinator.backup import restore as put_back  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    made = put_back(file, coordinator_home(home), now=utc_now())
    typer.echo(f"federation restored as of {made:%Y-%m-%d %H:%M} UTC")
    typer.echo("invitations that were open are void; repeat revocations made since then", err=True)
    typer.echo("if nodes hold a newer release, publish one above it with `rsfed coordinator train`", err=True)
