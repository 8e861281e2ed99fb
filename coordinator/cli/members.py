"""`rsfed coordinator invite`, `allow`, `revoke` and `rotate`: who is trusted with what, and by which keys."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.options import (
    DEFAULT_HOME,
    HomeOption,
    MemberRole,
    level_named,
    notify_serve,
    open_authority,
    open_federation,
)
from rsfed.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from rsfed.home import Home
    from rsfed.trust.scope import Scope


class Key(StrEnum):
    """Keys that can be changed."""

    CA = "ca"
    RELEASE_KEY = "release-key"


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command("invite")(invite)
    app.command("allow")(allow)
    app.command("revoke")(revoke)
    app.command("rotate")(rotate)


def invite(
    name: Annotated[str, typer.Argument(help="Name of the new member: lower-case letters, digits, hyphens.")],
    role: Annotated[MemberRole, typer.Option(help="What the member is: an archive, or a person who searches.")],
    home: HomeOption = DEFAULT_HOME,
    hours: Annotated[float, typer.Option(min=0.1, max=8760, help="Hours until the token expires.")] = 72,
) -> None:
    """Print a one-time token for a new member, or for one that lost its keys.

    The token alone goes to standard output. It holds a secret: send it on a way that you trust. When it is used, older
    certificates of the same member are revoked; an older token of the same member that was not used is withdrawn.
    """
    from rsfed.trust.names import Role  # noqa: PLC0415 - loaded only when used

    if math.isnan(hours):  # which is within any bounds
        raise UsageError("--hours must be a number")
    with open_authority(home) as (_, authority):
        token = authority.invite(name, Role(role), hours=hours)
    typer.echo(token.encode())
    typer.echo(f"for {role} {name}, until {token.expires:%Y-%m-%d %H:%M} UTC: `rsfed {role} join TOKEN`", err=True)


def allow(  # noqa: PLR0913, PLR0917 - one option for each limit
    name: Annotated[str, typer.Argument(help="Name of the analyst, who need not have joined yet.")],
    home: HomeOption = DEFAULT_HOME,
    node: Annotated[list[str] | None, typer.Option(help="A node that may be asked; again for more. None: all.")] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="A modality that may be searched; again for more. None: all.")
    ] = None,
    level: Annotated[
        str, typer.Option(help="The level that discloses most of those that may answer, for example partner. Else any.")
    ] = "",
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Until then, UTC: 2027-01-31, the day included, or 2027-01-31T18:00. Else for ever.",
        ),
    ] = None,
    per_day: Annotated[int | None, typer.Option(min=0, help="Requests in a day of UTC. Else any number.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests in a minute. Else any number.")] = None,
) -> None:
    """Say what an analyst may ask, in place of what was said before; without options everything.

    Nodes hear of it within 30 seconds and check it for themselves. All members can read scopes in the trust bundle.
    `members` shows what was said last, `audit show` what was said when.
    """
    from coordinator.scopes import Allowed  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.scope import Scope  # noqa: PLC0415 - loaded only when used

    scope = Scope(
        nodes=frozenset(node or ()),
        modalities=frozenset(modality or ()),
        level=level_named(level),
        until=None if until is None else _until(until),
    )
    allowed = Allowed(scope, per_day, per_minute)
    with open_authority(home) as (place, authority):
        _check_modalities(place, scope)
        member, joined = authority.allow(name, allowed)
    typer.echo(f"{member.name} may ask {allowed.in_words()}")
    if not joined:
        typer.echo(f"no analyst {member.name} is a member yet; this holds once one joins", err=True)
    if scope.until is not None and scope.until < utc_now():
        typer.echo(f"that time has passed, so {member.name} may ask nothing", err=True)
    if not notify_serve(place):
        typer.echo("`rsfed coordinator serve` is not running; nodes hear of it once it does", err=True)


def _until(text: str) -> datetime:
    from rsfed.clock import MOMENT_FORMS, moment_of  # noqa: PLC0415 - loaded only when used

    try:
        return moment_of(text, end_of_day=True)
    except ValueError as error:
        raise UsageError(f"--until {text!r} is no date or time; write {MOMENT_FORMS}") from error


def _check_modalities(home: Home, scope: Scope) -> None:
    """Check that the release searches every modality of a scope.

    Raises:
        UsageError: it does not; the message lists those that it searches.
    """
    from coordinator.releases import current_release  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    if not scope.modalities:
        return
    encoders = current_release(ReleaseStore(home.releases)).manifest.encoders.values()
    known = {encoder.modality for encoder in encoders}
    if unknown := sorted(scope.modalities - known):
        raise UsageError(
            f"the release searches no {' and no '.join(unknown)}; name some of {', '.join(sorted(known))}, or leave"
            " --modality out for all"
        )


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the member, from `members`.")],
    home: HomeOption = DEFAULT_HOME,
    role: Annotated[
        MemberRole | None,
        typer.Option(help="Role of the member; needed where two share the name, or where a backup does not know it."),
    ] = None,
) -> None:
    """Put a member out of the federation at once; nodes hear of it within 30 seconds."""
    from rsfed.trust.names import Role  # noqa: PLC0415 - loaded only when used

    with open_authority(home) as (place, authority):
        member = authority.revoke(name, Role(role) if role else None)
    typer.echo(f"{member.role} {member.name} is revoked")
    if not notify_serve(place):
        typer.echo("`rsfed coordinator serve` is not running; members hear of it once it does", err=True)


def rotate(
    key: Annotated[Key, typer.Argument(help="ca: signs certificates and the trust bundle; release-key: releases.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Change a key of the federation, without interrupting anybody.

    A new CA signs certificates from about a minute later on; the old one stays trusted until 30 days after the last
    certificate that it signed has expired. A new release key replaces the old one at once.
    """
    from coordinator.keyring import Keyring  # noqa: PLC0415 - loaded only when used
    from coordinator.releases import Publisher  # noqa: PLC0415 - loaded only when used
    from coordinator.rotation import Rotation  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.names import MemberId, Role  # noqa: PLC0415 - loaded only when used

    with open_federation(home) as (place, state, config):
        coordinator = MemberId(config.federation, Role.COORDINATOR, config.name)
        rotation = Rotation(state, Keyring(place), coordinator, utc_now)
        if key is Key.CA:
            name = rotation.new_ca()
            typer.echo(f"new CA {name[:16]} added; the old one goes 30 days after its last certificate has expired")
        else:
            name = rotation.new_release_key(Publisher(place, state, config.federation))
            typer.echo(f"releases are signed by {name} from now on, the current one too")
    notify_serve(place)
