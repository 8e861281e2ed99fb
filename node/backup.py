"""Backup and restore of a node: configuration, identity, secrets, releases and state, but no image."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from pathlib import Path

from node import auditing
from node.state import mark_restored, open_state
from rsfed.backup import BackupPlan, read_backup, write_backup
from rsfed.home import Home, transaction

_PLAN = BackupPlan(role="node", parts=("node.toml", "identity", "secrets", "releases", "audit"))


def back_up(home: Home, file: Path, *, now: datetime) -> int:
    """Write a backup and return its size in bytes; `serve` and `ingest` may go on meanwhile.

    Raises:
        UsageError: the file exists already.
        StateError: there is nothing to back up, or the database is damaged.
    """
    return write_backup(home, file, _PLAN, now=now)


def restore(file: Path, home: Home, *, now: datetime) -> datetime:
    """Restore a node into a new home and return when the backup was made.

    Before the home takes its place, its item ids jump ahead and queries signed before `now` become refused, because
    the lost node may have given and answered more of them than the backup knows. For the same reason a new audit log
    begins, which names the old one.

    Raises:
        UsageError: there is no such file.
        StateError: HOME_NOT_EMPTY, BACKUP_FOREIGN or BACKUP_DAMAGED; nothing was changed.
    """

    def finish(unpacked: Home) -> None:
        with closing(open_state(unpacked)) as connection, transaction(connection):
            mark_restored(connection, now)
            auditing.restart(unpacked, connection, now=now)

    return read_backup(file, home, _PLAN, finish=finish)
