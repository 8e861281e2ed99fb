"""`rsfed node policy`: what the node gives away, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from node.cli.options import DEFAULT_HOME, HomeOption, node_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsfed.config_policy import PolicySection
    from rsfed.home import Home

_GAINS = {1: ("0", "0"), 2: ("14", "1.5"), 4: ("27", "3.0"), 8: ("41", "4.1")}
"""Points gained by who knows every item's cell, by cells of a class: exact codes, bits off the class code; at most."""


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    group = typer.Typer(help="What the node gives away.", invoke_without_command=True)
    group.callback()(policy)
    group.command("explain")(explain)
    app.add_typer(group, name="policy")


def policy(context: typer.Context, home: HomeOption = DEFAULT_HOME) -> None:
    """Say in plain words what the node's policy level gives away."""
    if context.invoked_subcommand is None:
        typer.echo("\n".join(_words(_section(node_home(home)))))


def explain(home: HomeOption = DEFAULT_HOME) -> None:
    """Say what the level gives away of this archive, what attacks gained from it, and which levels fit the archive."""
    place = node_home(home)
    section = _section(place)
    typer.echo("\n".join([*_words(section), "", *_of_this_archive(place), *_measured(section)]))


def _section(home: Home) -> PolicySection:
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    return load_config(NodeConfig, home.path).policy


def _words(section: PolicySection) -> Iterator[str]:
    from rsfed.privacy.policy import explain as in_words  # noqa: PLC0415 - loaded only when used

    yield in_words(section.level, section.detail)
    for name, own in sorted(section.analysts.items()):
        yield f"\n{name} is answered at {own.level}"


def _of_this_archive(home: Home) -> Iterator[str]:
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used
    from rsfed.privacy.policy import POLICIES  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    release = ReleaseStore(home.releases).current()
    cells = len(release.manifest.codebook) if release else 0
    with Catalogue(home) as catalogue:
        acquisitions, patches = catalogue.acquisitions(), catalogue.count()
        epochs = catalogue.connection.execute(
            "SELECT encoder, epoch, made FROM publication ORDER BY encoder"
        ).fetchall()
    yield f"This archive: {patches} patches of {acquisitions} acquisitions; the release has {cells} cells."
    for level in POLICIES.values():
        fits = acquisitions >= level.least_acquisitions
        lacks = [] if fits else [f"it needs {level.least_acquisitions} acquisitions"]
        lacks += ["the release has no codebook"] if (level.by_cells or level.publishes) and not cells else []
        yield f"  {level.level:<9} {'does not start: ' + ' and '.join(lacks) if lacks else 'fits'}"
    for encoder, epoch, made in epochs:
        yield f"  published for {encoder}: epoch {epoch}, {made[:16]} UTC"


def _measured(section: PolicySection) -> Iterator[str]:
    if section.level == "partner":
        yield "Measured: exact answers give a code away in 20 to 65 queries; 65 around one query most of its top 20."
        return
    if section.level != "guarded":
        yield "Measured: docs/privacy.md has quality, and what two catalogues of one archive tell of a member."
        return
    exact, bits = _GAINS[section.cells_per_class]
    yield (
        f"Measured on EuroSAT and UC Merced with cells_per_class = {section.cells_per_class}, all cells asked, over an "
        f"attacker who knows the predicted class of each patch: exact codes +{exact} points (limit 1), bits off the "
        f"class code +{bits} points (limit 2). docs/privacy.md has the table."
    )
