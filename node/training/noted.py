"""What the audit log says of training: each task before it is worked on and how it ended, each refusal.

Written by whatever process does the work: `serve`, or a SuperNode of the stock engine beside it.
"""

from __future__ import annotations

import sqlite3

from node.auditing import Kind, note_beside
from rsfed.clock import Now, utc_now
from rsfed.hashing.payload import Payload, digest
from rsfed.hashing.plan import EVALUATE, PREFLIGHT, SUMS, TRAIN
from rsfed.home import Home

_KINDS = {PREFLIGHT, SUMS, TRAIN, EVALUATE}


class TaskNotes:
    """Notes tasks durably.

    Args:
        home: The node's home.
        connection: Its database.
        now: Wall clock.

    Every method raises StateError where the log cannot be written; then no work is done and no result is sent.
    """

    def __init__(self, home: Home, connection: sqlite3.Connection, now: Now = utc_now) -> None:
        self._home = home
        self._connection = connection
        self._now = now

    def begun(self, task: Payload, data: bytes) -> None:
        """Note a task that is taken."""
        self._note(Kind.TASK_BEGUN, **_named(task), received_bytes=len(data), digest=digest(data).hex())

    def ended(self, task: Payload, *, state: str, sent: int, sent_digest: str | None) -> None:
        """Note how a task ended: "done" or a closed reason, and what was sent of its result."""
        sent_whole = {} if sent_digest is None else {"sent_digest": sent_digest}
        self._note(Kind.TASK_ENDED, **_named(task), state=state, sent_bytes=sent, **sent_whole)

    def refused(self, reason: str) -> None:
        """Note a task that was not even taken."""
        self._note(Kind.TASK_REFUSED, reason=reason)

    def _note(self, kind: Kind, **data: object) -> None:
        note_beside(self._home, self._connection, kind, now=self._now(), **data)


def _named(task: Payload) -> dict[str, object]:
    kind = task.kind if task.kind in _KINDS else "other"  # the word came from the coordinator
    return {"run": task.run_id, "round": task.round, "task": kind}
