"""The node's SQLite file: its schema, and the few values that belong to the node as a whole.

One file holds the catalogue, the codes, the ledger of answered queries, requests for found items, the log of resolved
handles and that of training tasks, so that a backup of it is one consistent moment.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from rsfed.clock import utc_now
from rsfed.config import NodeConfig, config_path
from rsfed.errors import Busy, StateError
from rsfed.home import Home, open_database, transaction
from rsfed.trust.audit_log import Position
from rsfed.trust.certificates import CLOCK_TOLERANCE

_SCHEMA_1 = """
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE source (              -- one file of the archive
  id INTEGER PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,       -- relative to the archive folder, with "/"
  size INTEGER NOT NULL,           -- bytes
  mtime_ns INTEGER NOT NULL,
  digest BLOB NOT NULL,            -- SHA-256 of the file
  recipe TEXT NOT NULL,            -- what decided its windows and states; another recipe reads the file again
  present INTEGER NOT NULL,        -- 0: gone, kept for its withdrawn items
  acquisition TEXT                 -- from the file; NULL where the file does not tell
) STRICT;

CREATE TABLE item (                -- one patch
  id INTEGER PRIMARY KEY,          -- taken from meta next_item, never by SQLite
  source INTEGER NOT NULL REFERENCES source(id),
  col INTEGER NOT NULL,
  row INTEGER NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  modality TEXT NOT NULL,
  digest TEXT NOT NULL,            -- of the content
  state TEXT NOT NULL CHECK (state IN ('present', 'recorded', 'withdrawn')),
  nodata REAL NOT NULL,            -- share of pixels, 0 to 1
  acquisition TEXT NOT NULL,       -- the unit in which privacy floors count
  acquired_start TEXT,             -- ISO 8601, UTC
  acquired_end TEXT,
  west REAL, south REAL, east REAL, north REAL,  -- degrees, WGS 84
  place TEXT
) STRICT;
CREATE INDEX item_of_source ON item (source) WHERE state <> 'withdrawn';
CREATE INDEX item_by_state ON item (state, modality);

CREATE TABLE label (               -- labels as the archive spells them
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE source_label (
  source INTEGER NOT NULL REFERENCES source(id),
  label INTEGER NOT NULL REFERENCES label(id),
  PRIMARY KEY (source, label)
) STRICT, WITHOUT ROWID;
CREATE TABLE label_class (         -- what they mean in the federation's nomenclature, as of the last ingest
  label INTEGER NOT NULL REFERENCES label(id),
  class INTEGER NOT NULL,
  PRIMARY KEY (label, class)
) STRICT, WITHOUT ROWID;

CREATE VIEW patch AS
SELECT item.id, source.path, col, row, width, height, modality, item.digest,
  (SELECT group_concat(DISTINCT class) FROM source_label JOIN label_class USING (label)
   WHERE source_label.source = item.source) AS classes,
  item.acquisition, acquired_start, acquired_end, west, south, east, north, place, state
FROM item JOIN source ON source.id = item.source;

CREATE TABLE code_set (            -- the codes that one encoder of one release made
  id INTEGER PRIMARY KEY,
  release BLOB NOT NULL,           -- digest of the release, 32 bytes
  encoder TEXT NOT NULL,
  UNIQUE (release, encoder)
) STRICT;
CREATE TABLE code (
  code_set INTEGER NOT NULL REFERENCES code_set(id),
  item INTEGER NOT NULL REFERENCES item(id),
  code BLOB NOT NULL,
  PRIMARY KEY (code_set, item)
) STRICT, WITHOUT ROWID;

CREATE TABLE query_ledger (        -- makes handles resolvable, bound to a requester and expirable
  salt BLOB PRIMARY KEY,           -- 8 bytes
  requester TEXT NOT NULL,         -- SPIFFE id
  query_id BLOB NOT NULL UNIQUE,   -- 16 bytes
  envelope_digest BLOB NOT NULL,
  release BLOB NOT NULL,
  created TEXT NOT NULL            -- ISO 8601, UTC
) STRICT, WITHOUT ROWID;
CREATE INDEX query_ledger_by_age ON query_ledger (created);

CREATE TABLE resolved (            -- which of its own files the operator looked up
  id INTEGER PRIMARY KEY,
  at TEXT NOT NULL,                -- ISO 8601, UTC
  operator TEXT NOT NULL,          -- user of the operating system
  handle BLOB NOT NULL,
  requester TEXT NOT NULL,
  query_id BLOB NOT NULL,
  item INTEGER NOT NULL
) STRICT;

CREATE TABLE training_log (        -- what the coordinator asked of this node, and what the node sent
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL,
  round INTEGER NOT NULL,
  kind TEXT NOT NULL,              -- of the task, as Flower names it
  received_bytes INTEGER NOT NULL,
  sent_bytes INTEGER NOT NULL,
  seconds REAL NOT NULL,
  loss REAL,                       -- NULL where the task gave no result
  state TEXT NOT NULL,             -- 'done', or the closed reason why not
  time TEXT NOT NULL               -- ISO 8601, UTC
) STRICT;
"""

_SCHEMA_2 = """
INSERT INTO meta VALUES ('changes', 0);  -- how often a patch came or went; the indexer looks often, so it must be quick
CREATE TRIGGER item_came AFTER INSERT ON item
BEGIN UPDATE meta SET value = value + 1 WHERE key = 'changes'; END;
CREATE TRIGGER item_went AFTER UPDATE OF state ON item
BEGIN UPDATE meta SET value = value + 1 WHERE key = 'changes'; END;
"""

_SCHEMA_3 = """
ALTER TABLE source ADD COLUMN crs TEXT;  -- for example EPSG:32633; NULL where the file has no sound one
UPDATE source SET recipe = '';  -- so that files that were taken up before are read once more
"""

_SCHEMA_4 = """
ALTER TABLE training_log ADD COLUMN objective TEXT;  -- that the plan names; NULL where the task had none
ALTER TABLE training_log ADD COLUMN steps INTEGER;   -- that the plan asks for in a round
ALTER TABLE training_log ADD COLUMN sent_digest TEXT;  -- SHA-256 of the result, hexadecimal; NULL where none was sent
"""

_SCHEMA_5 = """
CREATE TABLE publication (         -- what answers that go by cells speak of
  release BLOB NOT NULL,
  encoder TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  made TEXT NOT NULL,              -- ISO 8601, UTC
  floor INTEGER NOT NULL,          -- acquisitions
  per_class INTEGER NOT NULL,      -- cells of each class
  items BLOB NOT NULL,             -- rows of rsfed.privacy.publication
  PRIMARY KEY (release, encoder)
) STRICT;
"""

_SCHEMA_6 = """
CREATE TABLE access_request (      -- who asked for which found item, and what became of that
  id BLOB PRIMARY KEY,             -- 16 bytes, chosen by who asks
  requester TEXT NOT NULL,         -- SPIFFE id
  serial TEXT NOT NULL,            -- of the certificate it was signed with, hexadecimal
  query_digest BLOB NOT NULL,      -- of the envelope in whose answer the handle was given
  handle BLOB NOT NULL,            -- 16 bytes
  item INTEGER NOT NULL,
  modality TEXT NOT NULL,
  want TEXT NOT NULL,              -- quicklook, crop or file
  reason TEXT NOT NULL,            -- in the requester's words
  asked TEXT NOT NULL,             -- ISO 8601, UTC
  expires TEXT NOT NULL,           -- of the request, then of what was approved
  state TEXT NOT NULL CHECK (state IN ('open', 'approved', 'denied', 'withdrawn')),
  answered TEXT,                   -- when the operator answered it
  operator TEXT,                   -- user of the operating system who did
  note TEXT NOT NULL DEFAULT '',   -- what the operator says to a denial
  sealed_size INTEGER,             -- bytes of what was approved
  sealed_digest BLOB,              -- SHA-256 of it, 32 bytes
  collected TEXT                   -- when it left last
) STRICT, WITHOUT ROWID;
CREATE INDEX access_request_by_requester ON access_request (requester, state);
CREATE TABLE access_call (         -- calls that were taken, so that none is taken twice
  id BLOB PRIMARY KEY,             -- 16 bytes
  expires TEXT NOT NULL            -- ISO 8601, UTC
) STRICT, WITHOUT ROWID;
"""

_SCHEMA_7 = """
CREATE TABLE count_charge (        -- what the published counts of each epoch cost; rows are never changed or deleted
  release BLOB NOT NULL,           -- digest of the release, 32 bytes
  number INTEGER NOT NULL,         -- of the epoch, from 1
  epsilon REAL NOT NULL,
  at TEXT NOT NULL,                -- ISO 8601, UTC
  PRIMARY KEY (release, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE catalogue (           -- what is published of the archive at the levels catalogue, sealed and counts
  release BLOB PRIMARY KEY,
  rules TEXT NOT NULL,             -- level and bounds under which it was made; others begin anew
  made TEXT NOT NULL,              -- ISO 8601, UTC
  acquisitions BLOB NOT NULL,      -- numbers of those that it speaks of, uint64
  signed BLOB NOT NULL             -- rsfed.v1.SignedCatalogue as it is given away
) STRICT;
"""

_SCHEMA_8 = """
ALTER TABLE catalogue ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE catalogue ADD COLUMN items BLOB NOT NULL DEFAULT x'';  -- those that refine may list: rows of node.bucketed
CREATE TABLE refine_charge (       -- queries that were refined; rows are never changed or deleted
  release BLOB NOT NULL,           -- digest of the release, 32 bytes
  number INTEGER NOT NULL,         -- of the charge, from 1
  query BLOB NOT NULL,             -- digest of its envelope, 32 bytes
  items INTEGER NOT NULL,          -- how many were charged, once each
  at TEXT NOT NULL,                -- ISO 8601, UTC
  PRIMARY KEY (release, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE refine_spent (        -- their sums, changed in the transaction of each charge
  release BLOB NOT NULL,
  content INTEGER NOT NULL,        -- of the item, 64 bits of its digest: it may come back under another id
  requester INTEGER NOT NULL,      -- 64 bits of the digest of its SPIFFE id
  own INTEGER NOT NULL,            -- spent of the requester's own share
  common INTEGER NOT NULL,         -- spent of what is everybody's
  PRIMARY KEY (release, content, requester)
) STRICT, WITHOUT ROWID;
"""

_SCHEMA_9 = """
ALTER TABLE source ADD COLUMN direction TEXT;  -- pass of a radar, ascending or descending; NULL where unknown
"""

_SCHEMA_10 = """
ALTER TABLE item ADD COLUMN same_as INTEGER;  -- the item that is searched in its place; NULL otherwise
CREATE INDEX item_behind ON item (same_as) WHERE same_as IS NOT NULL;
CREATE INDEX item_by_place ON item (acquisition, south) WHERE state <> 'withdrawn' AND south IS NOT NULL;
UPDATE source SET recipe = '';  -- so that what was taken up before is compared, too, and
-- overpasses of BigEarthNet's Sentinel-1 are named anew
"""

_SCHEMA_11 = """
ALTER TABLE publication ADD COLUMN countries TEXT NOT NULL DEFAULT '';  -- digest of the borders by which places are
-- numbered; '' where these are tiles
"""

MIGRATIONS: tuple[str, ...] = (
    _SCHEMA_1,
    _SCHEMA_2,
    _SCHEMA_3,
    _SCHEMA_4,
    _SCHEMA_5,
    _SCHEMA_6,
    _SCHEMA_7,
    _SCHEMA_8,
    _SCHEMA_9,
    _SCHEMA_10,
    _SCHEMA_11,
)

UNKNOWN = "unknown:"
"""What the acquisition of a patch starts with whose file names none."""

RELABELLED = "relabelled"
"""In meta, how often patches with codes may have got other classes, times or footprints; absent until then."""

PATIENCE_MS = 2000  # for another process that writes; whoever asks has a deadline
_IDS_A_SECOND = 20  # bits: fewer patches than 2^20 are taken up in a second
_RESTORES_SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def lost(home: Home) -> bool:
    """Say whether the database of a node is gone; an empty file is none."""
    there = home.database.exists() and home.database.stat().st_size > 0
    return not there and config_path(NodeConfig, home.path).exists()


def open_state(home: Home, *, anew: bool = False) -> sqlite3.Connection:
    """Open the node's database and bring its schema up to date.

    A connection belongs to one thread at a time; open another one for another thread.

    Args:
        home: The node's home.
        anew: Make a database where a node's is gone; that of a home which is no node yet is always made.

    Raises:
        StateError: STATE_MISSING, the node's database is gone; or the file is newer than this software, damaged, or on
            a network file system.
    """
    if not anew and lost(home):
        raise StateError(
            "the database of this node is gone: restore a backup, or take up the archive anew by `rsfed node ingest`; "
            "handles that were given mean nothing any more then, and counts and refine rest until the next release",
            reason="STATE_MISSING",
            detail=str(home.database),
        )
    connection = open_database(home.database, MIGRATIONS)
    if get_meta(connection, "archive") is None:
        _begin(home, connection)
    return connection


def _begin(home: Home, connection: sqlite3.Connection) -> None:
    """Give a new database what every one has; beside an audit log it takes the place of one that is gone."""
    with transaction(connection):
        first = "INSERT OR IGNORE INTO meta VALUES ('next_item', 1), ('archive', ?)"
        begun = connection.execute(first, (secrets.token_hex(8),)).rowcount
        if begun and home.audit.exists():
            mark_restored(connection, utc_now())


@contextmanager
def writing_soon(connection: sqlite3.Connection) -> Iterator[None]:
    """Write as one transaction, soon or not at all: whoever asks has a deadline.

    Raises:
        Busy: another process keeps the database.
    """
    connection.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")
    try:
        with transaction(connection):
            yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # the low byte is the kind of error
            raise
        raise Busy("this node is busy writing; ask again") from error


def utc_text(moment: datetime) -> str:
    """Return a moment in the one form in which texts sort as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def get_meta(connection: sqlite3.Connection, key: str) -> str | int | None:
    """Return a value of the node as a whole, or None where it was never set."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def set_meta(connection: sqlite3.Connection, key: str, value: str | int) -> None:
    """Set a value of the node as a whole."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def take_item_ids(connection: sqlite3.Connection, count: int) -> range:
    """Return `count` fresh item ids; inside the transaction that stores the items, so that none is lost or doubled."""
    row = connection.execute(
        "UPDATE meta SET value = value + ? WHERE key = 'next_item' RETURNING value", (count,)
    ).fetchone()
    return range(row[0] - count, row[0])


def restored_at(connection: sqlite3.Connection) -> datetime | None:
    """Return the moment before which signed queries are refused; None unless the state was restored or begun anew.

    It does not know the queries that were answered before, since the backup if there is one, so they could be replayed.
    """
    value = get_meta(connection, "restored_at")
    return None if value is None else datetime.fromisoformat(str(value))


def audited_to(connection: sqlite3.Connection) -> Position | None:
    """Return how far the audit log was when that was noted last; None where there never was one."""
    value = get_meta(connection, "audited_to")
    return None if value is None else Position.of_text(str(value))


def mark_audited(connection: sqlite3.Connection, position: Position) -> None:
    """Note how far the audit log is, so that an older one in its place is noticed; the position must be durable."""
    set_meta(connection, "audited_to", position.to_text())


def mark_restored(connection: sqlite3.Connection, now: datetime) -> None:
    """Make sure that a restored node, or one whose database begins anew, repeats neither an item id nor an answer.

    Item ids go on at a number that stands for this second, which is higher than every id given until then, by the lost
    node as well as by one restored from the same backup before; were the clock behind, at the next free second.
    Handle salts need no care: they are random, and unique in the ledger. Queries answered until now may have been
    signed under a clock that is ahead of ours.
    """
    second = (now - _RESTORES_SINCE) // timedelta(seconds=1)
    connection.execute(
        "UPDATE meta SET value = max(:second, (value >> :bits) + 1) << :bits WHERE key = 'next_item'",
        {"second": second, "bits": _IDS_A_SECOND},
    )
    set_meta(connection, "restored_at", (now + CLOCK_TOLERANCE).astimezone(UTC).isoformat())
