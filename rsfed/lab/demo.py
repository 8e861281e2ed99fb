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
_ROUNDS, _ROUNDS_OF_DATA = 5, 10  # photographs of many classes need more than synthetic patches


class Output(StrEnum):
    """How the result is printed on standard output."""

    TABLE = "table"
    JSON = "json"


@app.command()
def demo(  # noqa: PLR0913 - the options of the command
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Your own images: a folder with one sub-folder for each class, at least two.",
            show_default="made-up images",
        ),
    ] = None,
    nodes: Annotated[
        int, typer.Option(min=1, max=8, help="Number of archives among which the images are divided.")
    ] = 3,
    skew: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1000,
            help="How alike the mixes of classes of the archives are: with 0.1 almost every class lies in one archive, "
            "with 100 all have about the same (concentration of a Dirichlet distribution).",
        ),
    ] = 0.5,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Rounds of federated training; more take longer and find better.",
            show_default=f"{_ROUNDS}; {_ROUNDS_OF_DATA} with --data",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder to write report.html to; it is made when needed.")
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, max=2**62 - 1, help="The same seed gives the same images, split and training.")
    ] = 0,
    output: Annotated[Output, typer.Option(help="Form of the result on standard output.")] = Output.TABLE,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave configurations, archives and logs behind, and say where.")
    ] = False,
) -> None:
    """Show on this machine what a federation does, from the first image to a report with pictures and figures.

    The images are divided among several archives (nodes), some held out as queries. A coordinator and the nodes start
    as separate processes that talk over mutually authenticated TLS; they train a network together, turn their images
    into codes and answer the queries. The report compares what was found with the untrained network, with a plain
    method and with chance.

    Nothing needs to be set up before, nothing is downloaded, and all processes and files but the report are gone in the
    end. It takes about two minutes on two cores; with --data longer.
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
