"""Wrong values on the command line are usage errors, exit code 2, and leave nothing behind; in a file they are 6."""

import pytest
from founded import make_template

from rsfed.cli import run
from rsfed.errors import ExitCode

LONG = "x" * 65


@pytest.fixture
def folder(tmp_path):
    """An existing folder with a file and an image that is none."""
    (tmp_path / "classes").write_text("water\nwater\n")
    (tmp_path / "image.png").write_bytes(b"no image")
    return tmp_path


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("federation") / "home")


def refused(capsys, arguments, *, named=""):
    """Run a command that is called wrongly and return what it says."""
    code, said = run([str(argument) for argument in arguments]), capsys.readouterr()
    assert (code, said.out) == (ExitCode.USAGE, ""), said.err
    assert "Traceback" not in said.err
    assert named in said.err
    return said.err


@pytest.mark.parametrize("name", ["", "Alps", "alps.org", "-alps", "a" * 64, "a b", "alpen\n"])
def test_a_bad_name_of_a_federation(folder, capsys, name):
    refused(capsys, ["coordinator", "init", "--home", folder / "new" / "home", "--", name], named="a federation's name")
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--modality", "infrared"),
        ("--modality", ""),
        ("--modality", "uint16-17"),
        ("--bits", "17"),
        ("--bits", "300"),
        ("--bits", "8"),
        ("--bits", "0"),
        ("--bits", "-64"),
        ("--bits", "many"),
        ("--size", "15"),
        ("--size", "1025"),
        ("--size", "1.5"),
        ("--classes", ""),
        ("--classes", ","),
        ("--classes", "water,,forest"),
        ("--classes", "water, water"),
        ("--classes", f"water,{LONG}"),
        ("--classes", "water\n,forest\x07"),
        ("--classes", ",".join(map(str, range(65_536)))),
        ("--classes-file", "missing"),
        ("--classes-file", "."),
        ("--classes-file", "classes"),
        *(
            (option, value)
            for option in ("--advertise", "--join-advertise", "--bind", "--join-bind")
            for value in (
                "hub",
                "hub:",
                ":7440",
                "hub:port",
                "hub:65536",
                "hub:123456",
                "http://hub:1",
                'x"y:1',
                "a\n:1",
            )
        ),
    ],
)
def test_a_wrong_choice_for_a_federation_is_named_and_makes_nothing(folder, capsys, monkeypatch, option, value):
    monkeypatch.chdir(folder)
    said = refused(capsys, ["coordinator", "init", "alps", "--home", "new/home", option, value])
    assert option in said or "class" in said
    assert sorted(path.name for path in folder.iterdir()) == ["classes", "image.png"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--archive", "missing"),
        ("--archive", "classes"),
        ("--modality", "infrared"),
        ("--advertise", "archive.example.org"),
        ("--advertise", "archive.example.org:70000"),
        ("--bind", "7443"),
        ("--bind", "\x7f:1"),
    ],
)
def test_a_wrong_choice_for_a_node_is_named_and_makes_nothing(folder, capsys, monkeypatch, option, value):
    monkeypatch.chdir(folder)
    refused(capsys, ["node", "init", "--home", "new/home", option, value], named=option)
    assert sorted(path.name for path in folder.iterdir()) == ["classes", "image.png"]


@pytest.mark.parametrize(
    "command",
    [
        ("coordinator", "init", "alps"),
        ("coordinator", "members"),
        ("coordinator", "serve"),
        ("node", "init"),
        ("node", "status"),
        ("analyst", "init"),
        ("config", "check"),
    ],
)
def test_a_home_that_is_a_file(folder, capsys, command):
    refused(capsys, [*command, "--home", folder / "classes"], named="--home")


@pytest.mark.parametrize(
    "command", [("coordinator", "init", "alps"), ("node", "init"), ("analyst", "init")], ids=" ".join
)
def test_a_home_below_a_file(folder, capsys, command):
    refused(capsys, [*command, "--home", folder / "classes" / "new"], named="a file")


@pytest.mark.parametrize(
    "arguments",
    [
        ("invite", "Bern", "--role", "node"),
        ("invite", "", "--role", "node"),
        ("invite", "../bern", "--role", "node"),
        ("invite", "bern", "--role", "coordinator"),
        ("invite", "bern", "--role", "node", "--hours", "0"),
        ("invite", "bern", "--role", "node", "--hours", "nan"),
        ("invite", "bern", "--role", "node", "--hours", "inf"),
        ("revoke", "nobody"),
        ("revoke", "Nobody"),
        ("revoke", "coordinator"),
        ("revoke", "Bern", "--role", "node"),
        ("revoke", "bern", "--role", "coordinator"),
        ("rotate", "all"),
        ("rotate", ""),
        ("train", "--rounds", "0"),
        ("train", "--nodes", str(2**70)),
        ("audit", "show", "--last", str(2**70)),
        ("runs", "show", str(2**70)),
    ],
    ids=" ".join,
)
def test_wrong_values_for_a_federation_that_is_there(federation, capsys, arguments):
    refused(capsys, ["coordinator", *arguments, "--home", federation])


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.png",),
        (".",),
        ("image.png", "--k", "0"),
        ("image.png", "--k", "1001"),
        ("image.png", "--radius", "-1"),
        ("image.png", "--radius", "257"),
        ("image.png", "--output", "xml"),
        ("image.png", "--sheet", "missing/hits.png"),
        ("image.png", "--sheet", "."),
    ],
    ids=" ".join,
)
def test_wrong_values_for_a_query(folder, capsys, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    refused(capsys, ["query", *arguments, "--home", "nowhere"])


@pytest.mark.parametrize(
    "arguments",
    [
        (".",),
        ("classes",),
        ("classes/new",),
        ("new", "--patches", "0"),
        ("new", "--patches", "100001"),
        ("new", "--size", "15"),
        ("new", "--size", "257"),
        ("new", "--classes", "0"),
        ("new", "--classes", "-1"),
        ("new", "--classes", "7"),
        ("new", "--classes", "1000"),
        ("new", "--seed", "-1"),
        ("new", "--preview", "missing/classes.png"),
        ("new", "--preview", "."),
        ("new", "--output", "xml"),
    ],
    ids=" ".join,
)
def test_wrong_values_for_a_synthetic_archive_write_nothing(folder, capsys, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    refused(capsys, ["synth", *arguments])
    assert sorted(path.name for path in folder.iterdir()) == ["classes", "image.png"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "missing"),
        ("--data", "classes"),
        ("--data", "."),
        ("--nodes", "0"),
        ("--nodes", "9"),
        ("--skew", "0"),
        ("--skew", "nan"),
        ("--rounds", "0"),
        ("--rounds", "1001"),
        ("--seed", "-1"),
        ("--seed", str(2**62)),
        ("--out", "classes"),
        ("--out", "classes/new"),
        ("--output", "csv"),
    ],
    ids=" ".join,
)
def test_wrong_values_for_the_demo(folder, capsys, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    refused(capsys, ["demo", *arguments])


def test_a_wrong_override_in_the_environment_is_no_usage_error_and_leaves_nothing_either(folder, monkeypatch):
    monkeypatch.setenv("RSFED_COORDINATOR__ENCODER__BITS", "17")
    assert run(["coordinator", "init", "alps", "--home", str(folder / "new" / "home")]) == ExitCode.CONFIGURATION
    assert not (folder / "new").exists()


def test_a_wrong_value_in_a_file_is_a_problem_of_the_configuration(folder):
    home = ["--home", str(folder / "home")]
    assert run(["node", "init", *home]) == ExitCode.DONE
    path = folder / "home" / "node.toml"
    path.write_text(path.read_text().replace('modality = "rgb"', 'modality = "infrared"'))
    assert run(["node", "ingest", *home]) == ExitCode.CONFIGURATION
