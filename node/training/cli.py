"""`rsfed node train`: training on the own archive alone, and what the coordinator's training asked of this node."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home
from node.cli.progress import progress
from rsfed.errors import UsageError

if TYPE_CHECKING:
    from node.training.journal import Entry
    from node.training.local import LocalReport

_MIB = 1 << 20
_CURVE_ROWS = 10
_UNCUT = 1000  # columns of a table that goes to a file or pipe


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    train = typer.Typer()
    train.callback(invoke_without_command=True)(train_here)
    train.command("status")(status)
    app.add_typer(train, name="train")


def train_here(
    context: typer.Context,
    local: Annotated[
        bool, typer.Option("--local", help="Train on the own archive alone; nobody is contacted.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over the archive's labelled patches.")] = 20,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
) -> None:
    """Train on the own archive alone, or see what training asked of this node.

    With --local: reports loss, time, memory and how well held-out patches find their like, contacts nobody and keeps
    nothing. Training with the federation needs no command here: `rsfed node serve` takes part whenever the coordinator
    trains.
    """
    if context.invoked_subcommand is not None:
        return
    if not local:
        raise UsageError(
            "say --local to train on this archive alone; training with the federation is started by its coordinator "
            "(`rsfed coordinator train`), and `rsfed node serve` takes part"
        )
    from node.training.local import train_locally  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    config = load_config(NodeConfig, place.path)
    with progress("train") as (progressed, _):
        report = train_locally(place, config, epochs, lambda _what, done, total: progressed(done, total))
    typer.echo(json.dumps(asdict(report), indent=1) if output is Output.JSON else _report(report))


def status(
    home: HomeOption = DEFAULT_HOME,
    limit: Annotated[int, typer.Option(min=1, help="How many tasks to show, the newest first.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what training asked of this node and what the node sent."""
    from contextlib import closing  # noqa: PLC0415 - loaded only when used

    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from node.training import journal  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    enabled = load_config(NodeConfig, place.path).training.enabled
    with closing(open_state(place)) as connection:
        entries = journal.entries(connection, limit)
    if output is Output.JSON:
        tasks = [asdict(entry) | {"time": entry.time.isoformat()} for entry in entries]
        typer.echo(json.dumps({"enabled": enabled, "tasks": tasks}, indent=1))
    else:
        _print_tasks(enabled, entries)


def _report(report: LocalReport) -> str:
    trained, untrained = report.trained, report.untrained
    classes = "of the federation" if report.labels == "federation" else "(own labels: no patch has a federation class)"
    kept = (
        "whole acquisitions"
        if report.held_out_by == "acquisition"
        else "single patches, as only one acquisition is known: figures are too good"
    )
    figures = (
        (f"mAP@{trained.map_k}", trained.mean_average_precision, untrained.mean_average_precision, trained.chance_map),
        (f"precision@{trained.precision_k}", trained.precision, untrained.precision, trained.chance_precision),
    )
    rows = [
        ("trained on", f"{report.patches} patches with {report.classes} classes {classes}"),
        ("held out", f"{report.held_out} patches ({kept})"),
        ("time", f"{report.seconds:.1f} s for {report.epochs} epochs"),
        ("peak memory", f"{report.peak_memory / _MIB:.0f} MiB"),
        ("loss", _curve(report.losses)),
        ("own gallery", "trained  untrained  chance"),
        *((name, f"{ours:7.3f}  {before:9.3f}  {chance:6.3f}") for name, ours, before, chance in figures),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _curve(losses: tuple[float, ...]) -> str:
    """Return the losses of about ten epochs, the first and the last among them."""
    last = len(losses) - 1
    shown = sorted({round(n * last / (_CURVE_ROWS - 1)) for n in range(_CURVE_ROWS)})
    return "  ".join(f"{losses[n]:.3f}" for n in shown) + f"  (epochs {', '.join(str(n + 1) for n in shown)})"


def _print_tasks(enabled: bool, entries: list[Entry]) -> None:
    from rich.console import Console  # noqa: PLC0415 - loaded only when used
    from rich.table import Table  # noqa: PLC0415 - loaded only when used

    taking_part = "takes part in training" if enabled else "takes no part in training (training.enabled = false)"
    typer.echo(f"this node {taking_part}")
    if not entries:
        typer.echo("nothing was asked of it yet")
        return
    table = Table()
    for column in ("UTC", "run", "round", "task", "MiB in", "MiB out", "seconds", "loss", "state"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(
            f"{entry.time:%m-%d %H:%M:%S}",
            str(entry.run),
            str(entry.round),
            entry.kind,
            f"{entry.received_bytes / _MIB:.2f}",
            f"{entry.sent_bytes / _MIB:.2f}",
            f"{entry.seconds:.1f}",
            "" if entry.loss is None else f"{entry.loss:.4f}",
            entry.state,
        )
    console = Console()
    (console if console.is_terminal else Console(width=_UNCUT)).print(table)
