"""What a guarded node publishes: nothing that is ever said speaks of fewer acquisitions than the floor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.privacy.publication import (
    ROW,
    Present,
    acquisition_numbers,
    atoms,
    cells_now,
    held_class,
    nothing,
    of_a_batch,
    published,
    size_class,
)

FLOOR = 3


class Archive:
    """Items that come and go; each keeps its acquisition, cell, tile and month."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.facts: dict[int, tuple[int, int, int, int]] = {}
        self.there: set[int] = set()

    def change(self, come: int, go: int) -> None:
        new = range(len(self.facts), len(self.facts) + come)
        for item in new:
            self.facts[item] = tuple(self.rng.integers(0, (9, 3, 25, 30)).tolist())
        leaving = self.rng.permutation(sorted(self.there))[:go].tolist()
        self.there = (self.there | set(new)) - set(leaving)

    def new_release(self) -> None:
        """Codes, and so cells, are others; those of what is gone stay unknown."""
        for item, (flight, _, *rest) in self.facts.items():
            self.facts[item] = (flight, int(self.rng.integers(0, 3)), *rest)

    def carried(self, rows: np.ndarray) -> np.ndarray:
        """What a node publishes of `rows` under the cells of now."""
        known = self.present(rows["id"].tolist())
        cells = cells_now(rows, self.present())
        there = Present(known.ids, rows["acquisition"], cells, known.places, known.times)
        return published(nothing(), there, FLOOR, 0)

    def present(self, items=None) -> Present:
        ids = np.array(sorted(self.there if items is None else items), np.int64)
        facts = np.array([self.facts[item] for item in ids.tolist()], np.int64).reshape(-1, 4)
        tile, month = facts[:, 2].astype(np.int32), facts[:, 3].astype(np.int32)
        none = np.full_like(tile, -1)
        numbers = acquisition_numbers(str(each) for each in facts[:, 0])
        return Present(ids, numbers, facts[:, 1], (tile // 5, tile // 12, none), (month // 5, month // 12, none))

    def acquisitions(self, items: set[int]) -> int:
        return len({self.facts[item][0] for item in items})


def sets_of(rows: np.ndarray) -> list[set[int]]:
    _, numbers = atoms(rows)
    return [set(rows["id"][numbers == atom].tolist()) for atom in range(int(numbers.max(initial=-1)) + 1)]


def answers_of(rows: np.ndarray, rng: np.random.Generator) -> set[int]:
    """The items that an answer speaks of: those of a cell that pass a filter by what is told of tile and month."""
    cell, tile, month = rng.integers(0, 3), rng.integers(-1, 5, 2), rng.integers(-1, 6, 2)
    good = rows["cell"] == cell
    if rng.random() < 0.7:
        good &= (rows["place"] >= tile.min()) & (rows["place"] <= tile.max())
    if rng.random() < 0.7:
        good &= (rows["time"] >= month.min()) & (rows["time"] <= month.max())
    return set(rows["id"][good].tolist())


CHANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 25)), min_size=1, max_size=8)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), CHANGES)
def test_no_answer_and_no_difference_of_two_speaks_of_fewer_acquisitions_than_the_floor(seed, changes):
    """Whatever filters, updates, and differences of any two answers: by brute force over the items."""
    archive, rows, said = Archive(seed), nothing(), [set()]
    for epoch, (come, go) in enumerate(changes):
        archive.change(come, go)
        rows = published(rows, archive.present(), FLOOR, epoch)
        said += [answers_of(rows, archive.rng) for _ in range(6)]
        said += sets_of(rows)
        said.append(set(rows["id"].tolist()))
    for one in said:
        for other in said:
            for spoken in (one - other, one & other):
                assert not spoken or archive.acquisitions(spoken) >= FLOOR


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), CHANGES)
def test_an_epoch_publishes_all_that_can_be_and_nothing_twice(seed, changes):
    archive, rows = Archive(seed), nothing()
    for epoch, (come, go) in enumerate(changes):
        archive.change(come, go)
        rows = published(rows, archive.present(), FLOOR, epoch)
        assert np.array_equal(rows, published(rows, archive.present(), FLOOR, epoch + 1))
        assert len(set(rows["id"].tolist())) == len(rows)
        waiting = archive.there - set(rows["id"].tolist())
        for cell in range(3):
            assert archive.acquisitions({item for item in waiting if archive.facts[item][1] == cell}) < FLOOR


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), CHANGES, st.tuples(st.integers(0, 40), st.integers(0, 25)), CHANGES)
def test_what_is_told_after_a_change_of_release_depends_on_nothing_that_came_since_and_keeps_the_floor(
    seed, before, since, after
):
    archive, rows = Archive(seed), nothing()
    for epoch, change in enumerate(before):
        archive.change(*change)
        rows = published(rows, archive.present(), FLOOR, epoch)
    archive.new_release()
    unchanged = archive.carried(rows)
    archive.change(since[0], 0)
    assert np.array_equal(archive.carried(rows), unchanged), "who compares the releases learns of nothing that came"
    archive.change(0, since[1])
    rows = archive.carried(rows)
    said = [set(), *sets_of(rows)]
    for epoch, change in enumerate(after, 1):
        archive.change(*change)
        rows = published(rows, archive.present(), FLOOR, epoch)
        said += [answers_of(rows, archive.rng) for _ in range(4)] + sets_of(rows)
    for one in said:
        for other in said:
            for spoken in (one - other, one & other):
                assert not spoken or archive.acquisitions(spoken) >= FLOOR


def test_what_is_gone_is_counted_under_the_next_release_where_most_of_its_cell_went():
    archive = Archive(0)
    archive.facts = {n: (n, n % 2, 0, 0) for n in range(10)}
    archive.there = set(archive.facts)
    rows = published(nothing(), archive.present(), FLOOR, 1)
    archive.facts = {n: (n, 2 if n % 2 else 0, 0, 0) for n in range(10)}
    archive.there -= {3, 4}
    rows = archive.carried(rows)
    assert rows["id"].tolist() == list(range(10))
    assert rows["cell"].tolist() == [0, 2] * 5


@settings(deadline=None)
@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(1, 12), st.binary(min_size=4, max_size=8))
def test_acquisitions_of_two_publications_differ_by_none_or_by_a_batch(before, now, least, key):
    was, there = (np.array(sorted(each), np.uint64) for each in (before, now))
    chosen = set(of_a_batch(there, was, least, key).tolist())
    assert chosen <= now
    assert len(chosen ^ before) >= least or chosen in (before, set())
    if before <= now and len(now - before) < least:
        assert chosen == before, "what came waits"
    if len(now ^ before) >= least:
        assert chosen == now
    if chosen and chosen != before and len(now ^ before) < least:
        assert len(chosen) >= least


def test_items_are_told_as_finely_as_enough_acquisitions_allow():
    archive = Archive(0)
    archive.facts = {n: (n, 0, 0, 0) for n in range(3)} | {n: (n, 0, 7, n) for n in range(3, 6)} | {6: (6, 0, 24, 29)}
    archive.there = set(archive.facts)
    rows = published(nothing(), archive.present(), FLOOR, 1)
    assert rows["id"].tolist() == [0, 1, 2, 3, 4, 5], "one that is alone is not published at all"
    assert rows["tier"].tolist() == [0, 0, 0, 1, 1, 1]


def test_withdrawn_items_are_counted_until_a_batch_of_them_can_go_and_one_is_left():
    archive = Archive(0)
    archive.facts = {n: (n, 0, 0, 0) for n in range(8)}
    archive.there = set(range(8))
    rows = published(nothing(), archive.present(), FLOOR, 1)
    archive.there = set(range(2, 8))
    rows = published(rows, archive.present(), FLOOR, 1)
    assert len(rows) == 8
    archive.there = set(range(3, 8))
    rows = published(rows, archive.present(), FLOOR, 1)
    assert rows["id"].tolist() == [3, 4, 5, 6, 7]
    archive.there = {3, 4}
    rows = published(rows, archive.present(), FLOOR, 1)
    assert rows["id"].tolist() == [3, 4, 5, 6, 7], "two that are left would stand alone"
    archive.there = set()
    assert not len(published(rows, archive.present(), FLOOR, 1))


def test_patches_of_one_acquisition_are_one_however_many_they_are():
    archive = Archive(0)
    archive.facts = {n: (n % 2, 0, 0, 0) for n in range(100)}
    archive.there = set(archive.facts)
    assert not len(published(nothing(), archive.present(), FLOOR, 1))


@pytest.mark.parametrize(("count", "size", "held"), [(0, 0, 0), (1, 1, 1), (5, 4, 8), (8, 8, 8), (1000, 512, 1024)])
def test_sizes_are_told_as_powers_of_two(count, size, held):
    assert (size_class(count), held_class(count)) == (size, held)


def test_a_row_takes_few_bytes():
    assert ROW.itemsize <= 32
