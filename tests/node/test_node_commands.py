"""The node's commands as an operator types them: what they print where, and how they exit."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from borders import borders
from members import World
from node_archives import bad_files, configure, give_release, make_node, png, scene
from serving import join, make_auditor

from node.accounting import Accountant
from node.catalogue import Catalogue
from node.cli.options import unsearched
from node.state import open_state, restored_at
from rsfed.cli import run
from rsfed.errors import ExitCode
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1 import control_pb2


@pytest.fixture
def node_and_archive(tmp_path):
    return make_node(tmp_path)


def rsfed(capsys, *arguments):
    """Run one command; returns its exit code, standard output and standard error."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_ingest_prints_its_result_as_json_and_nothing_else_on_standard_output(node_and_archive, capsys):
    home, archive = node_and_archive
    give_release(home, "Forest", "Sea Lake")
    for name in ("forest/a", "forest/b", "sea lake/c", "clouds/d"):
        png(archive / f"{name}.png", len(name) + ord(name[-1]))
    code, out, err = rsfed(capsys, "node", "ingest", "--home", home.path, "--output", "json")
    result = json.loads(out)
    assert code == ExitCode.DONE
    assert err == ""
    assert result.pop("seconds") >= 0
    assert result == {
        "modality": "rgb",
        "fit": "resize",
        "size": 64,
        "gsd": None,
        "release": 1,
        "files": {"seen": 4, "read": 4, "withdrawn": 0},
        "patches": {
            "present": 4,
            "recorded": 0,
            "covered": 0,
            "same_place": 0,
            "labelled": 3,
            "unmapped": 1,
            "ambiguous": 0,
        },
        "skipped": [],
        "labels": {
            "mapped": 2,
            "unmapped": 1,
            "ambiguous": 0,
            "unmapped_labels": ["clouds"],
            "ambiguous_labels": {},
            "unused_map_entries": [],
        },
        "classes": {"Forest": 2, "Sea Lake": 1},
        "acquisitions": 1,
        "hashed": 0,
        "crs": [{"crs": None, "files": 4}],
    }


def test_skipped_files_are_named_on_standard_error_counted_in_the_summary_and_no_failure(node_and_archive, capsys):
    home, archive = node_and_archive
    words = bad_files(archive)
    code, out, err = rsfed(capsys, "node", "ingest", "--home", home.path, "--output", "json")
    assert code == ExitCode.DONE
    lines = [line for line in err.splitlines() if line.startswith("skipped ")]
    assert {line.split(": ")[0].removeprefix("skipped ") for line in lines} == set(words)
    assert sum(each["count"] for each in json.loads(out)["skipped"]) == len(words)


def test_however_many_files_are_skipped_each_is_named_and_they_are_counted_together(node_and_archive, capsys):
    home, archive = node_and_archive
    for number in range(30):
        (archive / f"{number:02}.png").write_bytes(b"")
    _, out, err = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert [line.split()[1] for line in err.splitlines()] == [f"{number:02}.png:" for number in range(30)]
    assert "30 x" in out
    assert "it is empty; copy it again from its origin" in out


def test_the_summary_says_which_fit_was_used_and_whose(node_and_archive, capsys):
    home, _ = node_and_archive
    _, out, _ = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert "fit resize to 64 pixels (default, there is no release yet)" in out
    give_release(home, "Forest")
    _, out, _ = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert "fit resize to 64 pixels (release 1)" in out


def test_the_summary_points_out_labels_that_need_the_operator(node_and_archive, capsys):
    home, archive = node_and_archive
    give_release(home, "Sea Lake", "sea-lake", "Forest")
    configure(home, "[labels.map]", '[labels.map]\nForrest = "Forest"')
    png(archive / "SeaLake" / "a.png", 1)
    png(archive / "clouds" / "b.png", 2)
    png(archive / "clouds" / "c.png", 3)
    _, out, _ = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert "0 mapped (0 patches), 1 unmapped (2 patches), 1 ambiguous (1 patch)" in out
    assert [line.split() for line in out.splitlines() if line.startswith("  ")] == [
        ["unmapped", "clouds"],
        ["ambiguous", "SeaLake"],
        ["map", "only", "Forrest"],
    ]


def test_a_command_without_a_node_says_what_to_run_and_exits_with_the_configuration_code(tmp_path, capsys):
    for command in ("ingest", "status", "policy", "doctor"):
        code, out, err = rsfed(capsys, "node", command, "--home", tmp_path)
        assert (code, out) == (ExitCode.CONFIGURATION, "")
        assert "rsfed node init" in err


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "starting at here:1, no query is answered before a release and its index are loaded; that may take"),
        ({"pending": 9}, "starting at here:1, no query is answered before 9 patches are hashed"),
        ({"release_version": 2, "indexed": 5}, "serving at here:1, release 2, 5 patches searched, 0 to be hashed"),
    ],
)
def test_status_says_that_a_node_which_serves_no_release_yet_is_starting(
    node_and_archive, capsys, monkeypatch, told, says
):
    state = {"pending": "hashing", "release_version": "serving"}.get(next(iter(told), ""), "starting")
    answer = control_pb2.ControlServiceStatusResponse(address="here:1", state=state, **told)
    monkeypatch.setattr("node.cli.status.serve_status", lambda home: answer)
    _, out, _ = rsfed(capsys, "node", "status", "--home", node_and_archive[0].path)
    assert f"serve         {says}" in out


def test_serve_names_its_policy_level_in_one_line_and_where_to_read_more(node_and_archive, capsys):
    code, _, err = rsfed(capsys, "node", "serve", "--home", node_and_archive[0].path)
    assert code == ExitCode.NOT_ADMITTED
    level, refusal = err.splitlines()
    assert level == "policy level guarded: `rsfed node policy explain` says what it gives away"
    assert refusal.endswith("[NOT_JOINED]")


def test_init_status_backup_and_restore_go_together(tmp_path, capsys):
    home, archive = tmp_path / "home", tmp_path / "images"
    png(archive / "a.png", 1)
    code, out, _ = rsfed(capsys, "node", "init", "--home", home, "--archive", archive, "--advertise", "rome.example:1")
    assert code == ExitCode.DONE
    assert str(home / "node.toml") in out
    assert rsfed(capsys, "node", "ingest", "--home", home)[0] == ExitCode.DONE
    code, out, _ = rsfed(capsys, "node", "status", "--home", home, "--output", "json")
    status = json.loads(out)
    assert (code, status["name"], status["policy"], status["serve"], status["release"]) == (
        0,
        None,
        "guarded",
        None,
        None,
    )
    assert status["archive"]["present"] == 1
    assert rsfed(capsys, "node", "backup", tmp_path / "b.tar", "--home", home)[0] == ExitCode.DONE
    assert rsfed(capsys, "node", "restore", tmp_path / "b.tar", "--home", home)[0] == ExitCode.CONFIGURATION
    assert rsfed(capsys, "node", "restore", tmp_path / "b.tar", "--home", tmp_path / "new")[0] == ExitCode.DONE
    _, out, _ = rsfed(capsys, "node", "status", "--home", tmp_path / "new", "--output", "json")
    assert json.loads(out)["archive"] == status["archive"]


def test_the_policy_is_explained_in_words_with_the_predicted_class(node_and_archive, capsys):
    home, _ = node_and_archive
    code, out, _ = rsfed(capsys, "node", "policy", "--home", home.path)
    assert code == ExitCode.DONE
    assert "Policy level: guarded" in out
    assert "predicted class" in out
    configure(home, '# level = "partner"', 'level = "partner"')
    _, chosen, _ = rsfed(capsys, "node", "policy", "--home", home.path)
    assert "Policy level: partner" in chosen
    configure(home, '# unfilterable = ["label"]', 'unfilterable = ["label"]')
    assert (
        "may be filtered by time, place and modality. None by class"
        in rsfed(capsys, "node", "policy", "--home", home.path)[1]
    )


@pytest.mark.parametrize("command", [[], ["explain"]])
def test_where_countries_are_told_the_borders_have_to_be_there_for_the_policy_to_be_explained(
    node_and_archive, capsys, command
):
    home, _ = node_and_archive
    configure(home, '# footprints = "10km"', 'footprints = "country"\ncountries = "borders.geojson"')
    code, _, problem = rsfed(capsys, "node", "policy", *command, "--home", home.path)
    assert code == ExitCode.CONFIGURATION
    assert "borders.geojson is not there" in problem
    (home.path / "borders.geojson").write_bytes(borders())
    code, out, _ = rsfed(capsys, "node", "policy", *command, "--home", home.path)
    assert code == ExitCode.DONE
    assert "places are told as countries" in out


def test_the_policy_is_explained_for_the_archive_with_the_levels_that_fit(node_and_archive, capsys):
    home, _ = node_and_archive
    configure(home, "[policy]", '[policy]\nanalysts.ada = { level = "partner", loosen = true }')
    code, out, _ = rsfed(capsys, "node", "policy", "explain", "--home", home.path)
    assert code == ExitCode.DONE
    assert "ada is answered at partner" in out
    assert "  partner   fits" in out
    assert "  guarded   does not start: it needs 15 acquisitions and the release has no codebook" in out
    assert "cells_per_class = 1" in out


@pytest.mark.parametrize("command", ["explain", "simulate"])
def test_a_home_in_front_of_the_command_is_not_lost_without_a_word(node_and_archive, capsys, monkeypatch, command):
    home, _ = node_and_archive
    code, _, problem = rsfed(capsys, "node", "policy", "--home", home.path, command)
    assert code == ExitCode.USAGE
    assert f"rsfed node policy {command} --home {home.path}" in problem
    monkeypatch.setenv("RSFED_NODE_HOME", str(home.path))
    assert rsfed(capsys, "node", "policy", "explain")[0] == ExitCode.DONE


def test_an_audit_log_begun_anew_closes_counts_and_refine_and_the_operator_is_told(node_and_archive, capsys):
    home, _ = node_and_archive
    configure(home, "[policy]", '[policy]\nlevel = "catalogue"')
    give_release(home, "Forest")
    told = {}
    for when in ("before", "after"):
        status = json.loads(rsfed(capsys, "node", "status", "--home", home.path, "--output", "json")[1])
        told[when] = status["spending_lost"], rsfed(capsys, "node", "policy", "explain", "--home", home.path)[1]
        assert rsfed(capsys, "node", "audit", "restart", "--home", home.path)[0] == ExitCode.DONE
    assert told["before"][0] is None
    assert "closed" not in told["before"][1]
    assert "begun anew" in told["after"][0]
    assert "[COUNTS_STORE]" in told["after"][1]
    assert "[REFINE_STORE]" in told["after"][1]
    assert "closed: the audit log was begun anew" in rsfed(capsys, "node", "status", "--home", home.path)[1]


@pytest.mark.parametrize("kept", [True, False])
def test_a_database_that_is_older_than_the_audit_log_or_gone_is_told_by_status_at_once(
    node_and_archive, capsys, tmp_path, kept
):
    home, _ = node_and_archive
    world = World()
    configure(home, "[policy]", '[policy]\nlevel = "catalogue"')
    give_release(home, "Forest", world=world)
    charge(home, world)
    home.database.rename(tmp_path / "gone.sqlite")
    if kept:
        (tmp_path / "older.sqlite").rename(home.database)
    else:
        assert rsfed(capsys, "node", "ingest", "--accept-empty", "--home", home.path)[0] == ExitCode.DONE
    status = json.loads(rsfed(capsys, "node", "status", "--home", home.path, "--output", "json")[1])
    why = "older than the audit log" if kept else "its database begun anew: what was spent before is not known"
    assert why in status["spending_lost"]
    assert "[COUNTS_STORE]" in status["spending_lost"]
    assert why in rsfed(capsys, "node", "status", "--home", home.path)[1]


@pytest.mark.parametrize(
    "command", ["serve", "status", "policy explain", "audit show", "requests list", "train status"]
)
@pytest.mark.parametrize("empty", [False, True])
def test_no_command_begins_a_database_anew_in_place_of_one_that_is_gone(node_and_archive, capsys, command, empty):
    home, _ = node_and_archive
    join(World(), home, "berne", "127.0.0.1:1")
    home.database.unlink()
    if empty:
        home.database.touch()
    code, _, problem = rsfed(capsys, "node", *command.split(), "--home", home.path)
    assert code == ExitCode.CONFIGURATION
    assert "[STATE_MISSING]" in problem
    assert "restore a backup, or take up the archive anew by `rsfed node ingest`" in problem
    assert home.database.exists() == empty
    assert not empty or home.database.stat().st_size == 0


def test_ingest_begins_no_database_beside_a_serve_that_writes_on_into_the_one_that_is_gone(node_and_archive, capsys):
    home, archive = node_and_archive
    png(archive / "a.png")
    home.database.unlink()
    with home.lock():
        code, _, problem = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert code == ExitCode.CONFIGURATION
    assert "stop it first" in problem
    assert not home.database.exists()


def test_ingest_begins_anew_says_so_and_repeats_no_item_id(node_and_archive, capsys):
    home, archive = node_and_archive
    png(archive / "a.png")
    assert rsfed(capsys, "node", "ingest", "--home", home.path)[2] == ""
    make_auditor(home, World())
    home.database.unlink()
    assert "was gone and begins anew" in rsfed(capsys, "node", "ingest", "--home", home.path)[2]
    assert rsfed(capsys, "node", "ingest", "--home", home.path)[2] == ""
    with Catalogue(home) as catalogue:
        ((first,), before) = ([item.id for item in catalogue.items("rgb")], restored_at(catalogue.connection))
    assert first > 1 << 20
    assert before is not None, "queries signed before are refused"


def test_ingest_and_status_say_why_patches_are_recorded_and_not_searched(tmp_path, capsys):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    for name, empty in (("whole", 0.0), ("holes", 0.5), ("nothing", 1.0)):
        scene(archive / f"{name}.tif", empty=empty)
    for command in ("ingest", "status"):
        out = rsfed(capsys, "node", command, "--home", home.path)[1]
        assert "2 recorded and not searched: 2 have too little data\n" in out
    shown = json.loads(rsfed(capsys, "node", "status", "--home", home.path, "--output", "json")[1])["archive"]
    assert (shown["recorded"], shown["covered"], shown["same_place"]) == (2, 0, 0)
    assert unsearched(9, 2, 3) == (
        "9 recorded and not searched: 4 have too little data, 2 are under clouds, shadow or snow, "
        "3 show the place of another"
    )


def charge(home, world):
    """Let a node spend on counts; a copy of its database of before lies beside the home."""
    auditor = make_auditor(home, world)
    with closing(open_state(home)) as connection, closing(sqlite3.connect(home.path.parent / "older.sqlite")) as copy:
        connection.backup(copy)
        Accountant(home, connection, auditor.note).charge(ReleaseStore(home.releases).current(), 0.5, now=world.clock())


def test_a_release_without_a_codebook_is_told_beside_the_level(node_and_archive, capsys):
    home, _ = node_and_archive
    configure(home, "[policy]", '[policy]\nlevel = "sealed"')
    give_release(home, "Forest")
    assert "does not start: " in (out := rsfed(capsys, "node", "status", "--home", home.path)[1])
    assert "the release has no codebook" in out


def test_doctor_fails_with_code_1_and_says_how_to_join(node_and_archive, capsys):
    home, _ = node_and_archive
    code, out, _ = rsfed(capsys, "node", "doctor", "--home", home.path, "--output", "json")
    assert code == ExitCode.FAILURE
    (failed,) = [each for each in json.loads(out) if each["verdict"] == "fail"]
    assert (failed["check"], failed["reason"]) == ("certificate", "NOT_JOINED")
    code, out, _ = rsfed(capsys, "node", "doctor", "--home", home.path)
    assert code == ExitCode.FAILURE
    assert "-> `rsfed node join TOKEN`" in out


def test_a_token_that_cannot_be_read_is_not_admitted_and_changes_nothing(node_and_archive, capsys):
    home, _ = node_and_archive
    before = {path: path.read_bytes() for path in home.identity.iterdir()}
    code, out, err = rsfed(capsys, "node", "join", "rsfed1.nonsense", "--home", home.path)
    assert (code, out) == (ExitCode.NOT_ADMITTED, "")
    assert "BAD_TOKEN" in err
    assert {path: path.read_bytes() for path in home.identity.iterdir()} == before


def test_help_of_the_node_loads_nothing_heavy():
    program = (
        "import sys, node.cli\n"
        "print(*sorted({'torch', 'rasterio', 'flwr', 'numpy', 'grpc', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_archive_that_the_federation_cannot_search_is_told_so_by_ingest_and_status(tmp_path, capsys):
    home, archive = make_node(tmp_path, kind="float32-4")
    scene(archive / "a.tif")
    give_release(home, "Forest")
    said = (
        "patches can be searched: this archive is float32-4, the federation searches rgb; "
        "set archive.modality in node.toml and ingest again"
    )
    code, _, err = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert code == ExitCode.DONE
    assert "warning: none of these" in err
    assert said in err
    _, out, _ = rsfed(capsys, "node", "status", "--home", home.path)
    assert said in out
    _, out, _ = rsfed(capsys, "node", "status", "--home", home.path, "--output", "json")
    assert said in json.loads(out)["archive"]["warning"]


def test_an_archive_that_the_federation_searches_has_no_warning(node_and_archive, capsys):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    give_release(home, "Forest")
    _, _, err = rsfed(capsys, "node", "ingest", "--home", home.path)
    assert err == ""
    _, out, _ = rsfed(capsys, "node", "status", "--home", home.path, "--output", "json")
    assert json.loads(out)["archive"]["warning"] is None
