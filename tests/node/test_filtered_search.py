"""What a node answers to a query with a filter: as if it held nothing but the items that pass."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import numpy as np
import pytest
from archives import Archive, exact, listed
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import PARTNER, add_patches, make_searcher, random_codes, serve_codes

from node.guard import Guard
from node.ledger import Ledger
from node.state import open_state
from rsfed.errors import EnvelopeRefused, UsageError
from rsfed.merging.queries import question_of
from rsfed.merging.validate import validate
from rsfed.privacy.detail import Detail
from rsfed.trust.envelope import filtered_fields
from rsfed.trust.manifest import FederationClass, Nomenclature
from rsfed.v1.envelope_pb2 import BoundingBox, QueryEnvelope, QueryFilter

WEST, EAST = (7.0, 46.0, 7.1, 46.1), (170.0, 46.0, -170.0, 47.0)
EARLY, LATE = "2020-06-01T00:00:00+00:00", "2024-06-01T00:00:00+00:00"
MIDDLE = 1_640_995_200_000  # 2022
KINDS = list(product((None, WEST, EAST), (None, EARLY, LATE), (0, 1, None)))  # place, time, class
BOX = BoundingBox(west=1_790_000_000, south=460_000_000, east=-1_790_000_000, north=470_000_000)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A node with patches of every kind; `kind_of` says which is which."""
    known = Nomenclature(classes=(FederationClass(id=9, name="forest"), FederationClass(id=40, name="water")))
    archive = Archive(tmp_path_factory.mktemp("mixed"), np.zeros((0, 4), np.uint8), nomenclature=known)
    classes = archive.release.manifest.nomenclature.classes
    archive.kind_of = {}
    with open_state(archive.home) as connection:
        for place, time, number in KINDS:
            label = () if number is None else (classes[number].name,)
            for item in add_patches(archive.home, 4, place=place, time=time, labels=label):
                archive.kind_of[item] = (place, time, None if number is None else classes[number].id)
        for entry in classes:
            connection.execute("INSERT INTO label_class SELECT id, ? FROM label WHERE name = ?", (entry.id, entry.name))
    archive.ids = np.array(list(archive.kind_of), np.int64)
    archive.classes = [entry.id for entry in classes]
    return archive


def passes(kind, wanted):
    place, time, label = kind
    if wanted.HasField("after") and time != LATE:
        return False
    if wanted.HasField("before") and time != EARLY:
        return False
    if wanted.HasField("bbox") and place != EAST:
        return False
    return not wanted.labels or label in wanted.labels


def silent(kind, wanted):
    fields = filtered_fields(QueryEnvelope(filter=wanted))
    return any(known is None for field, known in zip(("bbox", "time", "label"), kind, strict=True) if field in fields)


@st.composite
def filters(draw):
    wanted = QueryFilter()
    if draw(st.booleans()):
        setattr(wanted, draw(st.sampled_from(["after", "before"])), MIDDLE)
    if draw(st.booleans()):
        wanted.bbox.CopyFrom(BOX)
    if draw(st.booleans()):
        wanted.modality = "rgb"
    wanted.labels.extend(draw(st.sets(st.sampled_from([0, 1]))))
    return wanted


def ask(archive, code, wanted, **how):
    response = archive.search(code, filter=wanted, **how)
    envelope = QueryEnvelope.FromString(archive.signed.envelope)
    return validate(response, question_of(envelope, archive.release.manifest)), response


def serve(archive, seed):
    archive.codes = random_codes(len(archive.ids), distinct=5, seed=seed)
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, archive.ids, archive.codes)


class Passing:
    """The part of an archive that passes, for the exact search."""

    def __init__(self, archive, wanted):
        keep = [passes(archive.kind_of[item], wanted) for item in archive.ids.tolist()]
        self.ids, self.codes = archive.ids[keep], archive.codes[keep]


@settings(max_examples=60, deadline=None)
@given(filters(), st.integers(0, 10**6), st.integers(1, 120), st.one_of(st.none(), st.integers(0, 32)))
def test_the_answer_is_that_of_an_archive_of_what_passes(mixed, wanted, seed, k, radius):
    serve(mixed, seed)
    wanted.labels[:] = [mixed.classes[number] for number in wanted.labels]
    how = {} if radius is None else {"radius": radius}
    checked, response = ask(mixed, mixed.codes[:1], wanted, k=k, **how)
    left = Passing(mixed, wanted)
    expected = exact(left, mixed.codes[0], **(how or {"k": k})) if len(left.ids) else set()
    found = listed(mixed, response.answers[0])
    assert sorted((d, s) for d, s, _ in found) == sorted((d, len(members)) for d, members in expected)
    assert {item for *_, sample in found for item in sample} <= set(left.ids.tolist())
    assert sum(len(sample) for *_, sample in found) == (
        min(k, len(left.ids)) if radius is None else sum(min(s, k) for _, s, _ in found)
    )
    assert (checked.examined, checked.held) == (len(mixed.ids), len(mixed.ids))
    fields = filtered_fields(QueryEnvelope(filter=wanted))
    asked = sum(silent(kind, wanted) for kind in mixed.kind_of.values())
    assert checked.unknown == (asked if fields else None)
    for number, (_, size, _) in enumerate(found):
        page = mixed.expand(response.answers[0].bucket_handles[16 * number : 16 * number + 16])
        assert page.size == size
        assert frozenset(mixed.open(page.item_handles)) in {members for _, members in expected}


def strict(archive, detail):
    return Guard(
        archive.world.bundle,
        Ledger(open_state(archive.home)),
        node="berne",
        policies=PARTNER,
        detail=detail,
    )


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (QueryFilter(after=1), "UNFILTERABLE_TIME"),
        (QueryFilter(before=1), "UNFILTERABLE_TIME"),
        (QueryFilter(bbox=BOX), "UNFILTERABLE_BBOX"),
        (QueryFilter(modality="rgb"), "UNFILTERABLE_MODALITY"),
        (QueryFilter(labels=[1]), "UNFILTERABLE_LABEL"),
    ],
)
def test_a_field_that_the_policy_keeps_is_no_filter_and_the_query_is_not_even_written_down(tmp_path, wanted, reason):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8))
    field = reason.removeprefix("UNFILTERABLE_").lower()
    archive.searcher = replace(archive.searcher, guard=strict(archive, Detail(unfilterable=[field])))
    with pytest.raises(EnvelopeRefused, match=f"filtered by {field}; ask again without") as refused:
        archive.search(archive.codes[:1], filter=wanted)
    assert refused.value.reason == reason
    assert refused.value.fields == (field,)
    archive.searcher = make_searcher(archive.home, archive.world, archive.searcher.shelf.served)
    with open_state(archive.home) as connection:
        assert connection.execute("SELECT count(*) FROM query_ledger").fetchone() == (0,)
    assert len(archive.search(archive.codes[:1]).answers) == 1


def test_all_fields_that_the_policy_keeps_are_told_at_once(tmp_path):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8))
    archive.searcher = replace(archive.searcher, guard=strict(archive, Detail("none", unfilterable=["label", "time"])))
    with pytest.raises(EnvelopeRefused, match="filtered by time or label; ask again") as refused:
        archive.search(archive.codes[:1], filter=QueryFilter(after=1, modality="rgb", labels=[1]))
    assert (refused.value.reason, refused.value.fields) == ("UNFILTERABLE_TIME", ("time", "label"))
    with pytest.raises(EnvelopeRefused, match="filtered by bbox; ask again") as refused:
        archive.search(archive.codes[:1], filter=QueryFilter(bbox=BOX))


def test_places_and_times_are_told_and_asked_as_coarsely_as_the_policy_says(tmp_path):
    archive = Archive(tmp_path, np.zeros((0, 4), np.uint8))
    archive.ids = np.array(add_patches(archive.home, 4, place=WEST, time=LATE))
    serve(archive, 1)
    archive.searcher = replace(archive.searcher, guard=strict(archive, Detail("100km", "year")))
    beside = QueryFilter(bbox=BoundingBox(west=75_000_000, south=465_000_000, east=76_000_000, north=466_000_000))
    beside.after = round(datetime(2024, 12, 1, tzinfo=UTC).timestamp() * 1000)
    checked, _ = ask(archive, archive.codes[:1], beside, k=10)
    assert np.unique(checked.columns[0].footprints, axis=0).tolist() == [
        [70_000_000, 460_000_000, 80_000_000, 470_000_000]
    ]
    start, end = np.unique(checked.columns[0].acquired, axis=0)[0].tolist()
    assert [datetime.fromtimestamp(each / 1000, UTC).isoformat() for each in (start, end + 1)] == [
        "2024-01-01T00:00:00+00:00",
        "2025-01-01T00:00:00+00:00",
    ]
    assert not ask(archive, archive.codes[:1], QueryFilter(bbox=BOX), k=10)[0].columns[0].footprints


@pytest.mark.parametrize(
    "wanted",
    [
        QueryFilter(after=2, before=1),
        QueryFilter(bbox=BoundingBox(west=0, south=10, east=10, north=0)),
        QueryFilter(bbox=BoundingBox(west=0, south=0, east=10, north=1_000_000_000)),
        QueryFilter(modality="sentinel-1-grd"),
        QueryFilter(labels=[65_000]),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(tmp_path, wanted):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8))
    with pytest.raises(UsageError) as refused:
        archive.search(archive.codes[:1], filter=wanted)
    assert refused.value.reason == "FILTER"


def test_a_bucket_cannot_be_opened_by_another_filter_than_it_was_listed_by(mixed):
    serve(mixed, 1)
    handle = mixed.search(mixed.codes[:1], filter=QueryFilter(after=MIDDLE)).answers[0].bucket_handles[:16]
    envelope = QueryEnvelope.FromString(mixed.signed.envelope)
    other = mixed.asker.ask(mixed.release, mixed.codes[:1], query_id=envelope.query_id)
    with pytest.raises(EnvelopeRefused) as refused:
        mixed.expand(handle, signed=other)
    assert refused.value.reason == "ENVELOPE_DIFFERS"
