"""Backup and restore of a federation: configuration, identity, keys, releases and state."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from pathlib import Path

from coordinator import audit
from coordinator.bundles import publish_bundle
from coordinator.keyring import Keyring
from coordinator.state import State, to_ms
from rsfed.backup import BackupPlan, read_backup, write_backup
from rsfed.config import CoordinatorConfig, load_config
from rsfed.home import Home
from rsfed.trust.names import MemberId, Role

_PLAN = BackupPlan(role="coordinator", parts=("coordinator.toml", "identity", "secrets", "releases"))


def back_up(home: Home, file: Path, *, now: datetime) -> int:
    """Write a backup and return its size in bytes; `serve` may go on meanwhile.

    Raises:
        UsageError: the file exists already.
        StateError: there is nothing to back up, or the database is damaged.
    """
    return write_backup(home, file, _PLAN, now=now)


def restore(file: Path, home: Home, *, now: datetime) -> datetime:
    """Restore a federation into a new home and return when the backup was made.

    The lost coordinator may have gone on after the backup, so nothing that it may have handed out is repeated: open
    invitations are void, the trust bundle gets a version of this moment, serial numbers are random, and releases get a
    version above every one that nodes announce. Its audit log goes on under another name.

    Raises:
        UsageError: there is no such file.
        StateError: HOME_NOT_EMPTY, BACKUP_FOREIGN or BACKUP_DAMAGED; nothing was changed.
    """

    def finish(unpacked: Home) -> None:
        config = load_config(CoordinatorConfig, unpacked.path)
        coordinator = MemberId(config.federation, Role.COORDINATOR, config.name)
        with closing(State(unpacked)) as state, state.writing() as connection:
            connection.execute(
                "UPDATE invitation SET withdrawn = ? WHERE used IS NULL AND withdrawn IS NULL", (to_ms(now),)
            )
            connection.execute("UPDATE meta SET value = lower(hex(randomblob(16))) WHERE key = 'audit_log'")
            publish_bundle(connection, Keyring(unpacked), coordinator, now)
            audit.record(connection, now, "federation.restored", config.federation)

    return read_backup(file, home, _PLAN, finish=finish)
