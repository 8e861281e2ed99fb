"""A private query: nothing of it is sent, catalogues are checked and kept, and their buckets are ranked here."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from fake_coordinator import FakeCoordinator, serving
from members import World

from rsfed.analyst.catalogues import Read, nearest
from rsfed.analyst.refining import handles_of
from rsfed.analyst.session import AnalystSession
from rsfed.codes import hamming
from rsfed.errors import InvalidAnswer, UnknownHandle
from rsfed.trust.catalogue import Opened, Part, digest_of, part_of, sign_catalogue
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2, outcome_pb2, query_pb2
from rsfed.v1.catalogue_pb2 import Catalogue, RefineAnswer

LEVELS = {
    "alps": outcome_pb2.POLICY_LEVEL_CATALOGUE,
    "danube": outcome_pb2.POLICY_LEVEL_COUNTS,
    "elbe": outcome_pb2.POLICY_LEVEL_PARTNER,
}
CHUNK = 64


class Publishing(FakeCoordinator):
    """Relays the catalogues of two nodes in small chunks, and takes note of all that is asked."""

    def __post_init__(self):
        super().__post_init__()
        self.identities = {name: self.world.identity(Role.NODE, name) for name in LEVELS}
        self.middles = np.random.default_rng(0).integers(0, 256, (30, 4), dtype=np.uint8)
        self.changes = {}
        self.gone, self.kept = False, {}

    def signed(self, node):
        identity = self.identities[node]
        counts = LEVELS[node] == outcome_pb2.POLICY_LEVEL_COUNTS
        middles, classes = (self.middles[:0], (7, 9)) if counts else (self.middles, ())
        catalogue = Catalogue(node=identity.member.uri, release_digest=self.release.digest, level=LEVELS[node])
        catalogue.epoch, catalogue.floor, catalogue.spread = 3, 10, 300
        catalogue.made.FromDatetime(self.world.clock())
        catalogue.next.FromDatetime(self.world.clock() + timedelta(hours=1))
        catalogue.parts.append(part_of("rgb", middles, classes, np.arange(len(middles) + len(classes)) * 5))
        for name, value in self.changes.items():
            setattr(catalogue, name, value)
        return sign_catalogue(catalogue, identity)

    async def ListNodes(self, request, context):  # noqa: N802 - name of the wire
        self.requests.append(request.SerializeToString())
        nodes = [query_pb2.NodeSummary(name=name, level=level) for name, level in LEVELS.items()]
        return query_pb2.QueryServiceListNodesResponse(nodes=nodes)

    async def GetCatalogue(self, request, context):  # noqa: N802 - name of the wire
        self.requests.append(request.SerializeToString())
        if self.gone:
            raise UnknownHandle("none", reason="NO_CATALOGUE")
        key = request.node, repr(self.changes)
        signed = self.kept[key] = self.kept.get(key) or self.signed(request.node)  # signatures are never the same twice
        offset = request.request.offset
        chunk = signed[offset : offset + CHUNK]
        answer = archive_pb2.ArchiveServiceGetCatalogueResponse(digest=digest_of(signed), size=len(signed), chunk=chunk)
        return query_pb2.QueryServiceGetCatalogueResponse(response=answer)


@pytest.fixture
def coordinator():
    return Publishing(World(), [])


async def read(coordinator, home):
    async with AnalystSession(home, now=coordinator.world.clock) as session:
        return {each.node: each for each in await session.catalogues()}


async def test_catalogues_are_fetched_in_chunks_checked_and_ranked(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home:
        found = await read(coordinator, home)
    assert found["alps"].catalogue.parts["rgb"].middles.tolist() == coordinator.middles.tolist()
    assert found["danube"].catalogue.parts["rgb"].classes == (7, 9)
    assert (found["elbe"].catalogue, found["elbe"].reason) == (None, "NO_CATALOGUE")


async def test_two_private_queries_that_differ_send_the_very_same_messages(coordinator, tmp_path):
    """From two homes that know nothing yet, and again once they know the catalogues: of the codes nothing is in it."""
    sent, known = [], []
    for name, code in (("one", 3), ("two", 200)):
        folder = tmp_path / name
        folder.mkdir()
        coordinator.requests.clear()
        async with serving(coordinator, folder) as home, AnalystSession(home, now=coordinator.world.clock) as session:
            reads = await session.catalogues()
            assert nearest(np.full(4, code, np.uint8), "rgb", reads, k=5, radius=None)
            sent.append(sorted(coordinator.requests))
            coordinator.requests.clear()
            await session.catalogues()
            known.append(list(coordinator.requests))
    assert len(sent[0]) > 3
    assert sent[0] == sent[1]
    assert known[0] == known[1] == [b""]  # the list of the nodes alone
    assert coordinator.asked == []


async def test_a_kept_catalogue_serves_until_there_may_be_a_newer_one_and_never_gives_way_to_an_older(
    coordinator, tmp_path
):
    async with serving(coordinator, tmp_path) as home:

        async def alps():
            found = (await read(coordinator, home))["alps"]
            return found.catalogue.epoch, found.reason

        assert await alps() == (3, "")
        coordinator.gone = True
        assert await alps() == (3, "")
        coordinator.world.clock.move(hours=2)
        assert await alps() == (3, "NO_CATALOGUE")
        coordinator.gone, coordinator.changes = False, {"epoch": 2}
        assert await alps() == (3, "CATALOGUE_INVALID")
        coordinator.changes = {"epoch": 4}
        assert await alps() == (4, "")


@pytest.mark.parametrize(
    "changes", [{"floor": 10, "node": "spiffe://testers/node/elbe"}, {"level": outcome_pb2.POLICY_LEVEL_PARTNER}]
)
async def test_a_catalogue_that_breaks_a_rule_is_left_out_and_named(coordinator, tmp_path, changes):
    coordinator.changes = changes
    async with serving(coordinator, tmp_path) as home:
        found = await read(coordinator, home)
    assert (found["alps"].catalogue, found["alps"].reason) == (None, "CATALOGUE_INVALID")


async def test_one_of_another_release_is_left_out(coordinator, tmp_path):
    coordinator.changes = {"release_digest": b"o" * 32}
    async with serving(coordinator, tmp_path) as home:
        found = await read(coordinator, home)
    assert (found["alps"].catalogue, found["alps"].reason) == (None, "STALE_RELEASE")


async def test_what_was_damaged_on_the_analysts_disk_is_fetched_anew(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home:
        await read(coordinator, home)
        (home.path / "catalogues" / "alps.catalogue").write_bytes(b"rubbish")
        assert (await read(coordinator, home))["alps"].catalogue is not None


def catalogue(node, middles):
    sizes = np.arange(len(middles), dtype=np.uint32)
    opened = Opened(node, "catalogue", b"r" * 32, 1, None, None, 10, 300, {"rgb": Part(middles, (), sizes)})
    return Read(node, "catalogue", opened)


@pytest.mark.parametrize(("k", "radius"), [(5, None), (None, 14), (7, 13), (1000, None)])
def test_the_ranking_is_that_of_all_buckets_by_distance(k, radius):
    rng = np.random.default_rng(0)
    reads = [catalogue(name, rng.integers(0, 256, (60, 4), dtype=np.uint8)) for name in ("b", "a", "c")]
    code = rng.integers(0, 256, 4, dtype=np.uint8)
    every = sorted(
        (int(hamming(code[None], middle[None])[0, 0]), read.node, number)
        for read in reads
        for number, middle in enumerate(read.catalogue.parts["rgb"].middles)
    )
    wanted = [row for row in every if radius is None or row[0] <= radius][:k]
    found = nearest(code, "rgb", reads, k=k, radius=radius)
    assert [(each.distance, each.node, each.number) for each in found] == wanted
    assert [each.rank for each in found] == list(range(1, len(wanted) + 1))


def test_nodes_without_buckets_do_no_harm():
    nothing = replace(catalogue("a", np.empty((0, 4), np.uint8)))
    assert nearest(np.zeros(4, np.uint8), "rgb", [nothing, Read("b", "partner", None)], k=3, radius=None) == []


def told(counts, handles, *, level=outcome_pb2.POLICY_LEVEL_CATALOGUE, withheld=outcome_pb2.WITHHELD_REASON_NOTHING):
    column = np.array(counts, "<u4").tobytes()
    return RefineAnswer(counts=column, item_handles=handles, level=level, withheld=withheld)


HANDLES = b"".join(bytes([number]) * 16 for number in range(20))
POLICY = outcome_pb2.WITHHELD_REASON_POLICY


def test_an_answer_that_refines_has_the_floor_of_each_bucket_or_none():
    listed = handles_of(told([10, 10], HANDLES), 2, 10)
    assert [[each[:2] for each in some] for some in listed] == [
        [f"{number:02x}" for number in range(10)],
        [f"{number:02x}" for number in range(10, 20)],
    ]
    assert [len(some) for some in handles_of(told([0, 10], HANDLES[:160], withheld=POLICY), 2, 10)] == [0, 10]


@pytest.mark.parametrize(
    "answer",
    [
        told([10], HANDLES),  # another number of buckets
        told([10, 9], HANDLES[:-16]),  # fewer than the floor
        told([10, 10], HANDLES[:-1]),
        told([10, 10], HANDLES[:160] * 2),  # an item twice
        told([10, 0], HANDLES[:160]),  # withheld, and not said
        told([10, 10], HANDLES, withheld=POLICY),
        told([10, 10], HANDLES, level=outcome_pb2.POLICY_LEVEL_SEALED),
    ],
)
def test_an_answer_that_breaks_a_rule_is_dropped(answer):
    with pytest.raises(InvalidAnswer):
        handles_of(answer, 2, 10)
