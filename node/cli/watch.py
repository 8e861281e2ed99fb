"""Looking at an archive again and again."""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from collections.abc import Callable

import typer

from rsfed.errors import RsfedError


def watching(look: Callable[[], None], interval: float) -> None:
    """Look until the user or the system ends this process; what a look took up before stays.

    What goes wrong at the first look ends it; later it is told, once, and tried again: the archive may not be mounted,
    or its host not be reached, for a while.

    Args:
        look: Brings the catalogue in line with the archive.
        interval: Seconds between the end of a look and the next one.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts it in the background ignores Ctrl-C
    wrong = ""
    try:
        look()
        typer.echo(f"watching, every {interval:g} s; Ctrl-C ends it", err=True)
        while True:
            time.sleep(interval)
            try:
                look()
            except (RsfedError, OSError, sqlite3.Error) as error:
                if wrong != (wrong := str(error)):
                    typer.echo(f"not now: {wrong}", err=True)
            else:
                wrong = ""
    except (KeyboardInterrupt, SystemExit):
        typer.echo("ended; what was taken up stays", err=True)
        raise
