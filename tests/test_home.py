"""The state folder: one process, one schema, a local disk."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from rsfed import home
from rsfed.errors import StateError

MIGRATIONS = (
    "CREATE TABLE first (a INTEGER); -- a comment; with a semicolon\nINSERT INTO first VALUES (1);",
    "ALTER TABLE first ADD COLUMN b TEXT DEFAULT 'x';\nCREATE TRIGGER t AFTER INSERT ON first BEGIN SELECT 1; END;",
)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


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


def test_nobody_else_can_read_the_database_at_any_moment(tmp_path, monkeypatch):
    before = os.umask(0)
    connect, modes = sqlite3.connect, []

    def watched(path, **how):
        modes.append(mode(path))
        return connect(path, **how)

    monkeypatch.setattr(home.sqlite3, "connect", watched)
    try:
        for _ in range(2):
            connection = home.open_database(tmp_path / "state.sqlite", MIGRATIONS)
            modes += [mode(path) for path in tmp_path.iterdir()]
            connection.close()
            (tmp_path / "state.sqlite").chmod(0o644)
    finally:
        os.umask(before)
    assert set(modes) == {0o600}


def test_a_home_that_others_may_enter_is_closed_to_them(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o755)
    home.open_database(folder / "state.sqlite", MIGRATIONS).close()
    assert mode(folder) == 0o700
    folder.chmod(0o770)
    with home.Home(folder).lock():
        assert mode(folder) == 0o700


def test_a_home_of_somebody_else_that_others_may_enter_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o755)

    def refuse(self, mode):
        raise PermissionError(1, "not yours")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(StateError, match="chmod 700"), home.Home(folder).lock():
        pass


def test_a_damaged_database_is_named_with_the_remedy(tmp_path):
    (tmp_path / "state.sqlite").write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(StateError, match=r"state\.sqlite is damaged.*restore a backup"):
        home.open_database(tmp_path / "state.sqlite", MIGRATIONS)


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "file_system", lambda path: "nfs4")
    with pytest.raises(StateError, match="network file system"):
        home.open_database(tmp_path / "state.sqlite", MIGRATIONS)
