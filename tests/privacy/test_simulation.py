"""Replayed queries: figures against the evaluation's own, and what a level withholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import pack
from rsfed.hashing.evaluation.counts import HammingSearch, graded_histograms
from rsfed.hashing.evaluation.expected import expected_ndcg
from rsfed.privacy.cells import Cells
from rsfed.privacy.grid import NONE, TIERS
from rsfed.privacy.policy import POLICIES
from rsfed.privacy.publication import Present, acquisition_numbers
from rsfed.privacy.simulation import K, Seen, drawn, listing, mean, replay, seen_at, seen_by_cells, seen_exactly
from rsfed.trust.manifest import CodebookEntry

CODEBOOK = tuple(CodebookEntry(class_id=n, code=code * 2) for n, code in enumerate(("00", "ff", "f0")))
CELLS = Cells.of(CODEBOOK, 5)


def present(cells, acquisitions):
    nowhere = (np.full(len(cells), NONE, np.int32),) * TIERS
    numbers = acquisition_numbers(f"flight {each}" for each in acquisitions)
    return Present(np.arange(len(cells)) + 7, numbers, np.asarray(cells, np.int64), nowhere, nowhere)


def archive(seed, patches, classes=3, noise=0.15):
    """Codes near the codebook, as those of a trained network are."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, classes, patches)
    centres = np.unpackbits(CELLS.codes, axis=1).astype(bool)
    return pack(centres[kinds] ^ (rng.random((patches, 16)) < noise)), kinds


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 90), st.sampled_from((0.0, 0.05, 0.3)))
def test_exact_answers_have_the_quality_that_the_evaluation_finds_and_lose_nothing(seed, patches, noise):
    codes, kinds = archive(seed, patches, noise=noise)
    labels = np.eye(3, dtype=np.bool_)[kinds]
    queries = np.arange(patches)
    counts = graded_histograms(HammingSearch(codes, codes), labels, labels, own=queries)
    found = replay(seen_exactly(codes), codes, kinds, np.eye(3, dtype=np.bool_), queries.tolist())
    assert np.nan_to_num(found.ndcg) == pytest.approx(expected_ndcg(counts, K))
    assert found.ndcg == pytest.approx(found.exact, nan_ok=True)
    assert found.overlap.min() > 0.999 or patches <= K
    assert found.hits.tolist() == [min(K, patches - 1)] * patches


def test_a_query_does_not_find_the_patch_that_it_was_made_of():
    codes = pack(np.eye(16, dtype=np.bool_)[:3])
    answer = listing(seen_exactly(codes), codes[1], own=1)
    assert (answer.levels >= 0).tolist() == [True, False, True]
    assert replay(seen_exactly(codes), codes, np.arange(3), np.eye(3, dtype=np.bool_), [1]).hits.tolist() == [2]


def test_by_cells_the_order_within_a_class_is_that_of_chance_and_the_class_is_kept():
    codes, kinds = archive(3, 400, noise=0.1)
    cells = CELLS.nearest(codes)[0]
    seen = seen_by_cells(present(cells, range(400)), CELLS, 5)
    found = replay(seen, codes, cells, np.eye(3, dtype=np.bool_), range(100))
    within = [query for query in range(100) if CELLS.of_query(codes[query]) is not None]
    assert found.withheld == pytest.approx(1 - len(within) / 100)
    assert found.ndcg[within].min() == pytest.approx(1)
    assert mean(found.overlap[within]) < 0.5
    assert (kinds == cells).mean() > 0.9


def test_by_cells_a_class_of_too_few_acquisitions_is_withheld_and_its_queries_get_the_cells_around():
    codes = np.repeat(CELLS.codes, 40, axis=0)
    cells = np.repeat(np.arange(3), 40)
    acquisitions = np.where(cells == 2, np.arange(120) % 4, np.arange(120))
    lone = Cells(CELLS.codes, CELLS.band_width, reach=2)  # no other cell is within reach
    found = replay(
        seen_by_cells(present(cells, acquisitions), lone, 5), codes, cells, np.eye(3, dtype=np.bool_), [0, 50, 100]
    )
    assert found.hits.tolist() == [K, K, 0]
    assert found.ndcg.tolist() == [pytest.approx(1), pytest.approx(1), 0]
    assert found.withheld == pytest.approx(1 / 3)
    assert seen_by_cells(present(cells, acquisitions), lone, 5).told == pytest.approx(80 / 120)


def test_by_cells_no_more_items_are_listed_than_the_size_that_is_told():
    codes, cells = np.repeat(CELLS.codes[:1], 12, axis=0), np.zeros(12, np.int64)
    lone = Cells(CELLS.codes, CELLS.band_width, reach=2)
    seen = seen_by_cells(present(cells, range(12)), lone, 5)
    assert listing(seen, codes[0]).hits == 8


def test_in_buckets_the_nearest_bucket_comes_first_and_each_has_its_acquisitions():
    codes, _ = archive(5, 300)
    there = present(CELLS.nearest(codes)[0], range(300))
    seen = seen_at(POLICIES["catalogue"], codes, there, CELLS, CELLS)
    assert np.bincount(seen.groups).min() >= POLICIES["catalogue"].floor
    assert seen.told == 1
    answer = listing(seen, codes[0])
    assert (answer.items == np.bincount(seen.groups)[np.argsort(seen.ranks(codes[0]))]).all()
    found = replay(seen, codes, CELLS.nearest(codes)[0], np.eye(3, dtype=np.bool_), range(50))
    assert found.figures()["quality"] > 0.9
    assert found.withheld == 0


def test_where_nothing_is_searched_every_answer_is_empty():
    codes, kinds = archive(1, 60)
    there = present(CELLS.nearest(codes)[0], range(60))
    assert seen_at(POLICIES["counts"], codes, there, CELLS, CELLS) is None
    found = replay(None, codes, kinds, np.eye(3, dtype=np.bool_), range(10))
    assert (found.withheld, found.figures()["ndcg"], found.figures()["overlap"]) == (1, 0, 0)


def test_patches_without_a_class_do_not_count_for_quality():
    codes, kinds = archive(1, 60)
    alike = np.eye(3, dtype=np.bool_)
    alike[2, 2] = False
    found = replay(seen_exactly(codes), codes, kinds, alike, range(60))
    assert np.isnan(found.ndcg).tolist() == (kinds == 2).tolist()
    assert not np.isnan(found.figures()["quality"])
    assert np.isnan(replay(seen_exactly(codes), codes, kinds, alike & False, range(60)).figures()["quality"])


def test_popular_patches_ask_often_and_a_seed_gives_the_same_ones():
    asked = drawn(1000, 5000, 3)
    assert asked.tolist() == drawn(1000, 5000, 3).tolist()
    counts = np.sort(np.bincount(asked, minlength=1000))[::-1]
    assert counts[0] == pytest.approx(2 * counts[1], rel=0.3)
    assert drawn(1000, 5000, 4).tolist() != asked.tolist()


def test_groups_that_are_not_spoken_of_are_in_no_answer():
    codes, _ = archive(2, 10)
    seen = Seen(np.full(10, -1, np.int64), lambda code: np.empty(0, np.int64))
    assert listing(seen, codes[0]).hits == 0
