"""What a node answers: every bucket that an exact search finds, ties in keyed order, ids only as handles."""

import numpy as np
import pytest
from archives import SOON, Archive, exact, listed
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import PLACE, TIME, add_patches, random_codes, serve_codes

from node.catalogue import Catalogue
from node.served import Facts
from rsfed.clock import Deadline
from rsfed.codes import hamming
from rsfed.errors import DeadlineExceeded, InvalidMessage, RsfedError, UnknownHandle
from rsfed.index.order import by_item_id
from rsfed.merging.answers import Question
from rsfed.merging.validate import validate
from rsfed.v1 import archive_pb2 as pb


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """One node with sixty patches, to be given other codes again and again."""
    return Archive(tmp_path_factory.mktemp("roomy"), random_codes(60))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 10**6), st.integers(1, 70), st.integers(0, 32))
def test_the_answer_is_that_of_an_exact_search_and_keeps_the_rules_of_the_wire(roomy, items, distinct, seed, k, radius):
    archive, codes = roomy, random_codes(items, distinct=distinct, seed=seed)
    archive.ids, archive.codes = np.arange(1, items + 1), codes
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, archive.ids, codes)
    for how in ({}, {"radius": radius}):
        response = archive.search(codes[[0, -1]], k=k, **how)
        bits = archive.release.manifest.bits
        validate(response, Question(response.query_id, archive.release.digest, bits, 2, k, how.get("radius")))
        for code, answer in zip(codes[[0, -1]], response.answers, strict=True):
            found = listed(archive, answer)
            expected = exact(archive, code, **(how or {"k": k}))
            assert sorted((d, s) for d, s, _ in found) == sorted((d, len(members)) for d, members in expected)
            bucket_of = {item: (d, members) for d, members in expected for item in members}
            for distance, size, sample in found:
                assert len({bucket_of[item] for item in sample}) <= 1
                assert all(bucket_of[item][0] == distance for item in sample)
                assert len(set(sample)) == len(sample) <= min(size, k)
            total = sum(len(sample) for *_, sample in found)
            assert total == (min(k, items) if not how else sum(min(s, k) for _, s, _ in found))


def test_in_item_id_order_the_ranking_is_that_of_a_sorted_search(tmp_path):
    codes = random_codes(200, distinct=8, seed=3)
    archive = Archive(tmp_path, codes, order=by_item_id)
    (answer,) = archive.search(codes[:1], k=50).answers
    ranking = [item for *_, sample in listed(archive, answer) for item in sample]
    distances = hamming(codes[:1], codes)[0]
    bucket = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    assert ranking == archive.ids[np.lexsort((archive.ids, bucket, distances))][:50].tolist()


def test_ties_are_ordered_the_same_for_one_query_code_and_differently_for_another(tmp_path):
    archive = Archive(tmp_path, np.zeros((500, 4), np.uint8))

    def ranking(code):
        (answer,) = archive.search(np.array([code], np.uint8), k=100).answers
        return listed(archive, answer)[0][2]

    first, again, other = ranking([0, 0, 0, 0]), ranking([0, 0, 0, 0]), ranking([0, 0, 0, 1])
    assert first == again != other
    assert first != sorted(first)


def test_pages_of_a_bucket_give_its_whole_order_once_and_start_as_the_answer_did(tmp_path):
    archive = Archive(tmp_path, random_codes(700, distinct=3, seed=5), facts={"place": PLACE})
    (answer,) = archive.search(archive.codes[:1], k=40).answers
    _, size, sample = listed(archive, answer)[0]
    handle = answer.bucket_handles[:16]
    pages = [archive.expand(handle, offset, 90) for offset in range(0, size + 90, 90)]
    whole = [item for page in pages for item in archive.open(page.item_handles)]
    assert whole[:40] == sample
    assert sorted(whole) == sorted(archive.ids[(archive.codes == archive.codes[0]).all(axis=1)].tolist())
    assert {page.size for page in pages} == {size}
    assert len(pages[-1].item_handles) == 0
    assert [len(page.footprints) for page in pages] == [len(page.item_handles) for page in pages]


def test_two_queries_never_share_a_handle(tmp_path):
    archive = Archive(tmp_path, np.zeros((50, 4), np.uint8))
    answers = [archive.search(np.zeros((1, 4), np.uint8), k=50).answers[0] for _ in range(2)]
    first, second = ({a.item_handles[i : i + 16] for i in range(0, 800, 16)} for a in answers)
    assert len(first) == 50
    assert not first & second


def test_a_bucket_of_another_query_or_a_made_up_one_cannot_be_expanded(tmp_path):
    archive = Archive(tmp_path, np.zeros((50, 4), np.uint8))
    old = archive.search(np.zeros((1, 4), np.uint8)).answers[0]
    new = archive.search(np.zeros((1, 4), np.uint8)).answers[0]
    for handle in (old.bucket_handles, b"x" * 16, new.item_handles[:16], b""):
        with pytest.raises(UnknownHandle) as refused:
            archive.expand(handle)
        assert refused.value.reason == "UNKNOWN_HANDLE"
    assert archive.expand(new.bucket_handles).size == 50


@pytest.mark.parametrize("now_held", [slice(49), slice(1, None), slice(51)], ids=["lost one", "lost its first", "grew"])
def test_a_bucket_that_changed_since_the_answer_is_refused_and_not_continued_wrongly(tmp_path, now_held):
    archive = Archive(tmp_path, np.zeros((50, 4), np.uint8))
    handle = archive.search(np.zeros((1, 4), np.uint8)).answers[0].bucket_handles
    ids = np.append(archive.ids, add_patches(archive.home, 1))[now_held]
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, ids, np.zeros((len(ids), 4), np.uint8))
    with pytest.raises(UnknownHandle, match="search again") as refused:
        archive.expand(handle, offset=10)
    assert refused.value.reason == "BUCKET_CHANGED"


def test_a_bucket_that_lost_one_patch_and_got_another_has_changed(tmp_path):
    archive = Archive(tmp_path, np.zeros((50, 4), np.uint8))
    handle = archive.search(np.zeros((1, 4), np.uint8)).answers[0].bucket_handles
    ids = np.append(np.delete(archive.ids, 20), add_patches(archive.home, 1))
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, ids, archive.codes)
    with pytest.raises(UnknownHandle) as refused:
        archive.expand(handle, offset=10)
    assert refused.value.reason == "BUCKET_CHANGED"


def test_a_change_elsewhere_leaves_a_bucket_open(tmp_path):
    archive = Archive(tmp_path, np.zeros((50, 4), np.uint8))
    answer = archive.search(np.zeros((1, 4), np.uint8), k=5).answers[0]
    codes = np.append(archive.codes, np.full((1, 4), 255, np.uint8), axis=0)
    ids = np.append(archive.ids, add_patches(archive.home, 1))
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, ids, codes)
    page = archive.expand(answer.bucket_handles, limit=5)
    assert archive.open(page.item_handles) == archive.open(answer.item_handles)


@pytest.mark.parametrize("parameters", [{"limit": 0}, {"limit": 1001}, {"code": 1}])
def test_pages_out_of_range_are_refused(tmp_path, parameters):
    archive = Archive(tmp_path, np.zeros((5, 4), np.uint8))
    handle = archive.search(np.zeros((1, 4), np.uint8)).answers[0].bucket_handles
    with pytest.raises(InvalidMessage):
        archive.expand(handle, **parameters)


def test_a_page_behind_the_end_is_empty(tmp_path):
    archive = Archive(tmp_path, np.zeros((5, 4), np.uint8))
    handle = archive.search(np.zeros((1, 4), np.uint8)).answers[0].bucket_handles
    assert archive.expand(handle, offset=2**32 - 1).item_handles == b""


def test_columns_that_would_say_nothing_are_absent(tmp_path):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8))
    (answer,) = archive.search(np.zeros((1, 4), np.uint8)).answers
    assert not answer.HasField("footprints")
    assert not answer.HasField("acquired")


def test_place_and_time_are_listed_where_they_are_known(tmp_path):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8), facts={"place": PLACE, "time": TIME})
    bare = add_patches(archive.home, 1)
    archive.searcher.shelf.served = serve_codes(
        archive.home, archive.release, [*archive.ids, *bare], np.zeros((4, 4), np.uint8)
    )
    (answer,) = archive.search(np.zeros((1, 4), np.uint8)).answers
    known = [item not in bare for item in archive.open(answer.item_handles)]
    places = np.frombuffer(answer.footprints, "<i4").reshape(-1, 4)
    times = np.frombuffer(answer.acquired, "<i8").reshape(-1, 2)
    assert places[known].tolist() == [[70_000_000, 460_000_000, 71_000_000, 461_000_000]] * 3
    assert times[known].tolist() == [[1_717_237_230_000] * 2] * 3
    unknown = np.logical_not(known)
    assert (places[unknown] == -(2**31)).all()
    assert (times[unknown] == -(2**63)).all()


def test_patches_that_wait_for_their_code_are_held_but_not_examined(tmp_path):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8))
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, archive.ids, archive.codes, held=10)
    (answer,) = archive.search(np.zeros((1, 4), np.uint8)).answers
    assert (answer.examined, answer.held) == (3, 10)


def test_an_empty_archive_answers_completely(tmp_path):
    archive = Archive(tmp_path, np.zeros((0, 4), np.uint8))
    (answer,) = archive.search(np.zeros((1, 4), np.uint8)).answers
    assert (answer.examined, answer.held, answer.bucket_handles) == (0, 0, b"")
    assert answer.HasField("examined")
    assert answer.HasField("held")
    assert answer.withheld == 1


def test_a_query_that_comes_too_late_is_not_even_written_down(tmp_path):
    archive = Archive(tmp_path, np.zeros((3, 4), np.uint8))
    signed = archive.asker.ask(archive.release, np.zeros((1, 4), np.uint8))
    request = pb.ArchiveServiceSearchRequest(query=signed)
    with pytest.raises(DeadlineExceeded):
        archive.searcher.search(request, Deadline.after(0))
    archive.searcher.search(request, Deadline.after(SOON))


def test_facts_follow_the_items_whatever_their_order(tmp_path):
    archive = Archive(tmp_path, np.zeros((4, 4), np.uint8), facts={"place": PLACE})
    bare = add_patches(archive.home, 2, time=TIME)
    with Catalogue(archive.home) as catalogue:
        some = Facts.read(catalogue.connection, np.array(bare, np.int64))
        facts = some.joined(Facts.read(catalogue.connection, archive.ids)).joined(Facts.none())
    found = facts.of(np.array([bare[1], archive.ids[0]]))
    assert (found.columns.boxes[:, 0] == [-(2**31), 70_000_000]).all()
    assert (found.columns.times[:, 0] > 0).tolist() == [True, False]


def test_what_leaves_the_node_names_no_patch(tmp_path):
    archive = Archive(tmp_path, np.zeros((50, 4), np.uint8))
    wire = archive.search(np.zeros((1, 4), np.uint8)).SerializeToString()
    assert b"secret" not in wire
    for item in archive.ids.tolist()[30:]:
        assert item.to_bytes(8, "little") not in wire


def test_errors_on_the_way_out_name_no_patch(tmp_path):
    archive = Archive(tmp_path, np.zeros((5, 4), np.uint8))
    with pytest.raises(RsfedError) as refused:
        archive.searcher.search(pb.ArchiveServiceSearchRequest(), Deadline.after(SOON))
    assert "secret" not in refused.value.public
