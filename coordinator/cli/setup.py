"""`rsfed coordinator init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import DEFAULT_HOME, HomeOption, coordinator_home
from rsfed.errors import UsageError
from rsfed.raster.modality import MODALITIES


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("init")(init)


def init(  # noqa: PLR0913, PLR0917 - one argument for each option
    federation: Annotated[str, typer.Argument(help="Name of the federation: lower-case letters, digits, hyphens.")],
    home: HomeOption = DEFAULT_HOME,
    modality: Annotated[
        str, typer.Option(help=f"What is searched: {', '.join(MODALITIES)}, or TYPE-BANDS such as uint16-7.")
    ] = "rgb",
    bits: Annotated[int, typer.Option(help="Width of the codes: 16 to 256, a multiple of 8.")] = 64,
    size: Annotated[
        int | None, typer.Option(help="Width and height in pixels that the network sees; 64, or what the trunk takes.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Classes of the federation, separated by commas.")] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="File with one class on each line, in place of --classes.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="Network: compact-resnet, or k-branch for bands of several ground sampling distances.")
    ] = "compact-resnet",
    trunk: Annotated[
        Path | None, typer.Option(help="ONNX model that makes features; only a head on it is trained (extra onnx).")
    ] = None,
    turns: Annotated[
        bool,
        typer.Option(
            "--turns", help="Average the trunk's features over all turns and mirror images: eight times the cost."
        ),
    ] = False,
    advertise: Annotated[str, typer.Option(help="How members reach this coordinator, host:port.")] = "localhost:7440",
    join_advertise: Annotated[
        str, typer.Option(help="How newcomers reach this coordinator, host:port.")
    ] = "localhost:7441",
    bind: Annotated[
        str, typer.Option(help="Where the port for members listens; the advertised port when left out.")
    ] = "",
    join_bind: Annotated[
        str, typer.Option(help="Where the port for newcomers listens; the advertised port when left out.")
    ] = "",
) -> None:
    """Make a federation: configuration, keys, and a first release with an untrained network."""
    from coordinator.founding import Choices, found, read_classes  # noqa: PLC0415 - loaded only when used
    from rsfed.config import listening  # noqa: PLC0415 - loaded only when used

    if classes is not None and classes_file:
        raise UsageError("give --classes or --classes-file, not both")
    listed = () if classes is None else tuple(name.strip() for name in classes.split(","))
    named = read_classes(classes_file) if classes_file else listed
    place = coordinator_home(home)
    binds = bind or listening(advertise), join_bind or listening(join_advertise)
    release = found(
        place, Choices(federation, modality, bits, size, named, advertise, join_advertise, *binds, kind, trunk, turns)
    )
    typer.echo(f"federation {federation} made; its configuration is {place.path / 'coordinator.toml'}")
    typer.echo(f"release {release.manifest.version}: {bits} bits, {len(named)} classes, an untrained network")
    if not named:
        typer.echo("without classes it can be searched but not trained: add some to coordinator.toml", err=True)
    typer.echo("next: `rsfed coordinator serve`, then `rsfed coordinator invite NAME --role node`", err=True)
    typer.echo("keep the folder safe: whoever has its keys is the federation", err=True)
