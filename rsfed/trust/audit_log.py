"""An audit log on disk: one entry a line in `audit/log.jsonl`, only ever appended to, with its Merkle tree in memory.

A line is a checksum, a space, and the entry as JSON with sorted keys; the tree is over the bytes of the JSON. The first
entry names the log. Nothing is acknowledged before it is on the disk, so what a crash cut off was never acknowledged:
a last line without its end is cut, any other line that will not do is damage, and nothing goes on.

Several processes may append (`AuditLog` in `serve`, `append_entry` in other commands): each line is written under a
lock of the file. To start a new log, `restart` keeps the old one beside it and names it in the first entry.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from rsfed.errors import StateError
from rsfed.telemetry import log as logger
from rsfed.trust.identity import sync_folder
from rsfed.trust.merkle import Tree, leaf_hash

STARTED = "log.started"
_FILE = "log.jsonl"
_PREVIOUS = "previous"  # in the first entry of a log that replaced one, how far that was; null if unknown
_CHECKSUM = 9  # characters: eight digits and a space
_PART = 1 << 16  # bytes that are searched at once
_WAY_OUT = "restore a backup, or begin a new log with `audit restart`, which tells the federation that it did"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log is.

    Attributes:
        log: Which log, 32 hexadecimal digits.
        size: Number of entries.
        root: Root of the tree over them, 32 bytes.
    """

    log: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return it as one word."""
        return f"{self.log}:{self.size}:{self.root.hex()}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return what `to_text` gave."""
        log, size, root = text.split(":")
        return cls(log, int(size), bytes.fromhex(root))


class AuditLog:
    """The log of a running `serve`; may be used from several threads.

    Args:
        folder: Folder of the log.
        witness: How far the log was according to other state of the same home; None where there never was one.
        now: Time of the first entry of a log that has to be made.

    Raises:
        StateError: AUDIT_MISSING, AUDIT_DAMAGED, or AUDIT_OLDER (shorter or another than the witness says).
    """

    def __init__(self, folder: Path, witness: Position | None, *, now: datetime) -> None:
        self._path = folder / _FILE
        self._tree = Tree()
        self._log = ""
        self._end = 0  # bytes that are read
        self._durable = 0  # entries that are on the disk
        self._broken = False
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        _make_missing(folder, witness, now)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND)
        try:
            with self._lock, _locked(self._file):
                self._catch_up()
            self._check(witness)
            self.sync(len(self._tree))
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Close the file once no thread uses it."""
        with self._syncing, self._lock:
            os.close(self._file)

    def append(self, entry: dict[str, Any]) -> int:
        """Write an entry and return how many there are then; it is not durable before `sync` of that number.

        Raises:
            StateError: AUDIT_UNWRITABLE, or another process damaged the log.
        """
        line = _line(entry)
        with self._lock, _writing(self._path):
            if self._broken:
                raise OSError("an earlier write did not reach the disk")
            with _locked(self._file):
                self._catch_up()
                _write(self._file, line)
                self._take(line)
            return len(self._tree)

    def sync(self, size: int) -> None:
        """Return once so many entries are durable; callers that wait meanwhile share one write to the disk.

        Raises:
            StateError: AUDIT_UNWRITABLE; what the disk holds is uncertain then, so nothing more is written.
        """
        with self._syncing:
            if self._durable >= size:
                return
            with self._lock:
                written = len(self._tree)
            with _writing(self._path):
                try:
                    os.fdatasync(self._file)
                except OSError:
                    self._broken = True
                    raise
            self._durable = written

    def durable(self) -> Position:
        """Return how far the log is on the disk; no head beyond that may be given away."""
        with self._lock:
            return Position(self._log, self._durable, self._tree.root(self._durable))

    def consistency(self, sizes: list[int]) -> list[list[bytes]]:
        """Return the proofs between sizes that follow each other.

        Raises:
            ValueError: they do not rise from 1, or the log is shorter.
        """
        with self._lock:
            return [self._tree.consistency(old, new) for old, new in pairwise(sizes)]

    def _catch_up(self) -> None:
        """Read what other processes, or an earlier one, wrote; a line that a crash cut off is cut."""
        if os.fstat(self._file).st_size == self._end:
            return
        with self._path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    logger.warning("audit.torn", bytes=len(line))
                    os.ftruncate(self._file, self._end)
                    return
                self._take(line)

    def _take(self, line: bytes) -> None:
        entry = _entry(line, len(self._tree), self._path)
        if not self._tree:
            self._log = _name_of(entry, self._path)
        self._tree.append(leaf_hash(entry))
        self._end += len(line)

    def _check(self, witness: Position | None) -> None:
        known = witness is None or (
            witness.log == self._log
            and witness.size <= len(self._tree)
            and witness.root == self._tree.root(witness.size)
        )
        if not known:
            raise StateError(
                f"the audit log is older than the state of this home, or another; {_WAY_OUT}",
                reason="AUDIT_OLDER",
                detail=str(self._path),
            )


def append_entry(folder: Path, entry: dict[str, Any], witness: Position | None, *, now: datetime) -> None:
    """Append an entry durably from a command that does not need the tree, whether or not `serve` runs.

    Raises:
        StateError: AUDIT_MISSING or AUDIT_UNWRITABLE.
    """
    _make_missing(folder, witness, now)
    path = folder / _FILE
    with _writing(path):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        try:
            with _locked(file):
                _cut_torn(file)
                _write(file, _line(entry))
            os.fdatasync(file)
        finally:
            os.close(file)


def read_entries(folder: Path) -> Iterator[bytes]:
    """Give the entries of a log that are on the disk, whether or not `serve` runs.

    Raises:
        StateError: AUDIT_MISSING or AUDIT_DAMAGED.
    """
    path = folder / _FILE
    if not path.is_file() or not path.stat().st_size:
        raise _missing(path)
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        end = os.fstat(file.fileno()).st_size
        for number, line in enumerate(file):
            end -= len(line)
            if end < 0 or not line.endswith(b"\n"):  # written since, or being written
                return
            entry = _entry(line, number, path)
            if not number:
                _name_of(entry, path)
            yield entry


def position_of(entries: Iterable[bytes]) -> tuple[Position, Tree]:
    """Return how far the log with these entries is, and its tree."""
    tree, log = Tree(), ""
    for entry in entries:
        if not tree:
            log = json.loads(entry)["log"]
        tree.append(leaf_hash(entry))
    return Position(log, len(tree), tree.root()), tree


def restart(folder: Path, witness: Position | None, *, now: datetime) -> Position:
    """Begin a new log, keep what there is of the old one beside it, and return how far the new one is.

    Args:
        folder: Folder of the log; no `serve` runs.
        witness: How far the old log was; the first entry of the new one says so.
        now: Time of the first entry.
    """
    path = folder / _FILE
    if path.exists():
        path.rename(_unused(folder, witness.log if witness else "unknown"))
    previous = witness and {"log": witness.log, "size": witness.size, "root": witness.root.hex()}
    _create(folder, {_PREVIOUS: previous}, now)
    position, _ = position_of(read_entries(folder))
    return position


def restarted_at(folder: Path) -> datetime | None:
    """Return when a log was begun in place of an older one; None where it is the first, or there is none.

    Raises:
        StateError: AUDIT_DAMAGED.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        line = file.readline()
    first = json.loads(_entry(line, 0, path)) if line.endswith(b"\n") else {}
    return datetime.fromtimestamp(first["at"] / 1000, UTC) if _PREVIOUS in first else None


def _make_missing(folder: Path, witness: Position | None, now: datetime) -> None:
    """Make a log where there never was one.

    Raises:
        StateError: AUDIT_MISSING, there was one.
    """
    path = folder / _FILE
    if path.exists() and _cut_torn_at(path):
        return
    if witness is not None:
        raise _missing(path)
    _create(folder, {}, now)


def _create(folder: Path, told: dict[str, Any], now: datetime) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    first = {"at": stamp(now), "kind": STARTED, "log": secrets.token_hex(16), **told}
    path = folder / _FILE
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        with _writing(path), _locked(file):
            if not _cut_torn(file):  # else another process was faster
                _write(file, _line(first))
                os.fdatasync(file)
    finally:
        os.close(file)
    sync_folder(folder)
    sync_folder(folder.parent)


def stamp(moment: datetime) -> int:
    """Return a moment as entries have it: milliseconds since 1970."""
    return int(moment.timestamp() * 1000)


def _line(entry: dict[str, Any]) -> bytes:
    data = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return f"{zlib.crc32(data):08x} ".encode() + data + b"\n"


def _entry(line: bytes, number: int, path: Path) -> bytes:
    """Return the entry of a whole line."""
    data = line[_CHECKSUM:-1]
    if line[:_CHECKSUM] != f"{zlib.crc32(data):08x} ".encode():
        raise _damaged(f"entry {number} does not fit its checksum", path)
    return data


def _name_of(first: bytes, path: Path) -> str:
    fields = json.loads(first)
    if fields.get("kind") != STARTED:
        raise _damaged("its first entry is missing", path)
    return str(fields["log"])


def _cut_torn_at(path: Path) -> int:
    """Cut off a last line without its end, and return the size of the file then."""
    with _writing(path):
        file = os.open(path, os.O_RDWR)
        try:
            with _locked(file):
                return _cut_torn(file)
        finally:
            os.close(file)


def _cut_torn(file: int) -> int:
    """Cut off a last line without its end, under the lock of the file, and return the size of the file then."""
    size = os.fstat(file).st_size
    found, end = -1, size
    while end and found < 0:
        start = max(0, end - _PART)
        found = os.pread(file, end - start, start).rfind(b"\n")
        end = start
    whole = end + found + 1
    if whole != size:
        logger.warning("audit.torn", bytes=size - whole)
        os.ftruncate(file, whole)
    return whole


def _write(file: int, line: bytes) -> None:
    """Append a line; of one that did not fit on the disk the next writer cuts what is there."""
    if os.write(file, line) != len(line):
        raise OSError("the disk is full")


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """Let no other process append meanwhile."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name what the system refuses."""
    try:
        yield
    except OSError as error:
        raise StateError(
            "the audit log cannot be written, so nothing is answered; make room on the disk, then restart `serve`",
            reason="AUDIT_UNWRITABLE",
            detail=f"{path}: {error}",
        ) from error


def _unused(folder: Path, name: str) -> Path:
    numbers = (f"-{number}" if number else "" for number in range(1 << 16))
    return next(path for n in numbers if not (path := folder / f"{name}{n}.jsonl").exists())


def _missing(path: Path) -> StateError:
    return StateError(f"the audit log is missing; {_WAY_OUT}", reason="AUDIT_MISSING", detail=str(path))


def _damaged(what: str, path: Path) -> StateError:
    return StateError(f"the audit log is damaged: {what}; {_WAY_OUT}", reason="AUDIT_DAMAGED", detail=str(path))
