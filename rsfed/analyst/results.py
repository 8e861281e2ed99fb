"""What a search returned: ranked hits, the buckets they lie in, and how each node took part. Plain data, no IO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rsfed.analyst.claims import Claim
from rsfed.analyst.state import Found
from rsfed.merging.shares import within_share

if TYPE_CHECKING:
    from rsfed.trust.manifest import Calibration

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees of WGS 84; west > east when the box crosses 180 degrees."""
Interval = tuple[datetime, datetime]

UNREACHED = frozenset({"TIMED_OUT", "UNREACHABLE", "EJECTED"})
"""Statuses of nodes that did not answer at all."""
_ANSWERED = frozenset({"COMPLETE", "PARTIAL"})


def when(acquired: Interval) -> str:
    """Return an interval as finely as it tells a time: "2024", "2024-05", "2024-05-31", or its first and last of these.

    What a policy tells by whole years or months is not shown as their first day.
    """
    start, end = acquired
    after = end + timedelta(seconds=1)  # units end with their last second, or a part of it
    form = "%Y-%m-%d"
    whole_days = not any((start.hour, start.minute, after.hour, after.minute))
    if whole_days and start.day == after.day == 1 and after.date() > start.date():
        form = "%Y" if start.month == after.month == 1 else "%Y-%m"
    first, last = start.strftime(form), end.strftime(form)
    return first if first == last else f"{first}/{last}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one node took part in a query.

    Attributes:
        node: Registered name.
        status: `COMPLETE`, `PARTIAL`, `TIMED_OUT`, `UNREACHABLE`, `BUSY`, `EJECTED`, `REFUSED`, `STALE_RELEASE`
            or `INVALID`.
        elapsed_ms: Time from send to answer as measured by the coordinator.
        coverage: Items examined divided by items held, 0 to 1; None when the node gave no answer.
        held: Items held, as the node's policy discloses it.
        level: Policy level of the answer, or of a refusal for it; "" when there was none.
        reason: Reason of a failure; "" on success.
        withheld: Why part of the answer was held back; "NOTHING" when none was, "" when there was no answer.
        filtered: Fields of the query's filter, which the node applied: of time, bbox, modality, label.
        unknown: Items that say nothing of such a field, so that they cannot pass; None without filter or answer.
        unfilterable: Fields of the query's filter that the node lets no query be filtered by, for which it refused.
        bounded: Whether it has no more than its share of the ranking, because a claim of it did not hold.
    """

    node: str
    status: str
    elapsed_ms: float
    coverage: float | None = None
    held: int | None = None
    level: str = ""
    reason: str = ""
    withheld: str = ""
    filtered: tuple[str, ...] = ()
    unknown: int | None = None
    unfilterable: tuple[str, ...] = ()
    bounded: bool = False


@dataclass(frozen=True, slots=True)
class Bucket:
    """All items of one node with one code; `handle` names it to `expand` only."""

    node: str
    handle: bytes
    distance: int
    size: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One item of a ranking.

    Attributes:
        rank: Position in the ranking, from 1.
        node: Node that holds the item.
        handle: 32 hexadecimal digits that name the item to this analyst, in this query only.
        distance: Hamming distance in bits, or the upper edge of its band.
        bucket: Position of the item's bucket in `SearchResult.buckets`.
        bucket_size: Items of that bucket in all.
        footprint: Coarse place; None when undisclosed or unknown.
        acquired: Coarse start and end; None when undisclosed or unknown.
        relevance: Measured probability that an item at this distance shares a class with the query; None where the
            release does not say.
    """

    rank: int
    node: str
    handle: str
    distance: int
    bucket: int
    bucket_size: int
    footprint: Box | None = None
    acquired: Interval | None = None
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What a ranking was made from: digest of the release, its encoder, and the packed query code."""

    release: bytes
    encoder: str
    code: bytes


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The ranking for one code.

    Attributes:
        query_id: Random name of the query, 16 bytes; codes that travelled together share it.
        code_index: Which of the query's codes this ranking is for.
        hits: In rank order.
        buckets: Every bucket that was listed, nearest first.
        outcomes: One for each node, in the order of their names.
        query_digest: SHA-256 of the signed query, hexadecimal: how audit logs name it.
        origin: What it was made from; None where claims of nodes are not kept.
    """

    query_id: bytes
    code_index: int
    hits: tuple[Hit, ...]
    buckets: tuple[Bucket, ...]
    outcomes: tuple[Outcome, ...]
    query_digest: str = ""
    origin: Origin | None = None

    @property
    def matched(self) -> int:
        """Items of all buckets as near as the answer reaches, listed one by one or not."""
        return sum(bucket.size for bucket in self.buckets)

    def found(self) -> list[Found]:
        """Return where the handles of the hits came from, and what was said of them."""
        levels = {outcome.node: outcome.level for outcome in self.outcomes}
        return [
            Found(bytes.fromhex(hit.handle), hit.node, self.query_id, self._claim(hit, levels.get(hit.node, "")))
            for hit in self.hits
        ]

    def _claim(self, hit: Hit, level: str) -> str:
        if self.origin is None:
            return ""
        release, code = self.origin.release.hex(), self.origin.code.hex()
        return Claim(release, self.origin.encoder, level, code, hit.distance).to_text()

    def bounded(self, nodes: Collection[str], k: int | None) -> SearchResult:
        """Return the result with no more than their share of hits of some nodes, which say so.

        Args:
            nodes: Nodes that are not believed.
            k: Items wanted; None where all are.
        """
        answered = sum(outcome.status in _ANSWERED for outcome in self.outcomes)
        stay = within_share([hit.node for hit in self.hits], nodes, answered, k)
        hits = tuple(replace(self.hits[position], rank=rank) for rank, position in enumerate(stay, 1))
        outcomes = tuple(replace(each, bounded=each.node in nodes) for each in self.outcomes)
        last = hits[-1].distance if k is not None and len(hits) == k else None
        buckets = tuple(bucket for bucket in self.buckets if last is None or bucket.distance <= last)
        return replace(self, hits=hits, buckets=buckets, outcomes=outcomes)

    def first(self, count: int) -> SearchResult:
        """Return the result with its first `count` hits."""
        return replace(self, hits=self.hits[:count])

    def complete(self) -> bool:
        """Say whether every node searched its whole archive."""
        return all(outcome.status == "COMPLETE" for outcome in self.outcomes)

    def answered(self) -> bool:
        """Say whether any node searched its archive; a refusal is no answer."""
        return any(outcome.status in _ANSWERED for outcome in self.outcomes)


def worst_outcomes(results: Sequence[SearchResult]) -> tuple[Outcome, ...]:
    """Return one outcome for each node over several queries: the first one that is not complete, else the last."""
    worst: dict[str, Outcome] = {}
    for result in results:
        for outcome in result.outcomes:
            if outcome.node not in worst or worst[outcome.node].status == "COMPLETE":
                worst[outcome.node] = outcome
    return tuple(worst[node] for node in sorted(worst))


def rate(hits: Iterable[Hit], table: Calibration | None) -> tuple[Hit, ...]:
    """Return hits with the relevance that a release's table gives to their distance."""
    return tuple(replace(hit, relevance=None if table is None else table.relevance(hit.distance)) for hit in hits)


def merge_pages(result: SearchResult, pages: Mapping[int, Sequence[Hit]]) -> SearchResult:
    """Put further items of buckets where the ranking of the whole would have them.

    The order is the federation's own: by distance; at equal distance one item of each node in turn, the nodes in the
    order in which their buckets are listed; within a node bucket after bucket.

    Args:
        result: A ranking.
        pages: Further items by bucket, in the order of the bucket, without those the ranking has; ranks are ignored.
    """
    in_bucket: dict[int, list[Hit]] = defaultdict(list)
    for hit in (*result.hits, *(hit for bucket in sorted(pages) for hit in pages[bucket])):
        in_bucket[hit.bucket].append(hit)
    lanes: dict[int, dict[str, list[Hit]]] = defaultdict(dict)
    for position, bucket in enumerate(result.buckets):
        lanes[bucket.distance].setdefault(bucket.node, []).extend(in_bucket[position])
    ordered = [hit for distance in sorted(lanes) for hit in _in_turn(lanes[distance].values())]
    return replace(result, hits=tuple(replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1)))


def mark_partial(result: SearchResult, failed: Mapping[str, str]) -> SearchResult:
    """Return the result with the outcome of nodes whose buckets could not be listed to the end as PARTIAL.

    Args:
        result: A ranking.
        failed: Reason of the failure by node.
    """
    outcomes = tuple(
        replace(outcome, status="PARTIAL", reason=failed[outcome.node]) if outcome.node in failed else outcome
        for outcome in result.outcomes
    )
    return replace(result, outcomes=outcomes)


def _in_turn(lanes: Iterable[list[Hit]]) -> list[Hit]:
    """Take the first of every lane, then the second of every lane that has one, and so on."""
    places = [(place, lane, hit) for lane, hits in enumerate(lanes) for place, hit in enumerate(hits)]
    return [hit for _, _, hit in sorted(places, key=lambda entry: entry[:2])]
