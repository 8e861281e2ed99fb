"""Tasks and results while they are on their way: in memory where they are small, else on disk.

Sixteen nodes may send at once; their results wait on disk for their turn, so that memory holds one at a time.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Self

from rsfed.errors import TrainingError
from rsfed.hashing.payload import CHUNK_BYTES


class Blob:
    """Bytes that are written once from front to back, and read in parts. Any thread may use it.

    More than a chunk of them lie in a file that has no name and goes with this object, or with the process.

    Args:
        folder: Where that file is made; the system's folder for such files when left out.
    """

    def __init__(self, folder: Path | None = None) -> None:
        where = None if folder is None else str(folder)
        self._file = SpooledTemporaryFile(max_size=CHUNK_BYTES, dir=where)  # noqa: SIM115 - open as long as this lives
        weakref.finalize(self, self._file.close)
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self._size = 0

    @classmethod
    def of(cls, data: bytes, folder: Path | None = None) -> Self:
        """Return a blob of these bytes.

        Raises:
            TrainingError: as `append`.
        """
        blob = cls(folder)
        blob.append(data)
        return blob

    def __len__(self) -> int:
        return self._size

    @property
    def sha256(self) -> bytes:
        """The digest of what is here."""
        return self._hash.digest()

    def append(self, chunk: bytes) -> None:
        """Add bytes at the end.

        Raises:
            TrainingError: RESULTS_UNWRITABLE, for example because the disk is full.
        """
        with self._lock:
            try:
                if self._size + len(chunk) > CHUNK_BYTES:
                    self._file.rollover()  # before it is written: memory would hold it once more
                self._file.seek(self._size)
                self._file.write(chunk)
                self._file.flush()
            except OSError as error:
                raise TrainingError(
                    "the weights that a round sends and gets could not be written; make room on the disk of the "
                    "coordinator's home",
                    reason="RESULTS_UNWRITABLE",
                    detail=str(error),
                ) from error
            self._hash.update(chunk)
            self._size += len(chunk)

    def read(self, offset: int = 0, size: int = -1) -> bytes:
        """Return bytes from a position on, all when left out."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)
