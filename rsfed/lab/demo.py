"""`rsfed demo`: the whole story on one machine."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.errors import UsageError

if TYPE_CHECKING:
    from rsfed.lab.demo_story import Settings, Told
    from rsfed.lab.narrator import Narrator

app = typer.Typer(add_completion=False)
_ROUNDS, _ROUNDS_OF_DATA = 5, 15  # photographs of many classes need more than synthetic patches


class Output(StrEnum):
    """How the result is printed on standard output."""

    TABLE = "table"
    JSON = "json"


@app.command()
def demo(  # noqa: PLR0913 - the options of the command
    *,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with class sub-folders; synthetic when left out."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, max=8, help="Number of archives.")] = 3,
    skew: Annotated[
        float, typer.Option(min=0.01, max=1000, help="How alike the archives are: 0.1 hardly, 100 very (Dirichlet).")
    ] = 0.5,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Rounds of federated training.",
            show_default=f"{_ROUNDS}; {_ROUNDS_OF_DATA} with --data",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for report.html.")] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, max=2**62 - 1, help="The same seed gives the same images, split and training.")
    ] = 0,
    output: Annotated[Output, typer.Option(help="How the result is printed.")] = Output.TABLE,
    keep: Annotated[bool, typer.Option("--keep", help="Leave homes, archives and logs behind to look at.")] = False,
) -> None:
    """Start a coordinator and private archives as separate processes, train, publish, index, search and report.

    Everything runs on this machine over mutually authenticated TLS and is stopped and removed in the end.
    """
    from rich.console import Console  # noqa: PLC0415 - loaded only when used

    from rsfed.home import make_folder  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.demo_report import summary, tables  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.demo_story import Settings  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.narrator import Narrator  # noqa: PLC0415 - loaded only when used

    if math.isnan(skew):  # which is within any bounds
        raise UsageError("--skew must be a number")
    started = time.monotonic()
    report = out.absolute() / "report.html"
    make_folder(report.parent)
    settings = Settings(data, nodes, skew, rounds or (_ROUNDS_OF_DATA if data else _ROUNDS), seed, keep)
    narrator = Narrator()
    try:
        told = asyncio.run(_run(settings, narrator, report))
    except asyncio.CancelledError as error:  # SIGTERM; Ctrl-C is a KeyboardInterrupt already
        raise typer.Abort from error
    seconds = time.monotonic() - started
    if output is Output.JSON:
        typer.echo(json.dumps(summary(told, settings, narrator.phases, seconds=seconds, report=report)))
    else:
        Console(highlight=False).print(tables(told, seconds=seconds, report=report))


async def _run(settings: Settings, narrator: Narrator, report: Path) -> Told:
    from rsfed.lab.demo_report import write_report  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.demo_story import tell  # noqa: PLC0415 - loaded only when used

    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with tell(settings, narrator) as told:
        with narrator.phase("write the report"):
            write_report(told, settings, narrator.phases, report)
        return told
