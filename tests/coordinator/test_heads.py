"""The coordinator watches the nodes' audit logs: one that was rewritten, cut or replaced shows, whatever it proves."""

import json
import shutil
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from founded import Archive, FakeNode, founded
from hypothesis import given
from hypothesis import strategies as st

from coordinator import audit
from coordinator.heads import HeadKeeper, kept_head, kept_heads, proven
from coordinator.journal import Journal
from coordinator.live import Live
from node.auditing import Auditor, Kind
from rsfed.cli import run
from rsfed.clock import Deadline, utc_now
from rsfed.errors import InvalidMessage, RsfedError, TrustError, Unreachable
from rsfed.transport.channel import call
from rsfed.trust.audit_head import sign_head
from rsfed.trust.audit_log import AuditLog, Position, position_of, read_entries, restart
from rsfed.trust.merkle import Tree, leaf_hash
from rsfed.trust.names import Role
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1 import query_pb2
from rsfed.v1.audit_pb2 import ConsistencyProof, SignedTreeHead
from rsfed.v1.query_pb2_grpc import QueryServiceStub

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Node:
    """A node with a real log and certificate, as the coordinator's link sees it; it may lie in any way."""

    def __init__(self, identity, folder):
        self.identity, self.folder, self.away = identity, folder, False
        self.open()

    def open(self, witness=None):
        self.log = AuditLog(self.folder, witness, now=NOW)
        self.auditor = Auditor(self.log, lambda: self.identity, utc_now)

    def note(self, count=1):
        for _ in range(count):
            self.auditor.note(Kind.QUERY_ANSWERED)
        return self.auditor.head()

    def copy(self, folder):
        """The same node on a copy of its log: a fork once both go on."""
        shutil.copytree(self.folder, folder)
        return Node(self.identity, folder)

    def begin_anew(self):
        restart(self.folder, self.log.durable(), now=utc_now())
        self.open()

    async def prove(self, request, deadline):
        if self.away:
            raise Unreachable("the node is away")
        return self.auditor.prove(request)


class Scene:
    """A coordinator that keeps the heads of the node "berne"."""

    def __init__(self, federation, node):
        self.federation, self.node = federation, node
        self.journal = Journal(federation.state, federation.clock)
        self.live = Live(federation.home, federation.state, now=federation.clock)
        self.keeper = HeadKeeper(federation.state, self.live, lambda name: self.node, self.journal)

    async def hear(self, *heads):
        for head in heads:
            self.keeper.offer("berne", head)
        await self.keeper.check()
        return self.kept()

    def kept(self):
        with self.federation.state.reading() as connection:
            return kept_head(connection, "berne")


@pytest.fixture
async def scene(template, tmp_path):
    with founded(template, tmp_path / "alps") as federation:
        async with federation.serving():
            identity = await federation.join(tmp_path, "berne")
        yield Scene(federation, Node(identity, tmp_path / "audit"))


async def test_a_log_that_only_grows_is_believed_and_its_newest_head_kept(scene):
    heads = [scene.node.note() for _ in range(4)]
    kept = await scene.hear(heads[0])
    assert (kept.position.size, kept.reason, kept.earlier) == (2, "", ())
    kept = await scene.hear(heads[3], heads[1])
    assert kept.position == scene.node.log.durable()
    assert kept.signed == heads[3].SerializeToString()
    kept = await scene.hear(heads[2], heads[3])  # one that comes late is proven too, and the newest stays
    assert (kept.position.size, kept.reason) == (5, "")


async def test_a_fork_is_seen_also_when_both_sides_grow_and_prove_themselves(scene, tmp_path):
    await scene.hear(scene.node.note(3))
    other = scene.node.copy(tmp_path / "fork")
    scene.node.note()
    other.auditor.note(Kind.QUERY_REFUSED)
    await scene.hear(scene.node.auditor.head())
    head = other.note(2)
    scene.node = other
    kept = await scene.hear(head)
    assert (kept.reason, kept.contradiction) == ("AUDIT_FORK", head.SerializeToString())
    assert kept.position.size == 5  # what it contradicts stays


async def test_two_heads_of_one_size_that_differ_are_a_fork_without_asking(scene, tmp_path):
    other = scene.node.copy(tmp_path / "fork")
    scene.node.note()
    other.auditor.note(Kind.QUERY_REFUSED)
    scene.node.away = True
    assert (await scene.hear(scene.node.auditor.head(), other.auditor.head())).reason == "AUDIT_FORK"


async def test_a_log_that_went_back_is_seen(scene, tmp_path):
    older = scene.node.copy(tmp_path / "older")
    await scene.hear(scene.node.note(5))
    scene.node = older
    assert (await scene.hear(older.note())).reason == "AUDIT_ROLLBACK"


async def test_nothing_that_a_node_says_later_undoes_a_contradiction(scene, tmp_path):
    older = scene.node.copy(tmp_path / "older")
    await scene.hear(scene.node.note(5))
    honest, scene.node = scene.node, older
    before = await scene.hear(older.note())
    scene.node = honest
    assert await scene.hear(honest.note()) == before


async def test_a_new_log_is_counted_and_the_old_one_never_comes_back(scene, tmp_path):
    await scene.hear(scene.node.note(2))
    old = scene.node.copy(tmp_path / "old")
    first = scene.node.log.durable().log
    scene.node.begin_anew()
    kept = await scene.hear(scene.node.note())
    assert (kept.reason, kept.earlier, kept.position.size) == ("", (first,), 2)
    scene.node = old
    assert (await scene.hear(old.note())).reason == "AUDIT_ROLLBACK"


async def test_heads_that_can_no_longer_be_proven_since_the_log_was_replaced_are_no_contradiction(scene, tmp_path):
    await scene.hear(scene.node.note(2))
    last = scene.node.note()
    old = scene.node.copy(tmp_path / "old")
    scene.node.begin_anew()
    kept = await scene.hear(last)
    assert (kept.reason, kept.position.size) == ("", 3)
    kept = await scene.hear(scene.node.note())
    assert (kept.reason, kept.earlier) == ("", (old.log.durable().log,))
    scene.node = old  # else a node could show a fork, and say that it has another log when it shall prove it
    assert (await scene.hear(old.note())).reason == "AUDIT_ROLLBACK"


async def test_a_node_cannot_deny_a_log_and_then_go_on_with_it(scene):
    await scene.hear(scene.node.note(2))
    honest = scene.node.prove

    async def deny(request, deadline):
        raise InvalidMessage("another log", reason="AUDIT_REPLACED")

    scene.node.prove = deny
    assert (await scene.hear(scene.node.note())).reason == ""
    scene.node.prove = honest
    assert (await scene.hear(scene.node.note())).reason == "AUDIT_ROLLBACK"


async def test_heads_of_a_node_that_is_away_wait_until_it_is_back(scene):
    await scene.hear(scene.node.note())
    scene.node.away = True
    assert (await scene.hear(scene.node.note())).position.size == 2
    scene.node.away = False
    await scene.keeper.check()
    assert scene.kept().position.size == 3


async def test_a_node_that_proves_nothing_or_stops_signing_is_unproven_until_it_does(scene):
    honest = scene.node.prove
    await scene.hear(scene.node.note())

    async def broken(request, deadline):
        raise RsfedError("internal error")

    scene.node.prove = broken
    assert (await scene.hear(scene.node.note())).reason == "AUDIT_UNPROVEN"
    scene.node.prove = honest
    assert (await scene.hear(scene.node.note())).reason == ""
    assert (await scene.hear(SignedTreeHead())).reason == "AUDIT_UNPROVEN"
    assert (await scene.hear(scene.node.note())).reason == ""


async def test_a_node_with_software_that_signs_no_heads_is_nothing_to_tell_of(scene):
    assert await scene.hear(SignedTreeHead()) is None


async def test_a_head_of_another_member_or_with_another_signature_is_not_genuine(scene, tmp_path):
    async with scene.federation.serving():
        other = await scene.federation.join(tmp_path, "other")
        analyst = await scene.federation.join(tmp_path, "berne-a", Role.ANALYST)
    position = scene.node.log.durable()
    forged = sign_head(position, scene.node.identity, now=utc_now())
    forged.signature = forged.signature[:-1] + bytes([forged.signature[-1] ^ 1])
    wrong = [sign_head(position, each, now=utc_now()) for each in (other, analyst)]
    for head in (*wrong, forged, SignedTreeHead(head=b"\xff\xff")):
        kept = await scene.hear(head)
        assert (kept.reason, kept.contradiction) == ("AUDIT_HEAD", head.SerializeToString())
    kept = await scene.hear(scene.node.note())
    assert (kept.reason, kept.earlier, kept.position.size) == ("", (), 2)


async def test_operators_see_what_is_wrong_and_begin_anew_once_it_is_explained(scene, tmp_path, capsys):
    home = ["--home", str(scene.federation.home.path)]

    def row():
        assert run(["coordinator", "members", "--output", "json", *home]) == 0
        (found,) = json.loads(capsys.readouterr().out)["members"]
        return found["audit"], found["audit_entries"], found["audit_restarts"]

    assert row() == (None, None, None)
    older = scene.node.copy(tmp_path / "older")
    known = scene.node.note(5)
    await scene.hear(known)
    assert row() == ("proven", 6, 0)
    scene.node = older
    bad = older.note()
    await scene.hear(bad)
    assert row() == ("AUDIT_ROLLBACK", 6, 0)
    scene.journal.stop()
    await scene.journal.run()
    with scene.federation.state.reading() as connection:
        line = audit.entries(connection, last=1)[0]
    assert (line.kind, line.data) == ("audit.judged", {"reason": "AUDIT_ROLLBACK"})
    assert run(["coordinator", "audit", "accept", "nobody", *home]) == 2
    capsys.readouterr()
    assert run(["coordinator", "audit", "accept", "berne", *home]) == 0
    evidence = [SignedTreeHead.FromString(bytes.fromhex(text)) for text in capsys.readouterr().out.split()]
    assert evidence == [known, bad]
    assert row() == (None, None, None)
    await scene.hear(older.note())
    assert row() == ("proven", 3, 0)


class AuditedNode(FakeNode):
    """A node on the wire that signs heads."""

    auditor: Auditor

    async def ExpandBucket(self, request, context):  # noqa: N802 - name of the wire
        page = await super().ExpandBucket(request, context)
        page.audit_head.CopyFrom(self.auditor.head())
        return page

    async def Refine(self, request, context):  # noqa: N802 - name of the wire
        self.asked.append(request)
        self.auditor.note(Kind.REFINE_ANSWERED)
        return pb.ArchiveServiceRefineResponse(sealed_answer=b"sealed", audit_head=self.auditor.head())

    async def ProveAudit(self, request, context):  # noqa: N802 - name of the wire
        return self.auditor.prove(request)


async def test_heads_come_with_answers_over_the_wire_and_go_no_further(template, tmp_path):
    with founded(template, tmp_path / "alps") as federation:
        async with federation.serving() as coordinator:
            identity, ada = (
                await federation.join(tmp_path, "berne"),
                await federation.join(tmp_path, "ada", Role.ANALYST),
            )
            log = Node(identity, tmp_path / "audit")
            node = AuditedNode(identity, Archive("berne", [1, 2, 3]), spoil=lambda r: r.audit_head.CopyFrom(log.note()))
            node.auditor = log.auditor
            async with node.serving() as address, federation.channel(ada) as channel:
                await federation.announce(identity, address)
                for number in range(3):
                    query = federation.query(ada, [1], query_id=bytes([number]) * 16)
                    request = query_pb2.QueryServiceSearchRequest(query=query)
                    answer = await call(QueryServiceStub(channel).Search, request, Deadline.after(10), what="it")
                    assert log.log.durable().log not in answer.SerializeToString().hex()
                inner = pb.ArchiveServiceExpandBucketRequest(query=query, limit=5)
                request = query_pb2.QueryServiceExpandBucketRequest(node="berne", request=inner)
                page = await call(QueryServiceStub(channel).ExpandBucket, request, Deadline.after(10), what="it")
                assert page.response.size
                assert not page.response.HasField("audit_head")
                await coordinator._heads.check()
            with federation.state.reading() as connection:
                assert (
                    kept_heads(connection)["berne"].position
                    == log.log.durable()
                    == position_of(read_entries(tmp_path / "audit"))[0]
                )


async def test_nothing_is_refined_at_a_node_whose_machine_went_back_until_that_was_dealt_with(federation, tmp_path):
    async with federation.serving() as coordinator:
        identity = await federation.join(tmp_path, "berne")
        ada = await federation.join(tmp_path, "ada", Role.ANALYST)
        log = Node(identity, tmp_path / "audit")
        image = log.copy(tmp_path / "image")
        node = AuditedNode(identity, Archive("berne", [1, 2, 3]))
        node.auditor = log.auditor
        async with node.serving() as address, federation.channel(ada) as channel:
            await federation.announce(identity, address)

            async def refined():
                inner = pb.ArchiveServiceRefineRequest(sealed_query=b"for berne")
                request = query_pb2.QueryServiceRefineRequest(node="berne", request=inner)
                try:
                    await call(QueryServiceStub(channel).Refine, request, Deadline.after(10), what="it")
                except TrustError as error:
                    return error.reason
                finally:
                    await coordinator._heads.check()
                return "COMPLETE"

            assert [await refined() for _ in range(3)] == ["COMPLETE"] * 3
            node.auditor = image.auditor
            assert [await refined() for _ in range(3)] == ["COMPLETE", "AUDIT_ROLLBACK", "AUDIT_ROLLBACK"]
            assert len(node.asked) == 4
            image.begin_anew()
            node.auditor = image.auditor
            assert await refined() == "AUDIT_ROLLBACK"
            assert run(["coordinator", "audit", "accept", "berne", "--home", str(federation.home.path)]) == 0
            assert [await refined() for _ in range(2)] == ["COMPLETE"] * 2
    with federation.state.reading() as connection:
        told = [each.data["outcome"] for each in audit.entries(connection) if each.kind == "refine.relayed"]
    assert told == ["COMPLETE"] * 4 + ["AUDIT_ROLLBACK"] * 3 + ["COMPLETE"] * 2


@given(st.sets(st.integers(1, 40), min_size=2, max_size=6), st.data())
def test_proofs_of_several_heads_hold_together_and_none_may_be_missing_or_changed(chosen, data):
    tree, sizes = Tree(), sorted(chosen)
    for number in range(sizes[-1]):
        tree.append(leaf_hash(bytes([number])))
    roots = [(size, tree.root(size)) for size in sizes]
    proofs = [b"".join(tree.consistency(old, new)) for old, new in pairwise(sizes)]
    assert proven(roots, response_of(proofs))
    place = data.draw(st.integers(0, len(proofs) - 1))
    assert not proven(roots, response_of(proofs[:place] + proofs[place + 1 :]))
    assert not proven(roots, response_of([*proofs[:place], proofs[place] + b"!", *proofs[place + 1 :]]))
    wrong = [*roots[:place], (roots[place][0], leaf_hash(roots[place][1])), *roots[place + 1 :]]
    assert not proven(wrong, response_of(proofs))


def response_of(proofs):
    return pb.ArchiveServiceProveAuditResponse(proofs=[ConsistencyProof(hashes=proof) for proof in proofs])


def test_a_position_is_kept_as_it_was():
    position = Position("ab" * 16, 3, bytes(range(32)))
    assert Position.of_text(position.to_text()) == position
