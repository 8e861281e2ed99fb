"""How a benchmark ends: what it cannot do is told in one line, as by the command `rsfed`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rsfed.errors import ExitCode, RsfedError


def exit_code(name: str, bench: Callable[[], None]) -> int:
    """Run a benchmark and return its exit code; an error that is raised on purpose goes to standard error in one line.

    Args:
        name: Name of the benchmark.
        bench: Runs it and prints its figures.
    """
    try:
        bench()
    except RsfedError as error:
        sys.stderr.write(f"{name}: {error} [{error.reason}]\n")
        return error.exit_code
    return ExitCode.DONE
