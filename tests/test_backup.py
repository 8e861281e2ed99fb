"""What users rely on when a home is backed up and restored, for every role."""

from __future__ import annotations

import io
import json
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest

import rsfed.backup
from rsfed.backup import BackupPlan, read_backup, write_backup
from rsfed.errors import StateError, UsageError
from rsfed.home import Home, open_database

PLAN = BackupPlan("node", ("node.toml", "identity"))
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SCHEMA = ("CREATE TABLE entry (a INTEGER, b INTEGER);",)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    (home.identity / "deep").mkdir(parents=True)
    (home.path / "node.toml").write_text("# configuration")
    (home.identity / "key.pem").write_text("secret")
    (home.identity / "deep" / "empty").touch()
    (home.path / "archive.tif").write_text("an image")
    with closing(open_database(home.database, SCHEMA)) as connection:
        connection.execute("INSERT INTO entry VALUES (1, 1)")
    return home


@pytest.fixture
def backup(home, tmp_path):
    file = tmp_path / "backup.tar"
    write_backup(home, file, PLAN, now=NOW)
    return file


def restore(file, target, finish=lambda home: None):
    return read_backup(file, Home(target), PLAN, finish=finish)


def repack(file, change):
    """Write the members of a backup again after `change(members)`, a list of (TarInfo, bytes)."""
    with tarfile.open(file) as packed:
        members = [(m, packed.extractfile(m).read() if m.isreg() else b"") for m in packed]
    change(members)
    with tarfile.open(file, "w") as packed:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            packed.addfile(member, io.BytesIO(data))


def rename_in_manifest(old, new):
    def change(members):
        manifest = json.loads(members[0][1])
        manifest["files"][new] = manifest["files"].pop(old)
        members[0] = (members[0][0], json.dumps(manifest).encode())
        for member, _ in members:
            member.name = new if member.name == old else member.name

    return change


def test_a_restored_home_has_what_the_plan_says_and_nothing_else(backup, tmp_path):
    assert restore(backup, tmp_path / "new") == NOW
    new = tmp_path / "new"
    assert (new / "node.toml").read_text() == "# configuration"
    assert (new / "identity" / "key.pem").read_text() == "secret"
    assert (new / "identity" / "deep" / "empty").read_bytes() == b""
    assert not (new / "archive.tif").exists()
    with closing(open_database(new / "state.sqlite", SCHEMA)) as connection:
        assert connection.execute("SELECT * FROM entry").fetchall() == [(1, 1)]


def test_backup_and_restored_files_are_readable_by_their_owner_only(backup, tmp_path):
    restore(backup, tmp_path / "new")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "new").rglob("*") if p.is_file()} == {0o600}


def test_a_backup_made_while_serve_writes_is_one_consistent_moment(home, tmp_path):
    stop = threading.Event()

    def write():
        with closing(open_database(home.database, SCHEMA)) as connection:
            number = 2
            while not stop.is_set():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO entry VALUES (?, 0)", (number,))
                connection.execute("UPDATE entry SET b = ?", (number,))
                connection.execute("COMMIT")
                number += 1
                time.sleep(0.001)  # others want the lock, too

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            write_backup(home, tmp_path / f"{number}.tar", PLAN, now=NOW)
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        restore(tmp_path / f"{number}.tar", tmp_path / f"new{number}")
        with closing(sqlite3.connect(tmp_path / f"new{number}" / "state.sqlite")) as connection:
            rows = connection.execute("SELECT a, b FROM entry").fetchall()
        assert {b for _, b in rows} == {max(a for a, _ in rows)}


def test_no_backup_has_a_key_without_its_row_or_a_row_without_its_key(home, tmp_path):
    stop, added = threading.Event(), []

    def rotate():
        with closing(open_database(home.database, SCHEMA)) as connection:
            while not stop.is_set():
                number = len(added) + 2
                connection.execute("BEGIN IMMEDIATE")
                (home.identity / f"{number}.pem").write_text("key")
                connection.execute("INSERT INTO entry VALUES (?, 0)", (number,))
                connection.execute("COMMIT")
                added.append(number)
                time.sleep(0.001)  # others want the lock, too

    writer = threading.Thread(target=rotate)
    writer.start()
    try:
        for number in range(5):
            before = len(added)
            write_backup(home, tmp_path / f"{number}.tar", PLAN, now=NOW)
            while len(added) == before:
                time.sleep(0.001)
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        restore(tmp_path / f"{number}.tar", tmp_path / f"new{number}")
        with closing(sqlite3.connect(tmp_path / f"new{number}" / "state.sqlite")) as connection:
            rows = {a for (a,) in connection.execute("SELECT a FROM entry")} - {1}
        assert {int(key.stem) for key in (tmp_path / f"new{number}" / "identity").glob("[0-9]*.pem")} == rows


def test_what_a_killed_backup_left_is_cleared_by_the_next_one_wherever_that_goes(home, tmp_path):
    killed = (
        "import os, sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "import rsfed.backup as backup\nfrom rsfed.home import Home\n"
        "packing = backup._pack\n"
        "backup._pack = lambda *a, **k: (packing(*a, **k), os._exit(9))\n"
        "plan = backup.BackupPlan('node', ('node.toml', 'identity'))\n"
        "backup.write_backup(Home(Path(sys.argv[1])), Path(sys.argv[2]), plan, now=datetime.now(UTC))\n"
    )
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, "-c", killed, str(home.path), str(tmp_path / "first" / "b.tar")]
    assert subprocess.run(command, check=False).returncode == 9
    copies = [p for p in tmp_path.rglob("*") if p.is_file() and b"secret" in p.read_bytes()]
    assert len(copies) == 3, "the key, its copy and the packed one"
    write_backup(home, tmp_path / "second" / "b.tar", PLAN, now=NOW)
    copies = {p for p in tmp_path.rglob("*") if p.is_file() and b"secret" in p.read_bytes()}
    assert copies == {home.identity / "key.pem", tmp_path / "second" / "b.tar"}
    assert not list((tmp_path / "first").iterdir())


def test_two_backups_of_one_home_at_once_are_refused(home, tmp_path, monkeypatch):
    packing, refusals = rsfed.backup._pack, []

    def second(*args, **options):
        if not refusals:
            refusals.append(True)
            with pytest.raises(StateError, match="another backup"):
                write_backup(home, tmp_path / "second.tar", PLAN, now=NOW)
        packing(*args, **options)

    monkeypatch.setattr(rsfed.backup, "_pack", second)
    write_backup(home, tmp_path / "first.tar", PLAN, now=NOW)
    assert refusals
    assert restore(tmp_path / "first.tar", tmp_path / "new") == NOW


def test_a_backup_never_replaces_a_file(home, backup):
    before = backup.read_bytes()
    with pytest.raises(UsageError) as refused:
        write_backup(home, backup, PLAN, now=NOW)
    assert refused.value.reason == "BACKUP_EXISTS"
    assert backup.read_bytes() == before


def test_a_backup_leaves_nothing_behind(home, backup):
    assert {path.name for path in backup.parent.iterdir()} == {"home", "backup.tar"}
    assert not list(home.path.glob(".*backup*"))


def test_a_damaged_database_is_said_at_the_backup_not_at_the_restore(home, tmp_path):
    data = bytearray(home.database.read_bytes())
    data[4096:] = b"\x55" * len(data[4096:])
    home.database.write_bytes(data)
    with pytest.raises(StateError, match=r"damaged|cannot be copied"):
        write_backup(home, tmp_path / "bad.tar", PLAN, now=NOW)
    assert not (tmp_path / "bad.tar").exists()


def test_restore_refuses_a_home_that_is_not_empty_and_leaves_it_alone(backup, tmp_path):
    target = tmp_path / "full"
    target.mkdir()
    (target / "node.toml").write_text("mine")
    with pytest.raises(StateError) as refused:
        restore(backup, target)
    assert refused.value.reason == "HOME_NOT_EMPTY"
    assert [p.name for p in target.iterdir()] == ["node.toml"]


def test_restore_takes_an_empty_folder(backup, tmp_path):
    (tmp_path / "new").mkdir()
    restore(backup, tmp_path / "new")
    assert (tmp_path / "new" / "node.toml").exists()


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError) as refused:
        restore(tmp_path / "none.tar", tmp_path / "new")
    assert refused.value.reason == "BACKUP_MISSING"


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\0" * 10240])
def test_a_file_that_is_no_backup_is_refused(content, tmp_path):
    file = tmp_path / "foreign.tar"
    file.write_bytes(content)
    with pytest.raises(StateError) as refused:
        restore(file, tmp_path / "new")
    assert refused.value.reason == "BACKUP_FOREIGN"
    assert not (tmp_path / "new").exists()


def test_a_tar_of_something_else_is_refused(tmp_path):
    with tarfile.open(tmp_path / "other.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("node.toml"))
    with pytest.raises(StateError) as refused:
        restore(tmp_path / "other.tar", tmp_path / "new")
    assert refused.value.reason == "BACKUP_FOREIGN"


def test_a_backup_of_another_role_is_refused(backup, tmp_path):
    with pytest.raises(StateError, match="backup of a node, not of a coordinator") as refused:
        read_backup(backup, Home(tmp_path / "new"), BackupPlan("coordinator", PLAN.parts), finish=lambda home: None)
    assert refused.value.reason == "BACKUP_FOREIGN"


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/outside",
        "identity/../../outside",
        "elsewhere.txt",
        "identity/./key.pem",
        "node.toml/key.pem",
    ],
)
def test_a_backup_with_a_name_that_leaves_the_home_is_refused(backup, tmp_path, name):
    repack(backup, rename_in_manifest("identity/key.pem", name))
    with pytest.raises(StateError) as refused:
        restore(backup, tmp_path / "deep" / "new")
    assert refused.value.reason == "BACKUP_DAMAGED"
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path / "deep" / "new").exists()


def test_a_link_in_a_backup_is_refused(backup, tmp_path):
    def link(members):
        members[-1][0].type = tarfile.SYMTYPE
        members[-1][0].linkname = "/etc/passwd"

    repack(backup, link)
    with pytest.raises(StateError) as refused:
        restore(backup, tmp_path / "new")
    assert refused.value.reason == "BACKUP_DAMAGED"


def test_a_file_that_is_missing_or_there_twice_or_extra_is_refused(backup, tmp_path):
    original = backup.read_bytes()
    extra = tarfile.TarInfo("identity/extra")
    for change in (lambda m: m.pop(), lambda m: m.append(m[-1]), lambda m: m.append((extra, b""))):
        backup.write_bytes(original)
        repack(backup, change)
        with pytest.raises(StateError) as refused:
            restore(backup, tmp_path / "new")
        assert refused.value.reason == "BACKUP_DAMAGED"
        assert not (tmp_path / "new").exists()


def test_a_backup_cut_off_anywhere_is_refused_and_restores_nothing(backup, tmp_path):
    data = backup.read_bytes()
    content = max(i for i, byte in enumerate(data) if byte) + 1
    for length in range(0, content, 997):
        backup.write_bytes(data[:length])
        with pytest.raises(StateError) as refused:
            restore(backup, tmp_path / "new")
        assert refused.value.reason in {"BACKUP_DAMAGED", "BACKUP_FOREIGN"}
        assert not (tmp_path / "new").exists()


def test_a_flipped_byte_of_any_file_is_refused(backup, tmp_path):
    data = backup.read_bytes()
    with tarfile.open(backup) as packed:
        places = [m.offset_data + m.size // 2 for m in packed.getmembers()[1:] if m.size]
    assert len(places) >= 3
    for place in places:
        backup.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(StateError) as refused:
            restore(backup, tmp_path / "new")
        assert refused.value.reason == "BACKUP_DAMAGED"


def test_a_restore_that_fails_at_its_last_step_leaves_no_home(backup, tmp_path):
    def fail(unpacked):
        assert (unpacked.path / "state.sqlite").exists()
        raise StateError("no")

    with pytest.raises(StateError):
        restore(backup, tmp_path / "new", finish=fail)
    assert {path.name for path in tmp_path.iterdir()} == {"home", "backup.tar"}


def test_half_written_files_of_a_running_process_are_left_out(home, tmp_path):
    (home.identity / ".identity.pem.x7").write_text("half")
    write_backup(home, tmp_path / "b.tar", PLAN, now=NOW)
    restore(tmp_path / "b.tar", tmp_path / "new")
    assert not list((tmp_path / "new").rglob(".*"))
