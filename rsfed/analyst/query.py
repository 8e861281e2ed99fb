"""`rsfed query`: search all archives by example."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.analyst.options import DEFAULT_HOME, HomeOption, analyst_home
from rsfed.errors import ExitCode, NoNodeReachable, RasterRejected, RsfedError, Unreachable, UsageError

if TYPE_CHECKING:
    from rsfed.analyst.encoding import EncodedImages
    from rsfed.analyst.filters import Filters
    from rsfed.analyst.outputs import Answer, Asked
    from rsfed.analyst.results import Outcome, SearchResult
    from rsfed.analyst.session import AnalystSession
    from rsfed.analyst.state import Result
    from rsfed.codes import Codes
    from rsfed.home import Home
    from rsfed.raster.modality import Modality

LISTED_AT_MOST = 10_000  # items of one picture, with --radius alone
SHEET_PICTURES = 20  # more queries would make a picture that nobody can open
_NEAREST = 20
_TABLE_WIDTH = 80  # columns at least, so that every handle is whole; a narrower terminal wraps the lines itself

app = typer.Typer(add_completion=False)


class Merge(StrEnum):
    """Who merges the answers of the archives."""

    COORDINATOR = "coordinator"
    LOCAL = "local"


class Output(StrEnum):
    """How results are printed on standard output."""

    TABLE = "table"
    JSON = "json"
    GEOJSON = "geojson"
    STAC = "stac"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class _Wanted:
    images: list[Path]
    k: int | None
    radius: int | None
    filters: Filters
    sealed: bool


@dataclass(frozen=True, slots=True)
class _Found:
    answer: Answer
    image: Path
    kind: Modality


@app.command()
def query(  # noqa: PLR0913 - the options of the command
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...", exists=True, dir_okay=False, help="Images to search by, files on this machine."
        ),
    ],
    *,
    k: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="INTEGER",
            help="How many of the most similar items to list for each image.",
            show_default=f"{_NEAREST}; all with --radius",
        ),
    ] = None,
    radius: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            metavar="INTEGER",
            help="List only items whose code differs from the image's in at most this many bits, up to the width of "
            f"the release's codes; without --k all of them, up to {LISTED_AT_MOST:,}.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only items acquired then or later: 2024-05-01 or 2024-05-01T10:30:00Z."),
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only items acquired then or earlier; of a date, the whole day.")
    ] = None,
    bbox: Annotated[
        str | None,
        typer.Option(
            metavar="W,S,E,N",
            help="Only items that touch this box, in degrees of WGS 84; west > east crosses 180 degrees.",
        ),
    ] = None,
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="Only items of this modality.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Only items of this class of the federation; several: of any of them."),
    ] = None,
    merge: Annotated[
        Merge,
        typer.Option(
            help="Who merges the answers: with local, codes and answers are sealed between this machine and the "
            "archives, and the coordinator reads neither."
        ),
    ] = Merge.COORDINATOR,
    output: Annotated[
        Output, typer.Option(help="Form of the result on standard output; all but the table are for programs.")
    ] = Output.TABLE,
    sheet: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, metavar="FILE.png", help="Also draw each image and what was found for it into this picture."
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Send nothing: fetch the catalogues that archives publish, and list on this machine the buckets of "
            "their patches that are nearest to each image.",
        ),
    ] = False,
    refine: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=16,
            metavar="N",
            help="With --private: also ask each archive at the level catalogue for items of its N nearest buckets, by "
            "their numbers. How often an archive lists an item is bounded.",
        ),
    ] = None,
    require_all: Annotated[
        bool,
        typer.Option(
            "--require-all", help="Exit with 3 unless every archive was searched whole; the result is printed anyway."
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
) -> int:
    """Search the archives of the federation for what looks like each IMAGE.

    The image stays on this machine: only a short code that is computed from it leaves. Each line of the result is one
    item of an archive with its distance from the image (0 is closest), the number of items with the very same code
    (bucket) and its handle: the archive's operator learns by `rsfed node resolve HANDLE` which file it is. An image
    that cannot be used is skipped and named, and the others are searched.

    Filters are applied by the archives, before they take the nearest. An item that does not say when or where it was
    taken, or what it shows, never passes a filter on that; how many there are is printed. An archive may let no query
    be filtered by some field: it refuses then, and the others answer.

    With --private nobody learns what is searched, not even the code. Each line of the result is then a bucket of an
    archive: patches of at least ten of its acquisitions, about so many; --k counts buckets. Only archives at the levels
    catalogue and sealed can be searched so. Of those at the level counts, the counts of their classes are shown. With
    --refine an archive at the level catalogue learns which of its buckets are nearest, and no more, and lists some of
    their items, without a distance of their own. Their handles are good for `rsfed access request`.

    Needs `rsfed analyst init` and `rsfed analyst join TOKEN` first.

    Exit codes: 0 done, 1 failed or an image was skipped, 2 wrong call or no such file, 3 not every archive was searched
    whole (--require-all), 4 not admitted, also by archives of which none answered, 5 no archive reachable, 6
    configuration.
    """
    from rsfed.analyst.advice import nobody_answered  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.filters import parse_filters  # noqa: PLC0415 - loaded only when used
    from rsfed.transport.loop import run  # noqa: PLC0415 - loaded only when used

    if sheet is not None and not sheet.absolute().parent.is_dir():
        raise UsageError("the folder of --sheet does not exist; make it first", detail=str(sheet))
    filters = parse_filters(after=after, before=before, bbox=bbox, modality=modality, labels=label or ())
    nearest = k if k or radius is not None else _NEAREST
    wanted = _Wanted(images, nearest, radius, filters, merge is Merge.LOCAL)
    if refine is not None and not private:
        raise UsageError("--refine lists items of what --private ranks; say --private, too")
    if private:
        asking = _ask_privately(analyst_home(home), wanted, output, refine=refine, sheet=sheet, require_all=require_all)
        return run(asking)
    asked, answers = run(_ask(analyst_home(home), wanted))
    _print(output, asked, answers)
    if sheet is not None:
        _draw(sheet, asked, answers)
    if not any(found.answer.result.answered() for found in answers):
        raise nobody_answered([found.answer.result for found in answers])
    if not set(images) <= {found.image for found in answers}:
        return ExitCode.FAILURE
    complete = all(found.answer.result.complete() for found in answers)
    return ExitCode.PARTIAL if require_all and not complete else ExitCode.DONE


async def _ask(home: Home, wanted: _Wanted) -> tuple[Asked, list[_Found]]:
    from rsfed.analyst.outputs import Answer  # noqa: PLC0415 - loaded only when used
    from rsfed.raster.modality import modality  # noqa: PLC0415 - loaded only when used

    async with _session(home, sealed=wanted.sealed) as session:
        encoded = _encode(session, wanted)
        results = await _search(session, encoded.codes, wanted)
        _remember(session, results)
    manifest = session.release.manifest
    kind = modality(manifest.encoders[session.encoder].modality)
    answers = [
        _Found(Answer(name, result), wanted.images[position], kind)
        for name, position, result in zip(_names(wanted.images, encoded.images), encoded.images, results, strict=True)
    ]
    return _asked(session, wanted), answers


async def _ask_privately(  # noqa: PLR0913 - options of the command
    home: Home, wanted: _Wanted, output: Output, *, refine: int | None, sheet: Path | None, require_all: bool
) -> ExitCode:
    """Rank what archives publish, print it, and return the exit code."""
    from rsfed.analyst.advice import BOUNDED  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.catalogues import nearest_bounded  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.private import PrivateAnswer, show  # noqa: PLC0415 - loaded only when used

    if sheet is not None or output not in {Output.TABLE, Output.JSON} or wanted.filters.as_json() is not None:
        raise UsageError("--private lists buckets, as a table or as JSON: leave out --sheet, filters and other forms")
    if wanted.sealed:
        raise UsageError("--private is merged on this machine anyway, and sends no code: leave out --merge local")
    async with _session(home) as session:
        encoded = _encode(session, wanted)
        reads = await session.catalogues()
        answers = []
        for name, code in zip(_names(wanted.images, encoded.images), encoded.codes, strict=True):
            limits = {"k": wanted.k, "radius": wanted.radius}
            buckets = nearest_bounded(code, session.encoder, reads, session.distrusted, **limits)
            refined = None if refine is None else tuple(await session.refine(code, reads, count=refine))
            answers.append(PrivateAnswer(name, tuple(buckets), refined))
        if refine is not None:
            _remember(session, [each for answer in answers for each in answer.refined or ()])
    show(_asked(session, wanted), answers, reads, session.release.manifest, as_json=output is Output.JSON)
    for node in sorted(session.distrusted & {read.node for read in reads}):
        typer.echo(f"{node}: {BOUNDED.format(node=node)}", err=True)
    if all(read.catalogue is None for read in reads):
        raise NoNodeReachable("no archive of the federation publishes a catalogue that could be read")
    if set(encoded.images) != set(range(len(wanted.images))):
        return ExitCode.FAILURE
    told = [
        *(not read.reason for read in reads),
        *(each.withheld == "NOTHING" for a in answers for each in a.refined or ()),
    ]
    return ExitCode.PARTIAL if require_all and not all(told) else ExitCode.DONE


@asynccontextmanager
async def _session(home: Home, *, sealed: bool = False) -> AsyncIterator[AnalystSession]:
    """Open a session; where the coordinator is not reached, no node is."""
    from rsfed.analyst.session import AnalystSession  # noqa: PLC0415 - loaded only when used

    try:
        async with AnalystSession(home, sealed=sealed) as session:
            yield session
    except NoNodeReachable:  # the coordinator was reached, and says so
        raise
    except Unreachable as error:
        raise NoNodeReachable(
            "the coordinator cannot be reached, and so no node; check the network, or ask its operator",
            detail=error.detail or error.public,
        ) from error


def _encode(session: AnalystSession, wanted: _Wanted) -> EncodedImages:
    encoded = session.encode(wanted.images, on_refused=_tell_skipped)
    if not encoded.images:
        raise RasterRejected("no image is left to search by; nothing was sent")
    return encoded


def _asked(session: AnalystSession, wanted: _Wanted) -> Asked:
    from rsfed.analyst.outputs import Asked  # noqa: PLC0415 - loaded only when used

    version, digest = session.release.manifest.version, session.release.digest.hex()
    return Asked(version, digest, session.encoder, session.bits, wanted.k, wanted.radius, wanted.filters)


def _remember(session: AnalystSession, results: Sequence[Result]) -> None:
    """Keep where handles came from; what was found is worth showing all the same."""
    try:
        session.remember(results)
    except (RsfedError, sqlite3.Error, OSError) as error:
        typer.echo(f"the handles could not be kept for `rsfed access request`: {error}", err=True)


def _tell_skipped(image: Path, refusal: RasterRejected) -> None:
    typer.echo(f"skipped {image}: {refusal.public}", err=True)


async def _search(session: AnalystSession, codes: Codes, wanted: _Wanted) -> list[SearchResult]:
    from rich.console import Console  # noqa: PLC0415 - loaded only when used

    with Console(stderr=True).status("asking the federation") as status:

        def show(outcome: Outcome) -> None:
            status.update(f"{outcome.node}: {outcome.status}")

        if wanted.k is None and wanted.radius is not None:
            return await session.search_radius(
                codes, radius=wanted.radius, limit=LISTED_AT_MOST, filters=wanted.filters, on_outcome=show
            )
        k = wanted.k or _NEAREST
        found = await session.search(codes, k=k, radius=wanted.radius, filters=wanted.filters, on_outcome=show)
        return [result.first(k) for result in found]


def _names(images: Sequence[Path], origins: Sequence[int]) -> list[str]:
    """Return what each code's ranking is called: the image as the user named it, and which of its tiles."""
    tiles, names = Counter(origins), []
    seen: Counter[int] = Counter()
    for position in origins:
        seen[position] += 1
        name = str(images[position])
        names.append(name if tiles[position] == 1 else f"{name} [tile {seen[position]}]")
    return names


def _print(output: Output, asked: Asked, found: Sequence[_Found]) -> None:
    """Print rankings to standard output and how each node took part to standard error."""
    from rich.console import Console  # noqa: PLC0415 - loaded only when used

    from rsfed.analyst import advice, outputs  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.results import worst_outcomes  # noqa: PLC0415 - loaded only when used

    answers = [each.answer for each in found]
    if output is Output.TABLE:
        screen = Console()
        screen.width = max(screen.width, _TABLE_WIDTH)
        for answer in answers:
            screen.print(outputs.hit_table(asked, answer))
    elif output is Output.CSV:
        sys.stdout.write(outputs.to_csv(answers))
    else:
        forms = {Output.JSON: outputs.to_json, Output.GEOJSON: outputs.to_geojson, Output.STAC: outputs.to_stac}
        sys.stdout.write(forms[output](asked, answers))
    sys.stdout.flush()
    results = [answer.result for answer in answers]
    Console(stderr=True).print(outputs.outcome_table(worst_outcomes(results)))
    for note in advice.notes(results, asked.filters.fields):
        typer.echo(note, err=True)
    undated = sum(hit.acquired is None for result in results for hit in result.hits)
    if output is Output.STAC and undated:
        typer.echo(
            f"left out: {undated} hits say no time, so they are no STAC items; --output geojson lists them", err=True
        )


def _draw(path: Path, asked: Asked, found: Sequence[_Found]) -> None:
    from rsfed.analyst.outputs import listed  # noqa: PLC0415 - loaded only when used
    from rsfed.analyst.sheet import QUERY, Picture, Section, contact_sheet  # noqa: PLC0415 - loaded only when used
    from rsfed.raster.preview import preview  # noqa: PLC0415 - loaded only when used

    sections = [
        Section(
            Path(each.answer.query).name,
            Picture(preview(each.image, each.kind, QUERY), listed(asked, each.answer.result)),
            each.answer.result,
        )
        for each in found[:SHEET_PICTURES]
    ]
    contact_sheet(sections).save(path, format="PNG")
    note = f"; it shows the first {SHEET_PICTURES} of {len(found)} images" if len(found) > SHEET_PICTURES else ""
    typer.echo(f"contact sheet written to {path}{note}", err=True)
