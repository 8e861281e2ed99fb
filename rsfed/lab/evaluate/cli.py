"""`rsfed evaluate`: ways to search, side by side on one's own labelled images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsfed.errors import CodeError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rsfed.lab.evaluate.data import ImageSet
    from rsfed.lab.evaluate.division import Split
    from rsfed.lab.narrator import Narrator

app = typer.Typer(add_completion=False)
_METHODS = "lsh,kulsh,kslsh,float,centres"
_EPOCHS, _EPOCHS_OF_TRUNK = 20, 60  # the head alone learns in milliseconds a step
_MOST_SEEDS = 100


class Output(StrEnum):
    """How the result is printed on standard output."""

    TABLE = "table"
    JSON = "json"


class SplitName(StrEnum):
    """How images are split; as `rsfed.lab.evaluate.division.Split`, without loading it for the help."""

    RANDOM = "random"
    OFFICIAL = "official"
    BY_PLACE = "by-place"
    BY_ACQUISITION = "by-acquisition"


@app.command()
def evaluate(  # noqa: PLR0913 - the options of the command
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="Your labelled images: a folder with one sub-folder for each class."
        ),
    ],
    *,
    methods: Annotated[
        str,
        typer.Option(
            help="Ways to search, separated by commas: lsh, kulsh, kslsh (without a network), float (exhaustive "
            "search on features), milan, milan_batchall, centres, pairwise, contrastive (trained networks)."
        ),
    ] = _METHODS,
    bits: Annotated[str, typer.Option(help="Widths of the codes, separated by commas: multiples of 8.")] = "16,32",
    seeds: Annotated[int, typer.Option(min=1, max=_MOST_SEEDS, help="Number of seeds; figures are their mean.")] = 1,
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="How images are split: by the seed alone, by --splits, or whole places or acquisitions at a time.",
            show_default="official with --splits; else by-place where any image tells where it lies, else random",
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV file with the columns path (below FOLDER), label and split (train, val or query).",
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            help="Where labels come from: folders, or the name of a CSV file in FOLDER with the columns path and "
            "label; an image may have several labels, separated by semicolons."
        ),
    ] = "folders",
    trunk: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="ONNX file of a frozen feature extractor that all methods stand on. Without it networks learn from "
            "pixels and the others see plain statistics of each band.",
        ),
    ] = None,
    turns: Annotated[
        bool,
        typer.Option(
            "--turns", help="Average the trunk's features over all turns and mirror images: eight times the cost."
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder to keep features of the trunk in for the next time.",
            show_default="the folder of --report",
        ),
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=10_000, help="Cut-off of every figure.")] = 20,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Passes over the training part of methods that are trained.",
            show_default=f"{_EPOCHS}; {_EPOCHS_OF_TRUNK} with --trunk",
        ),
    ] = None,
    left_out: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also leave so many classes out of training, drawn by each seed, and tell the precision for their "
            "queries: what codes are worth for classes that nobody labelled.",
        ),
    ] = 0,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing",
            help="Also measure one query by each method, hashed and searched by, against made-up galleries of 10,000 "
            "to 10,000,000 images.",
        ),
    ] = False,
    federated: Annotated[
        bool,
        typer.Option(
            "--federated",
            help="Instead of methods compare ways to learn from images that are spread over nodes with more and less "
            "skew between classes: in one place, federated and each node alone. At the largest width of --bits.",
        ),
    ] = False,
    nodes: Annotated[int, typer.Option(min=2, max=100, help="Number of nodes with --federated.")] = 5,
    report: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder to write evaluation.html to, one page with pictures."),
    ] = None,
    output: Annotated[Output, typer.Option(help="Form of the result on standard output.")] = Output.TABLE,
) -> None:
    """Compare ways to search on your own labelled images, all on the same split and by the same metrics.

    Figures are expected values over the order of equal distances, so they do not depend on the order of files. A query
    is never in its own gallery. Damaged images are skipped and counted. Nothing leaves this machine.
    """
    from rsfed.home import check_writable  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate import outputs  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate import timing as cost  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate.data import find, read  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate.division import Split, check_listing, default_split  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate.report import write_report  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate.run import Settings, check_left_out  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.evaluate.run import evaluate as run  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.narrator import Narrator  # noqa: PLC0415 - loaded only when used

    chosen = parse_methods(methods), parse_bits(bits)
    _check_split(split, splits)
    if turns and trunk is None:
        raise UsageError("--turns needs --trunk FILE, whose features it averages")
    if federated and (left_out or timing or report):
        raise UsageError("--federated goes without --left-out, --timing and --report; keep features by --cache")
    for kept in filter(None, (report, cache)):
        check_writable(kept.absolute())
    narrator = Narrator()
    with narrator.phase("read the images"):
        listing = find(folder, labels, splits)
        for note in listing.notes:
            narrator.say(f"  {note}")
        asked = Split.OFFICIAL if splits else Split(split.value) if split else None
        check_listing(listing, asked)
        check_left_out(left_out, len(listing.counts))
        images = read(listing, trunk, cache or report, turns=turns)
        for line in images.damaged:
            narrator.say(f"  {line}")
    how = asked or default_split(images)
    passes = epochs or (_EPOCHS_OF_TRUNK if trunk else _EPOCHS)
    if federated:
        _compare_federated(images, (max(chosen[1]), seeds, nodes, how, k, passes), narrator, output)
        return
    settings = Settings(*chosen, seeds=seeds, split=how, k=k, epochs=passes, left_out=left_out)
    with narrator.phase("learn, hash and measure"):
        found = run(images, settings, narrator.say)
    if timing:
        with narrator.phase("measure what a query costs"):
            measured = cost.timings(found.rows, found.features, k, sizes=cost.SIZES)
            found = replace(found, timings=tuple(measured))
    path = None
    try:
        if report is not None:
            with narrator.phase("write the report"):
                path = write_report(found, images, report.absolute())
    finally:  # figures that took long to make are told even where the report fails
        _print(output, lambda: outputs.summary(found, path), lambda: outputs.tables(found, path))


def _compare_federated(
    images: ImageSet, settings: tuple[int, int, int, Split, int, int], narrator: Narrator, output: Output
) -> None:
    """Compare ways to learn from images that are spread over nodes; settings as `FederatedSettings` takes them."""
    from rsfed.lab.federated import outputs  # noqa: PLC0415 - loads Flower
    from rsfed.lab.federated.run import FederatedSettings, evaluate_federated  # noqa: PLC0415 - loads Flower

    with narrator.phase("learn, hash and measure"):
        found = evaluate_federated(images, FederatedSettings(*settings), narrator.say)
    told = found, images.listing.root.name
    _print(output, lambda: outputs.summary(*told), lambda: outputs.tables(*told))


def _check_split(split: SplitName | None, splits: Path | None) -> None:
    if split is SplitName.OFFICIAL and splits is None:
        raise UsageError("--split official needs --splits FILE.csv with the columns path, label and split")
    if splits is not None and split not in {None, SplitName.OFFICIAL}:
        raise UsageError("--splits is the official split; leave --split out or say official")


def _print(output: Output, summary: Callable[[], dict[str, Any]], tables: Callable[[], RenderableType]) -> None:
    from rich.console import Console  # noqa: PLC0415 - loaded only when used

    if output is Output.JSON:
        typer.echo(json.dumps(summary()))
    else:
        Console(highlight=False, markup=False).print(tables())


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the methods that an option names, each once.

    Raises:
        UsageError: one is not known, or there is none.
    """
    from rsfed.lab.evaluate.methods import METHODS  # noqa: PLC0415 - loaded only when used

    names = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        what = f"unknown method {unknown[0]!r}" if unknown else "--methods names no method"
        raise UsageError(f"{what}; choose from {', '.join(METHODS)}")
    return names


def parse_bits(text: str) -> tuple[int, ...]:
    """Return the widths that an option names, each once, rising.

    Raises:
        UsageError: one is not a width that codes may have.
    """
    from rsfed.codes import check_bits  # noqa: PLC0415 - loads numpy

    try:
        widths = sorted({check_bits(int(part)) for part in text.split(",")})
    except ValueError as error:
        raise UsageError("--bits takes whole numbers separated by commas, for example 16,32") from error
    except CodeError as error:
        raise UsageError(f"--bits: {error.public}") from error
    return tuple(widths)
