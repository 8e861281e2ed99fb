"""The index on disk of a node holds what the catalogue says, whatever happened to its files."""

import numpy as np
import pytest
from members import World
from serving import codes_in, make_home, publish

from node.indexes import discard_indexes, indexes_folder, make_equal, open_index
from rsfed.codes import pack
from rsfed.index.facets import Columns


@pytest.fixture
def node(tmp_path):
    world = World()
    home = make_home(tmp_path / "node")
    return home, publish(home, world)


def coded(ids):
    return np.array(ids), pack(np.array([[item >> bit & 1 for bit in range(32)] for item in ids], bool).reshape(-1, 32))


def content(home, release, ids):
    with open_index(home, release, "rgb") as index:
        make_equal(index, *coded(ids), Columns.unknown(len(ids)))
        return codes_in(index.view)


def test_items_come_and_go_with_the_catalogue(node):
    for ids in ([1, 2, 3], [2, 3, 4, 9], [], [1, 2]):
        assert content(*node, ids) == {item: bytes(code) for item, code in zip(*coded(ids), strict=True)}


@pytest.mark.parametrize("file", ["segment-*", "gone-*", "manifest.json"])
def test_what_is_damaged_is_taken_from_the_catalogue_again(node, file):
    content(*node, range(1, 30))
    content(*node, range(5, 40))
    for path in indexes_folder(node[0]).rglob(file):
        path.write_bytes(path.read_bytes()[:-9])
    assert sorted(content(*node, range(5, 40))) == list(range(5, 40))
    assert sorted(content(*node, range(5, 40))) == list(range(5, 40))


def test_indexes_of_releases_that_are_not_served_go(node):
    home, release = node
    content(home, release, [1, 2])
    discard_indexes(home, [release.digest])
    assert sorted(content(home, release, [1, 2])) == [1, 2]
    discard_indexes(home, [])
    assert not list(indexes_folder(home).iterdir())
