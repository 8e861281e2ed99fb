"""Releases on disk: whatever lies here under its digest was verified first, and one of them is current.

The order of every admission: signature, manifest, admission rules, then the files into a staging folder while their
sizes and digests are checked, then the highest version, then the folder's rename, then `current`. A crash at any point
leaves the release that was current before, and no version is ever forgotten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rsfed.errors import ReleaseRefused, StateError
from rsfed.telemetry import log
from rsfed.trust.bundle import Bundle
from rsfed.trust.identity import sync_folder, write_atomically
from rsfed.trust.manifest import FileEntry, Manifest, manifest_digest, parse_manifest
from rsfed.trust.release_rules import ReleaseHistory, admit, verify_header
from rsfed.v1.federation_pb2 import ReleaseHeader

MANIFEST, SIGNATURE, KEY_ID = "manifest.json", "manifest.sig", "key_id"
_CURRENT, _HISTORY, _LOCK, _STAGING = "current", "history.json", "lock", ".staging-"
_STAGING_AGE_S = 24 * 3600  # an admission that did not end by then never will
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release on disk.

    Attributes:
        manifest: What it consists of.
        digest: SHA-256 of the manifest's bytes, 32 bytes; the name of the release.
        folder: Where its files lie.
        header: Manifest and signature as they were sent.
    """

    manifest: Manifest
    digest: bytes
    folder: Path
    header: ReleaseHeader

    def weights(self, encoder_id: str) -> Path:
        """Return the weights of an encoder, a safetensors file.

        Raises:
            ReleaseRefused: ENCODER_UNKNOWN, the release has no such encoder.
        """
        encoder = self.manifest.encoders.get(encoder_id)
        if encoder is None:
            raise ReleaseRefused("the release has no such encoder", reason="ENCODER_UNKNOWN")
        return self.folder / encoder.weights.name

    def file(self, entry: FileEntry) -> Path | None:
        """Return where a file lies, or None where it is none of this release."""
        return self.folder / entry.name if entry in self.manifest.files() else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of all files in the order in which they are sent, at most 1 MiB at a time."""
        for entry in self.manifest.files():
            yield from chunks_of(self.folder / entry.name)


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, at most 1 MiB at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            yield chunk


class ReleaseStore:
    """The releases of one member.

    Args:
        folder: Folder of the releases; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: dict[bytes, Release] = {}

    def current(self) -> Release | None:
        """Return the release in use; None before the first one, or when its files were damaged on disk."""
        try:
            return self.get(bytes.fromhex((self._folder / _CURRENT).read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, ReleaseRefused) as error:
            log.error("release.damaged", error_type=type(error).__name__)
            return None

    def get(self, digest: bytes) -> Release:
        """Return a release by its digest; its files are checked once for each store and signature.

        Raises:
            ReleaseRefused: RELEASE_UNKNOWN (not here) or RELEASE_DIGEST (damaged on disk).
        """
        known = self._verified.get(digest)
        if known is None or known.header.key_id != self._signer(digest):
            known = self._verified[digest] = self._load(digest)
        return known

    def receive(self, header: ReleaseHeader, bundle: Bundle, *, federation: str, now: datetime) -> Intake:
        """Check everything about a release that its header says, and return what takes its files.

        Raises:
            ReleaseRefused: the reasons of `verify_header` and of `release_rules.admit`; the current release stays.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        history = self._note_time(now)
        manifest = verify_header(header.manifest, header.signature, header.key_id, bundle.release_keys)
        digest = manifest_digest(header.manifest)
        admit(history, manifest, digest, header.key_id, federation=federation, now=now)
        return Intake(self, self._folder, header, manifest)

    def admit(
        self, header: ReleaseHeader, files: Iterable[bytes], bundle: Bundle, *, federation: str, now: datetime
    ) -> Release:
        """Verify a release with all its files, keep it and make it current.

        Args:
            header: Manifest and signature.
            files: Bytes of the files one after the other in the order of `Manifest.files`, cut anywhere.
            bundle: Whose release keys are believed.
            federation: Whose releases are wanted.
            now: Time of the check.

        Raises:
            ReleaseRefused: the release may not become current; the one that is stays, and nothing new is kept.
        """
        with self.receive(header, bundle, federation=federation, now=now) as intake:
            for chunk in files:
                intake.write(chunk)
            return intake.finish()

    def history(self) -> ReleaseHistory:
        """Return what was admitted here so far.

        Raises:
            StateError: the record is damaged; without it a rollback would go unnoticed.
        """
        try:
            raw = json.loads((self._folder / _HISTORY).read_bytes())
            highest = {key: (int(version), bytes.fromhex(digest)) for key, (version, digest) in raw["highest"].items()}
            return ReleaseHistory(highest, datetime.fromisoformat(raw["seen"]))
        except FileNotFoundError:
            return ReleaseHistory()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError("the record of releases is damaged; restore a backup", detail=str(self._folder)) from error

    def prune(self, keep: int = 2) -> None:
        """Delete all releases but the newest `keep`, one of which is the current, and what interruptions left."""
        if self._folder.is_dir():
            with self._locked():  # other processes of this member tidy up, too
                self._prune(keep)

    def _prune(self, keep: int) -> None:
        current = self.current()
        others = [f for f in self._folder.glob("[0-9a-f]*") if f.is_dir() and (current is None or f != current.folder)]
        others.sort(key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        for folder in others[max(0, keep - (current is not None)) :]:
            self._verified.pop(bytes.fromhex(folder.name), None)
            shutil.rmtree(folder)
        for folder in self._folder.glob(f"{_STAGING}*"):
            if time.time() - folder.stat().st_mtime > _STAGING_AGE_S:
                shutil.rmtree(folder)

    def commit(self, staged: Path, header: ReleaseHeader, manifest: Manifest) -> Release:
        """Make a staged release current; only `Intake` calls it, when every file was found right.

        Raises:
            ReleaseRefused: another process admitted a newer release meanwhile.
        """
        digest = manifest_digest(header.manifest)
        target = self._folder / digest.hex()
        with self._locked():
            history = self.history()
            now = history.seen or manifest.created
            admit(history, manifest, digest, header.key_id, federation=manifest.federation, now=now)
            self._save_history(history.with_release(header.key_id, manifest.version, digest))
            self._lay_down(staged, target, header)
            write_atomically(self._folder / _CURRENT, digest.hex().encode())
        self._verified[digest] = Release(manifest, digest, target, header)
        return self._verified[digest]

    def _lay_down(self, staged: Path, target: Path, header: ReleaseHeader) -> None:
        """Give a staged release its place; what lies there unharmed stays, except for a signature by another key."""
        try:
            held = self._load(bytes.fromhex(target.name))
        except ReleaseRefused:
            shutil.rmtree(target, ignore_errors=True)
            staged.rename(target)
            sync_folder(self._folder)
        else:
            if held.header != header:
                for name in (SIGNATURE, KEY_ID):  # the id last: a crash before it reads as still to be signed anew
                    (staged / name).replace(target / name)
                sync_folder(target)

    def _note_time(self, now: datetime) -> ReleaseHistory:
        with self._locked():
            history = self.history()
            moved = history.at(now)
            if moved != history:
                self._save_history(moved)
            return moved

    def _save_history(self, history: ReleaseHistory) -> None:
        fields = {
            "highest": {key: [version, digest.hex()] for key, (version, digest) in history.highest.items()},
            "seen": history.seen.isoformat() if history.seen else None,
        }
        write_atomically(self._folder / _HISTORY, json.dumps(fields, indent=1).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes of this member from changing the releases at the same time."""
        with (self._folder / _LOCK).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _signer(self, digest: bytes) -> str:
        """Return by whose key a release is signed; the federation, or another process here, may have changed it."""
        try:
            return (self._folder / digest.hex() / KEY_ID).read_text()
        except FileNotFoundError:
            return ""

    def _load(self, digest: bytes) -> Release:
        folder = self._folder / digest.hex()
        try:
            manifest_bytes = (folder / MANIFEST).read_bytes()
            if manifest_digest(manifest_bytes) != digest:
                raise _wrong("is damaged on disk")
            manifest = parse_manifest(manifest_bytes)
            for entry in manifest.files():
                _check_file(folder / entry.name, entry)
            header = ReleaseHeader(
                manifest=manifest_bytes,
                signature=(folder / SIGNATURE).read_bytes(),
                key_id=(folder / KEY_ID).read_text(),
            )
        except FileNotFoundError as error:
            raise ReleaseRefused("this release is not kept here", reason="RELEASE_UNKNOWN") from error
        return Release(manifest, digest, folder, header)


class Intake:
    """Takes the files of one release; used as a context, it leaves nothing behind unless it was finished.

    Args:
        store: Where the release goes.
        folder: Folder of the store; staging happens inside it, so that a rename is enough.
        header: Manifest and signature, both checked.
        manifest: The manifest.
    """

    def __init__(self, store: ReleaseStore, folder: Path, header: ReleaseHeader, manifest: Manifest) -> None:
        self._store = store
        self._header = header
        self._manifest = manifest
        self._staged = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGING))
        self._missing = manifest.files()
        self._size, self._hash = 0, hashlib.sha256()  # of the first missing file, so far

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._staged, ignore_errors=True)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the files.

        Raises:
            ReleaseRefused: RELEASE_DIGEST, a file is not what the manifest says, or there are more bytes than it says.
        """
        rest = memoryview(chunk)
        while rest:
            if not self._missing:
                raise _wrong("has more bytes than its manifest says")
            rest = rest[self._take(rest) :]

    def finish(self) -> Release:
        """Make the release current, now that all bytes are there.

        Raises:
            ReleaseRefused: RELEASE_DIGEST, the files are cut short; or another process admitted a newer release.
        """
        if self._missing:
            raise _wrong("has fewer bytes than its manifest says")
        for name, data in (
            (MANIFEST, self._header.manifest),
            (SIGNATURE, self._header.signature),
            (KEY_ID, self._header.key_id.encode()),
        ):
            write_atomically(self._staged / name, data)
        return self._store.commit(self._staged, self._header, self._manifest)

    def _take(self, data: memoryview) -> int:
        """Add bytes to the file that is being received and return how many of them belong to it."""
        entry = self._missing[0]
        part = data[: entry.size - self._size]
        with (self._staged / entry.name).open("ab") as file:
            file.write(part)
            self._hash.update(part)
            self._size += len(part)
            if self._size == entry.size:
                os.fsync(file.fileno())
        if self._size == entry.size:
            _check_digest(self._hash.hexdigest(), entry)
            self._missing = self._missing[1:]
            self._size, self._hash = 0, hashlib.sha256()
        return len(part)


def _check_digest(found: str, entry: FileEntry) -> None:
    if found != entry.sha256:
        raise _wrong("has a file that is not the one its manifest names")


def _check_file(path: Path, entry: FileEntry) -> None:
    with path.open("rb") as file:
        _check_digest(hashlib.file_digest(file, "sha256").hexdigest(), entry)


def _wrong(what: str) -> ReleaseRefused:
    return ReleaseRefused(f"the release {what}; fetch it again, or tell the coordinator", reason="RELEASE_DIGEST")
