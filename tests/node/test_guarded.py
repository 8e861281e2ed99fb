"""Answers that go by cells: the same for every code of a cell, and never about fewer than five acquisitions."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from archives import SOON
from borders import BOXES, borders, collection, feature
from hypothesis import given, settings
from hypothesis import strategies as st
from members import World
from serving import (
    Asker,
    add_patches,
    listening,
    make_auditor,
    make_home,
    make_searcher,
    make_service,
    publish,
    serve_codes,
)

from node.catalogue import Catalogue
from node.epochs import Epochs
from node.handles import Handles
from node.keys import handle_key, tie_key
from node.publishing import Publisher
from node.served import Facts, Served
from node.state import open_state
from rsfed.clock import Deadline
from rsfed.errors import RsfedError, WithheldByPolicy
from rsfed.home import transaction
from rsfed.index.filters import Filter
from rsfed.merging.answers import Question
from rsfed.merging.validate import validate
from rsfed.privacy import grid
from rsfed.privacy.cells import Cells
from rsfed.privacy.countries import Countries
from rsfed.privacy.detail import Detail
from rsfed.privacy.policy import Policies, policy
from rsfed.transport.channel import call, open_channel
from rsfed.transport.server import make_server
from rsfed.trust.access import Port
from rsfed.trust.audit_log import read_entries
from rsfed.trust.manifest import CodebookEntry
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import outcome_pb2
from rsfed.v1.archive_pb2_grpc import ArchiveServiceStub, add_ArchiveServiceServicer_to_server
from rsfed.v1.envelope_pb2 import BoundingBox, QueryFilter
from rsfed.wire import DEGREE, NO_FOOTPRINT

FLOOR = policy("guarded").floor
CODEBOOK = tuple(CodebookEntry(class_id=n, code=code * 4) for n, code in enumerate(("00", "ff", "f0")))
FAR = np.frombuffer(b"\x3c\xc3\x3c\xc3", np.uint8)  # 16 bits from every cell


class Guarded:
    """A node at `guarded` whose items come and go, an analyst, and what an oracle knows of each item."""

    def __init__(self, folder, policies=None, *, countries=None, **release):
        self.world, self.home = World(), make_home(folder)
        release = {"codebook": CODEBOOK, "codebook_reach": 6} | release
        self.release = publish(self.home, self.world, **release)
        self.policies = policies or Policies.of("guarded", {})
        self.connection = open_state(self.home)
        self.tells(countries)
        self.codes: dict[int, bytes] = {}
        self.acquisition: dict[int, str] = {}
        self.handles = Handles(handle_key(self.home))
        self.asker = Asker(self.world)

    def tells(self, countries):
        """Tell tiles, or these countries, as a node does that is started so."""
        rules = {"tie_key": tie_key(self.home), "now": self.world.clock, "countries": countries}
        self.publisher = Publisher(policy("guarded"), 1, timedelta(0), **rules)
        detail = Detail() if countries is None else Detail("country", countries=countries)
        self.searcher = make_searcher(self.home, self.world, None, policies=self.policies, detail=detail)

    def add(self, count, rng, *, acquisitions=18, places=(7.1, 7.6, 8.2, 30.5), months=(1, 2, 11)):
        rows = []
        for item in add_patches(self.home, count):
            west, day = float(rng.choice(places)), f"2024-{rng.choice(months):02}-05T00:00:00+00:00"
            code = np.frombuffer(bytes.fromhex(CODEBOOK[rng.integers(0, 3)].code), np.uint8).copy()
            code[rng.integers(0, 4)] ^= 1 << rng.integers(0, 8)
            self.codes[item], self.acquisition[item] = code.tobytes(), f"flight {rng.integers(0, acquisitions)}"
            rows.append((self.acquisition[item], day, day, west, west + 0.01, item))
        with transaction(self.connection):
            self.connection.executemany(
                "UPDATE item SET acquisition = ?, acquired_start = ?, acquired_end = ?, west = ?, south = 46.1,"
                " east = ?, north = 46.2 WHERE id = ?",
                rows,
            )

    def remove(self, count, rng):
        for item in rng.permutation(sorted(self.codes))[:count].tolist():
            del self.codes[item]

    def publish(self):
        ids = np.array(sorted(self.codes), np.int64)
        codes = np.frombuffer(b"".join(self.codes[i] for i in ids.tolist()), np.uint8).reshape(len(ids), 4)
        with Catalogue(self.home) as catalogue:
            facts = Facts.read(catalogue.connection, ids)
        items = {"rgb": lambda: (ids, codes, facts.columns)}
        Epochs(self.connection, self.publisher, None).begin(self.release, items)
        found = self.publisher.current(self.connection, self.release, "rgb")
        exact = serve_codes(self.home, self.release, ids, codes)
        self.searcher.shelf.served = Served(
            self.release, exact.snapshots, facts, exact.held, 0, {} if found is None else {"rgb": found}
        )

    def search(self, code, **how):
        signed = self.asker.ask(self.release, code, **({"k": 20} | how))
        answer = self.searcher.search(pb.ArchiveServiceSearchRequest(query=signed), Deadline.after(SOON))
        question = Question(
            answer.query_id, self.release.digest, 32, 1, how.get("k", 20), how.get("radius"), tuple(answer.filtered)
        )
        validate(answer, question)
        return answer.answers[0]

    def items(self, answer):
        column = answer.item_handles
        return [self.handles.open(column[start : start + 16])[0] for start in range(0, len(column), 16)]


def cell_code(number, flip=0):
    code = np.frombuffer(bytes.fromhex(CODEBOOK[number].code), np.uint8).copy()
    code[0] ^= flip
    return code


def said(answer):
    """What an answer says, but for handles."""
    rest = pb.BucketAnswer.FromString(answer.SerializeToString())
    rest.ClearField("bucket_handles")
    rest.ClearField("item_handles")
    return rest.SerializeToString(deterministic=True)


@pytest.fixture
def guarded(tmp_path):
    node = Guarded(tmp_path / "node")
    node.add(300, np.random.default_rng(1))
    node.publish()
    return node


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 3), st.integers(0, 2), st.integers(1, 250), st.integers(1, 50))
def test_every_code_of_a_cell_gets_the_same_answer_but_for_handles(shared, cell, flips, k, days):
    flip = (0, 1, 3)[flips]
    wanted = QueryFilter(
        after=ms(2024, 1, 1 + days % 28),
        bbox=BoundingBox(
            west=int((7 + days / 60) * DEGREE), south=46 * DEGREE + days, east=8 * DEGREE - days, north=47 * DEGREE - 1
        ),
    )
    plain = QueryFilter(
        after=ms(2024, 1, 1), bbox=BoundingBox(west=7 * DEGREE, south=46 * DEGREE, east=8 * DEGREE, north=47 * DEGREE)
    )
    one = shared.search(cell_code(cell % 3), k=k, filter=plain)
    other = shared.search(cell_code(cell % 3, flip), k=k, filter=wanted)
    assert said(one) == said(other)
    assert shared.items(one) == shared.items(other)
    assert not set(handles(one)) & set(handles(other)), "handles are new in every query"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    node = Guarded(tmp_path_factory.mktemp("shared") / "node")
    node.add(400, np.random.default_rng(2))
    node.publish()
    return node


def ms(*day):
    return round(datetime(*day, tzinfo=UTC).timestamp() * 1000)


def handles(answer):
    column = answer.item_handles + answer.bucket_handles
    return [column[start : start + 16] for start in range(0, len(column), 16)]


FILTERS = [
    None,
    QueryFilter(after=ms(2024, 2, 1)),
    QueryFilter(before=ms(2024, 1, 31)),
    QueryFilter(after=ms(2024, 11, 3), before=ms(2024, 11, 4)),
    QueryFilter(bbox=BoundingBox(west=7 * DEGREE, south=46 * DEGREE, east=8 * DEGREE, north=47 * DEGREE)),
    QueryFilter(bbox=BoundingBox(west=30 * DEGREE, south=46 * DEGREE, east=31 * DEGREE, north=47 * DEGREE)),
    QueryFilter(modality="rgb"),
]


def test_no_two_answers_differ_by_fewer_acquisitions_than_the_floor(tmp_path):
    """Over filters, cells and updates, against what is known of every single item."""
    rng, node = np.random.default_rng(4), Guarded(tmp_path / "node")
    said_of = [frozenset()]
    for come, go in ((150, 0), (12, 9), (60, 40), (0, 90)):
        node.add(come, rng)
        node.remove(go, rng)
        node.publish()
        said_of += [frozenset(_spoken_of(node, cell, wanted)) for cell in range(3) for wanted in FILTERS]
    assert len(set(said_of)) > 30
    for one in said_of:
        for other in said_of:
            for difference in (one - other, one & other):
                assert not difference or len({node.acquisition[item] for item in difference}) >= FLOOR


def test_an_answer_lists_of_the_items_that_it_speaks_of_and_tells_their_number_as_a_power_of_two(shared):
    for wanted in FILTERS:
        answer = shared.search(cell_code(0), k=1000, **({} if wanted is None else {"filter": wanted}))
        spoken = _spoken_of(shared, 0, wanted)
        [size] = np.frombuffer(answer.bucket_sizes, "<u4").tolist()
        assert size <= len(spoken) < 2 * size
        assert size & (size - 1) == 0
        assert shared.items(answer) == spoken[:size]


def _spoken_of(node, cell, wanted):
    """All items that an answer speaks of, listed or not."""
    published = node.searcher.shelf.served.published["rgb"]
    inside = np.arange(published.starts[cell], published.starts[cell + 1])
    if wanted is not None:
        box = wanted.bbox
        where = Filter(
            wanted.after if wanted.HasField("after") else None,
            wanted.before if wanted.HasField("before") else None,
            (box.west, box.south, box.east, box.north) if wanted.HasField("bbox") else None,
        )
        good = grid.passes(grid.ASKED.filter(where), published.places, published.times, published.tiers)
        inside = inside[good[published.atoms[inside]]]
    return published.ids[inside].tolist()


def test_place_and_time_of_a_hit_are_shared_by_as_many_acquisitions(guarded):
    told: dict[tuple, set[str]] = {}
    for cell in range(3):
        answer = guarded.search(cell_code(cell), k=1000)
        boxes = np.frombuffer(answer.footprints, "<i4").reshape(-1, 4).tolist()
        times = np.frombuffer(answer.acquired, "<i8").reshape(-1, 2).tolist()
        for item, box, time in zip(guarded.items(answer), boxes, times, strict=True):
            told.setdefault((cell, *box, *time), set()).add(guarded.acquisition[item])
    assert len(told) > 3
    published = guarded.searcher.shelf.served.published["rgb"]
    behind: dict[int, set[str]] = {}
    for item, atom in zip(published.ids.tolist(), published.atoms.tolist(), strict=True):
        behind.setdefault(atom, set()).add(guarded.acquisition[item])
    assert min(map(len, behind.values())) >= FLOOR
    assert {(key[3] - key[1]) / DEGREE for key in told} <= {0, 1, 10}


ALL_OVER = (0.5, 3.3, 9.98, 9.999, 10.02, 15.5, 19.99, 20.1, -30.2, 179.995)
"""Degrees east of Westland (0 to 10), of Eastland (10 to 20), and at sea."""


def country_of(west):
    return next((units for low, units in ((0, BOXES[0]), (10, BOXES[1])) if low < west + 0.005 < low + 10), None)


def wests(node):
    with closing(open_state(node.home)) as connection:
        return dict(connection.execute("SELECT id, west FROM item"))


def test_where_countries_are_told_atoms_are_of_countries_and_nothing_finer_is_told(tmp_path):
    """After every update: the country of an item, where five acquisitions share it, or no place."""
    node, rng = Guarded(tmp_path / "node", countries=Countries.read(borders(), "file")), np.random.default_rng(2)
    for come, go in ((150, 0), (60, 40), (0, 60)):
        node.add(come, rng, places=ALL_OVER)
        node.remove(go, rng)
        node.publish()
        where, seen = wests(node), set()
        for cell in range(3):
            answer = node.search(cell_code(cell), k=1000)
            boxes = np.frombuffer(answer.footprints, "<i4").reshape(-1, 4).tolist()
            for item, box in zip(node.items(answer), boxes, strict=True):
                country = country_of(where[item])
                assert box in ([NO_FOOTPRINT] * 4, [] if country is None else [edge * DEGREE for edge in country])
                seen.add(tuple(box))
        assert len(seen) == 3
        published = node.searcher.shelf.served.published["rgb"]
        for atom in np.unique(published.atoms):
            inside = published.ids[published.atoms == atom].tolist()
            assert len({node.acquisition[item] for item in inside}) >= FLOOR
            if published.tiers[atom] < 2:
                assert len({country_of(where[item]) for item in inside}) == 1


def test_where_in_its_country_an_item_lies_changes_nothing_that_is_told(tmp_path):
    node = Guarded(tmp_path / "node", countries=Countries.read(borders(), "file"))
    node.add(150, np.random.default_rng(1), places=(0.5, 15.5, -30.2))
    node.publish()
    before = [said(node.search(cell_code(cell), k=1000)) for cell in range(3)]
    elsewhere = {0.5: (0.1, 3.3, 9.99), 15.5: (10.01, 17.2, 19.99), -30.2: (20.1, -0.1, 179.99)}
    moved = [(elsewhere[west][item % 3], item) for item, west in wests(node).items()]
    with transaction(node.connection):
        node.connection.executemany("UPDATE item SET west = ?1, east = ?1 + 0.001 WHERE id = ?2", moved)
        node.connection.execute("DELETE FROM publication")
    node.publish()
    assert [said(node.search(cell_code(cell), k=1000)) for cell in range(3)] == before
    assert len({tuple(box) for box in told_boxes(node)}) == 3


def test_no_place_can_be_asked_for_where_countries_are_told(tmp_path):
    node = Guarded(tmp_path / "node", countries=Countries.read(borders(), "file"))
    node.add(100, np.random.default_rng(1))
    node.publish()
    with pytest.raises(WithheldByPolicy) as refused:
        node.search(cell_code(0), filter=QueryFilter(bbox=BoundingBox(west=0, south=0, east=10, north=10)))
    assert refused.value.reason == "UNFILTERABLE_BBOX"
    assert node.search(cell_code(0), filter=QueryFilter(after=0)).item_handles


def test_other_borders_or_tiles_in_their_place_put_together_anew_what_was_published(tmp_path):
    rng, node = np.random.default_rng(1), Guarded(tmp_path / "node")
    node.add(150, rng, places=ALL_OVER)
    node.publish()
    one = Countries.read(borders(), "file")
    other = Countries.read(collection(feature((-60, 40, -1, 50), (0, 40, 180, 50))), "file")
    tiles = {tuple(box) for box in told_boxes(node)}
    assert len(tiles) > 4
    for countries, boxes in ((one, BOXES[:2]), (other, [(-60, 40, 180, 50)]), (None, None)):
        node.tells(countries)
        Epochs(node.connection, node.publisher, None).take(node.release)
        assert node.publisher.current(node.connection, node.release, "rgb") is None  # numbers mean something else now
        node.publish()
        expected = tiles if boxes is None else {tuple(edge * DEGREE for edge in box) for box in boxes}
        assert {tuple(box) for box in told_boxes(node)} <= expected | {(NO_FOOTPRINT,) * 4}


def told_boxes(node):
    answers = [node.search(cell_code(cell), k=1000) for cell in range(3)]
    return np.concatenate([np.frombuffer(each.footprints, "<i4").reshape(-1, 4) for each in answers]).tolist()


def test_the_level_the_band_and_what_is_withheld_are_stated_alike_in_every_answer(guarded):
    near, far = guarded.search(cell_code(0)), guarded.search(FAR)
    assert far.bucket_handles == b""
    for answer in (near, far):
        assert (answer.band_width, answer.withheld) == (4, outcome_pb2.WITHHELD_REASON_POLICY)
        assert answer.examined == answer.held == 512
    assert np.frombuffer(near.distance_upper, "<u2").tolist() == [3]


def test_a_cell_of_few_acquisitions_answers_as_one_that_holds_nothing(tmp_path):
    node = Guarded(tmp_path / "node")
    node.add(300, np.random.default_rng(0))
    first, second = (bytes.fromhex(entry.code) for entry in CODEBOOK[:2])
    node.codes = dict.fromkeys(node.codes, first)
    few = [item for item in node.codes if node.acquisition[item] in {f"flight {n}" for n in range(FLOOR - 1)}]
    answers = []
    for moved in ([], few):
        with transaction(node.connection):
            node.connection.execute("DELETE FROM publication")
        node.codes |= dict.fromkeys(moved, second)
        node.publish()
        answers.append(node.search(cell_code(1)))
    assert answers[0].bucket_handles == b""
    answers[0].examined = answers[0].held = answers[1].held  # what is published in all is told in another place
    assert said(answers[0]) == said(answers[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"filter": QueryFilter(labels=[1])}, "UNFILTERABLE_LABEL"),
        ({"filter": QueryFilter(after=5, before=1)}, "FILTER"),
    ],
)
def test_filters_by_class_and_senseless_ones_are_refused_for_a_reason_that_only_the_audit_log_has(
    guarded, change, reason
):
    with pytest.raises(WithheldByPolicy) as refused:
        guarded.search(cell_code(0), **change)
    assert (refused.value.reason, refused.value.level) == (reason, "guarded")


def test_buckets_are_not_paged_further(guarded):
    signed = guarded.asker.ask(guarded.release, cell_code(0), k=5)
    answer = guarded.searcher.search(pb.ArchiveServiceSearchRequest(query=signed), Deadline.after(SOON)).answers[0]
    request = pb.ArchiveServiceExpandBucketRequest(query=signed, bucket_handle=answer.bucket_handles[:16], limit=5)
    with pytest.raises(WithheldByPolicy) as refused:
        guarded.searcher.expand(request, Deadline.after(SOON))
    assert (refused.value.reason, refused.value.level) == ("NOT_PAGED", "guarded")


def test_without_a_codebook_or_enough_acquisitions_nothing_is_answered(tmp_path):
    bare = Guarded(tmp_path / "bare", codebook=())
    bare.add(300, np.random.default_rng(0))
    bare.publish()
    few = Guarded(tmp_path / "few")
    few.add(300, np.random.default_rng(0), acquisitions=14)
    few.publish()
    assert len(set(few.acquisition.values())) == 14
    for node, reason in ((bare, "NO_CODEBOOK"), (few, "NOT_PUBLISHED")):
        with pytest.raises(WithheldByPolicy) as refused:
            node.search(cell_code(0))
        assert (refused.value.reason, refused.value.level) == (reason, "guarded")


def test_another_analyst_may_be_answered_at_another_level(tmp_path):
    node = Guarded(tmp_path / "node", Policies.of("guarded", {"ada": "partner"}))
    node.add(300, np.random.default_rng(1))
    node.publish()
    assert node.search(cell_code(0)).withheld == outcome_pb2.WITHHELD_REASON_NOTHING
    node.asker = Asker(node.world, "bob")
    assert node.search(cell_code(0)).withheld == outcome_pb2.WITHHELD_REASON_POLICY


def test_a_publication_outlives_a_restart_and_waits_for_its_epoch(guarded):
    before = said(guarded.search(cell_code(0)))
    day = timedelta(days=1)
    anew = Publisher(policy("guarded"), 1, day, tie_key=tie_key(guarded.home), now=guarded.world.clock)
    found = anew.current(guarded.connection, guarded.release, "rgb")
    assert found.ids.tolist() == guarded.searcher.shelf.served.published["rgb"].ids.tolist()
    guarded.add(200, np.random.default_rng(9))
    guarded.publisher = anew
    guarded.publish()
    assert said(guarded.search(cell_code(0))) == before
    guarded.publisher = Publisher(
        policy("guarded"), 1, day, tie_key=tie_key(guarded.home), now=lambda: guarded.world.clock() + day
    )
    guarded.publish()
    assert said(guarded.search(cell_code(0))) != before
    assert guarded.searcher.shelf.served.published["rgb"].epoch == 2


def test_a_new_release_speaks_of_what_was_published_and_of_others_in_the_next_epoch(guarded):
    """Cells are others, and as many codes; who compares the answers of both releases learns of none that came."""
    day = timedelta(days=1)
    guarded.publisher = Publisher(policy("guarded"), 1, day, tie_key=tie_key(guarded.home), now=guarded.world.clock)
    before = set(guarded.searcher.shelf.served.published["rgb"].ids.tolist())
    guarded.add(200, np.random.default_rng(9))
    del guarded.codes[min(before)]  # withdrawn, or it cannot be read just now
    guarded.release = publish(guarded.home, guarded.world, 2, codebook=CODEBOOK[::-1], codebook_reach=6)
    guarded.publish()
    found = guarded.searcher.shelf.served.published["rgb"]
    assert set(found.ids.tolist()) == before
    assert found.cells.codes.tolist() != Cells.of(CODEBOOK, 6).codes.tolist()
    guarded.world.clock.move(days=1)
    guarded.publish()
    assert len(guarded.searcher.shelf.served.published["rgb"].ids) > len(before)
    with closing(open_state(guarded.home)) as connection:
        assert connection.execute("SELECT release, epoch FROM publication").fetchall() == [(guarded.release.digest, 2)]


async def test_the_wire_says_policy_and_the_audit_log_says_why(guarded):
    auditor = make_auditor(guarded.home, guarded.world)
    node = guarded.world.identity(Role.NODE, "berne")
    service = make_service(guarded.home, guarded.world, guarded.searcher, auditor, guarded.policies, node)
    server = make_server(Port.NODE, trust=guarded.world.bundle, now=guarded.world.clock)
    add_ArchiveServiceServicer_to_server(service, server)
    signed = guarded.asker.ask(guarded.release, cell_code(0), filter=QueryFilter(labels=[1]))
    request = pb.ArchiveServiceSearchRequest(query=signed, remaining_ms=20_000)
    async with (
        listening(server, node) as address,
        open_channel(address, guarded.world.identity(Role.COORDINATOR, ""), node.member) as channel,
    ):
        with pytest.raises(RsfedError) as refused:
            await call(ArchiveServiceStub(channel).Search, request, Deadline.after(20.0), what="the node")
    await service.close()
    assert refused.value.reason == "POLICY"
    assert "class" not in refused.value.public
    entries = [json.loads(entry) for entry in read_entries(guarded.home.audit)]
    assert [entry["reason"] for entry in entries if entry["kind"] == "query.refused"] == ["UNFILTERABLE_LABEL"]


def test_the_database_keeps_publications(guarded):
    with closing(open_state(guarded.home)) as connection:
        [(epoch, floor)] = connection.execute("SELECT epoch, floor FROM publication").fetchall()
    assert (epoch, floor) == (1, FLOOR)
