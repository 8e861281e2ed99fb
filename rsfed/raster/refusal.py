"""How whatever goes wrong with an image becomes one refusal with its remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio.errors import RasterioIOError

from rsfed.errors import RasterRejected

_DAMAGED = "its pixels cannot be decoded, it is truncated or damaged; copy it again from its origin"
_READ_BYTES = 1 << 20


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn whatever a hostile image makes a decoder raise into RasterRejected, with the path as its detail."""
    try:
        yield
    except RasterRejected as error:
        if error.detail:
            raise
        raise refused(error, path) from error
    except Exception as error:  # decoders raise what they like; nothing of it may stop an ingest
        raise refused(error, path) from error


def refused(error: Exception, path: Path) -> RasterRejected:
    """Return the refusal that an error comes to, with the path as its detail unless it has one."""
    if isinstance(error, RasterRejected):
        return RasterRejected(error.public, reason=error.reason, detail=error.detail or str(path))
    if isinstance(error, MemoryError):
        return RasterRejected("it takes more memory than there is; cut it into smaller files", detail=str(path))
    if isinstance(error, OSError) and not isinstance(error, RasterioIOError):
        return unreadable(error, path)
    return _undecodable(path)


def unreadable(error: OSError, path: Path) -> RasterRejected:
    """Return the refusal of a file that cannot be read; its reason is UNREADABLE unless the file is gone."""
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
    reason = None if gone else "UNREADABLE"
    return RasterRejected(f"it cannot be read: {_cause(error)}", reason=reason, detail=str(path))


def _undecodable(path: Path) -> RasterRejected:
    """Return the refusal of a file that a decoder failed at: damaged, unless its bytes cannot be read at all."""
    try:
        with contextlib.suppress(IsADirectoryError), path.open("rb") as file:
            while file.read(_READ_BYTES):
                pass
    except OSError as error:
        return unreadable(error, path)
    return RasterRejected(_DAMAGED, detail=str(path))


def _cause(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission; let this user read it"
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the path"
    return f"{(error.strerror or 'input error').lower()}; check the disk or the name"
