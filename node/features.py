"""Features of the node's patches, kept so that a frozen trunk sees each patch once.

A trunk is what costs time; its head is small. So whatever a trunk made of a patch is kept in a file of its own in the
home: every round of training, and the indexing of every later release on the same trunk, takes it from there. It can
always be made again, so it is in no backup, and a file that will not do is deleted and begun anew.

Each row carries a checksum over the features and the content digest of the patch they were made of; a row that does not
fit it is as good as none.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from rsfed.errors import StateError
from rsfed.home import Home, open_database, transaction
from rsfed.telemetry import log

if TYPE_CHECKING:
    from rsfed.codes import Ids
    from rsfed.hashing.trunk import Vector
    from rsfed.raster.input_spec import InputSpec
    from rsfed.raster.item import Item
    from rsfed.trust.manifest import FrozenTrunk

_SCHEMA_1 = """
CREATE TABLE feature_set (         -- what one trunk made of patches read in one way
  id INTEGER PRIMARY KEY,
  trunk TEXT NOT NULL,             -- SHA-256 of the ONNX file, hexadecimal
  input TEXT NOT NULL,             -- SHA-256 of the InputSpec and the like, hexadecimal
  UNIQUE (trunk, input)
) STRICT;
CREATE TABLE feature (
  feature_set INTEGER NOT NULL REFERENCES feature_set(id),
  item INTEGER NOT NULL,           -- id in the catalogue; never used again
  vector BLOB NOT NULL,            -- float16, little-endian
  checksum INTEGER NOT NULL,       -- CRC-32 over content digest and vector
  UNIQUE (feature_set, item)
) STRICT;
"""
_PAGE = 1000  # rows deleted at a time
_OF_SET = """
  feature_set = (SELECT id FROM feature_set WHERE trunk = :trunk AND input = :input)
  AND item IN (SELECT value FROM json_each(:ids))
"""
_STORED = np.dtype("<f2")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """What decides the features of a patch.

    Attributes:
        trunk: SHA-256 of the ONNX file, hexadecimal.
        input: SHA-256 of the InputSpec and of what else decides the features, hexadecimal.
    """

    trunk: str
    input: str

    @classmethod
    def of(cls, architecture: FrozenTrunk, spec: InputSpec) -> Self:
        """Return the key of an encoder."""
        use = spec.model_dump_json() + "turns" * architecture.turns
        return cls(architecture.trunk.sha256, hashlib.sha256(use.encode()).hexdigest())


def features_file(home: Home) -> Path:
    """Return where a node keeps features."""
    return home.path / "features.sqlite"


class FeatureCache:
    """The kept features of one node; one instance belongs to one thread at a time.

    What goes wrong with the file costs time, never a result: nothing here raises for it.

    Args:
        home: The node's home.
    """

    def __init__(self, home: Home) -> None:
        self._path = features_file(home)
        self._connection = self._open()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def get(self, key: FeatureKey, items: Sequence[Item]) -> dict[int, Vector]:
        """Return the features that are known of these patches, by item id: float16, shape (features,)."""
        return self._trying(lambda: self._read(key, items), {})

    def put(self, key: FeatureKey, vectors: Mapping[Item, Vector]) -> None:
        """Keep the features of patches."""
        if vectors:
            self._trying(lambda: self._write(key, vectors), None)

    def keep(self, keys: Collection[FeatureKey], present: Ids) -> None:
        """Delete everything but the features that these keys have of these patches, in steps."""
        self._trying(lambda: self._shrink(keys, present), None)

    def _read(self, key: FeatureKey, items: Sequence[Item]) -> dict[int, Vector]:
        query = f"SELECT item, vector, checksum FROM feature WHERE {_OF_SET}"  # noqa: S608 - fixed
        digests = {item.id: item.digest for item in items}
        rows = self._connection.execute(query, {**_columns(key), "ids": str(list(digests))})
        return {
            item: np.frombuffer(vector, _STORED).astype(np.float16)
            for item, vector, checksum in rows
            if _checksum(digests[item], vector) == checksum
        }

    def _write(self, key: FeatureKey, vectors: Mapping[Item, Vector]) -> None:
        stored = {item: vector.astype(_STORED).tobytes() for item, vector in vectors.items()}
        rows = ((item.id, vector, _checksum(item.digest, vector)) for item, vector in stored.items())
        with transaction(self._connection):
            make = "INSERT OR IGNORE INTO feature_set (trunk, input) VALUES (:trunk, :input)"
            self._connection.execute(make, _columns(key))
            find = "SELECT id FROM feature_set WHERE trunk = :trunk AND input = :input"
            (number,) = self._connection.execute(find, _columns(key)).fetchone()
            self._connection.executemany(
                "INSERT OR REPLACE INTO feature VALUES (?, ?, ?, ?)", ((number, *row) for row in rows)
            )

    def _shrink(self, keys: Collection[FeatureKey], present: Ids) -> None:
        sets = self._connection.execute("SELECT id, trunk, input FROM feature_set").fetchall()
        for number, trunk, spec in sets:
            rows = self._connection.execute("SELECT item FROM feature WHERE feature_set = ?", (number,)).fetchall()
            held = np.array(rows, np.int64).reshape(-1)
            wanted = FeatureKey(trunk, spec) in keys
            self._delete(number, np.setdiff1d(held, present) if wanted else held)
            if not wanted:
                self._connection.execute("DELETE FROM feature_set WHERE id = ?", (number,))

    def _delete(self, number: int, items: Ids) -> None:
        for start in range(0, len(items), _PAGE):
            with transaction(self._connection):
                self._connection.executemany(
                    "DELETE FROM feature WHERE feature_set = ? AND item = ?",
                    ((number, int(item)) for item in items[start : start + _PAGE]),
                )

    def _trying(self, work: Callable[[], T], otherwise: T) -> T:
        """Return what work gives; where the file will not do, begin it anew if it is damaged, and go on without."""
        try:
            return work()
        except sqlite3.Error as error:
            log.warning("features.not_kept", error_type=type(error).__name__)
            if not isinstance(error, sqlite3.OperationalError):  # a full disk or a lock, which will pass
                self._connection.close()
                self._connection = self._begin_anew()
        return otherwise

    def _open(self) -> sqlite3.Connection:
        try:
            return open_database(self._path, (_SCHEMA_1,))
        except StateError as error:
            if isinstance(error.__cause__, sqlite3.OperationalError):
                raise
            log.warning("features.damaged", reason=error.reason)
            return self._begin_anew()

    def _begin_anew(self) -> sqlite3.Connection:
        for path in (self._path, *(self._path.with_name(self._path.name + end) for end in ("-wal", "-shm"))):
            path.unlink(missing_ok=True)
        return open_database(self._path, (_SCHEMA_1,))


def _columns(key: FeatureKey) -> dict[str, str]:
    return {"trunk": key.trunk, "input": key.input}


def _checksum(digest: str, vector: bytes) -> int:
    return zlib.crc32(vector, zlib.crc32(digest.encode()))
