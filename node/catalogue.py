"""What the archive holds: its patches, and their codes under each release.

Reading, and writing codes; `ingest` alone adds and withdraws patches.
"""

from __future__ import annotations

import json
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
"""`present` is searched; `recorded` is not: too little data, clouds, or the place of another; `withdrawn` is gone."""

_PAGE = 1000  # rows read or deleted at a time, so that nothing long holds up the write-ahead log or other writers
_OF_ENCODER = "code_set = (SELECT id FROM code_set WHERE release = ? AND encoder = ?)"


def archive_root(home: Home, config: NodeConfig) -> Path:
    """Return the archive folder; a relative path starts at the home, where the files of a STAC endpoint lie, too."""
    if config.archive.stac is not None:
        return home.path / "fetched"
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
        config = load_config(NodeConfig, home.path)
        self.root = archive_root(home, config)
        self._radiometry = config.archive.radiometry
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
        query = "SELECT * FROM patch WHERE state = ? AND modality = ? AND id > ? ORDER BY id LIMIT ?"
        return (self._item(row) for rows in self._pages(query, state, modality) for row in rows)

    def training_items(self) -> Iterator[Item]:
        """Yield the present patches that have a class of the federation, by rising id."""
        query = "SELECT * FROM patch WHERE state = 'present' AND classes IS NOT NULL AND id > ? ORDER BY id LIMIT ?"
        return (self._item(row) for rows in self._pages(query) for row in rows)

    def count(self, modality: str | None = None, state: State = "present") -> int:
        """Return how many patches there are, of one modality or of all."""
        query = "SELECT count(*) FROM item WHERE state = :state AND modality = ifnull(:modality, modality)"
        return int(self.connection.execute(query, {"state": state, "modality": modality}).fetchone()[0])

    def count_covered(self, max_nodata: float) -> int:
        """Return how many recorded patches have data enough: clouds, shadows or snow keep them out of the search."""
        query = "SELECT count(*) FROM item WHERE state = 'recorded' AND nodata <= ? AND same_as IS NULL"
        return int(self.connection.execute(query, (max_nodata,)).fetchone()[0])

    def count_behind(self) -> int:
        """Return how many recorded patches have another one of their acquisition searched in their place."""
        return int(self.connection.execute("SELECT count(*) FROM item WHERE same_as IS NOT NULL").fetchone()[0])

    def modalities(self) -> dict[str, int]:
        """Return how many present patches there are of each modality."""
        query = "SELECT modality, count(*) FROM item WHERE state = 'present' GROUP BY modality"
        return dict(self.connection.execute(query).fetchall())

    def count_labelled(self) -> int:
        """Return how many present patches have a class of the federation."""
        query = """
            SELECT count(*) FROM item WHERE state = 'present'
            AND source IN (SELECT source FROM source_label JOIN label_class USING (label))
        """
        return int(self.connection.execute(query).fetchone()[0])

    def count_with_labels(self, names: Collection[str]) -> int:
        """Return how many present patches have any of these labels, as the archive spells them."""
        query = """
            SELECT count(*) FROM item WHERE state = 'present' AND source IN (
              SELECT source FROM source_label JOIN label ON label.id = label
              WHERE name IN (SELECT value FROM json_each(?)))
        """
        return int(self.connection.execute(query, (json.dumps(list(names)),)).fetchone()[0])

    def acquisitions(self) -> int:
        """Return how many acquisitions the present patches come from."""
        query = "SELECT count(DISTINCT acquisition) FROM item WHERE state = 'present'"
        return int(self.connection.execute(query).fetchone()[0])

    def reference_systems(self) -> dict[str | None, int]:
        """Return how many present files have each coordinate reference system; None for those without a sound one."""
        query = "SELECT crs, count(*) FROM source WHERE present GROUP BY crs ORDER BY count(*) DESC, crs"
        return dict(self.connection.execute(query))

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

        query = f"SELECT item, code FROM code WHERE {_OF_ENCODER} AND item > ? ORDER BY item LIMIT ?"  # noqa: S608 - fixed
        ids, packed = [], bytearray()
        for rows in self._pages(query, release_digest, encoder):
            ids.append(np.array([row[0] for row in rows], np.int64))
            packed += b"".join(row[1] for row in rows)
        numbers = np.concatenate([np.empty(0, np.int64), *ids])
        return numbers, np.frombuffer(packed, np.uint8).reshape(len(numbers), -1 if ids else 0)

    def coded(self, release_digest: bytes, encoder: str) -> NDArray[np.int64]:
        """Return the ids of the patches that have a code of this encoder in rising order, int64, shape (n,)."""
        import numpy as np  # noqa: PLC0415 - loaded only when used

        query = f"SELECT item FROM code WHERE {_OF_ENCODER} AND item > ? ORDER BY item LIMIT ?"  # noqa: S608 - fixed
        pages = self._pages(query, release_digest, encoder)
        return np.concatenate([np.empty(0, np.int64), *(np.array(rows, np.int64)[:, 0] for rows in pages)])

    def codes_of(self, release_digest: bytes, encoder: str, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], Codes]:
        """Return the codes that some patches have of this encoder, as `codes` does; `ids` in rising order."""
        import numpy as np  # noqa: PLC0415 - loaded only when used

        query = f"SELECT item, code FROM code WHERE {_OF_ENCODER} AND item IN (SELECT value FROM json_each(?)) ORDER BY item"  # noqa: E501, S608 - fixed
        rows: list[tuple[int, bytes]] = []
        for start in range(0, len(ids), _PAGE):
            some = str(ids[start : start + _PAGE].tolist())
            rows += self.connection.execute(query, (release_digest, encoder, some)).fetchall()
        packed = np.frombuffer(b"".join(code for _, code in rows), np.uint8)
        return np.array([item for item, _ in rows], np.int64), packed.reshape(len(rows), -1 if rows else 0)

    def uncoded(self, release_digest: bytes, encoder: str, ids: NDArray[np.int64]) -> list[Item]:
        """Return those of these patches that are present and have no code of this encoder, by rising id."""
        query = f"""
            SELECT * FROM patch WHERE id IN (SELECT value FROM json_each(?)) AND state = 'present'
            AND NOT EXISTS (SELECT 1 FROM code WHERE {_OF_ENCODER} AND item = patch.id) ORDER BY id
        """  # noqa: S608 - fixed
        return [self._item(row) for row in self.connection.execute(query, (str(ids.tolist()), release_digest, encoder))]

    def keep_codes(self, releases: Collection[bytes]) -> None:
        """Delete the codes of all releases but these, in steps between which others may write."""
        for code_set, release in self.connection.execute("SELECT id, release FROM code_set").fetchall():
            while release not in releases and not self._shrink(code_set):
                pass

    def _shrink(self, code_set: int) -> bool:
        """Delete some codes of a set, or the set once it is empty; return whether that was the end of it."""
        some = "SELECT item FROM code WHERE code_set = :set LIMIT :count"
        query = f"DELETE FROM code WHERE code_set = :set AND item IN ({some})"  # noqa: S608 - fixed
        with transaction(self.connection):
            if self.connection.execute(query, {"set": code_set, "count": _PAGE}).rowcount:
                return False
            self.connection.execute("DELETE FROM code_set WHERE id = ?", (code_set,))
            return True

    def _code_set(self, release_digest: bytes, encoder: str) -> int:
        self.connection.execute(
            "INSERT OR IGNORE INTO code_set (release, encoder) VALUES (?, ?)", (release_digest, encoder)
        )
        found = self.connection.execute(
            "SELECT id FROM code_set WHERE release = ? AND encoder = ?", (release_digest, encoder)
        ).fetchone()
        return int(found[0])

    def _pages(self, query: str, *values: str | bytes) -> Iterator[list[Any]]:
        """Yield the rows of a query that starts above an id and is limited, until there are none."""
        last = -1
        while rows := self.connection.execute(query, (*values, last, _PAGE)).fetchall():
            yield rows
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
            radiometry=self._radiometry,
        )
