"""The command `rsfed`: light until a command runs, and no traceback for what can go wrong outside it."""

import errno
import json
import sqlite3
import subprocess
import sys

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
import click
from rsfed.cli import _Commands, app

def leaves(command, path, parent):
    context = click.Context(command, info_name=path[-1], parent=parent)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from leaves(command.get_command(context, name), [*path, name], context)
    else:
        yield " ".join(path), command.get_help(context)

helps = dict(leaves(app, ["rsfed"], None))
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
    assert {"rsfed node serve", "rsfed coordinator init", "rsfed query", "rsfed synth", "rsfed demo"} <= set(helps)
    silent = [name for name, text in helps.items() if "Usage" not in text and "--help" not in text]
    assert silent == []


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
