"""Backup and restore of a role's home: one tar file, read and written by the same rules for every role.

The file holds `manifest.json` first (role, time, size and SHA-256 of every file), then the files. Files and database
are of one consistent moment although `serve` goes on writing. Whoever has the file has the keys in it: it is written
with mode 0600, and belongs in a safe place.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rsfed.errors import StateError, UsageError
from rsfed.home import Home

_MANIFEST = "manifest.json"
_PREFIX = ".rsfed-backup-"
_TARGET = "target"  # names the folder beside the backup
_MAX_MANIFEST_BYTES = 16 << 20
_CHUNK = 1 << 20  # bytes
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What the backup of a role consists of, besides its database.

    Attributes:
        role: Name of the role.
        parts: Files and folders of the home, by name.
    """

    role: str
    parts: tuple[str, ...]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)  # bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["rsfed-backup-1"] = "rsfed-backup-1"
    role: str
    created: AwareDatetime
    files: dict[str, _File]


def write_backup(home: Home, file: Path, plan: BackupPlan, *, now: datetime) -> int:
    """Write a backup of a home; `serve` may go on meanwhile.

    Returns:
        Size of the backup in bytes.

    Raises:
        UsageError: the file exists already.
        StateError: there is no state to back up, or the database is damaged.
    """
    if not home.database.is_file():
        raise StateError("there is no state to back up in this home", detail=str(home.path))
    if file.exists() or not file.absolute().parent.is_dir():
        raise UsageError(
            "the backup needs a new name in a folder that exists", reason="BACKUP_EXISTS", detail=str(file)
        )
    with _workplaces(home, file.absolute().parent) as (folder, target):
        _copy_home(home, Home(folder), plan)
        packed = target / "packed"
        _pack(folder, packed, role=plan.role, now=now)
        packed.rename(file)
        _sync_folder(file.absolute().parent)
    return file.stat().st_size


def read_backup(file: Path, home: Home, plan: BackupPlan, *, finish: Callable[[Home], None]) -> datetime:
    """Restore a home from a backup: wholly or not at all.

    Args:
        file: The backup.
        home: The home to fill; absent or empty.
        plan: What a backup of this role consists of.
        finish: Called with the unpacked home before it takes its place, for what a restored role must change.

    Returns:
        When the backup was made.

    Raises:
        StateError: HOME_NOT_EMPTY, BACKUP_FOREIGN (no backup, or one of another role) or BACKUP_DAMAGED.
    """
    if home.path.exists() and (not home.path.is_dir() or any(home.path.iterdir())):
        raise StateError(
            "the home is not empty; restore into a new folder with --home",
            reason="HOME_NOT_EMPTY",
            detail=str(home.path),
        )
    home.path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _opened(file, plan) as (packed, manifest),
        tempfile.TemporaryDirectory(prefix=".restore-", dir=home.path.parent) as folder,
    ):
        unpacked = Home(Path(folder) / "home")
        unpacked.path.mkdir(mode=0o700)
        _unpack(packed, manifest, unpacked.path)
        finish(unpacked)
        unpacked.path.rename(home.path)
        _sync_folder(home.path.parent)
    return manifest.created


@contextmanager
def _workplaces(home: Home, beside: Path) -> Iterator[tuple[Path, Path]]:
    """Yield two private folders that go at the end: one in the home for the copy, one `beside` the file to come.

    The home is a local disk and as private as what is copied. It also remembers the other folder, so that the next
    backup clears away both after one that was killed: there are keys in them.

    Raises:
        StateError: another backup of this home is running.
    """
    work = home.path / ".backup"
    with _alone(home):
        _clear(work)
        (work / "copy").mkdir(mode=0o700, parents=True)
        try:
            target = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
            (work / _TARGET).write_text(str(target))
            yield work / "copy", target
        finally:
            _clear(work)


def _clear(work: Path) -> None:
    with suppress(FileNotFoundError):
        target = Path((work / _TARGET).read_text())
        if target.name.startswith(_PREFIX):  # nothing else is ever deleted, whatever the file says
            shutil.rmtree(target, ignore_errors=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(work)


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    with (home.path / "backup.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError("another backup of this home is running; wait for it", detail=str(home.path)) from error
        yield


def _copy_home(home: Home, copy: Home, plan: BackupPlan) -> None:
    """Copy files and database as of one moment.

    Keys and releases change under the database's write lock, together with their rows. So the lock is held while files
    are copied; the database, which takes longer, is copied afterwards as it was then.
    """
    try:
        with closing(_connect(home.database)) as writer, closing(_connect(home.database)) as reader:
            writer.execute("BEGIN IMMEDIATE")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema")  # from now on it sees this moment
            for part in plan.parts:
                _copy_part(home.path / part, copy.path / part)
            writer.execute("ROLLBACK")
            with closing(sqlite3.connect(copy.database)) as target:
                reader.backup(target)
                verdict = target.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise StateError(f"the database cannot be copied: {error}", detail=str(home.database)) from error
    if verdict != "ok":
        raise StateError(f"the database is damaged: {verdict}; restore an older backup", detail=str(home.database))


def _connect(database: Path) -> sqlite3.Connection:
    address = f"{database.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=30, isolation_level=None)


def _copy_part(source: Path, target: Path) -> None:
    """Copy a file or folder; hidden ones are half-written files of a running process, links are nobody's state."""
    if source.is_symlink() or source.name.startswith("."):
        return
    if source.is_dir():
        target.mkdir()
        for inner in sorted(source.iterdir()):
            _copy_part(inner, target / inner.name)
    elif source.is_file():
        with suppress(FileNotFoundError):  # an old release that was tidied away this moment
            shutil.copyfile(source, target)


def _pack(folder: Path, target: Path, *, role: str, now: datetime) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    manifest = _Manifest(role=role, created=now, files=files).model_dump_json(indent=1).encode()
    target.touch(mode=0o600)
    with target.open("wb") as raw:
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as packed:
            _add(packed, _MANIFEST, len(manifest), io.BytesIO(manifest))
            for name, entry in files.items():
                with (folder / name).open("rb") as content:
                    _add(packed, name, entry.size, content)
        raw.flush()
        os.fsync(raw.fileno())


def _add(packed: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    packed.addfile(member, content)


def _describe(path: Path) -> _File:
    with path.open("rb") as content:
        return _File(size=path.stat().st_size, sha256=hashlib.file_digest(content, "sha256").hexdigest())


@contextmanager
def _opened(file: Path, plan: BackupPlan) -> Iterator[tuple[tarfile.TarFile, _Manifest]]:
    if not file.is_file():
        raise UsageError("there is no such backup file", reason="BACKUP_MISSING", detail=str(file))
    try:
        with tarfile.open(file, mode="r:") as packed:
            manifest = _read_manifest(packed)
            _check_manifest(manifest, plan, file)
            yield packed, manifest
    except tarfile.TarError as error:
        raise _foreign(file) from error


def _read_manifest(packed: tarfile.TarFile) -> _Manifest:
    first = packed.next()
    if first is None or first.name != _MANIFEST or not first.isreg() or first.size > _MAX_MANIFEST_BYTES:
        raise _foreign(packed.name)
    try:
        return _Manifest.model_validate_json(_content(packed, first).read())
    except (ValidationError, tarfile.TarError) as error:
        raise _foreign(packed.name) from error


def _check_manifest(manifest: _Manifest, plan: BackupPlan, file: Path) -> None:
    if manifest.role != plan.role:
        raise StateError(
            f"this is a backup of a {manifest.role}, not of a {plan.role}", reason="BACKUP_FOREIGN", detail=str(file)
        )
    if not all(_belongs(name, manifest, plan) for name in manifest.files):
        raise _damaged("it names a file that is no part of a home", file)


def _belongs(name: str, manifest: _Manifest, plan: BackupPlan) -> bool:
    """Say whether a name stays inside the home, below a part of the plan, and below no other file."""
    path = PurePosixPath(name)
    return (
        _SAFE_NAME.fullmatch(name) is not None
        and str(path) == name
        and ".." not in path.parts
        and path.parts[0] in {*plan.parts, Home(Path()).database.name}
        and not any(str(parent) in manifest.files for parent in path.parents)
    )


def _unpack(packed: tarfile.TarFile, manifest: _Manifest, target: Path) -> None:
    missing = dict(manifest.files)
    try:
        while member := packed.next():
            entry = missing.pop(member.name, None)
            if entry is None or not member.isreg() or _write(_content(packed, member), target / member.name) != entry:
                raise _damaged("a file is not as its manifest says", packed.name)
    except tarfile.TarError as error:
        raise _damaged("it is cut off", packed.name) from error
    if missing:
        raise _damaged("it is cut off", packed.name)


def _write(content: BinaryIO, path: Path) -> _File:
    """Write one file durably and return what was written."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
        return _File(size=out.tell(), sha256=digest.hexdigest())


def _content(packed: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    content = packed.extractfile(member)
    if content is None:
        raise _damaged("a member is no file", packed.name)
    return content  # type: ignore[return-value] # an IO[bytes] that reads as BinaryIO does


def _foreign(file: object) -> StateError:
    return StateError(
        "this is not a backup of rsfed, or its start is damaged", reason="BACKUP_FOREIGN", detail=str(file)
    )


def _damaged(what: str, file: object) -> StateError:
    return StateError(f"the backup is damaged: {what}; use another one", reason="BACKUP_DAMAGED", detail=str(file))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
