"""`rsfed coordinator audit`: the coordinator's own log is a Merkle tree too, and what is shown of it can be checked."""

import json

import pytest
from founded import founded

from coordinator.backup import back_up, restore
from rsfed.cli import run
from rsfed.clock import utc_now
from rsfed.home import Home


@pytest.fixture
def federation(template, tmp_path):
    with founded(template, tmp_path / "alps") as federation:
        for name in ("ada", "bea"):
            federation.authority.invite(name, "analyst", hours=1)
        yield federation


def audit(capsys, federation, *arguments, code=0):
    assert run(["coordinator", "audit", *map(str, arguments), "--home", str(federation.home.path)]) == code
    return capsys.readouterr()


def test_an_export_is_checked_by_a_stranger_and_continues_an_older_one(federation, tmp_path, capsys):
    older, newer = tmp_path / "older.json", tmp_path / "newer.json"
    fingerprint = audit(capsys, federation, "export", older).err.split()[-1]
    federation.authority.invite("cid", "analyst", hours=1)
    audit(capsys, federation, "export", newer, "--since", "5", "--last", "2")
    arguments = ["coordinator", "audit", "verify", str(newer), "--older", str(older), "--home", "/nowhere"]
    assert run([*arguments, "--ca-fingerprint", fingerprint]) == 0
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    shown = json.loads(audit(capsys, federation, "show", "--output", "json").out)["audit"]
    assert [(line["number"], line["kind"], line["subject"]) for line in lines] == [
        (row["number"], row["kind"], row["subject"]) for row in shown[-2:]
    ]
    assert "spiffe://alps/coordinator/coordinator" in told.err
    assert "it continues the older export" in told.err


def test_a_record_that_was_changed_or_cut_is_not_the_one_that_was_exported(federation, tmp_path, capsys):
    older = tmp_path / "older.json"
    audit(capsys, federation, "export", older)
    assert "the log is whole: 5 entries" in audit(capsys, federation, "verify", "--older", older).out
    with federation.state.writing() as connection:
        connection.execute("DROP TRIGGER audit_never_changes")
        connection.execute("UPDATE audit SET subject = 'nobody' WHERE id = 2")
    assert "AUDIT_OLDER" in audit(capsys, federation, "verify", "--older", older, code=6).err
    assert "the log is whole" in audit(capsys, federation, "verify").out  # only who kept something can tell
    with federation.state.writing() as connection:
        connection.execute("DROP TRIGGER audit_never_shrinks")
        connection.execute("DELETE FROM audit WHERE id = 2")
    assert "AUDIT_DAMAGED" in audit(capsys, federation, "verify", code=6).err
    assert "AUDIT_DAMAGED" in audit(capsys, federation, "export", tmp_path / "no.json", code=6).err


def test_what_was_never_there_cannot_be_continued(federation, tmp_path, capsys):
    assert "has 5 entries, not 9" in audit(capsys, federation, "export", tmp_path / "a", "--since", "9", code=2).err
    (tmp_path / "b").write_text("mine")
    assert "new name" in audit(capsys, federation, "export", tmp_path / "b", code=2).err
    assert (tmp_path / "b").read_text() == "mine"


def test_a_restored_federation_goes_on_under_another_name_since_lines_may_be_missing(federation, tmp_path, capsys):
    older = tmp_path / "older.json"
    audit(capsys, federation, "export", older)
    back_up(federation.home, tmp_path / "backup", now=utc_now())
    restore(tmp_path / "backup", Home(tmp_path / "again"), now=utc_now())
    home = ["--home", str(tmp_path / "again")]
    assert run(["coordinator", "audit", "verify", *home]) == 0
    assert "the log is whole" in capsys.readouterr().out
    assert run(["coordinator", "audit", "verify", "--older", str(older), *home]) == 6
    assert "AUDIT_OLDER" in capsys.readouterr().err
