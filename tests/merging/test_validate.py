"""No lie of a node gets into a ranking."""

from dataclasses import replace

import numpy as np
import pytest
from honest_archives import Archive, question
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.errors import InvalidAnswer, InvalidMessage
from rsfed.merging.validate import validate, validate_expansion
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import outcome_pb2 as outcome

ARCHIVE = Archive("bern", [0, 0, 0, 1, 3, 3, 7], footprints=True)
ASKED = question(k=4)


def honest():
    return ARCHIVE.response([0], ASKED)


def changed(column, dtype, index, value):
    def lie(response):
        answer = response.answers[0]
        values = np.frombuffer(getattr(answer, column), dtype).copy()
        values[index] = value
        setattr(answer, column, values.tobytes())

    return lie


def assign(field, value):
    def lie(response):
        target = response if hasattr(response, field) else response.answers[0]
        setattr(target, field, value)

    return lie


def cleared(field):
    return lambda response: response.answers[0].ClearField(field)


def copied_handle(column):
    def lie(response):
        answer = response.answers[0]
        data = getattr(answer, column)
        setattr(answer, column, data[:16] + data[:16] + data[32:])

    return lie


def beyond_the_kth_item(response):
    answer = response.answers[0]
    answer.bucket_handles += b"bern/far away..."
    answer.distance_upper += b"\x09\0"
    answer.bucket_sizes += b"\1\0\0\0"
    answer.sample_counts += b"\0\0\0\0"


LIES = {
    ("another query", "another query"): assign("query_id", b"x" * 16),
    ("another release", "another release"): assign("release_digest", b"x" * 32),
    ("no answers", "one answer for each code"): lambda r: r.ClearField("answers"),
    ("an answer too many", "one answer for each code"): lambda r: r.answers.add().CopyFrom(r.answers[0]),
    ("an unknown level", "policy level"): assign("level", 77),
    ("no level", "policy level"): assign("level", 0),
    ("distance 0 for all", "more buckets at a distance"): lambda r: setattr(
        r.answers[0], "distance_upper", b"\0\0" * 2
    ),
    ("falling distances", "distances fall"): changed("distance_upper", "<u2", 0, 5),
    ("a distance beyond the codes' width", "out of range"): changed("distance_upper", "<u2", -1, 17),
    ("bands without saying so", "banded"): assign("band_width", 4),
    ("no band width", "banded"): assign("band_width", 0),
    ("a bucket handle twice", "handle twice"): copied_handle("bucket_handles"),
    ("an item handle twice", "handle twice"): copied_handle("item_handles"),
    ("half a handle", "differ in length"): lambda r: setattr(
        r.answers[0], "item_handles", r.answers[0].item_handles[:-8]
    ),
    ("a handle too many", "samples and item handles"): changed("sample_counts", "<u4", 1, 0),
    ("a distance too few", "differ in length"): lambda r: setattr(r.answers[0], "distance_upper", b"\0\0"),
    ("a size too many", "differ in length"): lambda r: setattr(
        r.answers[0], "bucket_sizes", r.answers[0].bucket_sizes + b"\1\0\0\0"
    ),
    ("a sample larger than its bucket", "sample is too large"): changed("bucket_sizes", "<u4", 0, 2),
    ("an empty bucket", "empty bucket"): changed("bucket_sizes", "<u4", 1, 0),
    ("a size of 4 billion", "contradict"): changed("bucket_sizes", "<u4", 0, 2**32 - 1),
    ("buckets beyond the k-th item", "beyond the k-th"): beyond_the_kth_item,
    ("more examined than held", "contradict"): assign("examined", 8),
    ("fewer examined than listed", "contradict"): assign("examined", 3),
    ("more held than any archive", "contradict"): assign("held", 2**63),
    ("counts left out", "counts are missing"): cleared("examined"),
    ("nothing said of what is withheld", "held back"): assign("withheld", 0),
    ("a footprint off the Earth", "Earth"): changed("footprints", "<i4", 1, 91 * 10**7),
    ("a footprint upside down", "Earth"): changed("footprints", "<i4", 3, 1),
    ("a footprint column too short", "differ in length"): lambda r: setattr(
        r.answers[0], "footprints", r.answers[0].footprints[:-16]
    ),
    ("an interval that ends before it starts", "ends before"): lambda r: setattr(
        r.answers[0], "acquired", np.array([[5, 4]] * 4, "<i8").tobytes()
    ),
    ("an interval after the year 9999", "calendar"): lambda r: setattr(
        r.answers[0], "acquired", np.array([[0, 253_402_300_800_000]] * 4, "<i8").tobytes()
    ),
    ("an interval before the year 1", "calendar"): lambda r: setattr(
        r.answers[0], "acquired", np.array([[-62_135_596_800_001, 0]] * 4, "<i8").tobytes()
    ),
}


def test_an_honest_answer_is_taken_with_its_counts():
    answer = validate(honest(), ASKED)
    assert (answer.examined, answer.held, answer.coverage) == (7, 7, 1.0)
    assert answer.columns[0].distances.tolist() == [0, 1]
    assert answer.columns[0].sizes.tolist() == [3, 1]


@pytest.mark.parametrize(("lie", "breach"), LIES)
def test_a_lying_answer_is_dropped_and_the_breach_named(lie, breach):
    response = honest()
    LIES[lie, breach](response)
    with pytest.raises(InvalidAnswer, match=breach):
        validate(response, ASKED)


@pytest.mark.parametrize("column", ["bucket_handles", "item_handles"])
def test_a_flood_of_rows_is_dropped_before_any_is_looked_at(monkeypatch, column):
    monkeypatch.setattr("rsfed.merging.validate._rows", lambda *_: pytest.fail("looked at"))
    response = honest()
    setattr(response.answers[0], column, bytes(16 * 16_385))
    with pytest.raises(InvalidAnswer, match="more than a node may"):
        validate(response, ASKED)


def test_a_handle_is_found_twice_among_others_that_share_its_first_half():
    handles = [bytes([1]) * 8 + bytes([n]) * 8 for n in (0, 2, 0)]
    request = pb.ArchiveServiceExpandBucketRequest(limit=5)
    with pytest.raises(InvalidAnswer, match="twice"):
        validate_expansion(pb.ArchiveServiceExpandBucketResponse(size=5, item_handles=b"".join(handles)), request)


def test_handles_that_differ_in_one_half_only_are_distinct():
    halves = [bytes([1]) * 8 + bytes([n]) * 8 for n in range(3)] + [bytes([n]) * 8 + bytes([1]) * 8 for n in (0, 2)]
    request = pb.ArchiveServiceExpandBucketRequest(limit=5)
    validate_expansion(pb.ArchiveServiceExpandBucketResponse(size=5, item_handles=b"".join(halves)), request)


def test_a_sample_larger_than_k_is_dropped():
    with pytest.raises(InvalidAnswer):
        validate(ARCHIVE.response([0], question(k=4)), question(k=2))


def test_buckets_outside_the_radius_are_dropped():
    with pytest.raises(InvalidAnswer):
        validate(ARCHIVE.response([0], question(k=9, radius=3)), question(k=9, radius=1))


def test_codes_of_another_width_are_dropped():
    wide = Archive("bern", [2**40 - 1])
    with pytest.raises(InvalidAnswer):
        validate(wide.response([0], question(bits=40)), question(bits=16))


def test_a_node_may_not_hide_items_without_saying_so():
    response = Archive("bern", [0]).response([0], ASKED)
    response.answers[0].held = response.answers[0].examined = 9
    with pytest.raises(InvalidAnswer):
        validate(response, ASKED)
    response.answers[0].withheld = outcome.WITHHELD_REASON_LIMIT
    assert validate(response, ASKED).withheld == outcome.WITHHELD_REASON_LIMIT


def test_counts_that_differ_between_codes_are_dropped():
    response = ARCHIVE.response([0, 1], question(k=4, codes=2))
    assert len(validate(response, question(k=4, codes=2)).columns) == 2
    response.answers[1].held = 8
    with pytest.raises(InvalidAnswer):
        validate(response, question(k=4, codes=2))


def test_an_empty_archive_is_wholly_covered():
    answer = validate(Archive("bern", []).response([0], ASKED), ASKED)
    assert (answer.coverage, answer.held, len(answer.columns[0].sizes)) == (1.0, 0, 0)


def test_a_partly_searched_archive_says_how_much_was_covered():
    response = honest()
    response.answers[0].held = 14
    assert validate(response, ASKED).coverage == 0.5


FIELDS = ["bucket_handles", "distance_upper", "bucket_sizes", "sample_counts", "item_handles", "footprints", "acquired"]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), st.binary(max_size=96)), st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_any_bytes_give_a_valid_answer_or_the_one_refusal(columns, held, withheld):
    response = honest()
    for name, value in columns.items():
        setattr(response.answers[0], name, value)
    response.answers[0].held, response.answers[0].withheld = held, withheld
    try:
        answer = validate(response, ASKED)
    except InvalidAnswer:
        return
    column = answer.columns[0]
    assert len(column.handles) == len(column.distances) == len(column.sizes) == len(column.samples)
    assert column.samples.sum() == len(column.item_handles)
    assert 0 <= answer.coverage <= 1


def test_a_page_of_a_bucket_may_not_be_longer_than_asked_or_repeat_an_item():
    request = pb.ArchiveServiceExpandBucketRequest(offset=1, limit=2)
    page = [b"a" * 16, b"b" * 16, b"c" * 16]
    validate_expansion(pb.ArchiveServiceExpandBucketResponse(size=5, item_handles=b"".join(page[:2])), request)
    for size, handles in ((5, page), (2, page[:2]), (5, [page[0]] * 2)):
        with pytest.raises(InvalidAnswer):
            validate_expansion(
                pb.ArchiveServiceExpandBucketResponse(size=size, item_handles=b"".join(handles)), request
            )


def test_an_answer_to_a_filter_says_that_it_was_applied_and_may_list_less_than_was_examined():
    response = honest()
    for answer in response.answers:
        for column in ("bucket_handles", "distance_upper", "bucket_sizes", "sample_counts", "item_handles"):
            answer.ClearField(column)
        answer.ClearField("footprints")
        answer.ClearField("acquired")
    asked = replace(ASKED, filtered=(outcome.FILTER_FIELD_TIME,))
    with pytest.raises(InvalidMessage, match="update it") as refused:
        validate(response, asked)
    assert refused.value.reason == "FILTER_UNSUPPORTED"
    response.filtered.append(outcome.FILTER_FIELD_TIME)
    response.unknown = 1
    assert validate(response, asked).unknown == 1
    for spoilt in (ASKED, replace(ASKED, filtered=(outcome.FILTER_FIELD_TIME, outcome.FILTER_FIELD_LABEL))):
        with pytest.raises(InvalidAnswer, match="filtered by something else"):
            validate(response, spoilt)
    response.unknown = 10**6
    with pytest.raises(InvalidAnswer, match="counts contradict"):
        validate(response, asked)
