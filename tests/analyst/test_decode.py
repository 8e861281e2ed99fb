"""The analyst's checks of the coordinator's answer, rule by rule."""

import struct
from datetime import UTC, datetime

import pytest

from rsfed.analyst.decode import decode_outcome, decode_page, decode_response
from rsfed.analyst.results import Bucket, merge_pages
from rsfed.errors import InvalidAnswer, InvalidMessage
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2

QUERY_ID = bytes(range(16))
NO_PLACE = struct.pack("<4i", *[-(2**31)] * 4)
NO_TIME = struct.pack("<2q", *[-(2**63)] * 2)


def handle(number):
    return number.to_bytes(16, "big")


def response(**changes):
    """Two nodes, three buckets, four hits; everything in order unless a column is replaced."""
    columns = {
        "nodes": ["alps", "danube"],
        "bucket_nodes": struct.pack("<3H", 1, 0, 1),
        "bucket_handles": handle(101) + handle(102) + handle(103),
        "bucket_distances": struct.pack("<3H", 0, 2, 2),
        "bucket_sizes": struct.pack("<3I", 1, 5, 2),
        "hit_buckets": struct.pack("<4I", 0, 1, 2, 1),
        "hit_handles": b"".join(handle(n) for n in (1, 2, 3, 4)),
    }
    ranking = query_pb2.Ranking(**(columns | changes))
    outcomes = [
        outcome_pb2.NodeOutcome(node=name, status=outcome_pb2.NODE_STATUS_COMPLETE, coverage=1.0, held=9)
        for name in ("alps", "danube")
    ]
    return query_pb2.QueryServiceSearchResponse(query_id=QUERY_ID, rankings=[ranking], outcomes=outcomes)


def decode(message, codes=1):
    return decode_response(message, query_id=QUERY_ID, codes=codes, bits=64)


def test_hits_are_read_in_rank_order_with_node_distance_and_bucket_size():
    (result,) = decode(response())
    assert [(h.rank, h.node, int(h.handle, 16), h.distance, h.bucket_size) for h in result.hits] == [
        (1, "danube", 1, 0, 1),
        (2, "alps", 2, 2, 5),
        (3, "danube", 3, 2, 2),
        (4, "alps", 4, 2, 5),
    ]
    assert result.matched == 8
    assert all(hit.footprint is None and hit.acquired is None for hit in result.hits)
    assert result.complete()


def test_places_and_times_are_read_where_they_are_disclosed_and_none_where_not():
    place = struct.pack("<4i", 81_000_000, 470_000_000, 83_000_000, 472_000_000)
    time = struct.pack("<2q", 1_714_521_600_000, 1_714_521_660_000)
    (result,) = decode(response(footprints=place + 3 * NO_PLACE, acquired=3 * NO_TIME + time))
    assert result.hits[0].footprint == (8.1, 47.0, 8.3, 47.2)
    assert result.hits[1].footprint is None
    assert result.hits[3].acquired == (datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, 0, 1, tzinfo=UTC))
    assert result.hits[0].acquired is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"bucket_nodes": struct.pack("<3H", 1, 0, 2)}, "bucket of no node"),
        ({"bucket_nodes": struct.pack("<2H", 1, 0)}, "columns of different lengths"),
        ({"bucket_nodes": b"\0\0\0\0\0"}, "cut off"),
        ({"bucket_handles": b"\0" * 47}, "cut off"),
        ({"bucket_handles": handle(1) + handle(102) + handle(1)}, "bucket twice"),
        ({"bucket_distances": struct.pack("<3H", 0, 2, 65)}, "wider than the codes"),
        ({"bucket_sizes": struct.pack("<3I", 0, 5, 2)}, "empty bucket"),
        ({"hit_buckets": struct.pack("<4I", 0, 1, 3, 1)}, "hit of no bucket"),
        ({"hit_buckets": struct.pack("<4I", 0, 0, 2, 1)}, "more items than a bucket has"),
        ({"hit_buckets": struct.pack("<4I", 1, 0, 2, 1)}, "rank order"),
        ({"hit_handles": b"".join(handle(n) for n in (1, 2, 3))}, "columns of different lengths"),
        ({"hit_handles": b"".join(handle(n) for n in (1, 2, 3, 2))}, "item twice"),
        ({"footprints": NO_PLACE}, "columns of different lengths"),
        ({"footprints": struct.pack("<4i", 1, 910_000_000, 2, 920_000_000) * 4}, "outside the world"),
        ({"footprints": struct.pack("<4i", 1, 20, 2, 10) * 4}, "outside the world"),
        ({"acquired": NO_TIME}, "columns of different lengths"),
        ({"acquired": struct.pack("<2q", 2, 1) * 4}, "ends before it starts"),
        ({"acquired": struct.pack("<2q", 2**62, 2**62) * 4}, "outside the calendar"),
        ({"nodes": ["alps", "alps"]}, "node twice"),
        ({"nodes": ["alps", "elbe"]}, "no outcome"),
    ],
)
def test_an_answer_that_breaks_a_rule_is_refused_whole_and_the_rule_is_named(change, rule):
    with pytest.raises(InvalidAnswer, match=rule):
        decode(response(**change))


def test_an_answer_to_another_query_is_refused():
    with pytest.raises(InvalidAnswer, match="another query"):
        decode_response(response(), query_id=bytes(16), codes=1, bits=64)


def test_an_answer_to_fewer_codes_is_refused():
    with pytest.raises(InvalidAnswer, match="every code"):
        decode(response(), codes=2)


def outcome(**changes):
    return outcome_pb2.NodeOutcome(**({"node": "alps", "status": outcome_pb2.NODE_STATUS_REFUSED} | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"node": "alps\x1b[2J"},
        {"node": ""},
        {"status": outcome_pb2.NODE_STATUS_UNSPECIFIED},
        {"status": 99},
        {"coverage": 1.5},
        {"coverage": float("nan")},
        {"reason": "free text with /paths"},
    ],
)
def test_an_outcome_that_could_mislead_the_terminal_or_the_reader_is_refused(change):
    with pytest.raises(InvalidAnswer):
        decode_outcome(outcome(**change))


def test_an_outcome_without_answer_has_neither_coverage_nor_level():
    read = decode_outcome(outcome(status=outcome_pb2.NODE_STATUS_TIMED_OUT, reason="DEADLINE"))
    assert (read.status, read.reason, read.coverage, read.held, read.level, read.withheld) == (
        "TIMED_OUT", "DEADLINE", None, None, "", "",
    )  # fmt: skip


BUCKET = Bucket("alps", handle(102), 2, 5)


def page(**changes):
    columns = {"size": 5, "item_handles": handle(7) + handle(8)}
    return archive_pb2.ArchiveServiceExpandBucketResponse(**(columns | changes))


def test_a_page_of_a_bucket_has_the_buckets_node_and_distance():
    hits = decode_page(page(), BUCKET, 1, offset=3, limit=10)
    assert [(h.node, h.distance, h.bucket, int(h.handle, 16)) for h in hits] == [("alps", 2, 1, 7), ("alps", 2, 1, 8)]


@pytest.mark.parametrize("change", [{"size": 6}, {"item_handles": handle(7) * 2}, {"item_handles": b"x"}])
def test_a_page_that_breaks_a_rule_is_refused(change):
    with pytest.raises(InvalidAnswer):
        decode_page(page(**change), BUCKET, 1, offset=3, limit=10)


@pytest.mark.parametrize(("offset", "limit"), [(3, 1), (2, 10), (5, 10), (9, 10)])
def test_a_page_with_more_or_fewer_items_than_the_bucket_has_there_is_refused(offset, limit):
    with pytest.raises(InvalidAnswer, match="not as many items"):
        decode_page(page(), BUCKET, 1, offset=offset, limit=limit)


def test_expanded_items_take_the_places_that_a_ranking_of_everything_would_give_them():
    (result,) = decode(response())
    whole = merge_pages(result, {1: decode_page(page(), BUCKET, 1, offset=3, limit=10)})
    assert [(h.rank, h.node, int(h.handle, 16)) for h in whole.hits] == [
        (1, "danube", 1),
        (2, "alps", 2),
        (3, "danube", 3),
        (4, "alps", 4),
        (5, "alps", 7),
        (6, "alps", 8),
    ]


def test_merging_no_pages_changes_nothing():
    (result,) = decode(response())
    assert merge_pages(result, {}) == result


def test_an_unfiltered_answer_is_never_taken_for_a_filtered_one():
    message = response()
    with pytest.raises(InvalidMessage, match="knows no filters") as refused:
        decode_response(message, query_id=QUERY_ID, codes=1, bits=64, filtered=("time",))
    assert refused.value.reason == "FILTER_UNSUPPORTED"
    for outcome in message.outcomes:
        outcome.filtered.append(outcome_pb2.FILTER_FIELD_TIME)
    decode_response(message, query_id=QUERY_ID, codes=1, bits=64, filtered=("time",))
    for other in ((), ("time", "label")):
        with pytest.raises(InvalidAnswer, match="filtered by something else"):
            decode_response(message, query_id=QUERY_ID, codes=1, bits=64, filtered=other)
