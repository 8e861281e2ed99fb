"""The command `rsfed`: groups plug in through the entry-point group `rsfed.commands`.

Only the chosen group's modules are imported, and heavy libraries only inside commands, so help stays quick.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import click

from rsfed.errors import ExitCode, RsfedError

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else grpc prints every stranger's failed handshake
_SUMMARIES = {
    "access": "Ask an archive for an item that a query found.",
    "analyst": "Identity of an analyst: init, join.",
    "config": "Check configuration files and print their schema.",
    "coordinator": "Run a federation.",
    "demo": "The whole story on one machine: train, publish, index, search, report.",
    "evaluate": "Compare ways to search on your own labelled images.",
    "node": "Run an archive: ingest, serve, train, resolve.",
    "pairs": "Pair the images of two modalities that show the same ground, and split them.",
    "query": "Search all archives by example; only the code of the image leaves.",
    "synth": "Write a synthetic multispectral archive.",
}


class _Commands(click.Group):
    """Finds commands by entry point and loads one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all installed commands."""
        return sorted(point.name for point in entry_points(group="rsfed.commands"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        found = [point for point in entry_points(group="rsfed.commands") if point.name == cmd_name]
        if not found:
            return None
        import typer  # noqa: PLC0415 - only when a command is really run

        loaded: typer.Typer = found[0].load()
        loaded.rich_markup_mode = "markdown"  # joins the lines of a paragraph, as the docstrings mean them
        return typer.main.get_command(loaded)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by their summaries, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsfed", prog_name="rsfed")
def app() -> None:
    """Search many remote-sensing archives by example while every image stays where it is."""


def main() -> NoReturn:
    """Run the command line and exit with the code that the error table gives."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors go to standard error in one or two lines."""
    try:
        result = app.main(arguments, prog_name="rsfed", standalone_mode=False)
        sys.stdout.flush()  # so that a reader who went away is noticed here
    except (click.exceptions.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except RsfedError as error:
        click.echo(f"rsfed: {error} [{error.reason}]", err=True)
        return error.exit_code
    except (sqlite3.Error, OSError) as error:
        _say_what_failed(error)
        return ExitCode.FAILURE
    return result if isinstance(result, int) else ExitCode.DONE


def _say_what_failed(error: sqlite3.Error | OSError) -> None:
    """Say in one line what the machine refused and what to do; a reader of the results who went away needs no line."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
    elif isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        click.echo(f"rsfed: {what}; check that path, permissions and free space of the disk will do", err=True)
    else:
        remedy = "try again, and if it goes on check the disk and its free space"
        click.echo(f"rsfed: the state cannot be used: {error}; {remedy}", err=True)


if __name__ == "__main__":
    main()
