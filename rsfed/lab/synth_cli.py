"""`rsfed synth`: write a synthetic multispectral archive."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.errors import UsageError

if TYPE_CHECKING:
    from rsfed.lab.synth import Archive

app = typer.Typer(add_completion=False)


class Output(StrEnum):
    """Form of the result."""

    TABLE = "table"
    JSON = "json"


@app.command()
def synth(  # noqa: PLR0913, PLR0917 - the options of the command
    out: Annotated[
        Path, typer.Argument(help="Folder to write the archive to; it must be new or empty.", show_default=False)
    ],
    patches: Annotated[
        int,
        typer.Option(
            help="Number of images in all: two of each place, taken at different dates; at least two of each class."
        ),
    ] = 960,
    size: Annotated[int, typer.Option(help="Width and height of an image in pixels of 10 m, 16 to 256.")] = 48,
    classes: Annotated[
        int | None,
        typer.Option(help="Number of land-cover classes, 8 to 11.", show_default="all 11", metavar="INTEGER"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same archive.", min=0)] = 0,
    preview: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Also draw some images of every class into this picture.", metavar="FILE.png"
        ),
    ] = None,
    output: Annotated[Output, typer.Option(help="Form of the result.")] = Output.TABLE,
) -> None:
    """Write made-up satellite images to try things with: no download and no licence needed.

    The images (patches) are small GeoTIFFs of land cover in four bands: red, green, blue and near infrared. Each lies
    in the sub-folder of its class, as an archive of rsfed does, and carries a place, a time and the overpass
    (acquisition) that it was taken in. An acquisition has 16 images, that of the last places what is left: 960 images
    are of 60 acquisitions, and more images are of more. Overpasses differ in light, haze and season; classes differ in
    texture and shape rather than in colour.

    To use them: `rsfed demo --data OUT`, or `rsfed node init --archive OUT --modality rgbn-reflectance`.
    """
    from rsfed.lab.progress import progress  # noqa: PLC0415 - loaded only when used
    from rsfed.lab.synth import generate  # noqa: PLC0415 - loaded only when used

    if preview is not None and not preview.absolute().parent.is_dir():
        raise UsageError("the folder of --preview does not exist; make it first", detail=str(preview))
    start = time.monotonic()
    with progress("synth", patches) as progressed:
        archive = generate(out, patches=patches, size=size, classes=classes, seed=seed, progress=progressed)
    if preview is not None:
        from rsfed.lab.contact_sheet import draw_classes  # noqa: PLC0415 - loaded only when used

        draw_classes(out, preview)
    _print(archive, out, time.monotonic() - start, output)


def _print(archive: Archive, out: Path, seconds: float, output: Output) -> None:
    total = sum(archive.patches.values())
    if output is Output.JSON:
        summary = {
            "folder": str(out),
            "modality": archive.modality,
            "patches": total,
            "classes": archive.patches,
            "places": archive.places,
            "acquisitions": archive.acquisitions,
            "bytes": archive.bytes,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(summary))
        return
    width = max(len(name) for name in archive.patches)
    for name, count in archive.patches.items():
        typer.echo(f"{name:{width}}  {count:6d}")
    typer.echo(
        f"{total} patches of {len(archive.patches)} classes, {archive.places} places and {archive.acquisitions} "
        f"acquisitions, {archive.bytes / 1e6:.1f} MB, modality {archive.modality}, in {seconds:.1f} s: {out}"
    )
