"""`rsfed node`: the commands of one archive. Each module registers its own; heavy imports wait until a command runs."""

from __future__ import annotations

import typer

from node.cli.audit import register as register_audit
from node.cli.backup import register as register_backup
from node.cli.doctor import register as register_doctor
from node.cli.ingest import register as register_ingest
from node.cli.policy import register as register_policy
from node.cli.requests import register as register_requests
from node.cli.serve import register as register_serve
from node.cli.setup import register as register_setup
from node.cli.status import register as register_status
from node.training.cli import register as register_training

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run an archive: ingest, serve, train, resolve.")
for _register in (
    register_setup,
    register_ingest,
    register_serve,
    register_training,
    register_status,
    register_policy,
    register_requests,
    register_audit,
    register_doctor,
    register_backup,
):
    _register(app)
