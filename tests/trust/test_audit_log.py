"""The audit log on disk: what was acknowledged stays, a torn end goes, and whatever else is wrong is refused."""

import json
import os
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import audit_writer
import pytest

from rsfed.errors import StateError
from rsfed.trust import audit_log
from rsfed.trust.audit_log import AuditLog, Position, append_entry, position_of, read_entries, restart
from rsfed.trust.merkle import extends

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KILLS = 6


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit"


def opened(folder, witness=None):
    return AuditLog(folder, witness, now=NOW)


def note(log, *marks):
    for mark in marks:
        log.sync(log.append({"at": 0, "kind": "test", "mark": mark}))


def marks(folder):
    return [json.loads(entry).get("mark") for entry in read_entries(folder)]


def written(folder, *names):
    log = opened(folder)
    note(log, *names)
    position = log.durable()
    log.close()
    return position


def refusal(folder, witness=None):
    with pytest.raises(StateError) as refused:
        opened(folder, witness)
    return refused.value.reason


def test_a_log_goes_on_where_it_was_and_its_tree_is_that_of_its_entries(folder):
    before = written(folder, "a", "b")
    log = opened(folder, before)
    assert log.durable() == before == position_of(read_entries(folder))[0]
    note(log, "c")
    after = log.durable()
    assert extends(before.size, before.root, after.size, after.root, log.consistency([before.size, after.size])[0])
    assert marks(folder) == [None, "a", "b", "c"]
    assert Position.of_text(after.to_text()) == after


def test_a_last_line_that_was_cut_off_anywhere_goes_and_what_was_before_stays(folder):
    written(folder, "a", "the last")
    path = folder / "log.jsonl"
    whole = path.read_bytes()
    last = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        log = opened(folder)
        note(log, "next")
        log.close()
        assert marks(folder) == [None, "a", "next"]


@pytest.mark.parametrize("tail", [b"\0" * 10, b"\0" * 200_000, b'12345678 {"at"' + b"\0" * 5000])
def test_an_end_that_never_reached_the_disk_goes_whoever_writes_next(folder, tail):
    written(folder, "a")
    path = folder / "log.jsonl"
    whole = path.read_bytes()
    for write in (lambda: note(opened(folder), "b"), lambda: append_entry(folder, {"mark": "b"}, None, now=NOW)):
        path.write_bytes(whole + tail)
        write()
        assert marks(folder) == [None, "a", "b"]


def test_a_log_whose_first_entry_was_cut_off_is_begun_anew_only_where_there_never_was_one(folder):
    position = written(folder)
    path = folder / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(folder, position) == "AUDIT_MISSING"
    assert opened(folder).durable().size == 1


def test_every_changed_byte_of_a_whole_line_is_refused(folder):
    written(folder, "a", "b")
    path = folder / "log.jsonl"
    whole = path.read_bytes()
    for place in random.Random(1).sample(range(len(whole) - 1), 60):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert refusal(folder) == "AUDIT_DAMAGED"
        with pytest.raises(StateError, match="audit restart"):
            marks(folder)


def test_a_log_that_is_missing_shorter_rewritten_or_another_is_refused(folder, tmp_path):
    written(folder, "a")
    older = (folder / "log.jsonl").read_bytes()
    position = written(folder, "b")
    (folder / "log.jsonl").write_bytes(older)
    assert refusal(folder, position) == "AUDIT_OLDER"
    written(folder, "another b")
    assert refusal(folder, position) == "AUDIT_OLDER"
    written(tmp_path / "other", "a", "b")
    (tmp_path / "other" / "log.jsonl").rename(folder / "log.jsonl")
    assert refusal(folder, position) == "AUDIT_OLDER"
    (folder / "log.jsonl").unlink()
    assert refusal(folder, position) == "AUDIT_MISSING"
    with pytest.raises(StateError, match="missing"):
        append_entry(folder, {}, position, now=NOW)


def test_a_new_log_names_the_old_one_and_keeps_it(folder):
    position = written(folder, "a")
    old = (folder / "log.jsonl").read_bytes()
    new = restart(folder, position, now=NOW)
    assert opened(folder, new).durable() == new != position
    first = json.loads(next(read_entries(folder)))
    assert first["previous"] == {"log": position.log, "size": 2, "root": position.root.hex()}
    assert (folder / f"{position.log}.jsonl").read_bytes() == old


def test_the_log_is_for_its_owner_only(folder):
    written(folder, "a")
    assert (folder.stat().st_mode & 0o777, (folder / "log.jsonl").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_log_takes_up_what_other_processes_append(folder):
    log = opened(folder)
    note(log, "a")
    append_entry(folder, {"mark": "b"}, None, now=NOW)
    note(log, "c")
    assert marks(folder) == [None, "a", "b", "c"]
    assert log.durable() == position_of(read_entries(folder))[0]


def test_what_another_process_left_of_a_line_when_it_was_killed_goes_with_the_next_entry(folder):
    log = opened(folder)
    note(log, "a")
    with (folder / "log.jsonl").open("ab") as file:
        file.write(b'12345678 {"at"')
    assert marks(folder) == [None, "a"]
    note(log, "b")
    assert marks(folder) == [None, "a", "b"]


def test_no_head_counts_what_is_not_on_the_disk(folder, monkeypatch):
    log = opened(folder)
    note(log, "a")
    log.append({"mark": "b"})
    assert log.durable().size == 2

    def failing(file):
        raise OSError("input/output error")

    monkeypatch.setattr(audit_log.os, "fdatasync", failing)
    with pytest.raises(StateError) as refused:
        log.sync(3)
    assert (refused.value.reason, log.durable().size) == ("AUDIT_UNWRITABLE", 2)
    monkeypatch.undo()
    with pytest.raises(StateError):  # nobody knows what the disk holds now
        log.append({"mark": "c"})


def test_a_full_disk_leaves_no_part_of_a_line_and_the_log_goes_on_once_there_is_room(folder, monkeypatch):
    log = opened(folder)
    note(log, "a")
    real = os.write
    monkeypatch.setattr(audit_log.os, "write", lambda file, data: real(file, data[:7]))
    with pytest.raises(StateError) as refused:
        log.append({"mark": "lost"})
    assert refused.value.reason == "AUDIT_UNWRITABLE"
    monkeypatch.undo()
    note(log, "b")
    assert marks(folder) == [None, "a", "b"]


def test_threads_that_wait_for_the_disk_share_one_write_to_it(folder, monkeypatch):
    log, calls, held = opened(folder), [], threading.Event()

    def slow(file):
        calls.append(file)
        held.wait(10)

    monkeypatch.setattr(audit_log.os, "fdatasync", slow)
    threads = [threading.Thread(target=note, args=(log, str(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    while (folder / "log.jsonl").read_bytes().count(b"\n") < 9:
        pass
    held.set()
    for thread in threads:
        thread.join()
    assert log.durable().size == 9
    assert len(calls) <= 2


def test_nothing_that_was_acknowledged_is_lost_when_the_writers_are_killed(folder):
    """Each time another process goes on, is killed while it writes, and is believed in what it said."""
    choose, known, heads = random.Random(5), set(), []
    for kill in range(KILLS):
        said = run_and_kill(folder, f"process{kill}", lines=choose.randrange(20, 200))
        known |= {line.removeprefix("entry ") for line in said if line.startswith("entry ")}
        heads += [Position.of_text(line.removeprefix("head ")) for line in said if line.startswith("head ")]
        log = opened(folder, heads[-1])
        newest = log.durable()
        log.close()
        found = marks(folder)
        assert known <= set(found)
        assert len(found) == len(set(found)) == newest.size
    _, tree = position_of(read_entries(folder))
    assert all(head.root == tree.root(head.size) for head in heads)


def run_and_kill(folder, name, *, lines):
    """Let writers run until they said so many lines, kill them, and return all whole lines that they said."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, audit_writer.__file__, str(folder), name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        said = [writer.stdout.readline().decode() for _ in range(lines)]
        writer.kill()
        said += [line.decode() for line in writer.stdout]
    return [line.strip() for line in said if line.endswith("\n")]
