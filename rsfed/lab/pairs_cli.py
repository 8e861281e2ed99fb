"""`rsfed pairs`: which images of two modalities show the same ground at nearly the same time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.errors import UsageError

if TYPE_CHECKING:
    from rsfed.lab.pairing import Folder, Side
    from rsfed.raster.pairs import Pairing

app = typer.Typer(add_completion=False)
_MOST_DAYS = 36_500


@app.command()
def pairs(
    one: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, metavar="FOLDER", help="Images of one modality.", show_default=False
        ),
    ],
    other: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, metavar="FOLDER", help="Images of another one.", show_default=False
        ),
    ],
    *,
    days: Annotated[
        int,
        typer.Option(
            min=0,
            max=_MOST_DAYS,
            help="Most days, of 24 hours, between the acquisitions of a pair; 0: they overlap in time.",
            show_default=False,
        ),
    ],
    splits: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder to write a split file for each of both folders to, named after the modality, for `rsfed "
            "evaluate --splits`. Only images in a pair are in it.",
        ),
    ] = None,
) -> None:
    """Pair images of two modalities, such as Sentinel-1 and Sentinel-2, that show the same ground at nearly one time.

    Two images are a pair where their footprints have 90 % of what they cover together in common and no more than
    --days lie between them. Each image is in one pair at most: of several partners the one that has most in common,
    then the nearest in time. The split keeps both images of a pair in one part, and all that lies at one place, too:
    60 % train, 20 % val, 20 % query. Images that cannot be read are skipped and counted. Nothing leaves this machine.
    """
    from rich.console import Console  # noqa: PLC0415 - loaded only when used

    from rsfed.home import check_writable  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.pairing import look  # noqa: PLC0415 - loaded only when used
    from rsfed.raster.pairs import find_pairs  # noqa: PLC0415 - loaded only when used

    folders = look(one), look(other)
    _check_modalities(*folders)
    if splits is not None:
        check_writable(splits.absolute())
        _check_new(splits, *folders)
    sides = _read(folders[0]), _read(folders[1])
    found = find_pairs(sides[0].seen, sides[1].seen, timedelta(days=days))
    Console(highlight=False, markup=False).print(_table(sides, found))
    if splits is not None:
        _write(splits, sides, found)


def _check_modalities(one: Folder, other: Folder) -> None:
    if one.modality == other.modality:
        raise UsageError(
            f"both folders hold images of {one.modality.name}; name two folders of two modalities, such as Sentinel-1 "
            "and Sentinel-2"
        )


def _check_new(splits: Path, *folders: Folder) -> None:
    for each in folders:
        if (path := each.split_file(splits)).exists():
            raise UsageError(
                "there is such a split file already; move it away or name another folder", detail=str(path)
            )


def _read(folder: Folder) -> Side:
    """Look at the images of a folder and tell what is left out."""
    from rsfed.lab.pairing import read  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.progress import progress  # noqa: PLC0415 - loaded only when used

    with progress("pairs", len(folder.images)) as progressed:
        side = read(folder, progressed)
    for reason, (count, example) in side.problems.items():
        typer.echo(f"{folder.root}: {count:,} left out, {example}: {reason}", err=True)
    return side


def _table(sides: tuple[Side, Side], found: Pairing) -> object:
    """Return what becomes of the images of either folder."""
    from rsfed.lab.wide_table import WideTable  # noqa: PLC0415 - loaded only when used
    from rsfed.raster.pairs import Alone  # noqa: PLC0415 - loaded only when used

    counts = {
        "images": [len(side.folder.images) for side in sides],
        "in a pair": [len(found.pairs)] * 2,
        **{why.value: [list(alone.values()).count(why) for alone in found.alone] for why in Alone},
        "unreadable or other bands": [side.unreadable for side in sides],
    }
    headings = ("", *(side.folder.modality.name for side in sides))
    return WideTable(headings, [(what, *(f"{count:,}" for count in each)) for what, each in counts.items()])


def _write(splits: Path, sides: tuple[Side, Side], found: Pairing) -> None:
    from rsfed.lab.evaluate.data import ROLES  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.pairing import split, write  # noqa: PLC0415 - loaded only when used

    roles = split(found.pairs, *sides)
    splits.mkdir(parents=True, exist_ok=True)
    files = [side.folder.split_file(splits) for side in sides]
    write(dict(zip(files, (found.pairs, [each.swapped() for each in found.pairs]), strict=True)), roles)
    counts = ", ".join(f"{roles.count(role):,} {role}" for role in ROLES)
    typer.echo(f"split files in {splits}: {counts}")
    for side, file in zip(sides, files, strict=True):
        typer.echo(f"next: `rsfed evaluate {side.folder.root} --splits {file}`", err=True)
