"""Policy levels: what a node discloses, as data and in words.

At `partner` answers are exact; `disclose_exactly` says how much of them is listed. At `guarded` they go by cells:
`rsfed.privacy.cells` says what a code is taken for, `grid` where and when an item lies, `publication` which items may
be spoken of. At `catalogue`, `sealed` and `counts` no query is answered: `buckets` and `counts` make what is published.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import ConfigError
from rsfed.privacy.counts import MOST_EPSILON
from rsfed.privacy.detail import Detail
from rsfed.privacy.grid import ASKED

ROWS_PER_QUERY = 16_384
"""Buckets, and items, that a node lists for all codes of one query together; at least k of each for every code."""


class Withheld(Enum):
    """The closed list of why part of an answer was held back."""

    NOTHING = "nothing"
    LIMIT = "limit"
    POLICY = "policy"  # the level does; whether anything was, it does not say


@dataclass(frozen=True, slots=True)
class Ask:
    """What a query asks of a node for each of its codes.

    Attributes:
        k: How many items are wanted, and the largest sample of one bucket.
        radius: When given, all buckets within this distance are wanted instead of the nearest k items.
        codes: How many codes the query has.
    """

    k: int
    radius: int | None
    codes: int

    @property
    def row_limit(self) -> int:
        """Buckets, and items, that may be listed for one code."""
        return max(self.k, ROWS_PER_QUERY // self.codes)


@dataclass(frozen=True, slots=True)
class Disclosed:
    """What a node says about the buckets near one code: the first ones of its ranking.

    Attributes:
        distances: Distance of each listed bucket or the upper edge of its band, uint16, shape (m,).
        sizes: Number of items of each listed bucket, uint32, shape (m,).
        samples: How many of its items are listed, uint32, shape (m,).
        withheld: Why part of the answer was held back.
    """

    distances: NDArray[np.uint16]
    sizes: NDArray[np.uint32]
    samples: NDArray[np.uint32]
    withheld: Withheld


@dataclass(frozen=True, slots=True)
class Policy:
    """One level.

    Attributes:
        level: Name in `node.toml`.
        floor: Distinct acquisitions that anything that is told of several patches must come from; 1: no floor.
        by_cells: Whether a query stands for its cell, and answers speak of published atoms alone.
        explanation: What the level gives away, for the operator; `{filters}` stands for what filters give away,
            `{tile}` and `{widened}` for what places are told as, and filters widened to, where answers go by cells.
        publishes: Whether no query is answered, and a catalogue or counts are published instead.
        refines: Whether items of buckets of the catalogue are listed, under a budget.
    """

    level: str
    floor: int
    by_cells: bool
    explanation: str
    publishes: bool = False
    refines: bool = False

    @property
    def exact(self) -> bool:
        """Whether what is told is of the archive as it is at this moment, item by item."""
        return not (self.by_cells or self.publishes)

    @property
    def least_acquisitions(self) -> int:
        """Acquisitions that an archive needs for the level to start; with fewer, its floor hides next to nothing."""
        return 3 * self.floor if self.floor > 1 else 0


@dataclass(frozen=True, slots=True)
class Policies:
    """Who is answered at which level.

    Attributes:
        chosen: The node's level.
        analysts: Those of single analysts, by name.
    """

    chosen: Policy
    analysts: Mapping[str, Policy] = field(default_factory=dict)

    @classmethod
    def of(cls, level: str, analysts: Mapping[str, str]) -> Policies:
        """Return the policies of these levels.

        Raises:
            ConfigError: there is no such level.
        """
        return cls(policy(level), {name: policy(own) for name, own in analysts.items()})

    def for_analyst(self, name: str) -> Policy:
        """Return at which level an analyst is answered."""
        return self.analysts.get(name, self.chosen)

    @property
    def by_cells(self) -> Policy | None:
        """The policy of those who are answered by cells; None where nobody is."""
        return next((each for each in (self.chosen, *self.analysts.values()) if each.by_cells), None)

    @property
    def in_steps(self) -> bool:
        """Whether answers and refusals leave in steps of time: where anybody is answered by cells, or refines."""
        return self.by_cells is not None or any(each.refines for each in (self.chosen, *self.analysts.values()))


def policy(level: str) -> Policy:
    """Return the policy of a level.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in POLICIES:
        known = " or ".join(POLICIES)
        raise ConfigError(f"there is no policy level {level!r}; use {known}", reason="POLICY_LEVEL")
    return POLICIES[level]


def explain(level: str, detail: Detail) -> str:
    """Return in words what a level gives away.

    Args:
        level: The level.
        detail: In how much detail where and when is told, and what no query may be filtered by.

    Raises:
        ConfigError: there is no such level.
    """
    chosen = policy(level)
    filters = _filters(detail.kept | {"label"} if chosen.by_cells else detail.kept)
    least = ASKED if chosen.by_cells else Detail()
    places = max(detail.places, least.places, key=list(_PLACES).index)
    times = max(detail.times, least.times, key=list(_TIMES).index)
    told = f"\n  Detail:      places are told {_PLACES[places]}, times {_TIMES[times]}, and filters"
    if places != "country":
        filters += f"{told} widened alike."
        return chosen.explanation.format(filters=filters, tile="tile of one degree", widened="Months and degrees")
    filters += f"{told} by time widened alike.{_COUNTRY}"
    return chosen.explanation.format(filters=filters, tile="country", widened="Months and years")


def _filters(unfilterable: Collection[str]) -> str:
    """Return the part of an explanation that is about filters, in lines that fit below one another."""
    let = [word for field, word in _FIELDS.items() if field not in unfilterable]
    kept = [word for field, word in _FIELDS.items() if field in unfilterable]
    said = f"queries may be filtered by {_listed(let)}" if let else "no query may be filtered; one that is, is refused"
    if "label" not in unfilterable:
        said += ", so who filters by a class learns which patches are labelled so"
    said += ". "
    if let and kept:
        said += f"None by {_listed(kept, 'or')}: it would be refused. "
    said += "`policy.unfilterable` in node.toml names fields that none is filtered by."
    return textwrap.fill(said, 110, initial_indent="  Filters:     ", subsequent_indent=" " * 15)


def _listed(words: Sequence[str], joined: str = "and") -> str:
    *first, last = words
    return f"{', '.join(first)} {joined} {last}" if first else last


def disclose_exactly(ask: Ask, distances: NDArray[np.uint16], sizes: NDArray[np.int64]) -> Disclosed:
    """Disclose exact distances and sizes, and items in rank order: the nearest k, or k of each bucket in reach."""
    listed = slice(0, ask.row_limit)
    samples = np.minimum(sizes[listed], ask.k)
    room = ask.k if ask.radius is None else ask.row_limit
    before = np.cumsum(samples) - samples
    fitting = np.clip(room - before, 0, samples)
    cut = len(sizes) > ask.row_limit or (ask.radius is not None and (fitting < samples).any())
    return Disclosed(
        distances[listed].astype(np.uint16),
        sizes[listed].astype(np.uint32),
        fitting.astype(np.uint32),
        Withheld.LIMIT if cut else Withheld.NOTHING,
    )


_PLACES = {
    "exact": "exactly",
    "10km": "in tenths of a degree",
    "100km": "in whole degrees",
    "country": "as countries",
    "none": "not at all",
}
_TIMES = {"exact": "exactly", "day": "as days", "month": "as months", "year": "as years", "none": "not at all"}
_COUNTRY = """
               Of a patch the box around the country is told that holds the middle of its footprint; at sea, and
               without a footprint, nothing. No query may be filtered by place: a box cannot be widened to a country."""
_FIELDS = {"time": "time", "bbox": "place", "modality": "modality", "label": "class"}
_PARTNER = """\
Policy level: partner
  Stays here:  images, pixels, file names, paths, keys, stored labels.
  Given away:  exact distances, bucket sizes, footprints and dates of listed patches.
  This means:  the codes of this archive must be regarded as disclosed. Class centres are public, so the
               predicted class of every patch that can be reached is disclosed, and with it the class mix.
               Every analyst of the federation may ask. Use it among archives of one organisation.
{filters}
  In training: model updates; on a frozen trunk also sums of products of features, which disclose how many
               patches each class has and their mean features, of classes of 5 acquisitions at least
               (`training.sums = false` in node.toml keeps them here).
               After the last round of a run counts for calibration: for held-out patches, how many of the 20
               nearest items of this archive lie at each distance and how many of them share a class; how
               likely that is by chance; how many patches and acquisitions were asked. One acquisition counts
               as at most 1,000 pairs; there is no floor and no noise. For classes of five acquisitions at least,
               how often each bit of their codes is set. `training.calibration = false` keeps the counts here.
               All this reaches the coordinator, what follows from the counts every member;
               `training.enabled = false` keeps all of it here."""

_GUARDED = """\
Policy level: guarded
  Stays here:  images, pixels, file names, paths, keys, stored labels, codes but for their cell.
  Given away:  of published patches the cell of the release's codebook that each lies in: its predicted class. Of
               cell, {tile} and month so much as at least five acquisitions share; what fewer share is
               told more coarsely, at last not at all. Sizes as powers of two. Handles are new in every query.
  This means:  a query is taken for the nearest cell, and the answer is the same for all queries of a cell: asking
               more, with other filters, or again after the archive has changed, tells nothing that is about fewer
               than five acquisitions. What all cells together tell is the predicted class of every published patch.
               The node, and the coordinator, see the query's code and so its class.
{filters}
               {widened} are what they are widened to.
  Needs:       a release with a codebook, and an archive of at least 15 acquisitions, as files or `independent_files`
               tell them.
  Withheld:    buckets are not paged further. Whoever is refused learns POLICY and no more, the audit log why.
  In training: as at `partner`, but class statistics come from at least five acquisitions."""

_PUBLISHED = """\
Policy level: {level}
  Stays here:  images, pixels, file names, paths, keys, stored labels, places, dates, codes of single patches.
  Given away:  {given}
               Counts have noise: what one acquisition adds to them, at most `policy.counted_patches` patches of
               three classes, is hidden with epsilon {epsilon} an epoch at most and 2 under a release, added up; then
               they stay as they are until there is a new release.
  This means:  {means}
               Every member of the federation may read what is published, once in `policy.catalogue_days` anew, when
               {least} acquisitions came or went.
  Queries:     none is answered, whoever asks. Analysts search what is published on their own machine
               (`rsfed query --private`), so neither this node nor the coordinator learns what they search.
  Needs:       a release with a codebook, and an archive of at least {least} acquisitions, as files or
               `independent_files` tell them.
  In training: as at `partner`, but class statistics come from at least five acquisitions."""

_BUCKETS = """\
a signed list of codes, each in the middle of a bucket of patches of at least {floor} acquisitions, and how
               many patches a bucket has."""
_REFINED = """
               Who refines, and so tells this node which buckets, gets handles of {floor} patches of each, one an
               acquisition, and no distance. A patch is listed at most `policy.refine_budget` times under a release."""
_SEARCHED = """\
which kinds of pictures the archive holds is told as finely as {floor} acquisitions share them. The codes in
               the middle have no noise: who knows all but one of the acquisitions may guess at that one from them."""


def _published(level: str, floor: int, given: str, means: str) -> str:
    words = {"level": level, "floor": floor, "least": 3 * floor, "epsilon": f"{MOST_EPSILON:g}"}
    return _PUBLISHED.format(given=given.format(**words), means=means.format(**words), **words)


_CATALOGUE = _published("catalogue", 10, _BUCKETS + _REFINED, _SEARCHED)
_SEALED = _published("sealed", 20, _BUCKETS, _SEARCHED)
_COUNTS = _published(
    "counts",
    10,
    "how many patches there are of each class of the codebook, as the release sees them.",
    "nothing but these counts leaves, and they are differentially private in the acquisition.",
)

POLICIES: Mapping[str, Policy] = {
    each.level: each
    for each in (
        Policy(level="partner", floor=1, by_cells=False, explanation=_PARTNER),
        Policy(level="guarded", floor=5, by_cells=True, explanation=_GUARDED),
        Policy(level="catalogue", floor=10, by_cells=False, explanation=_CATALOGUE, publishes=True, refines=True),
        Policy(level="sealed", floor=20, by_cells=False, explanation=_SEALED, publishes=True),
        Policy(level="counts", floor=10, by_cells=False, explanation=_COUNTS, publishes=True),
    )
}
"""The levels, the one that discloses most first."""
