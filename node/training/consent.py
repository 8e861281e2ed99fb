"""What the node's operator said about training while it goes on: that it is paused, and which runs get no result.

Kept in the node's database, so that it holds for the next `serve` as well. A word said takes effect at the next look,
whether or not a running `serve` was told of it.
"""

from __future__ import annotations

import json
import sqlite3

from node.state import get_meta, set_meta
from rsfed.errors import TrainingError
from rsfed.home import transaction

_PAUSED, _REFUSED = "training_paused", "training_refused"


class TrainingPaused(TrainingError):
    """The operator paused training: no new task is taken."""

    reason = "TRAINING_PAUSED"


class RunRefused(TrainingError):
    """The operator refused this run: it gets no further result."""

    reason = "RUN_REFUSED"


def set_paused(connection: sqlite3.Connection, value: bool) -> None:
    """Take no new task from now on, or take them again."""
    set_meta(connection, _PAUSED, int(value))


def is_paused(connection: sqlite3.Connection) -> bool:
    """Say whether new tasks are left alone."""
    return bool(get_meta(connection, _PAUSED))


def refuse_run(connection: sqlite3.Connection, run: int) -> None:
    """Give no further result to a run, for good."""
    with transaction(connection):
        set_meta(connection, _REFUSED, json.dumps(sorted({*refused_runs(connection), run})))


def refused_runs(connection: sqlite3.Connection) -> list[int]:
    """Return the numbers of the refused runs, rising."""
    runs: list[int] = json.loads(str(get_meta(connection, _REFUSED) or "[]"))
    return runs


def check_not_paused(connection: sqlite3.Connection) -> None:
    """Raise where no new task may be taken.

    Raises:
        TrainingPaused: training is paused.
    """
    if is_paused(connection):
        raise TrainingPaused("the node's operator paused training")


def check_run(connection: sqlite3.Connection, run: int) -> None:
    """Raise where a run gets no result.

    Raises:
        RunRefused: the run is refused.
    """
    if run in refused_runs(connection):
        raise RunRefused("the node's operator refused this run")
