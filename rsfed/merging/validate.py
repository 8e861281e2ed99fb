"""Whether a node's answer keeps the rules. An answer that breaks one is dropped whole; the others stay.

What is checked, in this order:
- it answers this query with this release, one answer for each code, at a known policy level, by the whole filter,
  banded and held back as that level does;
- it lists no more buckets and items than a node may, before any time is spent on them;
- every column has one value for each bucket or item;
- examined <= held, both the same for every code and not less than the items that are listed;
- buckets end where the k-th item is reached, or at the radius; samples are at most min(k, size);
- distances never fall and lie in [0, bits]; at one exact distance lie no more buckets than there are codes;
- no handle is listed twice.
"""

from __future__ import annotations

from math import comb
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import InvalidAnswer, InvalidMessage
from rsfed.merging.answers import BucketColumns, NodeAnswer, Question
from rsfed.privacy.policy import Ask
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import outcome_pb2
from rsfed.wire import DEGREE, EARLIEST, HANDLE_BYTES, LATEST, MAX_HELD, NO_FOOTPRINT, NO_TIME

Scalar = TypeVar("Scalar", bound=np.generic)
_Listed = pb.BucketAnswer | pb.ArchiveServiceExpandBucketResponse
_BY_CELLS = outcome_pb2.POLICY_LEVEL_GUARDED
_WITHHELD = {
    outcome_pb2.POLICY_LEVEL_PARTNER: {outcome_pb2.WITHHELD_REASON_NOTHING, outcome_pb2.WITHHELD_REASON_LIMIT},
    _BY_CELLS: {outcome_pb2.WITHHELD_REASON_POLICY},
}


def rows_of(response: pb.ArchiveServiceSearchResponse) -> int:
    """Return how many buckets and items an answer lists."""
    return sum(len(answer.bucket_handles) + len(answer.item_handles) for answer in response.answers) // HANDLE_BYTES


def rows_of_page(response: pb.ArchiveServiceExpandBucketResponse) -> int:
    """Return how many items the page of a bucket lists."""
    return len(response.item_handles) // HANDLE_BYTES


def validate(response: pb.ArchiveServiceSearchResponse, question: Question) -> NodeAnswer:
    """Return a node's answer as columns if it keeps every rule.

    Raises:
        InvalidAnswer: it breaks one.
        InvalidMessage: FILTER_UNSUPPORTED, the query has a filter and the node's software knows none.
    """
    _require(response.query_id == question.query_id, "it answers another query")
    _require(response.release_digest == question.release_digest, "it searched another release")
    _require(len(response.answers) == question.codes, "it has not one answer for each code")
    _require(response.level in _WITHHELD, "its policy level is unknown")
    _check_filter(response, question)
    first = response.answers[0]
    columns = []
    for answer in response.answers:
        _require((answer.examined, answer.held) == (first.examined, first.held), "its counts differ between codes")
        _require(answer.withheld in _WITHHELD[response.level], "what was held back is not said as its level does")
        banded = answer.band_width > 1 and response.level != _BY_CELLS
        _require(answer.band_width > 0 and not banded, "its distances are banded, which its policy level does not do")
        columns.append(_columns(answer, question))
    held_back = max(answer.withheld for answer in response.answers)
    unknown = response.unknown if response.HasField("unknown") else None
    _require((unknown or 0) <= first.examined, "its counts contradict each other")
    return NodeAnswer(tuple(columns), first.examined, first.held, response.level, held_back, unknown)


def validate_expansion(
    response: pb.ArchiveServiceExpandBucketResponse, request: pb.ArchiveServiceExpandBucketRequest
) -> None:
    """Check the page of a bucket.

    Raises:
        InvalidAnswer: it holds more than was asked for, a column of another length, or a handle twice.
    """
    handles = _rows(response.item_handles, np.uint8, HANDLE_BYTES)
    _require(len(handles) <= min(request.limit, max(0, response.size - request.offset)), "its page is too long")
    _require(_distinct(handles), "it lists an item twice")
    _footprints(response, len(handles))
    _acquired(response, len(handles))


def _check_filter(response: pb.ArchiveServiceSearchResponse, question: Question) -> None:
    if question.filtered and not response.filtered:
        raise InvalidMessage(
            "the node's software knows no filters; update it, or ask without one", reason="FILTER_UNSUPPORTED"
        )
    _require(tuple(response.filtered) == question.filtered, "it was filtered by something else")
    _require(bool(question.filtered) or not response.HasField("unknown"), "it counts for a filter that there is not")


def _columns(answer: pb.BucketAnswer, question: Question) -> BucketColumns:
    limit = Ask(question.k, question.radius, question.codes).row_limit
    longest = max(len(answer.bucket_handles), len(answer.item_handles))
    _require(longest <= limit * HANDLE_BYTES, "it lists more than a node may")
    handles = _rows(answer.bucket_handles, np.uint8, HANDLE_BYTES)
    columns = BucketColumns(
        handles=handles,
        distances=_rows(answer.distance_upper, np.uint16, 1, len(handles)),
        sizes=_rows(answer.bucket_sizes, np.uint32, 1, len(handles)),
        samples=_rows(answer.sample_counts, np.uint32, 1, len(handles)),
        item_handles=(items := _rows(answer.item_handles, np.uint8, HANDLE_BYTES)),
        footprints=_footprints(answer, len(items)),
        acquired=_acquired(answer, len(items)),
    )
    _require(int(columns.samples.sum(dtype=np.uint64)) == len(items), "its samples and item handles differ")
    _check_counts(columns, answer, question)
    _check_distances(columns, question)
    _require(_distinct(handles) and _distinct(items), "it lists a handle twice")
    return columns


def _check_distances(columns: BucketColumns, question: Question) -> None:
    distances = columns.distances.astype(np.int64)
    _require(bool((np.diff(distances) >= 0).all()), "its distances fall")
    last = int(distances[-1]) if len(distances) else 0
    largest = question.bits if question.radius is None else min(question.radius, question.bits)
    _require(last <= largest, "a distance is out of range")
    at, buckets = np.unique(distances, return_counts=True)
    possible = all(count <= comb(question.bits, int(d)) for d, count in zip(at, buckets, strict=True))
    _require(possible, "it lists more buckets at a distance than there are codes")


def _check_counts(columns: BucketColumns, answer: pb.BucketAnswer, question: Question) -> None:
    sizes = columns.sizes.astype(np.int64)
    total = int(sizes.sum())
    _require(answer.HasField("examined") and answer.HasField("held"), "its counts are missing")
    _require(total <= answer.examined <= answer.held <= MAX_HELD, "its counts contradict each other")
    _require(bool((sizes >= 1).all()), "it lists an empty bucket")
    _require(bool((columns.samples <= np.minimum(sizes, question.k)).all()), "a sample is too large")
    if question.radius is None and len(sizes):
        nearer = int(sizes[columns.distances < columns.distances[-1]].sum())
        _require(nearer < question.k, "it lists buckets beyond the k-th item")
    unfiltered = not question.filtered  # how many items pass a filter is the node's to know
    if question.radius is None and unfiltered and answer.withheld == outcome_pb2.WITHHELD_REASON_NOTHING:
        _require(total >= min(question.k, answer.examined), "it lists fewer items than it examined")


def _footprints(answer: _Listed, items: int) -> NDArray[np.int32] | None:
    if not answer.HasField("footprints"):
        return None
    column = _rows(answer.footprints, np.int32, 4, items)
    west, south, east, north = column.astype(np.int64).T
    unknown = (column == NO_FOOTPRINT).all(axis=1)
    inside = (abs(west) <= 180 * DEGREE) & (abs(east) <= 180 * DEGREE)
    inside &= (south >= -90 * DEGREE) & (south <= north) & (north <= 90 * DEGREE)
    _require(bool((inside | unknown).all()), "a footprint does not lie on the Earth")
    return column


def _acquired(answer: _Listed, items: int) -> NDArray[np.int64] | None:
    if not answer.HasField("acquired"):
        return None
    column = _rows(answer.acquired, np.int64, 2, items)
    unknown = (column == NO_TIME).all(axis=1)
    known = (column[:, 0] != NO_TIME) & (column[:, 0] <= column[:, 1])
    _require(bool((known | unknown).all()), "an acquired interval ends before it starts")
    dated = (column >= EARLIEST) & (column <= LATEST)
    _require(bool((dated.all(axis=1) | unknown).all()), "an acquired interval lies outside the calendar")
    return column


def _rows(data: bytes, scalar: type[Scalar], width: int, count: int | None = None) -> NDArray[Scalar]:
    """Return packed little-endian values as shape (n, width), or (n,) for width 1."""
    dtype = np.dtype(scalar).newbyteorder("<")
    row = dtype.itemsize * width
    _require(len(data) % row == 0 and count in {None, len(data) // row}, "its columns differ in length")
    values = np.frombuffer(data, dtype=dtype)
    return values if width == 1 else values.reshape(-1, width)


def _distinct(handles: NDArray[np.uint8]) -> bool:
    """Say whether no row, uint8, shape (n, 16), occurs twice."""
    words = np.ascontiguousarray(handles).view(np.uint64)  # sorted much faster than rows of bytes
    ordered = words[np.lexsort((words[:, 1], words[:, 0]))]
    return not (ordered[1:] == ordered[:-1]).all(axis=1).any()


def _require(holds: bool, breach: str) -> None:
    if not holds:
        raise InvalidAnswer(f"the node's answer was dropped: {breach}")
