"""A node that lies about its codes: a released image gives it away, and from then on it has no more than its share."""

from collections import Counter
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import numpy as np
import pytest
from fake_coordinator import FakeCoordinator, serving
from hypothesis import example, given
from hypothesis import strategies as st
from members import World
from node_archives import make_node, png, run
from serving import join, make_auditor, make_desk, make_searcher, publish, serve_codes

from node.approval import approve
from node.catalogue import Catalogue
from node.sealed_queries import SealedQueries
from rsfed.analyst.access import AccessClient, new_request
from rsfed.analyst.access_cli import _checked, _written
from rsfed.analyst.advice import notes
from rsfed.analyst.claims import Claim, Verdict, covered, judge
from rsfed.analyst.connection import Connection
from rsfed.analyst.session import AnalystSession
from rsfed.analyst.state import distrusted, find, forgive, open_state, put
from rsfed.clock import Deadline
from rsfed.codes import hamming
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.weights import init_weights
from rsfed.merging.queries import Gathered, outcome_of, question_of, response_of
from rsfed.merging.shares import within_share
from rsfed.merging.validate import validate
from rsfed.privacy.cells import Cells
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read
from rsfed.trust.envelope import verify_envelope
from rsfed.trust.identity import load_identity, save_bundle
from rsfed.trust.manifest import CodebookEntry, CompactResnet
from rsfed.v1 import archive_pb2, federation_pb2, outcome_pb2, query_pb2

NODES, IMAGES, K = ("liar", "bern", "graz"), 6, 6
SPEC = default_spec(modality("rgb"), 32)
WEIGHTS = init_weights(CompactResnet(), SPEC, 32, 1)
CODEBOOK = tuple(
    CodebookEntry(class_id=n, code=code * 4, varied=(1, 9, 17)) for n, code in enumerate(("00", "ff", "f0"))
)


class Node:
    """A real node with real images; `codes` are what it serves, which a liar chooses."""

    def __init__(self, folder, world, name, seed):
        folder.mkdir()
        self.world, self.name = world, name
        self.home, archive = make_node(folder)
        for number in range(IMAGES):
            png(archive / f"{number}.png", seed + number)
        run(self.home)
        self.identity = join(world, self.home, name, "127.0.0.1:1")
        world.knows(self.identity)
        self.release = publish(self.home, world, weights=WEIGHTS)
        with Catalogue(self.home) as catalogue:
            items = list(catalogue.items("rgb"))
        self.ids = [item.id for item in items]
        self.codes = self.true = Encoder.load(self.release).encode(read(item, SPEC) for item in items)
        self.auditor = make_auditor(self.home, world, identity=self.identity)

    def starts(self):
        """Take up the trust of now, and serve."""
        save_bundle(self.home.identity, self.world.signed_bundle(), refreshed=self.world.clock())
        served = serve_codes(self.home, self.release, self.ids, self.codes)
        self.searcher = make_searcher(self.home, self.world, served)
        identity = load_identity(self.home.identity)
        self.desk = make_desk(self.home, self.world, self.auditor, lambda: identity)
        self.sealed = SealedQueries(lambda: identity, self.auditor)

    def search(self, **request):
        return self.sealed.searched(
            self.searcher.search, archive_pb2.ArchiveServiceSearchRequest(**request), Deadline.after(60)
        )


class Relay(FakeCoordinator):
    """A coordinator that merges, or passes on what is sealed, as the real one does."""

    def __post_init__(self):
        self.release = self.world.release(weights=WEIGHTS)
        self.nodes = {}

    async def GetRelease(self, request, context):  # noqa: N802
        yield federation_pb2.FederationServiceGetReleaseResponse(header=self.release.header)
        for start in range(0, len(WEIGHTS) if request.have_digest != self.release.digest else 0, 1 << 20):
            yield federation_pb2.FederationServiceGetReleaseResponse(chunk=WEIGHTS[start : start + (1 << 20)])

    async def Search(self, request, context):  # noqa: N802
        envelope = verify_envelope(request.query, self.world.bundle(), now=self.world.clock()).envelope
        gathered = Gathered()
        if envelope.sealed_for:
            for part in envelope.sealed_for:
                answer = self.nodes[part.node].search(sealed_query=part.sealed)
                gathered.sealed[part.node] = answer.sealed_answer
                status = outcome_pb2.NODE_STATUS_SEALED
                gathered.outcomes.append(outcome_pb2.NodeOutcome(node=part.node, status=status))
            answers = [query_pb2.SealedAnswer(node=n, sealed=each) for n, each in gathered.sealed.items()]
            outcomes = gathered.outcomes
            return query_pb2.QueryServiceSearchResponse(
                query_id=envelope.query_id, outcomes=outcomes, sealed_answers=answers
            )
        question = question_of(envelope, self.release.manifest)
        for name, node in self.nodes.items():
            gathered.answers[name] = validate(node.search(query=request.query), question)
            gathered.outcomes.append(outcome_of(name, gathered.answers[name], question))
        return response_of(question, gathered)

    async def RequestAccess(self, request, context):  # noqa: N802
        answer = self.nodes[request.node].desk.answer(request.request.sealed_call)
        inner = archive_pb2.ArchiveServiceRequestAccessResponse(sealed_answer=answer)
        return query_pb2.QueryServiceRequestAccessResponse(response=inner)

    async def CollectAccess(self, request, context):  # noqa: N802
        with self.nodes[request.node].desk.collect(request.request.sealed_call) as file:
            inner = archive_pb2.ArchiveServiceCollectAccessResponse(chunk=file.read())
        yield query_pb2.QueryServiceCollectAccessResponse(response=inner)


class Case:
    """Ada, and a federation of three nodes."""

    def __init__(self, relay, home, folder):
        self.relay, self.home, self.world, self.folder = relay, home, relay.world, folder
        for number, name in enumerate(NODES):
            relay.nodes[name] = Node(folder / name, self.world, name, 100 * number)
        self.world.knows(load_identity(home.identity))
        save_bundle(home.identity, self.world.signed_bundle(), refreshed=self.world.clock())

    def lie(self):
        """All images of the liar are said to have the query's code, from which they are as far as can be."""
        liar = self.relay.nodes["liar"]
        self.query = ~liar.true[:1]
        liar.codes = np.repeat(self.query, IMAGES, axis=0)
        for node in self.relay.nodes.values():
            node.starts()

    async def search(self, **how):
        async with AnalystSession(self.home, now=self.world.clock) as session:
            (result,) = await session.search(self.query, k=K, **how)
            session.remember([result])
        return result

    async def collected(self, handle, want):
        """The verdict on an item that is asked for, approved and collected."""
        connection, now = Connection(self.home, now=self.world.clock), self.world.clock()
        await connection.refresh()
        client = AccessClient(connection)
        with closing(open_state(self.home)) as state:
            found = find(state, handle)
            asked = await client.ask(new_request(found, want, "flood mapping", now), found)
            approve(self.relay.nodes[found.node].home, asked.id, operator="olga", now=now)
            newest, delivered = await client.collect(asked)
            file = _written(self.folder, asked, delivered)
            claim = _checked(self.home, state, asked, file)
            put(state, replace(newest, file=str(file), claim=claim))
        await connection.close()
        return claim


@asynccontextmanager
async def federation(folder):
    relay = Relay(World(), [])
    async with serving(relay, folder) as home:
        case = Case(relay, home, folder)
        case.lie()
        yield case


def places(result):
    return Counter(hit.node for hit in result.hits)


async def test_a_liar_is_given_away_by_an_image_and_has_its_share_of_rankings_and_no_more(tmp_path, capsys):
    async with federation(tmp_path) as case:
        first = await case.search()
        assert places(first) == {"liar": K}, "nothing keeps a lie from taking all of a ranking"
        handle = first.hits[0].handle
        assert await case.collected(handle, "quicklook") == "unchecked"
        assert places(await case.search()) == {"liar": K}
        assert await case.collected(handle, "crop") == "broken"
        assert "DOES NOT HOLD" in capsys.readouterr().err
        second = await case.search()
        assert places(second)["liar"] == K // len(NODES)
        assert len(second.hits) == K
        assert [hit.rank for hit in second.hits] == list(range(1, K + 1))
        assert [each.node for each in second.outcomes if each.bounded] == ["liar"]
        assert any("rsfed access believe liar" in line for line in notes([second]))
        honest = next(hit for hit in second.hits if hit.node != "liar")
        assert await case.collected(honest.handle, "file") == "holds"
        assert (await case.search(radius=32)).hits
        with closing(open_state(case.home)) as state:
            assert distrusted(state) == {"liar"}
            assert forgive(state, "liar")
            assert not forgive(state, "liar")
        assert places(await case.search()) == {"liar": K}


# what an image says of a claim


def claimed(level, code, distance=None, classes=()):
    return Claim("00" * 32, "rgb", level, bytes(code).hex(), distance, classes)


def moved(code, bits, rng):
    flips = np.zeros(32, bool)
    flips[rng.permutation(32)[:bits]] = True
    return np.asarray(code, np.uint8) ^ np.packbits(flips)


CODES = st.binary(min_size=4, max_size=4).map(lambda code: np.frombuffer(code, np.uint8))


@given(CODES, CODES, st.integers(0, 4), st.integers(0, 32), st.integers(0, 2**32))
def test_at_partner_a_distance_holds_if_the_images_code_has_it_give_or_take_an_eighth(query, code, off, said, seed):
    true = int(hamming(query[None], code[None])[0, 0])
    seen = moved(code, off, np.random.default_rng(seed))
    assert judge(claimed("partner", query, true), seen[None], ()) is Verdict.HOLDS
    apart = abs(int(hamming(query[None], seen[None])[0, 0]) - said)
    verdict = judge(claimed("partner", query, said), seen[None], ())
    assert (verdict is Verdict.BROKEN) == (apart > 4)


@pytest.mark.parametrize("per_class", [1, 2, 4, 8])
@given(CODES, CODES)
def test_what_an_honest_guarded_node_says_always_holds(per_class, query, code):
    cells = Cells.of(CODEBOOK, 32, per_class=per_class)
    near, upper = cells.around(int(cells.nearest(query[None])[0][0]))
    told = dict(zip(near.tolist(), upper.tolist(), strict=True))[int(cells.nearest(code[None])[0][0])]
    assert judge(claimed("guarded", query, told), code[None], CODEBOOK) is Verdict.HOLDS


def test_a_guarded_node_that_says_another_class_is_found_out():
    zeros, ones = np.zeros(4, np.uint8), np.full((1, 4), 255, np.uint8)
    assert judge(claimed("guarded", zeros, 3), ones, CODEBOOK) is Verdict.BROKEN
    assert judge(claimed("guarded", zeros, 3), zeros[None], CODEBOOK) is Verdict.HOLDS
    assert judge(claimed("guarded", zeros, 3), ones, ()) is Verdict.UNCHECKED


def test_an_item_of_a_bucket_is_of_the_class_of_its_middle_unless_no_bucket_is_of_its_class():
    zeros, ones = np.zeros(4, np.uint8), np.full((1, 4), 255, np.uint8)
    classes = covered(np.stack([zeros, ones[0]]), CODEBOOK)
    assert classes == (0, 1)
    assert judge(claimed("catalogue", zeros, classes=classes), zeros[None], CODEBOOK) is Verdict.HOLDS
    assert judge(claimed("catalogue", zeros, classes=classes), ones, CODEBOOK) is Verdict.BROKEN
    assert judge(claimed("catalogue", zeros, classes=(0,)), ones, CODEBOOK) is Verdict.UNCHECKED


def test_one_patch_of_a_file_that_fits_is_enough_and_none_tells_nothing():
    zeros, ones = np.zeros((1, 4), np.uint8), np.full((1, 4), 255, np.uint8)
    said = claimed("partner", zeros[0], 0)
    assert judge(said, np.concatenate([ones, zeros]), ()) is Verdict.HOLDS
    assert judge(said, zeros[:0], ()) is Verdict.UNCHECKED
    assert judge(said, np.zeros((1, 8), np.uint8), ()) is Verdict.UNCHECKED


def test_a_claim_comes_back_from_the_home_as_it_was():
    for claim in (claimed("partner", b"\1\2\3\4", 7), claimed("catalogue", b"\1\2\3\4", classes=(2, 5))):
        assert Claim.of_text(claim.to_text()) == claim


# the share of a ranking


OWNERS = st.lists(st.sampled_from("abcd"), max_size=60)


@given(OWNERS, st.sets(st.sampled_from("abcd")), st.integers(4, 9), st.none() | st.integers(1, 30))
@example(list("aaaabbc"), {"b", "c"}, 4, None)  # one of the two has less than its share
def test_who_is_not_believed_has_at_most_its_share_and_others_move_up(owners, bounded, answered, k):
    stay = within_share(owners, bounded, answered, k)
    taken = Counter(owners[position] for position in stay)
    assert stay == sorted(stay)
    if k is not None:
        assert len(stay) <= k
        assert all(taken[name] <= max(1, k // answered) for name in bounded)
    elif bounded < set("abcd"):
        assert all(taken[name] <= max(1, len(stay) / answered) for name in bounded)
    trusted = [position for position, owner in enumerate(owners) if owner not in bounded]
    assert [position for position in stay if owners[position] not in bounded] == trusted[: len(stay)][
        : sum(owners[position] not in bounded for position in stay)
    ]
    if not bounded:
        assert stay == list(range(len(owners)))[:k]
