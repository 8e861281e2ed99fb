"""`rsfed coordinator`: the commands of one federation. Heavy imports wait until a command runs."""

from __future__ import annotations

import typer

from coordinator.cli import audit, keep, members, serve, setup, show
from coordinator.training import cli as training

app = typer.Typer(no_args_is_help=True, help="Run a federation.")
for _module in (setup, members, serve, training, show, audit, keep):
    _module.register(app)
