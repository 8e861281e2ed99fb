"""`rsfed analyst`: the identity of somebody who searches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from rsfed.analyst.options import DEFAULT_HOME, HomeOption, analyst_home

if TYPE_CHECKING:
    from rsfed.home import Home
    from rsfed.trust.identity import Identity
    from rsfed.trust.release_store import Release
    from rsfed.trust.tokens import Token

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Identity of an analyst.")

_TEMPLATE = """\
# Configuration of one analyst. `rsfed config schema analyst` lists every key; RSFED_ANALYST__<KEY> overrides one.

deadline_s = 10.0   # how long a query may take, in seconds
"""


@app.command()
def init(home: HomeOption = DEFAULT_HOME) -> None:
    """Make the analyst's home: a commented analyst.toml and keys that never leave."""
    from rsfed.config import AnalystConfig, config_path  # noqa: PLC0415 - loaded only when used
    from rsfed.errors import ConfigError  # noqa: PLC0415 - loaded only when used
    from rsfed.home import check_local, make_folder  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.identity import create_keys, write_atomically  # noqa: PLC0415 - loaded only when used

    place = analyst_home(home)
    path = config_path(AnalystConfig, place.path)
    if path.exists():
        raise ConfigError(
            "this home is an analyst's already; choose another --home", reason="ALREADY_INITIALISED", detail=str(path)
        )
    check_local(place.path)
    make_folder(place.path, mode=0o700)
    create_keys(place.identity)
    write_atomically(path, _TEMPLATE.encode())
    typer.echo(f"analyst made; the configuration is {path}")
    typer.echo("next: `rsfed analyst join TOKEN` with the token that the coordinator's operator sent you", err=True)


@app.command()
def join(
    token: Annotated[
        str,
        typer.Argument(
            help="What `rsfed coordinator invite NAME --role analyst` printed; - reads it from standard input, out of "
            "sight of the process list."
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Join a federation: exchange the one-time token for a certificate, and fetch the current release."""
    from rsfed.config import AnalystConfig, load_config  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.tokens import read_token  # noqa: PLC0415 - loaded only when used

    place = analyst_home(home)
    load_config(AnalystConfig, place.path)  # a home that `init` has not made is said before the token is spent
    identity, release = asyncio.run(_join(place, read_token(token)))
    until = identity.chain[0].not_valid_after_utc
    typer.echo(f"joined federation {identity.member.federation} as analyst {identity.member.name}")
    typer.echo(f"certificate until {until:%Y-%m-%d}, renewed by the first query after two thirds of its life")
    if release is None:
        typer.echo("the federation has no release yet; a query fetches it once there is one")
    else:
        typer.echo(f"release {release.manifest.version}: {release.manifest.bits} bits")
    typer.echo("next: `rsfed query IMAGE`", err=True)


async def _join(home: Home, token: Token) -> tuple[Identity, Release | None]:
    from rsfed.trust.enrolment import check_not_joined, fetch_release  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.enrolment import join as enrol  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.names import Role  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    await check_not_joined(home, token, following="`rsfed query IMAGE`")
    identity = await enrol(home, token, role=Role.ANALYST)
    return identity, await fetch_release(home, identity) or ReleaseStore(home.releases).current()
