"""What the archive holds: its patches, and their codes under each release.

Reading, and writing codes; `ingest` alone adds and withdraws patches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from node.state import open_state
from rsfed.config import NodeConfig, load_config
from rsfed.errors import ArchiveError
from rsfed.home import Home, transaction
from rsfed.raster.item import Item, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rsfed.codes import Codes

State = Literal["present", "recorded", "withdrawn"]
"""`present` is searched; `recorded` has too much nodata for that; `withdrawn` is gone from the archive."""

_PAGE = 1000  # items read at a time, so that no long read holds up the write-ahead log


def archive_root(home: Home, config: NodeConfig) -> Path:
    """Return the archive folder; a relative path starts at the home."""
    return home.path / Path(config.archive.path).expanduser()


class Catalogue:
    """The patches of one node; one instance belongs to one thread at a time.

    Args:
        home: The node's home, with its node.toml.

    Raises:
        ConfigError: there is no node.toml, or it will not do.
        StateError: the state cannot be opened.
    """

    def __init__(self, home: Home) -> None:
        self.root = archive_root(home, load_config(NodeConfig, home.path))
        self.connection = open_state(home)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def item(self, item_id: int) -> Item:
        """Return one patch, in whatever state it is.

        Raises:
            ArchiveError: no patch ever had this id.
        """
        row = self.connection.execute("SELECT * FROM patch WHERE id = ?", (item_id,)).fetchone()
        if row is None:
            raise ArchiveError("there is no patch with this id")
        return self._item(row)

    def state(self, item_id: int) -> State | None:
        """Return the state of a patch, or None where no patch ever had this id."""
        row = self.connection.execute("SELECT state FROM item WHERE id = ?", (item_id,)).fetchone()
        return None if row is None else row[0]

    def labels(self, item_id: int) -> tuple[str, ...]:
        """Return the labels of a patch as the archive spells them."""
        query = """
            SELECT name FROM item JOIN source_label USING (source) JOIN label ON label.id = label
            WHERE item.id = ? ORDER BY name
        """
        return tuple(name for (name,) in self.connection.execute(query, (item_id,)))

    def items(self, modality: str, state: State = "present") -> Iterator[Item]:
        """Yield the patches of one modality by rising id."""
        return self._pages(
            "SELECT * FROM patch WHERE state = ? AND modality = ? AND id > ? ORDER BY id LIMIT ?", state, modality
        )

    def training_items(self) -> Iterator[Item]:
        """Yield the present patches that have a class of the federation, by rising id."""
        return self._pages(
            "SELECT * FROM patch WHERE state = 'present' AND classes IS NOT NULL AND id > ? ORDER BY id LIMIT ?"
        )

    def count(self, modality: str | None = None, state: State = "present") -> int:
        """Return how many patches there are, of one modality or of all."""
        query = "SELECT count(*) FROM item WHERE state = :state AND modality = ifnull(:modality, modality)"
        return int(self.connection.execute(query, {"state": state, "modality": modality}).fetchone()[0])

    def count_labelled(self) -> int:
        """Return how many present patches have a class of the federation."""
        query = """
            SELECT count(*) FROM item WHERE state = 'present'
            AND source IN (SELECT source FROM source_label JOIN label_class USING (label))
        """
        return int(self.connection.execute(query).fetchone()[0])

    def acquisitions(self) -> int:
        """Return how many acquisitions the present patches come from."""
        query = "SELECT count(DISTINCT acquisition) FROM item WHERE state = 'present'"
        return int(self.connection.execute(query).fetchone()[0])

    def class_counts(self) -> dict[int, int]:
        """Return for each class of the federation how many present patches have it."""
        query = """
            SELECT class, count(DISTINCT item.id) FROM item
            JOIN source_label USING (source) JOIN label_class USING (label)
            WHERE state = 'present' GROUP BY class ORDER BY class
        """
        return dict(self.connection.execute(query))

    def put_codes(
        self, release_digest: bytes, encoder: str, ids: Sequence[int] | NDArray[np.int64], codes: Codes
    ) -> None:
        """Store codes, uint8, shape (n, bits // 8); patches that were withdrawn meanwhile are left out."""
        rows = zip(map(int, ids), codes, strict=True)
        with transaction(self.connection):
            code_set = self._code_set(release_digest, encoder)
            self.connection.executemany(
                "INSERT OR REPLACE INTO code SELECT ?, id, ? FROM item WHERE id = ? AND state = 'present'",
                ((code_set, code.tobytes(), item_id) for item_id, code in rows),
            )

    def codes(self, release_digest: bytes, encoder: str) -> tuple[NDArray[np.int64], Codes]:
        """Return all codes of one encoder by rising item id.

        Returns:
            Item ids, int64, shape (n,), and packed codes, uint8, shape (n, bits // 8); (0, 0) where there are none.
        """
        import numpy as np  # noqa: PLC0415 - loaded only when used

        query = """
            SELECT item, code FROM code JOIN code_set ON code_set.id = code_set
            WHERE release = ? AND encoder = ? ORDER BY item
        """
        rows = self.connection.execute(query, (release_digest, encoder)).fetchall()
        ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        packed = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.uint8)
        return ids, packed.reshape(len(rows), -1) if rows else packed.reshape(0, 0)

    def missing_codes(self, release_digest: bytes, encoder: str, modality: str) -> list[Item]:
        """Return the present patches that still need a code of this encoder, by rising id."""
        query = """
            SELECT * FROM patch WHERE state = 'present' AND modality = ?
            AND NOT EXISTS (SELECT 1 FROM code JOIN code_set ON code_set.id = code_set
                            WHERE release = ? AND encoder = ? AND code.item = patch.id)
            AND id > ? ORDER BY id LIMIT ?
        """
        return list(self._pages(query, modality, release_digest, encoder))

    def keep_codes(self, releases: Collection[bytes]) -> None:
        """Delete the codes of all releases but these."""
        with transaction(self.connection):
            for code_set, release in self.connection.execute("SELECT id, release FROM code_set").fetchall():
                if release not in releases:
                    self.connection.execute("DELETE FROM code WHERE code_set = ?", (code_set,))
                    self.connection.execute("DELETE FROM code_set WHERE id = ?", (code_set,))

    def _code_set(self, release_digest: bytes, encoder: str) -> int:
        self.connection.execute(
            "INSERT OR IGNORE INTO code_set (release, encoder) VALUES (?, ?)", (release_digest, encoder)
        )
        found = self.connection.execute(
            "SELECT id FROM code_set WHERE release = ? AND encoder = ?", (release_digest, encoder)
        ).fetchone()
        return int(found[0])

    def _pages(self, query: str, *values: str | bytes) -> Iterator[Item]:
        last = -1
        while rows := self.connection.execute(query, (*values, last, _PAGE)).fetchall():
            yield from map(self._item, rows)
            last = rows[-1][0]

    def _item(self, row: Sequence[Any]) -> Item:
        number, path, col, line, width, height, modality, digest, classes, acquisition, start, end, *rest = row
        west, south, east, north, place, _ = rest
        return Item(
            id=number,
            path=self.root / path,
            window=Window(col, line, width, height),
            modality=modality,
            digest=digest,
            labels=tuple(sorted(map(int, classes.split(",")))) if classes else (),
            acquisition=acquisition,
            acquired=(datetime.fromisoformat(start), datetime.fromisoformat(end)) if start else None,
            footprint=None if west is None else (west, south, east, north),
            place=place,
        )
