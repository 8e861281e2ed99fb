"""`rsfed coordinator ...` as it is typed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from founded import free_port

from coordinator.registry import Announcement, Registry
from coordinator.training import records
from rsfed.cli import run
from rsfed.errors import ExitCode
from rsfed.trust.certificates import make_csr
from rsfed.trust.names import Role
from rsfed.trust.tokens import decode_token


@pytest.fixture
def typed(federation, capsys):
    """Type a command for the federation's home; returns exit code, standard output and standard error."""

    def command(*arguments):
        code = run(["coordinator", *arguments, "--home", str(federation.home.path)])
        return code, *capsys.readouterr()

    return command


def as_json(typed, *arguments):
    code, out, _ = typed(*arguments, "--output", "json")
    assert code == ExitCode.DONE
    return json.loads(out)


def test_init_makes_a_federation_and_says_what_comes_next(tmp_path, capsys):
    home = tmp_path / "new"
    code = run(
        ["coordinator", "init", "alps", "--home", str(home), "--classes", "a, b", "--bits", "16", "--size", "32"]
    )
    out, err = capsys.readouterr()
    assert code == ExitCode.DONE
    assert "16 bits, 2 classes" in out
    assert "rsfed coordinator serve" in err
    assert (home / "coordinator.toml").exists()


def test_init_never_touches_an_existing_federation(federation, capsys):
    code = run(["coordinator", "init", "alps", "--home", str(federation.home.path)])
    assert code == ExitCode.CONFIGURATION
    assert "already" in capsys.readouterr().err


def test_init_reads_classes_from_a_file(tmp_path, capsys):
    (tmp_path / "classes").write_text("# land cover\nwater\n\nforest \n")
    arguments = ["coordinator", "init", "alps", "--home", str(tmp_path / "c"), "--size", "32"]
    assert run([*arguments, "--classes-file", str(tmp_path / "missing")]) == ExitCode.USAGE
    assert run([*arguments, "--classes-file", str(tmp_path / "classes"), "--classes", "x"]) == ExitCode.USAGE
    assert run([*arguments, "--classes-file", str(tmp_path / "classes")]) == ExitCode.DONE
    assert "2 classes" in capsys.readouterr().out


def test_the_token_alone_goes_to_standard_output(typed):
    code, out, err = typed("invite", "bern", "--role", "node", "--hours", "2")
    assert code == ExitCode.DONE
    assert out.count("\n") == 1
    token = decode_token(out)
    assert (token.role, token.name) == (Role.NODE, "bern")
    assert "rsfed node join" in err
    assert token.encode() not in err


@pytest.mark.parametrize("arguments", [("invite", "bern"), ("invite", "Bern", "--role", "node"), ("rotate", "all")])
def test_wrong_calls_are_usage_errors(typed, arguments):
    assert typed(*arguments)[0] == ExitCode.USAGE


def test_a_home_without_a_federation_says_what_to_do(tmp_path, capsys):
    assert run(["coordinator", "nodes", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    assert "rsfed coordinator init" in capsys.readouterr().err


def test_nodes_are_listed_with_what_they_serve(typed, federation):
    assert "no nodes yet" in typed("nodes")[1]
    federation.enroll("bern")
    Registry(federation.state, federation.clock).announce(
        Announcement("bern", "localhost:7443", "0.1.0", 1, 1, b"d" * 32, 1200, 1, federation.clock())
    )
    (node,) = as_json(typed, "nodes")["nodes"]
    assert (node["name"], node["online"], node["held"], node["level"]) == ("bern", True, 1200, "partner")
    assert "localhost:7443" in typed("nodes")[1]


def test_members_and_open_invitations_are_one_list_to_revoke_from(typed, federation):
    assert "no members yet" in typed("members")[1]
    federation.enroll("bern")
    federation.enroll("ada", Role.ANALYST)
    federation.authority.revoke("bern")
    for name in ("bern", "chur"):
        federation.authority.invite(name, Role.NODE, hours=2)
    federation.authority.invite("late", Role.NODE, hours=-1)
    rows = as_json(typed, "members")["members"]
    assert [(row["name"], row["role"], row["state"]) for row in rows] == [
        ("ada", "analyst", "member"),
        ("bern", "node", "revoked"),
        ("bern", "node", "invited"),
        ("chur", "node", "invited"),
    ]
    ada, out, _, invited = rows
    assert ada["joined"] < ada["expires"]
    assert ada["revoked"] is None
    assert out["joined"] <= out["revoked"]
    assert out["expires"] is None
    assert (invited["joined"], invited["revoked"]) == (None, None)
    assert invited["expires"] > ada["joined"]
    assert "revoked" in typed("members")[1]
    assert "rsfed coordinator members" in typed("revoke", "nobody")[2]


def test_members_tell_how_often_a_node_sent_what_could_not_be_right(typed, federation):
    for name in ("bern", "chur"):
        federation.enroll(name)
    for _ in range(2):
        run = records.request_run(federation.state, 2, 1, federation.clock())
        for failed in ({"chur": "UPDATE_TOO_LARGE", "bern": "NODE_GONE"}, {"chur": "NOT_FINITE"}, {}):
            records.add_event(federation.state, run, "round", {"failed": failed}, federation.clock())
        sums = {"failed": {"chur": "SUMS_VALUES", "bern": "TOO_FEW_PATCHES"}}
        records.add_event(federation.state, run, "solved", sums, federation.clock())
        records.add_event(federation.state, run, "round", {"failed": {"chur": "DELTA_FORM"}}, federation.clock())
        records.add_event(federation.state, run, "calibrated", {"failed": {"bern": "NOT_FINITE"}}, federation.clock())
    rows = as_json(typed, "members")["members"]
    assert {row["name"]: row["rejected"] for row in rows} == {"bern": 0, "chur": 8}


def test_a_member_is_listed_with_its_newest_certificate_and_who_was_put_out_before_joining_with_no_join(
    typed, federation
):
    admission, key = federation.enroll("bern")
    federation.clock.move(days=20)
    renewed = federation.authority.renew(admission.member, admission.chain[0], make_csr(key))
    federation.authority.invite("chur", Role.NODE, hours=2)
    assert typed("revoke", "chur")[0] == ExitCode.DONE
    bern, chur = as_json(typed, "members")["members"]
    assert bern["expires"] == renewed.chain[0].not_valid_after_utc.isoformat(timespec="seconds")
    assert (chur["state"], chur["joined"], chur["expires"]) == ("revoked", None, None)


def test_the_release_that_is_served_is_listed(typed, federation):
    (release,) = as_json(typed, "releases")["releases"]
    assert (release["version"], release["current"], release["rounds"]) == (1, True, 0)
    assert release["digest"] == federation.publisher.current().digest.hex()
    assert "rgb" in typed("releases")[1]


def test_revoking_and_rotating_work_without_a_running_serve(typed, federation):
    federation.enroll("bern")
    code, out, err = typed("revoke", "bern")
    assert (code, out) == (ExitCode.DONE, "node bern is revoked\n")
    assert "not running" in err
    assert "spiffe://alps/node/bern" in federation.bundle().revoked_names
    assert typed("rotate", "release-key")[0] == ExitCode.DONE
    assert federation.publisher.current().header.key_id in federation.bundle().release_keys
    assert typed("rotate", "ca")[0] == ExitCode.DONE
    assert len(federation.bundle().cas) == 2
    assert typed("revoke", "nobody")[0] == ExitCode.USAGE


def test_the_audit_record_is_listed_newest_lines_last(typed, federation):
    federation.enroll("bern")
    kinds = [line["kind"] for line in as_json(typed, "audit", "show", "--last", "2")["audit"]]
    assert kinds == ["member.invited", "member.enrolled"]
    table = typed("audit", "show")[1]
    assert "federation.founded" in table
    assert f"{federation.clock():%Y-%m-%d %H:%M}" in table
    assert " member.enrolled node bern serial=" in " ".join(table.split())
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 100


def test_the_table_of_members_fits_100_columns(typed, federation):
    federation.enroll("bern")
    federation.enroll("ada", Role.ANALYST)
    federation.authority.revoke("ada")
    typed("allow", "ada", "--node", "bern", "--until", "2027-01-01", "--per-day", "500", "--per-minute", "30")
    table = typed("members")[1]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 100
    header, ada = table.splitlines()[:2]
    assert header.split() == ["name", "role", "state", "joined", "until", "scope"]
    minute = f"{federation.clock():%Y-%m-%d %H:%M}"
    assert ada.startswith(f"ada   analyst  revoked  {minute}  {minute}  ")


def test_a_backup_is_restored_into_an_empty_home_only(typed, federation, tmp_path, capsys):
    backup = str(tmp_path / "backup")
    assert typed("backup", backup)[0] == ExitCode.DONE
    assert typed("restore", backup)[0] == ExitCode.CONFIGURATION
    assert run(["coordinator", "restore", backup, "--home", str(tmp_path / "again")]) == ExitCode.DONE
    assert "invitations that were open are void" in capsys.readouterr().err
    assert run(["coordinator", "releases", "--home", str(tmp_path / "again")]) == ExitCode.DONE


def test_help_loads_nothing_heavy():
    code = "import sys, coordinator.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "flwr", "numpy", "grpc", "cryptography", "pydantic", "rich.table"}.isdisjoint(loaded)


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, ExitCode.DONE), (signal.SIGINT, ExitCode.INTERRUPTED)])
def test_serve_says_where_it_listens_and_drains_on_a_signal(federation, number, code):
    federation.state.close()
    text = (federation.home.path / "coordinator.toml").read_text()
    text = text.replace(federation.config.serve.bind, f"127.0.0.1:{(port := free_port())}")
    (federation.home.path / "coordinator.toml").write_text(text)
    command = [sys.executable, "-m", "rsfed", "coordinator", "serve", "--home", str(federation.home.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as serve:
        assert f"127.0.0.1:{port}" in serve.stdout.readline()
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        serve.send_signal(number)
        _, log = serve.communicate(timeout=60)
    assert second.returncode == ExitCode.CONFIGURATION
    assert "stop it first, or name another --home" in second.stderr
    assert serve.returncode == code
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[0] == "serve.started"
    assert events[-2:] == ["serve.draining", "serve.stopped"]
    assert not federation.home.control_socket.exists()
