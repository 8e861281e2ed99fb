"""The writing half of the catalogue: sources that come, change and go. Every function runs inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC

from node.catalogue import State
from node.places import left_behind, settle
from node.state import RELABELLED, UNKNOWN, get_meta, set_meta, take_item_ids
from rsfed.raster.inspect import SourceInfo, SourceWindow

_EDGES = ("west", "south", "east", "north")
_HAS_CODES = """
SELECT 1 FROM item JOIN code ON code.item = item.id AND code_set IN (SELECT id FROM code_set)
WHERE source = ? AND state <> 'withdrawn' LIMIT 1
"""
_SEARCHED = "SELECT id FROM item WHERE source = ? AND state <> 'withdrawn' AND +state = 'present'"
# As the index by source has it, and with a plus: by the one by state a source would cost as much as the archive has.
_TELL_ANEW = """
UPDATE item SET acquisition = :acquisition, acquired_start = :start, acquired_end = :end, place = :place,
  west = :west, south = :south, east = :east, north = :north
WHERE id = :id AND (acquisition, acquired_start, acquired_end, place, west, south, east, north)
  IS NOT (:acquisition, :start, :end, :place, :west, :south, :east, :north)
"""


@dataclass(frozen=True, slots=True)
class Rules:
    """How files become patches; a file read under another recipe is read again.

    Attributes:
        modality: What the archive holds.
        max_nodata: Largest share of nodata pixels that a searched patch may have.
        max_cloud: Largest share of clouds and shadows that it may have, where something tells it.
        independent_files: Every file without metadata is an acquisition of its own, the operator says.
        recipe: Name of all that decides the windows and states of a file's patches.
    """

    modality: str
    max_nodata: float
    max_cloud: float
    independent_files: bool
    recipe: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A file, or the folder of a product, as it was found, by which a later run knows it again without reading it.

    Attributes:
        path: Relative to the archive, with "/".
        size: Size in bytes.
        mtime_ns: Time of the last modification; of a product a number that stands for size and time of all its files.
        labels: Its labels as the archive spells them.
    """

    path: str
    size: int
    mtime_ns: int
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Known:
    """A source that the catalogue holds: its number, and the file and recipe as they were when it was read."""

    id: int
    seen: Seen
    recipe: str


@dataclass(frozen=True, slots=True)
class Read:
    """A file that was read.

    Attributes:
        seen: As it was found before.
        info: What it is and which patches it gives.
        covered: Clouds, shadow or snow cover it, so its patches are not searched.
    """

    seen: Seen
    info: SourceInfo
    covered: bool = False

    def state(self, window: SourceWindow, rules: Rules) -> State:
        """Return the state of one of its patches."""
        hidden = self.covered or window.nodata > rules.max_nodata or (window.cloud or 0) > rules.max_cloud
        return "recorded" if hidden else "present"


def find_source(connection: sqlite3.Connection, path: str) -> Known | None:
    """Return the present source of this path."""
    row = connection.execute(
        "SELECT id, size, mtime_ns, recipe FROM source WHERE path = ? AND present", (path,)
    ).fetchone()
    if row is None:
        return None
    source, size, mtime_ns, recipe = row
    labels = connection.execute(
        "SELECT name FROM source_label JOIN label ON label.id = label WHERE source = ?", (source,)
    )
    return Known(source, Seen(path, size, mtime_ns, frozenset(name for (name,) in labels)), recipe)


def present_sources(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """Return number and path of every present source."""
    return connection.execute("SELECT id, path FROM source WHERE present").fetchall()


def radar_direction(connection: sqlite3.Connection) -> str | None:
    """Return the pass in which the archive's radar images were taken; None where it has none that say it."""
    row = connection.execute("SELECT direction FROM source WHERE present AND direction IS NOT NULL LIMIT 1").fetchone()
    return None if row is None else row[0]


def acknowledge(connection: sqlite3.Connection, read: Read, rules: Rules) -> int:
    """Take up what a file holds: new patches come, those that it no longer holds are withdrawn.

    A patch whose content is the same keeps its id; what is told of it may be other than before. Of patches that are one
    place one is searched (`node.places`).

    Returns:
        The number of the source.
    """
    seen, info = read.seen, read.info
    (source,) = connection.execute(
        """
        INSERT INTO source (path, size, mtime_ns, digest, recipe, present, acquisition, crs, direction)
        VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?)
        ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest,
          recipe = excluded.recipe, present = 1, acquisition = excluded.acquisition, crs = excluded.crs,
          direction = excluded.direction
        RETURNING id
        """,
        (
            *(seen.path, seen.size, seen.mtime_ns, info.digest, rules.recipe),
            *(info.acquisition, info.crs, info.direction),
        ),
    ).fetchone()
    held = dict(
        connection.execute(
            "SELECT digest, id FROM item WHERE source = ? AND state <> 'withdrawn'", (source,)
        ).fetchall()
    )
    fresh = [window for window in info.windows if window.digest not in held]
    kept = [(held.pop(window.digest), window) for window in info.windows if window.digest in held]
    hidden = [item for item, window in kept if read.state(window, rules) == "recorded"]
    due = left_behind(connection, [*held.values(), *(item for item, _ in kept)])  # also where these lie elsewhere now
    _retire(connection, held.values(), "withdrawn")
    _refresh(connection, source, kept, read, rules)
    _retire(connection, hidden, "recorded")
    _insert(connection, source, fresh, read, rules)
    settle(connection, due | _searched(connection, [source]))
    set_labels(connection, source, seen.labels)
    return int(source)


def set_labels(connection: sqlite3.Connection, source: int, labels: Collection[str]) -> None:
    """Replace the own labels of a source."""
    own = connection.execute("SELECT name FROM source_label JOIN label ON label.id = label WHERE source = ?", (source,))
    if {name for (name,) in own} == set(labels):
        return
    connection.execute("DELETE FROM source_label WHERE source = ?", (source,))
    connection.executemany("INSERT OR IGNORE INTO label (name) VALUES (?)", ((label,) for label in labels))
    connection.executemany(
        "INSERT INTO source_label SELECT ?, id FROM label WHERE name = ?", ((source, label) for label in labels)
    )
    if connection.execute(_HAS_CODES, (source,)).fetchone():
        _tell_relabelled(connection)


def withdraw(connection: sqlite3.Connection, sources: Collection[int]) -> None:
    """Withdraw all patches of these sources; their rows stay, so that no id is ever used again."""
    due: set[int] = set()
    for source in sources:
        rows = connection.execute("SELECT id FROM item WHERE source = ? AND state <> 'withdrawn'", (source,)).fetchall()
        items = [item for (item,) in rows]
        due |= left_behind(connection, items)
        _retire(connection, items, "withdrawn")
        connection.execute("UPDATE source SET present = 0 WHERE id = ?", (source,))
    settle(connection, due)


def count_patches(connection: sqlite3.Connection, sources: Collection[int]) -> int:
    """Return how many patches that are not withdrawn these sources have."""
    query = "SELECT count(*) FROM item WHERE state <> 'withdrawn' AND source IN (SELECT value FROM json_each(?))"
    return int(connection.execute(query, (str(list(sources)),)).fetchone()[0])


def set_unknown_acquisitions(connection: sqlite3.Connection, rules: Rules) -> None:
    """Bring the acquisitions of patches whose file names none in line with what the operator says now.

    To be called before files are taken up, which follow the same rules: so a run that is broken off leaves no mixture.
    """
    if get_meta(connection, "independent_files") == int(rules.independent_files):
        return
    set_meta(connection, "independent_files", int(rules.independent_files))
    rows = connection.execute("SELECT id, digest FROM source WHERE present AND acquisition IS NULL").fetchall()
    connection.executemany(
        "UPDATE item SET acquisition = :name WHERE source = :source AND state <> 'withdrawn' AND acquisition <> :name",
        ({"name": _unknown(connection, digest, rules), "source": source} for source, digest in rows),
    )
    searched = _searched(connection, [source for source, _ in rows])
    settle(connection, searched | left_behind(connection, searched))


def own_labels(connection: sqlite3.Connection) -> list[str]:
    """Return all labels of present sources, as the archive spells them."""
    rows = connection.execute(
        """
        SELECT DISTINCT name FROM label JOIN source_label ON label = label.id JOIN source ON source.id = source
        WHERE present ORDER BY name
        """
    )
    return [name for (name,) in rows]


def set_classes(connection: sqlite3.Connection, classes: Mapping[str, Collection[int]]) -> None:
    """Replace what the labels mean."""
    known = connection.execute("SELECT name, class FROM label JOIN label_class ON label.id = label")
    if set(known) == {(label, number) for label, numbers in classes.items() for number in numbers}:
        return
    _tell_relabelled(connection)
    connection.execute("DELETE FROM label_class")
    connection.executemany(
        "INSERT INTO label_class SELECT id, ? FROM label WHERE name = ?",
        ((number, label) for label, numbers in classes.items() for number in numbers),
    )


def _tell_relabelled(connection: sqlite3.Connection) -> None:
    """Tell whoever serves patches that their classes, times and footprints are to be read again."""
    set_meta(connection, RELABELLED, int(get_meta(connection, RELABELLED) or 0) + 1)


def _common(connection: sqlite3.Connection, info: SourceInfo, rules: Rules) -> dict[str, object]:
    """Return what is told of all patches of a source alike."""
    start, end = (moment.astimezone(UTC).isoformat() for moment in info.acquired) if info.acquired else (None, None)
    acquisition = info.acquisition or _unknown(connection, info.digest, rules)
    return {"acquisition": acquisition, "start": start, "end": end, "place": info.place}


def _where(window: SourceWindow) -> dict[str, object]:
    return dict(zip(_EDGES, window.footprint or (None,) * 4, strict=True))


def _refresh(
    connection: sqlite3.Connection, source: int, kept: Sequence[tuple[int, SourceWindow]], read: Read, rules: Rules
) -> None:
    """Bring patches whose pixels are the same in line with what their source tells of them now."""
    common = _common(connection, read.info, rules)
    told = 0
    for item, window in kept:
        facts = {**common, **_where(window), "id": item, "nodata": window.nodata}
        connection.execute("UPDATE item SET nodata = :nodata, state = 'present', same_as = NULL WHERE id = :id", facts)
        told += connection.execute(_TELL_ANEW, facts).rowcount
    if told and connection.execute(_HAS_CODES, (source,)).fetchone():
        _tell_relabelled(connection)


def _insert(
    connection: sqlite3.Connection, source: int, windows: Sequence[SourceWindow], read: Read, rules: Rules
) -> None:
    common = _common(connection, read.info, rules) | {"source": source, "modality": rules.modality}
    connection.executemany(
        """
        INSERT INTO item (id, source, col, row, width, height, modality, digest, state, nodata, acquisition,
          acquired_start, acquired_end, west, south, east, north, place)
        VALUES (:id, :source, :col, :row, :width, :height, :modality, :digest, :state, :nodata, :acquisition,
          :start, :end, :west, :south, :east, :north, :place)
        """,
        (
            {
                **common,
                **asdict(window.window),
                **_where(window),
                "id": item,
                "digest": window.digest,
                "state": read.state(window, rules),
                "nodata": window.nodata,
            }
            for item, window in zip(take_item_ids(connection, len(windows)), windows, strict=True)
        ),
    )


def _unknown(connection: sqlite3.Connection, digest: bytes, rules: Rules) -> str:
    """Return the acquisition of a file that names none: one for all, or one for each content."""
    return f"file:{digest.hex()}" if rules.independent_files else f"{UNKNOWN}{get_meta(connection, 'archive')}"


def _searched(connection: sqlite3.Connection, sources: Collection[int]) -> set[int]:
    """Return the items of sources that are searched."""
    rows = (connection.execute(_SEARCHED, (source,)) for source in sources)
    return {item for found in rows for (item,) in found}


def _retire(connection: sqlite3.Connection, items: Iterable[int], state: str) -> None:
    """Take patches out of the search: another state, and no code left."""
    for item in items:
        connection.execute("UPDATE item SET state = ?, same_as = NULL WHERE id = ?", (state, item))
        connection.execute("DELETE FROM code WHERE item = ? AND code_set IN (SELECT id FROM code_set)", (item,))
