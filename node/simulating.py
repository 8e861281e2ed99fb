"""The audited load of queries, replayed against levels of policy on the node's own archive; nothing leaves the node.

The log says how often was asked, not what. So patches of the archive ask, some of them often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from node import audit
from node.borders import detail_of
from node.presence import Presence
from node.publishing import present_items
from node.served import Facts
from rsfed.errors import StaleRelease
from rsfed.privacy.cells import Cells
from rsfed.privacy.policy import POLICIES, Policy
from rsfed.privacy.simulation import Replayed, drawn, joined, replay, seen_at
from rsfed.trust.release_store import ReleaseStore

if TYPE_CHECKING:
    from node.catalogue import Catalogue
    from rsfed.codes import Codes, Ids
    from rsfed.config_policy import PolicySection
    from rsfed.home import Home
    from rsfed.index.facets import Columns
    from rsfed.privacy.countries import Countries
    from rsfed.privacy.publication import Present
    from rsfed.trust.release_store import Release

AT_MOST = 2_000
"""Queries that are replayed of a longer load, and of one that nothing is known of."""
_LABELLED = 0.5  # of the patches, from which on classes are those of labels


@dataclass(frozen=True, slots=True)
class Level:
    """What one level would have done.

    Attributes:
        policy: The level.
        told: Share of the patches that it speaks of.
        replayed: What queries got; None where the archive has too few acquisitions for it.
    """

    policy: Policy
    told: float
    replayed: Replayed | None


@dataclass(frozen=True, slots=True)
class Simulation:
    """The outcome.

    Attributes:
        load: What the log says.
        queries: How many were replayed.
        asking: How many patches asked.
        seed: Of the draw.
        patches: Patches that have a code.
        acquisitions: Acquisitions that they are of.
        by: What classes are by: "labels", where most patches have one, or "codebook".
        levels: What each level would have done.
    """

    load: audit.Load
    queries: int
    asking: int
    seed: int
    patches: int
    acquisitions: int
    by: str
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """The archive as one encoder sees it, and which of its patches ask."""

    codes: Codes
    present: Present
    kinds: NDArray[np.int64]
    alike: NDArray[np.bool_]
    queries: Sequence[int]


def simulate(  # noqa: PLR0913 - what is replayed where
    home: Home, catalogue: Catalogue, section: PolicySection, levels: Sequence[str], *, queries: int | None, seed: int
) -> Simulation:
    """Replay the audited load against levels.

    Args:
        home: The node's home.
        catalogue: Its catalogue.
        section: The configured policy.
        levels: The levels.
        queries: How many queries to replay; None for as many as are in the log, up to `AT_MOST`.
        seed: Decides which patches ask.

    Raises:
        StaleRelease: there is no release yet, no patch has a code of it, or NO_CODEBOOK: no level but `partner` can
            start.
        StateError: AUDIT_MISSING or AUDIT_DAMAGED.
        ConfigError: the borders that the policy names will not do.
    """
    release = ReleaseStore(home.releases).current()
    if release is None:
        raise StaleRelease("the federation has no release yet; join, and let `rsfed node serve` fetch one")
    if not release.manifest.codebook:
        raise StaleRelease(
            "the release has no codebook, so only `partner` starts: train on archives that say when their images were "
            "taken, and contribute to the calibration",
            reason="NO_CODEBOOK",
        )
    load = audit.load(home, catalogue.connection)
    count = queries or min(load.queries, AT_MOST) or AT_MOST
    own, classes = (_cells(release, per_class) for per_class in (section.cells_per_class, 1))
    countries = detail_of(home, section).countries
    parts, by = _parts(catalogue, release, own, classes, count, seed, countries)
    acquisitions = len(np.unique(np.concatenate([part.present.acquisitions for part in parts])))
    return Simulation(
        load,
        count,
        sum(len(set(part.queries)) for part in parts),
        seed,
        sum(len(part.codes) for part in parts),
        acquisitions,
        by,
        tuple(_level(POLICIES[level], parts, own, classes, acquisitions) for level in levels),
    )


def _level(policy: Policy, parts: Sequence[_Part], own: Cells, classes: Cells, acquisitions: int) -> Level:
    if acquisitions < policy.least_acquisitions:
        return Level(policy, 0.0, None)
    all_seen = [seen_at(policy, part.codes, part.present, own, classes) for part in parts]
    told = sum(0 if seen is None else np.count_nonzero(seen.groups >= 0) for seen in all_seen)
    replayed = joined(
        replay(seen, part.codes, part.kinds, part.alike, part.queries)
        for seen, part in zip(all_seen, parts, strict=True)
    )
    return Level(policy, told / sum(len(part.codes) for part in parts), replayed)


def _parts(  # noqa: PLR0913, PLR0917 - what an archive is cut into
    catalogue: Catalogue,
    release: Release,
    own: Cells,
    classes: Cells,
    queries: int,
    seed: int,
    countries: Countries | None,
) -> tuple[list[_Part], str]:
    """Return the archive by encoder, with the patches that ask, and what their classes are by."""
    held = [each for name in sorted(release.manifest.encoders) if len((each := _held(catalogue, release, name))[0])]
    if not held:
        raise StaleRelease("no patch has a code of the current release yet; let `rsfed node serve` make them")
    patches = sum(len(ids) for ids, _, _ in held)
    labelled = sum(np.count_nonzero(_with_label(known)) for _, _, known in held) >= _LABELLED * patches
    asking, start, parts = drawn(patches, queries, seed), 0, []
    for ids, codes, known in held:
        inside = asking[(asking >= start) & (asking < start + len(ids))] - start
        start += len(ids)
        if labelled:
            kinds, alike = known.kinds.astype(np.int64), _sharing(known.kind_values)
        else:
            kinds, alike = classes.nearest(codes)[0], np.eye(len(classes.codes), dtype=np.bool_)
        present = present_items(catalogue.connection, own, (ids, codes, known), countries)
        parts.append(_Part(codes, present, kinds, alike, inside.tolist()))
    return parts, "labels" if labelled else "codebook"


def _held(catalogue: Catalogue, release: Release, encoder: str) -> tuple[Ids, Codes, Columns]:
    """Return the present patches that have a code, their codes, and what is known of them."""
    ids, codes = catalogue.codes(release.digest, encoder)
    stays = np.isin(ids, Presence(catalogue.connection).ids(release.manifest.encoders[encoder].modality))
    return ids[stays], codes[stays], Facts.read(catalogue.connection, ids[stays]).columns


def _with_label(known: Columns) -> NDArray[np.bool_]:
    """Return which patches have a class of the federation; a kind begins with the modality."""
    return np.array([len(kind) > 1 for kind in known.kind_values], np.bool_)[known.kinds]


def _sharing(kinds: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Return which kinds share a class."""
    return np.array([[bool({*one[1:]} & {*other[1:]}) for other in kinds] for one in kinds], np.bool_)


def _cells(release: Release, per_class: int) -> Cells:
    return Cells.of(release.manifest.codebook, release.manifest.codebook_reach, per_class=per_class)
