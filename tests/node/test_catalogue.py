"""What indexing, search and training rely on in the catalogue."""

from __future__ import annotations

import tracemalloc
from contextlib import closing

import numpy as np
import pytest
from node_archives import make_node, png, run

from node.catalogue import Catalogue
from node.state import MIGRATIONS, get_meta, open_state, set_meta, take_item_ids
from rsfed.errors import ArchiveError, StateError
from rsfed.home import transaction

RELEASE, OTHER = b"\1" * 32, b"\2" * 32


@pytest.fixture
def home(tmp_path):
    home, archive = make_node(tmp_path)
    for number in range(5):
        png(archive / f"{number}.png", number)
    run(home)
    return home


@pytest.fixture
def catalogue(home):
    with Catalogue(home) as catalogue:
        yield catalogue


def test_codes_come_back_by_rising_id_as_they_were_stored(catalogue):
    codes = np.arange(40, dtype=np.uint8).reshape(5, 8)
    catalogue.put_codes(RELEASE, "rgb", [5, 3, 1, 2, 4], codes)
    ids, stored = catalogue.codes(RELEASE, "rgb")
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, 2, 3, 4, 5]
    assert (stored == codes[[2, 3, 1, 4, 0]]).all()


def test_codes_of_other_releases_and_encoders_are_never_mixed(catalogue):
    catalogue.put_codes(RELEASE, "rgb", [1], np.full((1, 4), 1, np.uint8))
    catalogue.put_codes(RELEASE, "sar", [2], np.full((1, 4), 2, np.uint8))
    catalogue.put_codes(OTHER, "rgb", [3], np.full((1, 4), 3, np.uint8))
    assert catalogue.codes(RELEASE, "rgb")[0].tolist() == [1]
    assert catalogue.codes(RELEASE, "sar")[0].tolist() == [2]
    assert catalogue.codes(OTHER, "rgb")[1].tolist() == [[3, 3, 3, 3]]
    assert catalogue.codes(OTHER, "sar")[0].shape == (0,)


def test_a_code_stored_again_replaces_the_first(catalogue):
    catalogue.put_codes(RELEASE, "rgb", [1], np.full((1, 4), 1, np.uint8))
    catalogue.put_codes(RELEASE, "rgb", [1], np.full((1, 4), 9, np.uint8))
    assert catalogue.codes(RELEASE, "rgb")[1].tolist() == [[9, 9, 9, 9]]


def test_coded_items_are_those_of_exactly_this_release_and_encoder(catalogue, monkeypatch):
    monkeypatch.setattr("node.catalogue._PAGE", 2)
    catalogue.put_codes(RELEASE, "rgb", [2, 4, 5], np.zeros((3, 4), np.uint8))
    assert catalogue.coded(RELEASE, "rgb").tolist() == [2, 4, 5]
    for release, encoder in ((OTHER, "rgb"), (RELEASE, "sar")):
        ids = catalogue.coded(release, encoder)
        assert (ids.shape, ids.dtype) == ((0,), np.int64)


def test_chosen_patches_come_by_rising_id_without_those_that_are_gone(home, catalogue):
    (catalogue.root / "2.png").unlink()
    run(home)
    catalogue.put_codes(RELEASE, "rgb", [4, 5], np.array([[4] * 4, [5] * 4], np.uint8))
    chosen = np.array([1, 3, 5, 77])
    assert [item.id for item in catalogue.uncoded(OTHER, "rgb", chosen)] == [1, 5]
    assert [item.id for item in catalogue.uncoded(RELEASE, "rgb", chosen)] == [1]
    assert catalogue.uncoded(RELEASE, "rgb", np.array([4])) == []


def test_codes_of_chosen_patches_come_by_rising_id(catalogue, monkeypatch):
    monkeypatch.setattr("node.catalogue._PAGE", 2)
    catalogue.put_codes(RELEASE, "rgb", [5, 2, 4], np.array([[5] * 4, [2] * 4, [4] * 4], np.uint8))
    ids, codes = catalogue.codes_of(RELEASE, "rgb", np.array([1, 2, 3, 5]))
    assert (ids.tolist(), codes.tolist()) == ([2, 5], [[2] * 4, [5] * 4])
    assert catalogue.codes_of(OTHER, "rgb", np.array([2]))[1].shape == (0, 0)


def test_reading_all_codes_takes_little_more_memory_than_they_do(home, catalogue):
    count = 20_000
    with transaction(catalogue.connection) as connection:
        connection.execute(
            """
            WITH RECURSIVE number(n) AS (SELECT 6 UNION ALL SELECT n + 1 FROM number WHERE n < :count)
            INSERT INTO item SELECT n, source, col, row, width, height, modality, digest, state, nodata, acquisition,
              acquired_start, acquired_end, west, south, east, north, place, NULL FROM item, number WHERE id = 1
            """,
            {"count": count},
        )
    ids = np.arange(1, count + 1)
    catalogue.put_codes(RELEASE, "rgb", ids, np.tile(np.arange(8, dtype=np.uint8), (count, 1)))
    tracemalloc.start()
    try:
        found, codes = catalogue.codes(RELEASE, "rgb")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found == ids).all()
    assert peak < 3 * (found.nbytes + codes.nbytes)


def test_codes_of_old_releases_are_dropped_in_steps_between_which_others_may_write(catalogue, monkeypatch):
    monkeypatch.setattr("node.catalogue._PAGE", 2)
    catalogue.put_codes(RELEASE, "rgb", [1, 2, 3, 4, 5], np.zeros((5, 4), np.uint8))
    seen = []
    catalogue.connection.set_trace_callback(seen.append)
    catalogue.keep_codes([OTHER])
    assert catalogue.connection.execute("SELECT count(*) FROM code").fetchone() == (0,)
    assert catalogue.connection.execute("SELECT count(*) FROM code_set").fetchone() == (0,)
    assert seen.count("BEGIN IMMEDIATE") >= 3


def test_a_code_for_a_patch_that_was_withdrawn_meanwhile_is_not_kept(home, catalogue):
    (catalogue.root / "2.png").unlink()
    run(home)
    catalogue.put_codes(RELEASE, "rgb", [2, 3], np.zeros((2, 4), np.uint8))
    assert catalogue.codes(RELEASE, "rgb")[0].tolist() == [2]
    assert catalogue.state(3) == "withdrawn"


def test_codes_of_old_releases_can_be_dropped(catalogue):
    catalogue.put_codes(RELEASE, "rgb", [1], np.zeros((1, 4), np.uint8))
    catalogue.put_codes(OTHER, "rgb", [1], np.zeros((1, 4), np.uint8))
    catalogue.keep_codes([OTHER])
    assert catalogue.codes(RELEASE, "rgb")[0].size == 0
    assert catalogue.codes(OTHER, "rgb")[0].tolist() == [1]


def test_as_many_ids_as_codes_are_needed(catalogue):
    with pytest.raises(ValueError, match="zip"):
        catalogue.put_codes(RELEASE, "rgb", [1, 2], np.zeros((1, 4), np.uint8))
    assert catalogue.codes(RELEASE, "rgb")[0].size == 0


def test_items_can_be_walked_while_codes_are_written(catalogue, monkeypatch):
    monkeypatch.setattr("node.catalogue._PAGE", 2)
    for item in catalogue.items("rgb"):
        catalogue.put_codes(RELEASE, "rgb", [item.id], np.zeros((1, 4), np.uint8))
    assert catalogue.codes(RELEASE, "rgb")[0].tolist() == [1, 2, 3, 4, 5]


def test_an_id_that_never_was_is_said(catalogue):
    assert catalogue.state(77) is None
    with pytest.raises(ArchiveError):
        catalogue.item(77)


def test_ids_taken_in_a_transaction_that_fails_are_not_lost(home):
    with closing(open_state(home)) as connection:
        before = get_meta(connection, "next_item")

        def fail():
            with transaction(connection):
                assert list(take_item_ids(connection, 3)) == [before, before + 1, before + 2]
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert get_meta(connection, "next_item") == before


def test_the_name_of_the_archive_stays(home):
    with closing(open_state(home)) as first, closing(open_state(home)) as second:
        assert get_meta(first, "archive") == get_meta(second, "archive")


def test_state_of_newer_software_is_refused(home):
    with closing(open_state(home)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StateError, match="update rsfed"):
        open_state(home)


def test_meta_keeps_numbers_and_text_apart(home):
    with closing(open_state(home)) as connection:
        set_meta(connection, "number", 7)
        set_meta(connection, "text", "7")
        assert (get_meta(connection, "number"), get_meta(connection, "text")) == (7, "7")
        assert get_meta(connection, "nothing") is None
