"""`rsfed analyst` and `rsfed config` as a user types them."""

import json

import pytest

from rsfed.cli import run
from rsfed.errors import ExitCode


def test_init_makes_a_configuration_that_is_good_and_keys_for_the_owner_only(tmp_path, capsys):
    home = tmp_path / "ada"
    assert run(["analyst", "init", "--home", str(home)]) == ExitCode.DONE
    assert run(["config", "check", "--home", str(home)]) == ExitCode.DONE
    keys = [path for path in (home / "identity").iterdir() if path.suffix == ".pem"]
    assert keys
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    assert "analyst.toml: good" in capsys.readouterr().out


def test_init_never_replaces_a_home(tmp_path):
    home = str(tmp_path / "ada")
    run(["analyst", "init", "--home", home])
    before = (tmp_path / "ada" / "analyst.toml").read_bytes()
    assert run(["analyst", "init", "--home", home]) == ExitCode.CONFIGURATION
    assert (tmp_path / "ada" / "analyst.toml").read_bytes() == before


@pytest.mark.parametrize("token", ["", "rsfed1.x", "hello"])
def test_joining_with_something_that_is_no_token_is_refused_as_such(tmp_path, token, capsys):
    home = str(tmp_path / "ada")
    run(["analyst", "init", "--home", home])
    assert run(["analyst", "join", token, "--home", home]) == ExitCode.NOT_ADMITTED
    assert "BAD_TOKEN" in capsys.readouterr().err


def test_joining_without_a_home_says_to_make_one(tmp_path, capsys):
    assert run(["analyst", "join", "rsfed1.x", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    assert "rsfed analyst init" in capsys.readouterr().err


def test_searching_before_joining_says_to_join(tmp_path, capsys):
    home, image = str(tmp_path / "ada"), tmp_path / "x.png"
    image.write_bytes(b"x")
    run(["analyst", "init", "--home", home])
    assert run(["query", str(image), "--home", home]) == ExitCode.NOT_ADMITTED
    assert "NOT_JOINED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [("deadline_s = -1", "deadline_s"), ("colour = 1", "colour: unknown key"), ("deadline_s = ", "not valid TOML")],
)
def test_a_wrong_configuration_is_named_with_its_file_and_key(tmp_path, capsys, text, named):
    (tmp_path / "analyst.toml").write_text(text)
    assert run(["config", "check", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    problem = capsys.readouterr().err
    assert "analyst.toml" in problem
    assert named in problem


def test_every_wrong_home_is_reported_not_only_the_first(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "analyst.toml").write_text("nonsense = 1")
    homes = [part for name in ("a", "b") for part in ("--home", str(tmp_path / name))]
    assert run(["config", "check", *homes]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.count("nonsense") == 2


def test_checking_a_folder_without_configuration_is_an_error(tmp_path):
    assert run(["config", "check", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION


def test_a_named_home_without_configuration_is_a_problem_beside_good_ones(tmp_path, capsys):
    run(["analyst", "init", "--home", str(tmp_path / "ada")])
    capsys.readouterr()
    homes = ["--home", str(tmp_path / "ada"), "--home", str(tmp_path / "typo")]
    assert run(["config", "check", *homes]) == ExitCode.CONFIGURATION
    said = capsys.readouterr()
    assert "analyst.toml: good" in said.out
    assert f"there is no configuration in {tmp_path / 'typo'}" in said.err


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's folder, and no home named elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for role in ("NODE", "COORDINATOR", "ANALYST"):
        monkeypatch.delenv(f"RSFED_{role}_HOME", raising=False)
    return tmp_path


def test_the_default_homes_are_checked_where_they_exist_and_the_others_named(user, capsys):
    run(["analyst", "init"])
    capsys.readouterr()
    assert run(["config", "check"]) == ExitCode.DONE
    said = capsys.readouterr()
    assert f"{user}/.rsfed/analyst/analyst.toml: good" in said.out
    for role in ("node", "coordinator"):
        assert f"{user}/.rsfed/{role}: does not exist, not checked" in said.out
    (user / ".rsfed" / "analyst" / "analyst.toml").write_text("colour = 1")
    assert run(["config", "check"]) == ExitCode.CONFIGURATION


def test_without_any_home_there_is_nothing_to_check(user):
    assert run(["config", "check"]) == ExitCode.CONFIGURATION


def test_a_home_that_the_environment_names_is_checked_in_place_of_the_default_one(user, capsys, monkeypatch):
    run(["analyst", "init"])
    monkeypatch.setenv("RSFED_ANALYST_HOME", str(user / "elsewhere"))
    capsys.readouterr()
    assert run(["config", "check"]) == ExitCode.CONFIGURATION
    assert f"no configuration in {user / 'elsewhere'}" in capsys.readouterr().err
    run(["analyst", "init"])
    capsys.readouterr()
    assert run(["config", "check"]) == ExitCode.DONE
    assert "elsewhere/analyst.toml: good" in capsys.readouterr().out


@pytest.mark.parametrize("role", ["node", "coordinator", "analyst"])
def test_the_schema_of_a_role_is_json_schema_that_refuses_unknown_keys(capsys, role):
    assert run(["config", "schema", role]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False
