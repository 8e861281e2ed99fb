"""From the columns of the wire to results, with every rule of an answer checked before anything is used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rsfed.analyst.results import Box, Bucket, Hit, Interval, Outcome, SearchResult
from rsfed.errors import InvalidAnswer, InvalidMessage, UsageError
from rsfed.trust.envelope import filter_names
from rsfed.trust.names import check_label
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2
from rsfed.wire import DEGREE, HANDLE_BYTES, NO_FOOTPRINT, NO_TIME

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REASON = re.compile(r"[A-Z0-9_]{0,63}")


def decode_response(
    response: query_pb2.QueryServiceSearchResponse,
    *,
    query_id: bytes,
    codes: int,
    bits: int,
    filtered: Sequence[str] = (),
) -> list[SearchResult]:
    """Return one checked result for each code of a query.

    Args:
        response: What the coordinator answered.
        query_id: The query that was asked, 16 bytes.
        codes: How many codes it had.
        bits: Width of the codes.
        filtered: Fields that the query is filtered by.

    Raises:
        InvalidAnswer: the response breaks a rule; nothing of it may be used.
        InvalidMessage: FILTER_UNSUPPORTED, the filter was not applied because software knows none.
    """
    _check(response.query_id == query_id, "answers another query")
    _check(len(response.rankings) == codes, "does not answer every code")
    outcomes = tuple(decode_outcome(outcome) for outcome in response.outcomes)
    _check_filtered(outcomes, tuple(filtered))
    known = {outcome.node for outcome in outcomes}
    _check(len(known) == len(outcomes), "names a node twice")
    results = []
    for index, ranking in enumerate(response.rankings):
        buckets = _buckets(ranking, bits)
        _check(known.issuperset(ranking.nodes), "ranks items of a node that has no outcome")
        results.append(SearchResult(query_id, index, _hits(ranking, buckets), buckets, outcomes))
    return results


def _check_filtered(outcomes: Iterable[Outcome], filtered: tuple[str, ...]) -> None:
    """See to it that no unfiltered answer is taken for a filtered one."""
    answers = [outcome for outcome in outcomes if outcome.coverage is not None]
    if filtered and any(not outcome.filtered for outcome in answers):
        raise InvalidMessage(
            "the coordinator's software knows no filters; ask its operator to update it, or search without one",
            reason="FILTER_UNSUPPORTED",
        )
    _check(all(outcome.filtered == filtered for outcome in answers), "was filtered by something else")


def decode_outcome(outcome: outcome_pb2.NodeOutcome) -> Outcome:
    """Return one checked outcome.

    Raises:
        InvalidAnswer: the outcome breaks a rule.
    """
    try:
        check_label(outcome.node, "a node's name")
        status = outcome_pb2.NodeStatus.Name(outcome.status).removeprefix("NODE_STATUS_")
        level = outcome_pb2.PolicyLevel.Name(outcome.level).removeprefix("POLICY_LEVEL_")
        withheld = outcome_pb2.WithheldReason.Name(outcome.withheld).removeprefix("WITHHELD_REASON_")
        filtered = tuple(filter_names(outcome.filtered))
        unfilterable = tuple(filter_names(outcome.unfilterable))
    except (UsageError, ValueError) as error:
        raise _broken("has an outcome that this software does not know") from error
    coverage = outcome.coverage if outcome.HasField("coverage") else None
    _check(status != "UNSPECIFIED", "has an outcome without status")
    _check(coverage is None or 0 <= coverage <= 1, "covers more than a whole archive")
    _check(_REASON.fullmatch(outcome.reason) is not None, "gives a reason that is no reason")
    return Outcome(
        node=outcome.node,
        status=status,
        elapsed_ms=round(outcome.elapsed.ToTimedelta() / timedelta(milliseconds=1), 3),
        coverage=coverage,
        held=outcome.held if outcome.HasField("held") else None,
        level="" if level == "UNSPECIFIED" else level.lower(),
        reason=outcome.reason,
        withheld="" if withheld == "UNSPECIFIED" else withheld,
        filtered=filtered,
        unknown=outcome.unknown if outcome.HasField("unknown") else None,
        unfilterable=unfilterable,
    )


def decode_page(
    page: archive_pb2.ArchiveServiceExpandBucketResponse, bucket: Bucket, position: int, *, offset: int, limit: int
) -> list[Hit]:
    """Return the items of one page of a bucket; their ranks are 0 until they are merged into a ranking.

    Args:
        page: What the node answered.
        bucket: The bucket.
        position: Its place in the ranking.
        offset: Rank in the bucket of the first item that was asked for.
        limit: How many were asked for.

    Raises:
        InvalidAnswer: the page breaks a rule.
    """
    handles = _handles(page.item_handles)
    _check(page.size == bucket.size, "gives a bucket another size")
    _check(len(handles) == min(limit, max(0, bucket.size - offset)), "lists not as many items as were asked for")
    _check(len(set(handles)) == len(handles), "lists an item twice")
    places = _places(page.footprints if page.HasField("footprints") else None, len(handles))
    times = _times(page.acquired if page.HasField("acquired") else None, len(handles))
    return [
        Hit(0, bucket.node, handle.hex(), bucket.distance, position, bucket.size, place, time)
        for handle, place, time in zip(handles, places, times, strict=True)
    ]


def _buckets(ranking: query_pb2.Ranking, bits: int) -> tuple[Bucket, ...]:
    nodes, handles = _integers(ranking.bucket_nodes, "<u2"), _handles(ranking.bucket_handles)
    distances, sizes = _integers(ranking.bucket_distances, "<u2"), _integers(ranking.bucket_sizes, "<u4")
    _check(len(nodes) == len(handles) == len(distances) == len(sizes), "has columns of different lengths")
    _check(len(set(ranking.nodes)) == len(ranking.nodes), "names a node twice")
    _check(bool((nodes < len(ranking.nodes)).all()), "has a bucket of no node")
    _check(bool((distances <= bits).all()), "has a distance wider than the codes")
    _check(bool((sizes > 0).all()), "has an empty bucket")
    columns = zip(nodes.tolist(), handles, distances.tolist(), sizes.tolist(), strict=True)
    buckets = tuple(Bucket(ranking.nodes[node], *rest) for node, *rest in columns)
    _check(len({(b.node, b.handle) for b in buckets}) == len(buckets), "lists a bucket twice")
    return buckets


def _hits(ranking: query_pb2.Ranking, buckets: tuple[Bucket, ...]) -> tuple[Hit, ...]:
    positions, handles = _integers(ranking.hit_buckets, "<u4"), _handles(ranking.hit_handles)
    _check(len(positions) == len(handles), "has columns of different lengths")
    _check(bool((positions < len(buckets)).all()), "has a hit of no bucket")
    listed = np.bincount(positions, minlength=len(buckets))
    _check(bool((listed <= [bucket.size for bucket in buckets]).all()), "lists more items than a bucket has")
    places = _places(ranking.footprints if ranking.HasField("footprints") else None, len(handles))
    times = _times(ranking.acquired if ranking.HasField("acquired") else None, len(handles))
    rows = zip(positions.tolist(), handles, places, times, strict=True)
    hits = tuple(
        Hit(rank, (b := buckets[at]).node, handle.hex(), b.distance, at, b.size, place, time)
        for rank, (at, handle, place, time) in enumerate(rows, 1)
    )
    _check(all(a.distance <= b.distance for a, b in pairwise(hits)), "is not in rank order")
    _check(len({(hit.node, hit.handle) for hit in hits}) == len(hits), "lists an item twice")
    return hits


def _integers(column: bytes, dtype: str) -> NDArray[np.integer]:
    _check(len(column) % np.dtype(dtype).itemsize == 0, "has a column that is cut off")
    return np.frombuffer(column, dtype=dtype)


def _handles(column: bytes) -> list[bytes]:
    _check(len(column) % HANDLE_BYTES == 0, "has a column that is cut off")
    return [column[start : start + HANDLE_BYTES] for start in range(0, len(column), HANDLE_BYTES)]


def _places(column: bytes | None, count: int) -> list[Box | None]:
    if column is None:
        return [None] * count
    rows = _integers(column, "<i4")
    _check(len(rows) == 4 * count, "has columns of different lengths")
    return [_place(*row) for row in rows.reshape(-1, 4).tolist()]


def _place(west: int, south: int, east: int, north: int) -> Box | None:
    if west == south == east == north == NO_FOOTPRINT:
        return None
    inside = max(abs(west), abs(east)) <= 180 * DEGREE and -90 * DEGREE <= south <= north <= 90 * DEGREE
    _check(inside, "has a footprint outside the world")
    return west / DEGREE, south / DEGREE, east / DEGREE, north / DEGREE


def _times(column: bytes | None, count: int) -> list[Interval | None]:
    if column is None:
        return [None] * count
    rows = _integers(column, "<i8")
    _check(len(rows) == 2 * count, "has columns of different lengths")
    return [_interval(*row) for row in rows.reshape(-1, 2).tolist()]


def _interval(start: int, end: int) -> Interval | None:
    if start == end == NO_TIME:
        return None
    _check(start <= end, "has an acquisition that ends before it starts")
    try:
        return _EPOCH + timedelta(milliseconds=start), _EPOCH + timedelta(milliseconds=end)
    except OverflowError as error:
        raise _broken("has an acquisition outside the calendar") from error


def _check(holds: bool, broken_rule: str) -> None:
    if not holds:
        raise _broken(broken_rule)


def _broken(rule: str) -> InvalidAnswer:
    return InvalidAnswer(f"the coordinator's answer {rule}; nothing of it is used. Tell the coordinator's operator")
