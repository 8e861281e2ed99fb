"""Overlapping patches of one acquisition are one place: one of them is searched, whatever came when."""

from __future__ import annotations

from contextlib import closing
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from members import World
from node_archives import configure, give_release, make_node, run, scene
from serving import Asker, make_searcher, serve_codes

from node.catalogue import Catalogue
from node.places import SAME_PLACE
from node.sources import Read, Rules, Seen, acknowledge, withdraw
from node.state import open_state
from rsfed.clock import Deadline
from rsfed.home import Home, transaction
from rsfed.raster.geometry import overlap
from rsfed.raster.input_spec import default_spec
from rsfed.raster.inspect import SourceInfo, SourceWindow
from rsfed.raster.item import Window
from rsfed.raster.modality import modality
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1 import archive_pb2 as pb
from rsfed.wire import DEGREE

KIND = "rgbn-reflectance"
RULES = Rules(KIND, 0.1, 0.2, independent_files=False, recipe="")


def source(path, acquisition, windows, *, corner=(10.0, 46.0), nodata=()):
    """A file of pixels of a thousandth of a degree; windows are (col, row, size), some with too much nodata."""
    west, north = corner
    found = []
    for number, (col, row, size) in enumerate(windows):
        box = None
        if corner != (None, None):
            left, top = west + col / 1000, north - row / 1000
            box = tuple(
                (each + 180) % 360 - 180 if edge % 2 == 0 else each
                for edge, each in enumerate((left, top - size / 1000, left + size / 1000, top))
            )
        window = Window(col, row, size, size)
        digest = f"{path} {col} {row} {size}"  # content that returns may lie elsewhere and be of another acquisition
        found.append(SourceWindow(window, 1.0 if number in nodata else 0.0, digest, box))
    info = SourceInfo(1000, 1000, 4, "uint16", (None,) * 4, None, None, None, None, acquisition, None, None,
                      path.encode(), tuple(found))  # fmt: skip
    return Read(Seen(path, 1, 1, frozenset()), info)


def told(connection):
    """(path, col, row, size) of each patch that may be searched -> the one that is searched in its place, or None."""
    query = """
        SELECT source.path, item.col, item.row, item.width, other.path, first.col, first.row, first.width, item.state
        FROM item JOIN source ON source.id = item.source
        LEFT JOIN item first ON first.id = item.same_as LEFT JOIN source other ON other.id = first.source
        WHERE item.state = 'present' OR item.same_as IS NOT NULL
    """
    rows = connection.execute(query).fetchall()
    assert all((row[8] == "present") == (row[4] is None) for row in rows)
    return {row[:4]: None if row[4] is None else row[4:8] for row in rows}


def by_comparing_all(reads):
    """What is to be told of these files: every patch is compared with all before it."""
    patches = sorted(
        ((read.seen.path, each.window.row, each.window.col, each.window.width), read, each)
        for read in reads for each in read.info.windows if each.nodata <= RULES.max_nodata
    )  # fmt: skip
    searched, expected = [], {}
    for (path, row, col, width), read, each in patches:
        name = (path, col, row, width)
        for other, first, seen in searched:
            if read is first:
                one, two = (_pixels(window.window) for window in (each, seen))
            elif _comparable(read.info, first.info) and each.footprint and seen.footprint:
                one, two = _degrees(each.footprint), _degrees(seen.footprint)
            else:
                continue
            turned = ((two[0] + turn, two[1], two[2] + turn, two[3]) for turn in (0, 360, -360))
            if max(overlap(one, each_way) for each_way in turned) > SAME_PLACE:
                expected[name] = other
                break
        else:
            searched.append((name, read, each))
            expected[name] = None
    return expected


def _comparable(one, two):
    return one.acquisition is not None and one.acquisition == two.acquisition


def _pixels(window):
    return (window.col, window.row, window.col + window.width, window.row + window.height)


def _degrees(box):
    west, south, east, north = box
    return (west, south, east + 360 * (east < west), north)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("node"))
    with closing(open_state(home)) as connection:
        yield connection


def clear(connection):
    for table in ("code", "item", "source_label", "source"):
        connection.execute(f"DELETE FROM {table}")


windows = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 40), st.sampled_from([16, 20, 32])),
    min_size=1,
    max_size=8,
    unique=True,
)
files = st.dictionaries(
    st.sampled_from("abcde"),
    st.tuples(
        st.sampled_from(["one", "one", "two", None]), windows,
        st.sampled_from([(10.0, 46.0), (10.01, 46.0), (179.98, 46.0), (None, None)]),
        st.sets(st.integers(0, 7), max_size=2),
    ),
    min_size=1,
)  # fmt: skip


@given(st.lists(files, min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_searched_depends_on_what_is_there_and_not_on_what_came_before(state, editions, random):
    with transaction(state):
        clear(state)
    before = set()
    for edition in editions:
        reads = [source(path, *about[:2], corner=about[2], nodata=about[3]) for path, about in edition.items()]
        random.shuffle(reads)
        for read in reads:
            with transaction(state):
                acknowledge(state, read, RULES)
        numbers = dict(state.execute("SELECT path, id FROM source WHERE present"))
        with transaction(state):
            withdraw(state, [numbers[path] for path in before - set(edition)])
        before = set(edition)
        assert told(state) == by_comparing_all(reads)


def _work(connection, change):
    """How many thousands of steps SQLite takes for a change."""
    steps = []
    connection.set_progress_handler(lambda: steps.append(1), 1000)
    with transaction(connection):
        change()
    connection.set_progress_handler(None, 0)
    return len(steps)


def test_a_file_costs_as_much_whatever_else_the_archive_holds(state):
    with transaction(state):
        clear(state)
    files = [source(f"{n:04}", f"of {n}", [(0, 0, 20)], corner=(n % 60 * 1.0, n // 60 * 1.0)) for n in range(2400)]

    def take_up(part):
        return _work(state, lambda: [acknowledge(state, each, RULES) for each in part])

    first = take_up(files[:100])
    take_up(files[100:-100])
    assert take_up(files[-100:]) < 2 * first

    numbers = [number for (number,) in state.execute("SELECT id FROM source WHERE present ORDER BY id")]
    last = _work(state, lambda: withdraw(state, numbers[-100:]))
    with transaction(state):
        withdraw(state, numbers[100:-100])
    assert last < 2 * _work(state, lambda: withdraw(state, numbers[:100]))


def test_patches_on_both_sides_of_the_antimeridian_are_one_place(state):
    with transaction(state):
        clear(state)
        acknowledge(state, source("a", "one", [(1, 0, 20)], corner=(-180.0, 46.0)), RULES)
        acknowledge(state, source("b", "one", [(0, 0, 20)], corner=(179.998, 46.0)), RULES)
        acknowledge(state, source("c", "one", [(0, 2, 20)], corner=(-180.0, 46.0)), RULES)
        first = ("a", 1, 0, 20)
        assert told(state) == {first: None, ("b", 0, 0, 20): first, ("c", 0, 2, 20): first}


def test_what_comes_later_but_first_by_path_takes_the_place_and_gives_it_back(state):
    with transaction(state):
        clear(state)
        (late,) = (acknowledge(state, source("b", "one", [(0, 0, 20)]), RULES),)
        first = acknowledge(state, source("a", "one", [(2, 0, 20)]), RULES)
        assert told(state) == {("a", 2, 0, 20): None, ("b", 0, 0, 20): ("a", 2, 0, 20)}
        withdraw(state, [first])
        assert told(state) == {("b", 0, 0, 20): None}
        withdraw(state, [late])
        assert told(state) == {}


def state_of(home, count):
    """Paths and corners of the patches in this state."""
    with Catalogue(home) as catalogue:
        return sorted((item.path.name, item.window.col, item.window.row) for item in catalogue.items(KIND, count))


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """An archive of two scenes of one acquisition that share ground, cut in steps of a quarter of a patch."""
    home, archive = make_node(tmp_path_factory.mktemp("dense"), kind=KIND)
    configure(home, "[archive]", "[archive]\nstride = 40.0")
    world = World()
    give_release(home, "Forest", world=world, encoder=(KIND, default_spec(modality(KIND), 16, "tile")))
    scene(archive / "a.tif", 1, side=48, ACQUISITION="S2A:20240601T101031")
    scene(archive / "b.tif", 2, side=48, ACQUISITION="S2A:20240601T101031")
    scene(archive / "other.tif", 3, side=48, ACQUISITION="S2B:20240603T101031")
    run(home)
    return home, archive, world


def test_a_ranking_never_has_two_patches_of_one_acquisition_that_overlap_by_more_than_half(dense):
    home, _, world = dense
    release = ReleaseStore(home.releases).current()
    with Catalogue(home) as catalogue:
        items = list(catalogue.items(KIND))
    codes = np.random.default_rng(0).integers(0, 4, (len(items), 4), dtype=np.uint8)
    served = serve_codes(home, release, [item.id for item in items], codes, encoder="one")
    searcher = make_searcher(home, world, served)
    query = Asker(world).ask(release, codes[:1], k=1000, encoder="one")
    (answer,) = searcher.search(pb.ArchiveServiceSearchRequest(query=query), Deadline.after(30)).answers
    boxes = np.frombuffer(answer.footprints, "<i4").reshape(-1, 4) / DEGREE
    assert len(boxes) == len(items) > 20
    listed = [searcher.handles.open(answer.item_handles[at : at + 16])[0] for at in range(0, 16 * len(boxes), 16)]
    overpass = {item.id: item.acquisition for item in items}
    for (one, first), (two, second) in combinations(zip(listed, boxes.tolist(), strict=True), 2):
        assert overpass[one] != overpass[two] or overlap(first, second) <= SAME_PLACE + 0.01


def test_no_ground_is_lost_that_two_thirds_of_a_searched_patch_do_not_show(dense):
    home, _, _ = dense
    present, hidden = state_of(home, "present"), state_of(home, "recorded")
    assert {name for name, *_ in present} == {"a.tif", "other.tif"}, "the second scene shows the same ground"
    assert len(hidden) > len(present)
    for name, col, row in hidden:
        seen = [(c, r) for other, c, r in present if other == ("a.tif" if name == "b.tif" else name)]
        assert (
            max((16 - abs(col - c)) * (16 - abs(row - r)) for c, r in seen if max(abs(col - c), abs(row - r)) < 16)
            > 170
        )


def test_patches_that_overlap_by_half_a_side_are_all_searched_as_are_those_of_other_acquisitions(tmp_path):
    home, archive = make_node(tmp_path, kind=KIND)
    configure(home, "[archive]", "[archive]\nstride = 80.0")
    give_release(home, "Forest", encoder=(KIND, default_spec(modality(KIND), 16, "tile")))
    for number, tag in enumerate(("S2A:20240601T101031", "S2B:20240603T101031")):
        scene(archive / f"{number}.tif", number, side=48, ACQUISITION=tag)
    run(home)
    assert len(state_of(home, "present")) == 50
    assert state_of(home, "recorded") == []


def test_files_that_name_no_acquisition_are_compared_only_once_the_operator_says_that_equal_ones_are_one(tmp_path):
    home, archive = make_node(tmp_path, kind=KIND)
    for name in ("a.tif", "b.tif"):
        scene(archive / name, 1)
    run(home)
    assert len(state_of(home, "present")) == 2
    configure(home, "independent_files = false", "independent_files = true")
    run(home)
    assert state_of(home, "present") == [("a.tif", 0, 0)]
    assert state_of(home, "recorded") == [("b.tif", 0, 0)]
    configure(home, "independent_files = true", "independent_files = false")
    run(home)
    assert len(state_of(home, "present")) == 2


def test_the_next_patch_takes_the_place_of_one_that_goes_and_codes_are_of_searched_ones_alone(tmp_path):
    home, archive = make_node(tmp_path, kind=KIND)
    for number, name in enumerate(("a.tif", "b.tif", "c.tif")):
        scene(archive / name, number, ACQUISITION="S2A:20240601T101031")
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.count_behind() == 2
        assert catalogue.count_covered(0.1) == 0
        catalogue.put_codes(b"r" * 32, "one", [1, 2, 3], np.ones((3, 4), np.uint8))
        assert catalogue.codes(b"r" * 32, "one")[0].tolist() == [1]
        (archive / "a.tif").unlink()
        run(home)
        assert state_of(home, "present") == [("b.tif", 0, 0)]
        assert catalogue.codes(b"r" * 32, "one")[0].tolist() == []
