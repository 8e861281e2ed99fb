"""A node answers a query that is sealed for it as it answers one in clear, and seals the answer for who asked."""

import hashlib
import json

import numpy as np
import pytest
from archives import Archive
from serving import make_auditor, random_codes

from node.sealed_queries import SealedQueries
from rsfed.analyst.local_merge import close_page, close_query, open_page
from rsfed.clock import Deadline
from rsfed.errors import RsfedError
from rsfed.trust.audit_log import read_entries
from rsfed.trust.envelope import sign_envelope
from rsfed.trust.names import Role
from rsfed.trust.sealing import Purpose, open_sealed, padded, unpadded, wrap
from rsfed.v1 import archive_pb2 as pb
from rsfed.v1.envelope_pb2 import QueryEnvelope

CODES = random_codes(60)


class Scene:
    """The node berne with codes, and ada, who knows its sealing key."""

    def __init__(self, folder):
        self.archive = Archive(folder, CODES)
        self.world = self.archive.world
        self.node = self.world.identity(Role.NODE, "berne")
        self.world.knows(self.node)
        self.asker = self.archive.asker
        self.asker.identity = self.world.identity(Role.ANALYST, "ada")  # with the newest bundle
        self.auditor = make_auditor(self.archive.home, self.world, identity=self.node)
        self.sealed = SealedQueries(lambda: self.node, self.auditor)

    def envelope(self, **how):
        signed = self.asker.ask(self.archive.release, CODES[:2], k=7, **how)
        return QueryEnvelope.FromString(signed.envelope)

    def close(self, envelope=None):
        query = close_query(envelope or self.envelope(), self.asker.identity)
        (part,) = QueryEnvelope.FromString(query.outer.envelope).sealed_for
        return query, part.sealed

    def search(self, **request):
        def search(inner, deadline):
            return self.auditor.searched(self.archive.searcher.search, inner, deadline)

        return self.sealed.searched(search, pb.ArchiveServiceSearchRequest(**request), Deadline.after(20))

    def expand(self, **request):
        def expand(inner, deadline):
            return self.auditor.expanded(self.archive.searcher.expand, inner, deadline)

        return self.sealed.expanded(expand, pb.ArchiveServiceExpandBucketRequest(**request), Deadline.after(20))

    def opened(self, query, sealed):
        return pb.ArchiveServiceSearchResponse.FromString(
            unpadded(
                open_sealed(
                    sealed,
                    Purpose.QUERY_ANSWER,
                    recipient=self.asker.identity.member,
                    key=query.key,
                    bundle=self.world.bundle(),
                    now=self.world.clock(),
                    context=query.envelope.query_id,
                    sender=self.node.member,
                ).content
            )
        )

    def audit(self):
        return [json.loads(each) for each in read_entries(self.archive.home.audit)][1:]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def refused(act, **how):
    with pytest.raises(RsfedError) as caught:
        act(**how)
    return caught.value.reason


def test_the_sealed_answer_says_what_the_answer_in_clear_does(scene):
    query, part = scene.close()
    response = scene.search(sealed_query=part)
    clear = scene.search(query=scene.asker.ask(scene.archive.release, CODES[:2], k=7))
    opened = scene.opened(query, response.sealed_answer)
    for one, other in zip(opened.answers, clear.answers, strict=True):
        assert (one.distance_upper, one.bucket_sizes, one.sample_counts) == (
            other.distance_upper,
            other.bucket_sizes,
            other.sample_counts,
        )
        assert scene.archive.open(one.item_handles) == scene.archive.open(other.item_handles)
    assert not opened.HasField("audit_head")


def test_in_clear_there_is_nothing_but_the_query_id_and_the_head(scene):
    query, part = scene.close()
    response = scene.search(sealed_query=part)
    assert response.audit_head.head
    response.ClearField("audit_head")
    response.ClearField("sealed_answer")
    assert response == pb.ArchiveServiceSearchResponse(query_id=query.envelope.query_id)


def test_a_page_of_a_bucket_is_sealed_as_well(scene):
    query, part = scene.close()
    answer = scene.opened(query, scene.search(sealed_query=part).sealed_answer).answers[0]
    request = pb.ArchiveServiceExpandBucketRequest(
        query=query.inner, bucket_handle=answer.bucket_handles[:16], offset=0, limit=100
    )
    sealed = scene.expand(sealed_request=close_page(request, "berne", scene.asker.identity.bundle))
    page = open_page(
        sealed.sealed_answer, request, query.key, scene.asker.identity, node="berne", now=scene.world.clock()
    )
    assert page.size == np.frombuffer(answer.bucket_sizes, "<u4")[0] == len(page.item_handles) // 16
    assert sealed.item_handles == b""


def test_a_query_is_answered_once_sealed_or_not(scene):
    query, part = scene.close()
    scene.search(sealed_query=part)
    assert refused(scene.search, sealed_query=part) == "REPLAY"
    assert refused(scene.search, query=query.inner) == "REPLAY"


def test_who_passes_on_a_query_gets_no_answer_that_he_can_read(scene):
    """A node that opened its part and sends it to another in clear learns nothing either."""
    query, _ = scene.close()
    response = scene.search(query=query.inner)
    assert not response.answers
    assert scene.opened(query, response.sealed_answer).answers


def test_a_query_that_another_put_a_key_into_is_not_answered(scene):
    query, _ = scene.close()
    query.inner.envelope = query.inner.envelope.replace(query.envelope.answer_key, b"\7" * 32)
    content = padded(query.inner.SerializeToString(), 1024)
    key = scene.node.sealing_key.public_key().public_bytes_raw()
    part = wrap(content, Purpose.QUERY, recipient=scene.node.member, key=key)
    assert refused(scene.search, sealed_query=part) == "ENVELOPE_SIGNATURE"


def test_a_key_that_is_none_is_refused_before_anything_is_searched(scene):
    envelope = scene.envelope()
    envelope.answer_key = bytes(31)
    signed = sign_envelope(envelope, scene.asker.identity)
    assert refused(scene.search, query=signed) == "INVALID_MESSAGE"


def test_what_cannot_be_opened_is_refused_and_noted(scene):
    _, part = scene.close()
    key = scene.node.sealing_key.public_key().public_bytes_raw()
    nonsense = wrap(padded(b"\xff" * 9, 64), Purpose.QUERY, recipient=scene.node.member, key=key)
    torn = wrap(b"\0\0\1\0", Purpose.BUCKET, recipient=scene.node.member, key=key)
    assert refused(scene.search, sealed_query=part[:-1]) == "SEAL_BROKEN"
    assert refused(scene.search, sealed_query=bytes((1 << 20) + 1)) == "MESSAGE_TOO_LARGE"
    assert refused(scene.search, sealed_query=nonsense) == "INVALID_MESSAGE"
    assert refused(scene.expand, sealed_request=part) == "SEAL_BROKEN"
    assert refused(scene.expand, sealed_request=torn) == "SEAL_BROKEN"
    entries = scene.audit()
    assert [each["kind"] for each in entries] == ["query.refused"] * 3 + ["bucket.refused"] * 2
    assert entries[0]["call"] == hashlib.sha256(part[:-1]).hexdigest()


def test_the_query_that_is_sealed_for_all_is_none_that_a_node_answers(scene):
    query, _ = scene.close()
    assert refused(scene.search, query=query.outer) == "ENCODER_UNKNOWN"
