"""The state folder of a role: one folder, one `serve` process, one schema version."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from rsfed.errors import StateError, UsageError

_NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "glusterfs",
    "lustre",
    "afs",
    "fuse.sshfs",
}


@dataclass(frozen=True, slots=True)
class Home:
    """Where the parts of a role's state lie."""

    path: Path

    @property
    def identity(self) -> Path:
        """Keys, certificate chain and trust bundle; 0700."""
        return self.path / "identity"

    @property
    def releases(self) -> Path:
        """Verified releases."""
        return self.path / "releases"

    @property
    def database(self) -> Path:
        """The role's SQLite file."""
        return self.path / "state.sqlite"

    @property
    def audit(self) -> Path:
        """The audit log, and older ones that were replaced."""
        return self.path / "audit"

    @property
    def control_socket(self) -> Path:
        """Unix socket of the running `serve`, 0600."""
        return self.path / "control.sock"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one `serve` process.

        Raises:
            StateError: another process holds it, or others may enter it and that cannot be changed.
        """
        keep_private(self.path)
        with (self.path / "serve.lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StateError(
                    "another serve process uses this state folder; stop it first, or name another --home",
                    detail=str(self.path),
                ) from error
            yield


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, or "" where the system does not tell."""
    real = path.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if real.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else ""


def check_local(path: Path) -> None:
    """Refuse a state folder on a network file system: SQLite's write-ahead log is not safe there.

    Raises:
        StateError: the folder lies on one.
    """
    if (kind := file_system(path)) in _NETWORK_FILE_SYSTEMS:
        raise StateError(f"the state folder lies on a network file system ({kind}); use a local disk", detail=str(path))


def make_folder(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder that the user named, and those above it; one that exists stays as it is.

    Raises:
        UsageError: there is a file on the way.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError("no folder can be made here: a part of its path is a file", detail=str(path)) from error


def check_writable(path: Path) -> None:
    """Find out before long work whether files can be written into a folder that may have to be made; leaves no trace.

    Raises:
        UsageError: they cannot.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            make_folder(path)
            with tempfile.TemporaryFile(dir=path):
                pass
        finally:
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()
    except OSError as error:
        raise UsageError(
            f"nothing can be written into this folder: {error.strerror}; name another one", detail=str(path)
        ) from error


def keep_private(folder: Path) -> None:
    """Let nobody but the owner enter a state folder, whoever made it: keys and the query ledger lie there.

    Raises:
        StateError: others may, and only the folder's owner can change that.
    """
    try:
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except PermissionError as error:
        raise StateError(
            "others may enter the state folder; let its owner run `chmod 700` on it", detail=str(folder)
        ) from error


def open_database(path: Path, migrations: tuple[str, ...]) -> sqlite3.Connection:
    """Open a role's database in WAL mode and bring its schema up to date; only its owner can read it.

    Args:
        path: The SQLite file; its folder exists.
        migrations: SQL scripts; the n-th brings schema n - 1 to schema n.

    Raises:
        StateError: the file was written by newer software, is damaged, or lies on a network file system.
    """
    check_local(path.parent)
    keep_private(path.parent)
    _make_private(path)
    try:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        _migrate(connection, migrations)
    except sqlite3.OperationalError as error:
        raise StateError(f"{path.name} cannot be opened now: {error}; try again", detail=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise StateError(f"{path.name} is damaged: {error}; restore a backup", detail=str(path)) from error
    return connection


def _make_private(path: Path) -> None:
    """Give the database mode 0600 before SQLite opens it: the files beside it take its mode.

    The file itself is never opened here, since closing it would drop the locks that SQLite holds on it.
    """
    if not path.exists():
        handle, empty = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        with suppress(FileExistsError):  # another process was faster
            path.hardlink_to(empty)
        Path(empty).unlink()
    path.chmod(0o600)


def _migrate(connection: sqlite3.Connection, migrations: tuple[str, ...]) -> None:
    """Run the missing migrations in one transaction, so that two processes that open an old state take turns."""
    with transaction(connection):
        current = connection.execute("PRAGMA user_version").fetchone()[0]
        if current > len(migrations):
            raise StateError(f"the state was written by newer software (schema {current}); update rsfed")
        for script in migrations[current:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _statements(script: str) -> Iterator[str]:
    """Split a script: executescript would end the transaction that it has to run in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if statement.strip() and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run a block as one write transaction: all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
