"""The index on disk of a node holds what the catalogue says, whatever happened to its files."""

import json

import numpy as np
import pytest
from members import World
from serving import codes_in, make_home, publish

from node.indexes import indexes_folder, make_equal, open_index, serve_release, served_release
from rsfed.codes import pack
from rsfed.index.facets import Columns
from rsfed.index.files import Owner
from rsfed.index.manifest import Manifest


@pytest.fixture
def node(tmp_path):
    world = World()
    home = make_home(tmp_path / "node")
    return home, publish(home, world)


def coded(ids):
    return np.array(ids), pack(np.array([[item >> bit & 1 for bit in range(32)] for item in ids], bool).reshape(-1, 32))


def logged(capsys):
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [(line["event"], line["name"]) for line in lines]


def content(home, release, ids):
    with open_index(home, release, "rgb") as index:
        make_equal(index, *coded(ids), Columns.unknown(len(ids)))
        return codes_in(index.view)


def test_items_come_and_go_with_the_catalogue(node):
    for ids in ([1, 2, 3], [2, 3, 4, 9], [], [1, 2]):
        assert content(*node, ids) == {item: bytes(code) for item, code in zip(*coded(ids), strict=True)}


@pytest.mark.parametrize("file", ["segment-*", "gone-*", "manifest.json"])
def test_what_is_damaged_is_named_and_taken_from_the_catalogue_again(node, file, capsys):
    content(*node, range(1, 30))
    content(*node, range(5, 40))
    damaged = list(indexes_folder(node[0]).rglob(file))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    assert sorted(content(*node, range(5, 40))) == list(range(5, 40))
    told = logged(capsys)
    assert [event for event, _ in told] == ["index.damaged"] * len(damaged)
    if file != "gone-*":  # there the segment is named that the file is of
        assert {name for _, name in told} == {path.name for path in damaged}
    assert sorted(content(*node, range(5, 40))) == list(range(5, 40))
    assert logged(capsys) == []


def test_a_manifest_of_another_release_in_this_ones_folder_is_replaced(node, capsys):
    home, release = node
    content(home, release, range(1, 30))
    manifest = next(indexes_folder(home).rglob("manifest.json"))
    Manifest(Owner(b"\x01" * 32, "rgb", 32)).write(manifest.parent)
    capsys.readouterr()
    assert sorted(content(home, release, range(5, 40))) == list(range(5, 40))
    assert logged(capsys) == [("index.damaged", "manifest.json")]
    assert sorted(content(home, release, range(5, 40))) == list(range(5, 40))
    assert logged(capsys) == []


def test_one_release_is_served_and_the_indexes_of_others_go(node):
    home, release = node
    assert served_release(home) is None
    content(home, release, [1, 2])
    serve_release(home, release.digest)
    assert served_release(home) == release.digest
    assert sorted(content(home, release, [1, 2])) == [1, 2]
    serve_release(home, b"\x01" * 32)
    assert served_release(home) == b"\x01" * 32
    assert [path.name for path in indexes_folder(home).iterdir()] == ["current"]


def test_a_damaged_note_of_what_is_served_is_logged_and_passed_over(node, capsys):
    home, release = node
    serve_release(home, release.digest)
    note = indexes_folder(home) / "current"
    note.write_bytes(note.read_bytes().replace(release.digest.hex()[:4].encode(), b"0000"))
    assert served_release(home) is None
    assert logged(capsys) == [("index.damaged", "current")]
