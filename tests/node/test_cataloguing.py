"""Catalogues and counts as a node publishes them: from whom, when, and what two of them tell."""

from contextlib import closing

import numpy as np
import pytest
from publications import CLASSES, PER_ACQUISITION, Publishing

from node.cataloguing import catalogue_chunk
from node.state import open_state
from rsfed.codes import hamming
from rsfed.errors import InvalidAnswer, StateError, UnknownHandle
from rsfed.privacy.counts import STEP
from rsfed.transport.limits import CHUNK_BYTES
from rsfed.trust.catalogue import open_catalogue, sign_catalogue
from rsfed.trust.names import Role
from rsfed.v1.archive_pb2 import ArchiveServiceGetCatalogueRequest
from rsfed.v1.catalogue_pb2 import Catalogue, SignedCatalogue


@pytest.fixture
def node(tmp_path):
    return Publishing(tmp_path, changes={"catalogue_days": 1})


def test_a_catalogue_has_a_code_and_a_rounded_size_for_each_bucket(node):
    node.add(60)
    assert node.publish() is True
    found = node.opened()
    part = found.parts["rgb"]
    assert (found.node, found.level, found.epoch, found.floor) == ("berne", "catalogue", 1, 10)
    assert len(part.middles) >= 3
    assert len(part.sizes) == len(part.middles)
    assert (part.sizes % STEP == 0).all()
    assert (hamming(part.middles, CLASSES).min(axis=1) <= 4).all()


def test_counts_have_classes_and_no_code(tmp_path):
    node = Publishing(tmp_path, "counts", {"counted_patches": 4})
    node.add(200)
    assert node.publish() is True
    part = node.opened().parts["rgb"]
    assert len(part.middles) == 0
    assert part.classes == (0, 1, 2)
    assert abs(int(part.sizes.sum()) - 800) < 400  # each count is off by more than 130 once in 10^7
    raw = SignedCatalogue.FromString(node.signed()).catalogue
    assert not any(code.tobytes() in raw for code in np.unique(node.codes, axis=0))


@pytest.mark.parametrize(("level", "needed"), [("catalogue", 30), ("sealed", 60), ("counts", 30)])
def test_a_level_whose_floor_the_archive_cannot_meet_publishes_nothing_and_charges_nothing(tmp_path, level, needed):
    node = Publishing(tmp_path, level)
    node.add(needed - 1)
    assert node.publish() is False
    assert node.signed() == b""
    assert node.charges() == []
    node.add(1, start=needed - 1)
    assert node.publish() is True


def test_a_new_one_waits_for_the_interval_and_for_enough_acquisitions(node):
    node.add(60)
    node.publish()
    first = node.signed()
    node.add(30, start=60)
    assert node.publish() is None
    assert node.signed() == first
    node.world.clock.move(days=1)
    assert node.publish() is True
    assert node.opened().epoch == 2
    node.add(29, start=90)
    node.world.clock.move(days=1)
    assert node.publish() is False  # one is missing
    assert node.opened().epoch == 2


def test_after_the_budget_of_the_release_the_last_one_stays_until_there_is_a_new_release(node):
    node.add(40)
    for number in range(5):
        assert node.publish() is (number < 4)
        node.add(30, start=40 + 30 * number)
        node.world.clock.move(days=1)
    assert node.opened().epoch == 4
    assert sum(charge.epsilon for charge in node.charges()) == 2.0
    node.release = node.new_release(2)
    assert node.publish() is True
    assert node.opened().epoch == 1


def spoken_of(node):
    """Acquisitions that the catalogue of now is of."""
    with closing(open_state(node.home)) as connection:
        (known,) = connection.execute("SELECT acquisitions FROM catalogue").fetchone()
    return set(np.frombuffer(known, "<u8").tolist())


def drop(node, acquisitions):
    """Acquisitions leave the archive."""
    gone = np.isin(node.ids, node.ids[: acquisitions * PER_ACQUISITION])
    node.ids, node.codes = node.ids[~gone], node.codes[~gone]


def test_a_new_release_is_published_at_once_of_the_acquisitions_of_before_and_others_wait_for_their_batch(node):
    node.add(60)
    node.publish()
    first = spoken_of(node)
    node.add(29, start=60)
    node.world.clock.move(days=1)
    node.release = node.new_release(2)
    assert node.publish() is True
    assert node.opened().epoch == 1
    assert spoken_of(node) == first, "29 that came would be told by comparing the releases"
    node.add(1, start=89)
    assert node.publish() is None
    node.world.clock.move(days=1)
    assert node.publish() is True
    assert len(spoken_of(node) ^ first) == 30


def test_a_new_release_within_the_interval_takes_nothing_up_however_much_came(node):
    node.add(60)
    node.publish()
    first = spoken_of(node)
    node.add(60, start=60)
    node.release = node.new_release(2)
    assert node.publish() is True
    assert spoken_of(node) == first


def test_where_few_acquisitions_went_a_new_release_leaves_as_many_out_as_make_a_batch(node):
    node.add(90)
    node.publish()
    first = spoken_of(node)
    drop(node, 1)
    node.release = node.new_release(2)
    assert node.publish() is True
    assert spoken_of(node) < first
    assert len(spoken_of(node) ^ first) == 30


def test_where_that_leaves_too_few_a_new_release_is_not_published_before_enough_changed(node):
    node.add(40)
    node.publish()
    signed = node.signed()
    drop(node, 1)
    node.add(30, start=40)
    node.release = node.new_release(2)
    cataloguer = node.cataloguer()
    assert node.publish(cataloguer) is None
    assert node.signed() == b"" != signed
    node.world.clock.move(days=1)
    assert node.publish(cataloguer) is True
    assert len(spoken_of(node)) == 69


def test_a_crash_after_the_charge_publishes_nothing_and_costs_the_epoch(node, monkeypatch):
    node.add(60)
    monkeypatch.setattr("node.cataloguing.noisy", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        node.publish()
    assert node.signed() == b""
    monkeypatch.undo()
    assert node.publish() is None  # not before the interval
    node.world.clock.move(days=1)
    assert node.publish() is True
    assert node.opened().epoch == 2


def test_the_items_behind_the_buckets_are_kept_with_the_publication_and_only_where_they_may_be_listed(node, tmp_path):
    node.add(60)
    node.publish()
    kept = node.bucketed()
    rows = [kept.of("rgb", number) for number in range(len(node.opened().parts["rgb"].middles))]
    assert kept.epoch == 1
    assert all(len(np.unique(each["acquisition"])) >= kept.floor == 10 for each in rows)
    assert set(np.concatenate(rows)["id"].tolist()) <= set(node.ids.tolist())
    assert len(np.unique(np.concatenate(rows)["content"])) == sum(map(len, rows)) <= len(node.ids)
    sealed = Publishing(tmp_path / "sealed", "sealed")
    sealed.add(60)
    sealed.publish()
    assert sealed.bucketed() is None


def test_of_patches_with_the_same_content_one_is_kept(node):
    node.add(60)
    with closing(open_state(node.home)) as connection:
        connection.execute("UPDATE item SET digest = ? WHERE id % 2", ("ab" * 32,))
    node.publish()
    contents = node.bucketed().rows[["bucket", "content"]]
    assert len(np.unique(contents)) == len(contents)


def test_what_another_level_published_is_not_given_away(node):
    node.add(60)
    node.publish()
    node.level = "sealed"
    assert node.signed() == b""


def test_an_audit_log_that_cannot_be_written_stops_publication(node):
    def fails(*_, **__):
        raise StateError("the disk is full", reason="AUDIT_UNWRITABLE")

    node.add(60)
    node.auditor.note = fails
    assert node.publish() is False
    assert node.signed() == b""


def test_a_catalogue_is_read_in_chunks_of_one_publication():
    signed = bytes(range(256)) * 5000
    whole, digest = b"", b""
    while len(whole) < len(signed):
        request = ArchiveServiceGetCatalogueRequest(offset=len(whole), digest=digest)
        answer = catalogue_chunk(signed, request)
        assert answer.size == len(signed)
        assert 0 < len(answer.chunk) <= CHUNK_BYTES
        whole, digest = whole + answer.chunk, answer.digest
    assert whole == signed
    with pytest.raises(UnknownHandle) as refused:
        catalogue_chunk(b"another", request)
    assert refused.value.reason == "CATALOGUE_CHANGED"
    with pytest.raises(UnknownHandle) as refused:
        catalogue_chunk(b"", ArchiveServiceGetCatalogueRequest())
    assert refused.value.reason == "NO_CATALOGUE"


def test_a_catalogue_that_is_not_genuine_or_breaks_a_rule_is_refused(node):
    node.add(60)
    node.publish()
    message = SignedCatalogue.FromString(node.signed())

    def refused(**changes):
        spoilt = SignedCatalogue()
        spoilt.CopyFrom(message)
        for name, value in changes.items():
            setattr(spoilt, name, value)
        with pytest.raises(InvalidAnswer) as error:
            node.opened(spoilt.SerializeToString())
        return error.value.reason

    other = Catalogue.FromString(message.catalogue)
    other.floor = 1
    assert refused(catalogue=other.SerializeToString()) == "CATALOGUE_INVALID"
    assert refused(signature=b"no") == "CATALOGUE_INVALID"
    with pytest.raises(InvalidAnswer):
        open_catalogue(node.signed(), "zurich", node.release.manifest, node.world.bundle(), now=node.world.clock())
    forged = sign_catalogue(Catalogue.FromString(message.catalogue), node.world.identity(Role.NODE, "zurich"))
    with pytest.raises(InvalidAnswer, match="somebody else"):
        node.opened(forged)
    node.world.revoked_names = [node.identity.member.uri]
    with pytest.raises(InvalidAnswer, match="revoked"):
        node.opened()
