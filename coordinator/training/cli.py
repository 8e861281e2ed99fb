"""`rsfed coordinator train` and `rsfed coordinator runs`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, notify_serve, open_federation
from rsfed.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from coordinator.state import State
    from coordinator.training.records import Event
    from rsfed.config import CoordinatorConfig
    from rsfed.home import Home

RunArgument = Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Number of the run, from `runs list`.")]

_LOOK_S = 0.3  # and so the table is drawn at most three times a second
_ASK_EVERY = 20  # looks between two questions whether serve still runs
_AWAY = "the coordinator does not answer; run {run} goes on where it was when `rsfed coordinator serve` runs again"
_BACK = "the coordinator is back"


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("train")(train)
    runs = typer.Typer(no_args_is_help=True, help="Training runs: list, show, cancel.")
    runs.command("list")(list_runs)
    runs.command("show")(show_run)
    runs.command("cancel")(cancel_run)
    app.add_typer(runs, name="runs")


def train(
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="How often all nodes train and are averaged; when left out 1 of the closed form, 60 short rounds of "
            "others on a frozen trunk, and 10 elsewhere.",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Nodes that every round needs; training.min_nodes when left out."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
) -> None:
    """Train the federation's hash network on all archives and publish the result as a release.

    The loss may be negative: outputs far from 0.5 are rewarded by a term below zero. What counts is that it falls.
    `missing` names the nodes that were asked in a round and gave no result that counts, and why; where these were so
    many that the weights stayed as they were, it says that too.

    The running `rsfed coordinator serve` does the work and this command follows it. Ctrl-C stops following, the run
    goes on; `rsfed coordinator runs cancel RUN` ends it. When `serve` ends in the middle, the run goes on after the
    last round that was done as soon as it runs again.

    With `--output json` each line is one object with `run`, `event`, `at` and what the event says: `started` (`rounds`,
    `min_nodes`, `based_on`: version of the release whose weights it starts from, or null; `nodes` that were there;
    `strategy`; and `memory_bytes` that it needs at most for `memory_nodes` nodes: those that a round would ask just
    then), `resumed`
    after an interruption (`round`: the last one that was done, 0 for none), `preflight` of nodes that are new before a
    round (`round`, `nodes` that take part, `refused`: reason by node, `no_sums`: why some of them will give no sums for
    the last layer, by node), `waiting` for nodes (`round`, `present`,
    `needed`), `solved` on a frozen trunk, before the first round and after the last (`round`: the last one that was
    done, `nodes` that gave sums for the last layer, `failed`: reason by node, `patches`, `needed`: nodes that had to
    answer, `solved`: whether it was solved for), `round` (`round`, `rounds`, `nodes`, `failed`: reason by node,
    `counted`: whether enough nodes gave a result for the weights to change, `loss`: null where no node tells its loss,
    `examples`, `sent_bytes`, `received_bytes`, `seconds`, `slowest_node_seconds`), `calibrated` (`nodes` that counted
    near pairs of held-out patches, `failed`: reason by node, `queries`, `prior` and `error` of the table that came of
    it, null without one, `cells` of the release's codebook: of 0 nodes answer at `partner` alone), and at the end
    `released` (`version`, `digest`) or `failed` (`reason`, `message`).
    """
    from coordinator.training import records  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (place, state, config):
        if not notify_serve(place):
            raise TrainingError(
                "the coordinator is not running; start `rsfed coordinator serve`, then train",
                reason="SERVE_NOT_RUNNING",
            )
        run = records.request_run(state, _rounds(config, rounds), nodes or config.training.min_nodes, utc_now())
        notify_serve(place)
        try:
            last = _follow(place, state, run, output)
        except KeyboardInterrupt:
            typer.echo(
                f"run {run} goes on; `rsfed coordinator runs show {run}` says how it ends, `runs cancel {run}` ends it",
                err=True,
            )
            raise
    if last.kind == "failed":
        raise TrainingError(str(last.data["message"]), reason=str(last.data["reason"]))


def _rounds(config: CoordinatorConfig, asked: int | None) -> int:
    """Return the rounds of a run.

    Raises:
        UsageError: the closed form is asked for several.
    """
    if config.learns_by.name == "closed_form" and asked not in {None, 1}:
        raise UsageError(
            'the closed form is one round; leave --rounds out, or set objective.name = "centres" in coordinator.toml '
            "to train by rounds"
        )
    return asked or config.pace.rounds


def list_runs(home: HomeOption = DEFAULT_HOME, output: OutputOption = Output.TABLE) -> None:
    """List all training runs, the newest first."""
    from coordinator.cli.options import print_result  # noqa: PLC0415 - loaded only when used
    from coordinator.training import records, show  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (_, state, _):
        runs = records.list_runs(state)
    # The state that programs read is "failed" as ever, with the reason in `error`.
    words = {} if output is Output.JSON else {run.id: {"state": run.words, "requested": run.requested} for run in runs}
    rows = [show.run_object(run) | words.get(run.id, {}) for run in runs]
    print_result(output, "runs", rows, ("run", "state", "rounds", "requested", "release_version", "error"))


def show_run(
    run: RunArgument,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how one training run went.

    `missing` names the nodes that were asked in a round and gave no result that counts, and why; where these were so
    many that the weights stayed as they were, it says that too.
    """
    from coordinator.training import records, show  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (_, state, _):
        found, events = records.get_run(state, run), records.events(state, run)
    if output is Output.JSON:
        told = [show.event_object(run, event) for event in events]
        typer.echo(json.dumps(show.run_object(found) | {"events": told}))
    else:
        show.print_run(found, events)


def cancel_run(run: RunArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """Cancel a run that waits or goes on: it fails as RUN_CANCELLED, nothing is published, and nodes stop working.

    It holds from this moment on, also while `rsfed coordinator serve` is not running.
    """
    from coordinator.training import records  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (place, state, _):
        records.cancel(state, run, utc_now())
    notify_serve(place)
    typer.echo(f"run {run} is cancelled; the release that is served stays")


def _follow(home: Home, state: State, run: int, output: Output) -> Event:
    """Show a run until it ends, also over a restart of the coordinator, and return its last event."""
    from coordinator.training import records, show  # noqa: PLC0415 - loaded only when used

    seen: list[Event] = []
    looks, there = 0, True
    with show.view(run, as_json=output is Output.JSON) as view:
        while True:
            ended = records.get_run(state, run).state not in records.OPEN  # asked first, so that no event is missed
            new = records.events(state, run, after=seen[-1].id if seen else 0)
            seen.extend(new)
            view.add(*new)
            if ended:
                return seen[-1]
            looks += 1
            if looks % _ASK_EVERY == 0:
                there, before = notify_serve(home), there
                if there != before:
                    typer.echo(_BACK if there else _AWAY.format(run=run), err=True)
            time.sleep(_LOOK_S)
