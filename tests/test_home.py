"""The state folder: one process, one schema, a local disk."""

import sqlite3
import threading

import pytest

from rsfed import home
from rsfed.errors import StateError

MIGRATIONS = (
    "CREATE TABLE first (a INTEGER); -- a comment; with a semicolon\nINSERT INTO first VALUES (1);",
    "ALTER TABLE first ADD COLUMN b TEXT DEFAULT 'x';\nCREATE TRIGGER t AFTER INSERT ON first BEGIN SELECT 1; END;",
)


def test_a_second_serve_is_refused_while_the_first_runs(tmp_path):
    place = home.Home(tmp_path)
    with place.lock(), pytest.raises(StateError, match="another serve"), place.lock():
        pass
    with place.lock():
        pass


def test_state_of_older_software_is_brought_up_to_date(tmp_path):
    path = tmp_path / "state.sqlite"
    home.open_database(path, MIGRATIONS[:1]).close()
    connection = home.open_database(path, MIGRATIONS)
    assert connection.execute("SELECT a, b FROM first").fetchall() == [(1, "x")]


def test_state_of_newer_software_is_refused(tmp_path):
    path = tmp_path / "state.sqlite"
    home.open_database(path, MIGRATIONS).close()
    with pytest.raises(StateError, match="newer software"):
        home.open_database(path, MIGRATIONS[:1])


def test_a_migration_that_fails_leaves_the_old_state(tmp_path):
    path = tmp_path / "state.sqlite"
    home.open_database(path, MIGRATIONS[:1]).close()
    with pytest.raises(StateError):
        home.open_database(path, (MIGRATIONS[0], "INSERT INTO first VALUES (2);\nCREATE TABLE first (a);"))
    assert sqlite3.connect(path).execute("SELECT a FROM first").fetchall() == [(1,)]


def test_many_processes_may_open_a_new_state_at_once(tmp_path):
    failures = []

    def open_it():
        try:
            home.open_database(tmp_path / "state.sqlite", MIGRATIONS).close()
        except StateError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_damaged_database_is_named_with_the_remedy(tmp_path):
    (tmp_path / "state.sqlite").write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(StateError, match=r"state\.sqlite is damaged.*restore a backup"):
        home.open_database(tmp_path / "state.sqlite", MIGRATIONS)


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "file_system", lambda path: "nfs4")
    with pytest.raises(StateError, match="network file system"):
        home.open_database(tmp_path / "state.sqlite", MIGRATIONS)
