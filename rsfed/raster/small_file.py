"""Files that say something of images: read whole, and only if they are plain and small."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rsfed.errors import RasterRejected


def read_small(path: Path, most: int, what: str) -> bytes:
    """Return the bytes of a file.

    Args:
        path: The file.
        most: Bytes that it may have.
        what: What a refusal calls it.

    Raises:
        RasterRejected: it is a link, no regular file, or larger.
        OSError: it is not there, or cannot be read just now.
    """
    if path.is_symlink():
        raise RasterRejected(f"{what} is a link; put the file itself there")
    # Without blocking, since opening a pipe waits for somebody to write into it.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 - a handle has no path
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise RasterRejected(f"{what} is no plain file of at most {most:,} bytes; copy it again from its origin")
        return file.read(most)
