"""The command `rsfed`: light until a command runs, and no traceback for what can go wrong outside it."""

import errno
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rsfed import cli
from rsfed.errors import ExitCode

HEAVY = ("torch", "flwr", "rasterio")
LOADED = f"""
import json, sys
print(json.dumps([name for name in {(*HEAVY, "numpy", "pydantic", "grpc")!r} if name in sys.modules]))
"""
WALK = """
import contextlib, io
import click
from rsfed.cli import app, run

def leaves(command, path, parent):
    context = click.Context(command, info_name=path[-1] if path else "rsfed", parent=parent)
    if not isinstance(command, click.Group):
        return [path]
    names = command.list_commands(context)
    return sum((leaves(command.get_command(context, name), [*path, name], context) for name in names), [])

def help_of(path):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        return [run([*path, "--help"]), text.getvalue()]

helps = {" ".join(path): help_of(path) for path in leaves(app, [], None)}
"""


def python(code):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def test_importing_rsfed_loads_nothing_heavy():
    assert python("import rsfed" + LOADED) == []


def test_help_loads_nothing_heavy():
    assert python("from rsfed.cli import run\nrun(['--help'])" + LOADED) == []


def test_every_command_explains_itself_without_loading_anything_heavy():
    report = f"import json, sys\nprint(json.dumps([helps, [n for n in {HEAVY!r} if n in sys.modules]]))"
    helps, loaded = python(WALK + report)
    assert loaded == []
    assert {"node serve", "coordinator init", "query", "synth", "demo"} <= set(helps)
    assert [name for name, (code, text) in helps.items() if code != 0 or f"Usage: rsfed {name}" not in text] == []


def test_the_documentation_tells_of_every_command():
    root = Path(__file__).parents[1]
    told = " ".join(page.read_text() for page in (root / "README.md", *(root / "docs").glob("*.md")))
    commands = cli.app.list_commands(click.Context(cli.app))
    assert [name for name in commands if f"rsfed {name}" not in told] == []


@pytest.fixture
def failing(monkeypatch):
    """Make `rsfed break` end in an error."""

    def fail(error):
        @click.command()
        def command():
            raise error

        monkeypatch.setattr(cli._Commands, "get_command", lambda self, ctx, name: command)
        return cli.run(["break"])

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("database is locked"), "database is locked"),
        (sqlite3.DatabaseError("file is not a database"), "file is not a database"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "/x: Is a directory"),
    ],
)
def test_what_the_machine_refuses_is_one_line_with_the_remedy(failing, capsys, error, said):
    assert failing(error) is ExitCode.FAILURE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rsfed: ")
    assert said in line
    assert "; " in line


def test_a_reader_that_went_away_is_no_news():
    code = "from rsfed.cli import run; import sys; sys.exit(run(['config', 'schema', 'node']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == ""
        assert command.wait(60) == ExitCode.FAILURE


def test_a_reader_that_went_away_before_the_last_line_is_no_news_either():
    code = """
import sys, click
from rsfed import cli
@click.command()
def command():
    print("a line that waits in a buffer")
cli._Commands.get_command = lambda self, ctx, name: command
sys.exit(cli.run(["x"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == ""
        assert command.wait(60) == ExitCode.FAILURE
