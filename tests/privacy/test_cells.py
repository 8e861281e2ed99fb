"""Cells: a query and an item stand for the nearest, and nothing depends on the code but through it."""

import numpy as np
import pytest

from rsfed.codes import hamming, pack
from rsfed.privacy.cells import Cells
from rsfed.trust.manifest import CodebookEntry


def codebook(*codes, varied=(13, 14, 15)):
    return [CodebookEntry(class_id=n, code=code, varied=varied) for n, code in enumerate(codes)]


THREE = codebook("0000", "fff0", "f00f")


def test_distances_are_told_in_bands_of_a_quarter_of_the_least_distance_between_classes():
    cells = Cells.of(THREE, 16)
    assert cells.band_width == 2  # 0000 and f00f differ in 8 bits
    near, upper = cells.around(0)
    assert near.tolist() == [0, 2, 1]
    assert upper.tolist() == [1, 9, 13]


def test_a_query_beyond_the_reach_of_all_cells_has_none():
    cells = Cells.of(THREE, 2)
    asked = np.array([[0x00, 0x00], [0x00, 0x03], [0x00, 0x07], [0xFF, 0xFF]], np.uint8)
    assert [cells.of_query(code) for code in asked] == [0, 0, None, None]
    assert cells.around(1)[0].tolist() == [1], "and no other cell is listed"


@pytest.mark.parametrize(("per_class", "count"), [(1, 3), (2, 6), (4, 12), (8, 24)])
def test_classes_are_split_by_the_bits_that_vary_most(per_class, count):
    cells = Cells.of(THREE, 16, per_class=per_class)
    assert len(cells.codes) == count
    assert cells.band_width == 2, "bands are those of classes"
    steps = hamming(cells.codes[:1], cells.codes[:per_class])[0]
    assert steps.max(initial=0) == per_class.bit_length() - 1


def test_the_nearest_cell_is_that_of_a_comparison_with_all_of_them():
    rng = np.random.default_rng(0)
    entries = codebook(*(bytes(code).hex() for code in rng.integers(0, 256, (9, 2), dtype=np.uint8)))
    cells = Cells.of(entries, 16, per_class=4)
    codes = rng.integers(0, 256, (500, 2), dtype=np.uint8)
    found, away = cells.nearest(codes)
    distances = hamming(codes, cells.codes)
    assert (distances.min(axis=1) == away).all()
    assert all(distances[n, :cell].min(initial=99) > distances[n, cell] for n, cell in enumerate(found))


def test_one_class_has_bands_as_wide_as_a_quarter_of_the_code():
    cells = Cells.of(codebook("0000"), 16)
    assert cells.band_width == 4
    assert cells.around(0)[1].tolist() == [3]
    assert pack(np.zeros((1, 16), bool)).tolist() == cells.codes.tolist()
