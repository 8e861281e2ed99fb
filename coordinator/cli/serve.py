"""`rsfed coordinator serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.options import DEFAULT_HOME, HomeOption, coordinator_home

if TYPE_CHECKING:
    from coordinator.serve import Listening


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("serve")(serve)


def serve(
    home: HomeOption = DEFAULT_HOME,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> int:
    """Serve the federation until told to stop; logs go to standard error, one JSON object a line.

    SIGTERM lets calls in progress end and exits with 0; Ctrl-C does the same and exits with 130.
    """
    from coordinator import serve as serving  # noqa: PLC0415 - loaded only when used
    from rsfed.telemetry import configure_logs  # noqa: PLC0415 - loaded only when used
    from rsfed.transport.loop import run  # noqa: PLC0415 - loaded only when used

    configure_logs(verbose=verbose)
    return run(serving.serve(coordinator_home(home), ready=_tell))


def _tell(listening: Listening) -> None:
    typer.echo(f"serving members at {listening.federation}, newcomers at {listening.join}")
