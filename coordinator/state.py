"""The coordinator's SQLite file: its schema and how it is opened.

One file holds members, certificates, invitations, trust bundle, announcements, training runs and the audit log, so a
backup of it is one consistent moment. Keys lie beside it, in files of their own. Times are milliseconds since 1970.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rsfed.home import Home, open_database, transaction

_SCHEMA_1 = """
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE authority (           -- CA certificates; their keys are in secrets/
  fingerprint TEXT PRIMARY KEY,    -- SHA-256 of the certificate
  certificate BLOB NOT NULL,       -- DER
  added INTEGER NOT NULL,
  retired INTEGER                  -- no longer in the trust bundle
) STRICT, WITHOUT ROWID;

CREATE TABLE release_key (         -- keys that sign releases; the private ones are in secrets/
  key_id TEXT PRIMARY KEY,
  public_key BLOB NOT NULL,        -- 32 bytes
  added INTEGER NOT NULL,
  retired INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE member (
  uri TEXT PRIMARY KEY,            -- SPIFFE id
  role TEXT NOT NULL,
  name TEXT NOT NULL,
  sealing_key BLOB NOT NULL,       -- 32 bytes
  joined INTEGER NOT NULL,
  revoked INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE certificate (
  serial TEXT PRIMARY KEY,         -- hexadecimal digits
  member TEXT NOT NULL,            -- SPIFFE id
  issuer TEXT NOT NULL REFERENCES authority(fingerprint),
  expires INTEGER NOT NULL,
  revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_of_member ON certificate (member);

CREATE TABLE invitation (
  id TEXT PRIMARY KEY,
  secret_digest BLOB NOT NULL,     -- SHA-256
  role TEXT NOT NULL,
  name TEXT NOT NULL,
  created INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  used INTEGER,
  withdrawn INTEGER                -- replaced by a newer one, or open when a backup was restored
) STRICT, WITHOUT ROWID;

CREATE TABLE bundle (              -- the newest signed trust bundle: one row
  version INTEGER PRIMARY KEY,
  signed BLOB NOT NULL,
  expires INTEGER NOT NULL
) STRICT;

CREATE TABLE node (                -- the last announcement of each node
  name TEXT PRIMARY KEY,
  address TEXT NOT NULL,
  software TEXT NOT NULL,
  protocol INTEGER NOT NULL,
  release_version INTEGER NOT NULL,
  release_digest BLOB NOT NULL,
  held INTEGER,
  level INTEGER NOT NULL,
  last_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE run (                 -- training runs
  id INTEGER PRIMARY KEY,
  state TEXT NOT NULL,
  rounds INTEGER NOT NULL,
  options TEXT NOT NULL,           -- JSON
  requested INTEGER NOT NULL,
  finished INTEGER,
  release_version INTEGER,         -- what it published
  error TEXT
) STRICT;

CREATE TABLE run_event (           -- what happened in a run, in order
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES run(id),
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  data TEXT NOT NULL               -- JSON
) STRICT;
CREATE INDEX run_event_of_run ON run_event (run);

CREATE TABLE audit (               -- append-only
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  data TEXT NOT NULL               -- JSON
) STRICT;
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_never_shrinks BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
"""

_SCHEMA_2 = """
CREATE TABLE checkpoint (          -- how far a run is after a round; its arrays are in a file in runs/
  run INTEGER NOT NULL REFERENCES run(id),
  round INTEGER NOT NULL,
  digest BLOB NOT NULL,            -- SHA-256 of the file
  data TEXT NOT NULL,              -- JSON
  PRIMARY KEY (run, round)
) STRICT, WITHOUT ROWID;
"""

_SCHEMA_3 = """
CREATE TABLE audit_head (          -- the newest head of each node's audit log, and what contradicts it
  node TEXT PRIMARY KEY,
  position TEXT NOT NULL,          -- log, size and root
  signed BLOB NOT NULL,            -- the head as the node signed it
  earlier TEXT NOT NULL,           -- JSON: the logs that this one replaced
  reason TEXT NOT NULL,            -- closed reason why the log is not believed, or ''
  contradiction BLOB NOT NULL,     -- the signed head that does not fit, or ''
  at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('audit_log', lower(hex(randomblob(16))));  -- names the own log in its heads
"""

_SCHEMA_4 = """
CREATE TABLE scope (               -- what analysts may ask; who has no row may ask everything
  member TEXT PRIMARY KEY,         -- SPIFFE id, also of one that has not joined yet
  nodes TEXT NOT NULL,             -- JSON: names; empty for all
  modalities TEXT NOT NULL,        -- JSON: names; empty for all
  level INTEGER NOT NULL,          -- of rsfed.v1.PolicyLevel; 0 for any
  until INTEGER,
  per_day INTEGER,                 -- requests; NULL for any number
  per_minute INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE usage (               -- requests of analysts who have a quota
  member TEXT NOT NULL,
  day INTEGER NOT NULL,            -- since 1970, UTC
  requests INTEGER NOT NULL,
  PRIMARY KEY (member, day)
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (_SCHEMA_1, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4)


class State:
    """The open database. Any thread may use it; one at a time does.

    Raises:
        StateError: the file is newer than this software, damaged, or on a network file system.
    """

    def __init__(self, home: Home) -> None:
        self._connection = open_database(home.database, MIGRATIONS)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.RLock()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read from the database."""
        with self._lock:
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Change the database in one transaction: all of the block or nothing."""
        with self._lock, transaction(self._connection) as connection:
            yield connection

    def changes(self) -> int:
        """Return a number that changes when another connection, of this or another process, changed the database."""
        with self._lock:
            version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()


def to_ms(moment: datetime) -> int:
    """Return a moment as milliseconds since 1970."""
    return int(moment.timestamp() * 1000)


def from_ms(value: int) -> datetime:
    """Return milliseconds since 1970 as a moment in UTC."""
    return datetime.fromtimestamp(value / 1000, UTC)
