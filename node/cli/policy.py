"""`rsfed node policy`: what the node gives away, in words, and what another level would have cost."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from click.core import ParameterSource

from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home, print_table
from rsfed.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.simulating import Level, Simulation
    from rsfed.config_policy import PolicySection
    from rsfed.home import Home


class LevelOption(StrEnum):
    """Levels that may be asked for; typer takes no list of `LevelName`."""

    PARTNER = "partner"
    GUARDED = "guarded"
    CATALOGUE = "catalogue"
    SEALED = "sealed"
    COUNTS = "counts"


_GAINS = {1: ("0", "0", "6.5"), 2: ("24", "1.1", "6.9"), 4: ("38", "3.2", "8.4"), 8: ("47", "4.3", "8.9")}
"""Points gained by who knows every patch's cell, by cells of a class, at most: exact codes and bits off the class code,
over who knows the predicted class of each patch; bits over who knows its label alone."""
_TOLD = {
    "partner": "exact answers give a code away in 20 to 65 queries; 65 around one query most of its top 20.",
    "catalogue": (
        "whether an acquisition of 50 patches came between two catalogues is told with an advantage of .06 "
        "(limit .25); the scene of a bucket in 4.5 % (limit 15 %); whether the archive holds a rare code with one "
        "of .10. Codes gain .6 and .3 points (limit 1). Who recognised the patches that refine lists would have "
        "67 points more; ten analysts who spent the whole budget had none."
    ),
    "sealed": (
        "whether an acquisition of 50 patches came between two catalogues is told with an advantage of .09 "
        "(limit .15); the scene of a bucket in 2.8 % (limit 10 %); whether the archive holds a rare code with one "
        "of .24. Codes gain .6 and 0 points (limit 1)."
    ),
    "counts": (
        "whether an acquisition of 50 patches came between two publications is told with an advantage of .11; "
        "whether the archive holds a rare code with one of .19. Codes gain nothing."
    ),
}


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    group = typer.Typer(help="What the node gives away.", invoke_without_command=True)
    group.callback()(policy)
    group.command("explain")(explain)
    group.command("simulate")(simulate)
    app.add_typer(group, name="policy")


def policy(context: typer.Context, home: HomeOption = DEFAULT_HOME) -> None:
    """Say in plain words what the node's policy level gives away."""
    if context.invoked_subcommand is None:
        typer.echo("\n".join(_words(node_home(home))))
    elif context.get_parameter_source("home") is ParameterSource.COMMANDLINE:
        command = context.invoked_subcommand
        raise UsageError(f"--home goes behind the command: rsfed node policy {command} --home {home}")


def explain(home: HomeOption = DEFAULT_HOME) -> None:
    """Say what the level gives away of this archive, what attacks gained from it, and which levels fit the archive."""
    place = node_home(home)
    section = _section(place)
    typer.echo("\n".join([*_words(place), "", *_of_this_archive(place), *_closed(place, section), *_measured(section)]))


def simulate(
    level: Annotated[
        list[LevelOption] | None,
        typer.Option(help="Level to try; several by repeating it.", show_default="all of them"),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="INTEGER",
            help="How many queries to replay.",
            show_default="as many as the audit log has, up to 2,000; 2,000 where it has none",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which patches ask; the same seed, the same figures.")] = 0,
    output: OutputOption = Output.TABLE,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Replay the queries of the audit log against other levels, on this archive; nothing leaves this machine.

    The log tells when and how often was asked, but holds no codes, no k and no filters. So patches of this archive ask,
    each of which is left out of the archive for its own query, for 20 items without a filter. How popular pictures are
    is not in the log either: the second asks half as often as the first, the third a third as often (Zipf).

    What `guarded` and `catalogue` publish is made anew here, as if nothing had been published before; nothing is
    written. `serve` may run meanwhile.
    """  # fmt: skip
    from node import simulating  # noqa: PLC0415 - loaded only when used
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    section = _section(place)
    names = list(dict.fromkeys(each.value for each in (level or LevelOption)))
    with Catalogue(place) as catalogue:
        found = simulating.simulate(place, catalogue, section, names, queries=queries, seed=seed)
    if output is Output.JSON:
        typer.echo(json.dumps(_as_json(found, section), indent=1))
    else:
        _print_simulation(found, section)


def _as_json(found: Simulation, section: PolicySection) -> dict[str, Any]:
    load = found.load
    return {
        "level": section.level,
        "audit": {
            "queries": load.queries,
            "pages": load.pages,
            "refused": load.refused,
            "requesters": load.requesters,
            "first": load.first and load.first.isoformat(timespec="milliseconds"),
            "last": load.last and load.last.isoformat(timespec="milliseconds"),
        },
        "replayed": {"queries": found.queries, "patches": found.asking, "popularity": "zipf", "seed": found.seed},
        "archive": {"patches": found.patches, "acquisitions": found.acquisitions, "classes": found.by},
        "levels": [_figures(each, found) for each in found.levels],
    }


def _figures(each: Level, found: Simulation) -> dict[str, Any]:
    """Return the figures of one level; None where there are none."""
    row: dict[str, Any] = {
        "level": each.policy.level,
        "needs": each.policy.least_acquisitions,
        "starts": each.replayed is not None,
    }
    got = each.replayed
    if got is None:
        return row | dict.fromkeys(("pages_withheld", "withheld", "told", "hits", "quality", "ndcg", "overlap"))
    answers = not each.policy.publishes
    return row | {
        "pages_withheld": 0 if each.policy.exact else found.load.pages,
        "withheld": _known(got.withheld if answers else 1.0),
        "told": _known(each.told),
        "hits": _known(float(got.hits.mean())),
        **{name: _known(value) for name, value in got.figures().items()},
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _print_simulation(found: Simulation, section: PolicySection) -> None:
    load = found.load
    if load.first and load.last:
        typer.echo(
            f"audit log: {load.queries:,} queries and {load.pages:,} pages of {load.requesters} analysts from "
            f"{load.first:%Y-%m-%d} to {load.last:%Y-%m-%d}\n"
            f"           ({load.refused:,} more were refused, as at any level)"
        )
    else:
        typer.echo("audit log: nobody asked yet")
    typer.echo(
        f"replayed:  {found.queries:,} queries for 20 items by {found.asking:,} of {found.patches:,} patches, by "
        f"Zipf's law; seed {found.seed}\n"
        f"archive:   {found.acquisitions:,} acquisitions; classes by {found.by}"
    )
    rows = [_row(_figures(each, found), section) for each in found.levels]
    print_table(("level", "starts", "withheld", "hits", "told", "by class", "near codes"), rows)
    typer.echo(
        "withheld: answers with nothing in them. hits: of the 20 wanted. told: patches that are spoken of.\n"
        "by class: NDCG@20 as a share of that of exact answers. near codes: share of the exact 20 nearest.\n"
        "At catalogue and sealed no query is answered: hits and quality are of `rsfed query --private`,\n"
        "which ranks buckets, of the patches in them."
    )


def _row(figures: dict[str, Any], section: PolicySection) -> list[str]:
    name = figures["level"] + (" (now)" if figures["level"] == section.level else "")
    if not figures["starts"]:
        return [name, f"needs {figures['needs']} acquisitions", *["-"] * 5]
    shares = [_share(figures[key]) for key in ("withheld", "told")]
    hits, quality, overlap = (figures[key] for key in ("hits", "quality", "overlap"))
    return [name, "yes", shares[0], f"{hits:.1f}", shares[1], _three(quality), _three(overlap)]


def _share(value: float) -> str:
    return f"{value:.1%}"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _section(home: Home) -> PolicySection:
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    return load_config(NodeConfig, home.path).policy


def _words(home: Home) -> Iterator[str]:
    from node.borders import detail_of  # noqa: PLC0415 - loaded only when used
    from rsfed.privacy.policy import explain as in_words  # noqa: PLC0415 - loaded only when used

    section = _section(home)
    yield in_words(section.level, detail_of(home, section))
    for name, own in sorted(section.analysts.items()):
        yield f"\n{name} is answered at {own.level}"


def _of_this_archive(home: Home) -> Iterator[str]:
    from node.catalogue import Catalogue  # noqa: PLC0415 - loaded only when used
    from node.closed import lacking  # noqa: PLC0415 - loaded only when used
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
        lacks = lacking(level, acquisitions, codebook=cells > 0)
        yield f"  {level.level:<9} {'does not start: ' + lacks if lacks else 'fits'}"
    for encoder, epoch, made in epochs:
        yield f"  published for {encoder}: epoch {epoch}, {made[:16]} UTC"


def _closed(home: Home, section: PolicySection) -> Iterator[str]:
    """Say what is not given away before the next release, because what was spent on it is not known."""
    from contextlib import closing  # noqa: PLC0415 - loaded only when used

    from node.closed import closed  # noqa: PLC0415 - loaded only when used
    from node.state import open_state  # noqa: PLC0415 - loaded only when used
    from rsfed.privacy.policy import policy as policy_of  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.release_store import ReleaseStore  # noqa: PLC0415 - loaded only when used

    with closing(open_state(home)) as connection:
        for error in closed(home, connection, policy_of(section.level), ReleaseStore(home.releases).current()):
            yield f"  closed: {error.public} [{error.reason}]"


def _measured(section: PolicySection) -> Iterator[str]:
    if section.level in _TOLD:
        yield f"Measured: {_TOLD[section.level]} docs/privacy.md has the table."
        return
    exact, bits, labelled = _GAINS[section.cells_per_class]
    yield (
        f"Measured on EuroSAT and UC Merced with cells_per_class = {section.cells_per_class}, all cells asked, over an "
        f"attacker who knows the predicted class of each patch: exact codes +{exact} points (limit 1), bits off the "
        f"class code +{bits} points (limit 2); over one who knows its label alone bits +{labelled}. docs/privacy.md "
        "has the table."
    )
