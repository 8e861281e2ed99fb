"""`rsfed node train`: training on the own archive alone, and what the coordinator's training asked of this node."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.control import notify_serve
from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home, print_table
from node.cli.progress import progress
from rsfed.errors import UsageError

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from node.training.journal import Entry
    from node.training.local import LocalReport

_MIB = 1 << 20
_CURVE_ROWS = 10
_LAST_RUN = (1 << 64) - 1


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    train = typer.Typer()
    train.callback(invoke_without_command=True)(train_here)
    for command in (status, pause, resume, refuse):
        train.command()(command)
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
    """Show whether this node takes part in training, what was asked of it and what it sent."""
    from node.training.account import account  # noqa: PLC0415 - loaded only when used

    told = account(node_home(home), limit)
    typer.echo(json.dumps(told.as_json(), indent=1) if output is Output.JSON else "\n".join(told.words()))
    if output is Output.TABLE:
        _print_tasks(told.tasks)


def pause(home: HomeOption = DEFAULT_HOME) -> None:
    """Take no new training task until `resume`; search goes on.

    A task in progress is finished and its result sent: `refuse` its run to stop that as well. Rounds go on without this
    node. It holds after a restart, too.
    """
    from node.training import consent  # noqa: PLC0415 - loaded only when used

    with _deciding(home) as connection:
        consent.set_paused(connection, True)
    typer.echo("training is paused: no new task is taken; one in progress is finished and its result sent")


def resume(home: HomeOption = DEFAULT_HOME) -> None:
    """Take training tasks again after `pause`; runs that were refused stay refused."""
    from node.training import consent  # noqa: PLC0415 - loaded only when used

    with _deciding(home) as connection:
        consent.set_paused(connection, False)
    typer.echo("training is not paused: tasks are taken, but for those of refused runs")


def refuse(
    run: Annotated[
        int, typer.Argument(min=1, max=_LAST_RUN, help="Number of the run, as `rsfed node train status` shows it.")
    ],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Give no further result to one run of the coordinator, for good.

    A task of it that is in progress is given up; the coordinator is told RUN_REFUSED and goes on without this node.
    Updates that were sent before cannot be taken back. A run that has not asked this node for anything yet is refused
    when it does.
    """
    from node.training import consent, journal  # noqa: PLC0415 - loaded only when used

    with _deciding(home) as connection:
        consent.refuse_run(connection, run)
        known, last = journal.knows(connection, run), journal.entries(connection, 1)
    if known:
        typer.echo(f"run {run} is refused: it gets no further result from this node")
        return
    asked = f"the last run that did is {last[0].run}" if last else "nor has any other run"
    typer.echo(f"run {run} has not asked this node for anything yet ({asked}); if it ever does, it is refused")


@contextmanager
def _deciding(home: Path) -> Iterator[sqlite3.Connection]:
    """Open the node's state for a decision, and tell a running `serve` of it."""
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    load_config(NodeConfig, place.path)  # says what to do where there is no node
    with closing(open_state(place)) as connection:
        yield connection
    notify_serve(place)


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
        ("time", f"{report.seconds:.1f} s" + (f" for {report.epochs} epochs" if report.epochs else ", in closed form")),
        ("peak memory", f"{report.peak_memory / _MIB:.0f} MiB"),
        *([("loss", _curve(report.losses))] if report.losses else []),
        ("own gallery", "trained  untrained  chance"),
        *((name, f"{ours:7.3f}  {before:9.3f}  {chance:6.3f}") for name, ours, before, chance in figures),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _curve(losses: tuple[float, ...]) -> str:
    """Return the losses of about ten epochs, the first and the last among them."""
    last = len(losses) - 1
    shown = sorted({round(n * last / (_CURVE_ROWS - 1)) for n in range(_CURVE_ROWS)})
    return "  ".join(f"{losses[n]:.3f}" for n in shown) + f"  (epochs {', '.join(str(n + 1) for n in shown)})"


def _print_tasks(entries: Sequence[Entry]) -> None:
    if not entries:
        typer.echo("nothing was asked of it yet")
        return
    print_table(  # what does not fit into 100 columns is in JSON: objective and digest of what was sent
        ("UTC", "run", "round", "task", "steps", "MiB in", "MiB out", "seconds", "loss", "state"),
        [
            (
                f"{entry.time:%m-%d %H:%M}",
                str(entry.run),
                str(entry.round),
                entry.kind,
                "" if entry.steps is None else str(entry.steps),
                f"{entry.received_bytes / _MIB:.2f}",
                f"{entry.sent_bytes / _MIB:.2f}",
                f"{entry.seconds:.1f}",
                "" if entry.loss is None else f"{entry.loss:.4f}",
                entry.state,
            )
            for entry in entries
        ],
    )
