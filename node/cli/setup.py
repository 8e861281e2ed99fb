"""`rsfed node init` and `rsfed node join`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.control import notify_serve
from node.cli.options import DEFAULT_HOME, HomeOption, node_home
from rsfed.raster.modality import MODALITIES

if TYPE_CHECKING:
    from rsfed.home import Home
    from rsfed.trust.identity import Identity
    from rsfed.trust.release_store import Release
    from rsfed.trust.tokens import Token


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("init")(init)
    app.command("join")(join)


def init(
    home: HomeOption = DEFAULT_HOME,
    archive: Annotated[
        Path | None, typer.Option(help="Folder with the images; `archive` inside the home when left out.")
    ] = None,
    modality: Annotated[
        str, typer.Option(help=f"What the images are: {', '.join(MODALITIES)}, or TYPE-BANDS such as uint16-7.")
    ] = "rgb",
    advertise: Annotated[
        str, typer.Option(help="How the coordinator reaches this node, host:port.")
    ] = "localhost:7443",
    bind: Annotated[
        str, typer.Option(help="Where this node listens, host:port; the advertised port when left out.")
    ] = "",
) -> None:
    """Make a node: a commented node.toml, keys that never leave, and an empty catalogue."""
    from node.setup import Choices, init_node  # noqa: PLC0415 - loaded only when used
    from rsfed.config import listening  # noqa: PLC0415 - loaded only when used

    path = init_node(node_home(home), Choices(archive, modality, bind or listening(advertise), advertise))
    typer.echo(f"node made; its configuration is {path}")
    typer.echo("next: `rsfed node join TOKEN` with the token that the coordinator's operator sent you", err=True)


def join(
    token: Annotated[
        str,
        typer.Argument(
            help="What `rsfed coordinator invite NAME --role node` printed; - reads it from standard input, out of "
            "sight of the process list."
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Join a federation: exchange the one-time token for a certificate, and fetch the current release."""
    from node.searchable import mismatch, searched  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.tokens import read_token  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    config = load_config(NodeConfig, place.path)  # a home that `init` has not made is said before the token is spent
    identity, release = asyncio.run(_join(place, token=read_token(token)))
    notify_serve(place)
    leaf = identity.chain[0]
    typer.echo(f"joined federation {identity.member.federation} as node {identity.member.name}")
    typer.echo(f"certificate until {leaf.not_valid_after_utc:%Y-%m-%d}, renewed by `serve` before")
    if release is None:
        typer.echo("the federation has no release yet; `serve` fetches it once there is one")
    else:
        classes = len(release.manifest.nomenclature.classes)
        kinds = ", ".join(searched(release.manifest))
        typer.echo(f"release {release.manifest.version}: {kinds}, {release.manifest.bits} bits, {classes} classes")
        if wrong := mismatch(config.archive.modality, release.manifest):
            typer.echo(f"{wrong}: none of its images could be found", err=True)
            typer.echo("next: mend archive.modality in node.toml, then `rsfed node ingest`", err=True)
            return
    typer.echo("next: `rsfed node ingest`", err=True)


async def _join(home: Home, token: Token) -> tuple[Identity, Release | None]:
    from rsfed.trust import enrolment  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.names import Role  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    await enrolment.check_not_joined(home, token, following="`rsfed node ingest`, then `rsfed node serve`")
    identity = await enrolment.join(home, token, role=Role.NODE)
    return identity, await enrolment.fetch_release(home, identity) or ReleaseStore(home.releases).current()
