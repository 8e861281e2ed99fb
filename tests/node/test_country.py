"""A node that tells countries in place of footprints: every way on which a place leaves it, and bad borders."""

import os
from pathlib import Path

import numpy as np
import pytest
from archives import Archive
from borders import BOXES, COUNTRIES, borders
from node_archives import configure, make_node
from serving import add_patches, make_searcher, serve_codes

import rsfed.v1
from node.borders import detail_of
from rsfed.config import NodeConfig, load_config
from rsfed.errors import ConfigError, EnvelopeRefused, ExitCode
from rsfed.privacy.countries import Countries
from rsfed.privacy.detail import Detail
from rsfed.v1 import access_pb2, archive_pb2, catalogue_pb2, control_pb2, federation_pb2, query_pb2, training_pb2
from rsfed.v1.envelope_pb2 import BoundingBox, QueryFilter
from rsfed.wire import DEGREE, NO_FOOTPRINT

DETAIL = Detail("country", countries=Countries.read(borders(), "borders.geojson"))
NOWHERE = (NO_FOOTPRINT,) * 4
AT_SEA = [(-30, 10, -29, 11), (-0.2, 44, 0.1, 45), (179, 44, -179, 45), None]


def units(box):
    return tuple(round(edge * DEGREE) for edge in box)


@pytest.fixture
def archive(tmp_path):
    """Patches all over each country, at its edges, over its borders and elsewhere; `expected` says what may be told."""
    rng, made = np.random.default_rng(6), Archive(tmp_path, np.zeros((0, 4), np.uint8))
    made.expected = {}
    for told, rectangles in zip(BOXES, COUNTRIES.values(), strict=True):
        for west, south, east, north in rectangles:
            for x, y, half in zip(
                rng.uniform(west, east, 12), rng.uniform(south, north, 12), [0, 0.01, 3] * 4, strict=True
            ):
                around = [(edge + 180) % 360 - 180 for edge in (x - half, x + half)]
                place = (around[0], y - half, around[1], y + half)
                made.expected[add_patches(made.home, 1, place=place)[0]] = units(told)
    for place in AT_SEA:
        made.expected[add_patches(made.home, 1, place=place)[0]] = NOWHERE
    made.ids, made.codes = np.array(list(made.expected), np.int64), np.zeros((len(made.expected), 4), np.uint8)
    made.codes[::2] = 255  # two buckets, of several countries each
    served = serve_codes(made.home, made.release, made.ids, made.codes)
    made.searcher = make_searcher(made.home, made.world, served, detail=DETAIL)
    return made


def told(archive, listing):
    """What is told of the place of each listed item."""
    boxes = np.frombuffer(listing.footprints, "<i4").reshape(-1, 4).tolist()
    return dict(zip(archive.open(listing.item_handles), map(tuple, boxes), strict=True))


def test_answers_and_pages_tell_the_country_of_an_item_and_nothing_else_of_its_place(archive):
    answer = archive.search(archive.codes[:1], k=1000).answers[0]
    assert told(archive, answer) == archive.expected
    paged = {}
    for handle in (answer.bucket_handles[:16], answer.bucket_handles[16:]):
        for offset in range(0, 60, 7):
            paged |= told(archive, archive.expand(handle, offset, 7))
    assert paged == archive.expected


def test_an_answer_about_items_of_no_country_has_no_column_of_places(archive):
    archive.ids = archive.ids[-len(AT_SEA) :]
    archive.searcher.shelf.served = serve_codes(archive.home, archive.release, archive.ids, archive.codes[-4:])
    assert not archive.search(archive.codes[:1], k=1000).answers[0].HasField("footprints")


@pytest.mark.parametrize("box", [(0, 40, 10, 50), (-180, -90, 180, 90), (7, 46, 7.1, 46.1)])
def test_no_place_can_be_asked_for_where_countries_are_told(archive, box):
    west, south, east, north = units(box)
    asked = QueryFilter(bbox=BoundingBox(west=west, south=south, east=east, north=north))
    with pytest.raises(EnvelopeRefused) as refused:
        archive.search(archive.codes[:1], filter=asked)
    assert refused.value.reason == "UNFILTERABLE_BBOX"


def test_no_message_has_a_place_but_those_that_these_tests_look_at():
    """Answers and pages; what the coordinator makes of answers; and what is asked for."""
    files = (access_pb2, archive_pb2, catalogue_pb2, control_pb2, federation_pb2, query_pb2, training_pb2)
    assert {f"{name}_pb2" for name in _stubs()} == {each.__name__.rpartition(".")[2] for each in files} | {
        "audit_pb2",
        "envelope_pb2",
        "outcome_pb2",
    }
    words = ("footprint", "box", "place", "west", "south", "country", "lon", "lat")
    found = {
        f"{message.name}.{each.name}"
        for file in files
        for message in _messages(file.DESCRIPTOR)
        for each in message.fields
        if set(each.name.split("_")) & {*words, *(f"{word}s" for word in words)}
    }
    assert found == {
        "BucketAnswer.footprints",
        "ArchiveServiceExpandBucketResponse.footprints",
        "Ranking.footprints",
    }


def _stubs():
    return {path.stem.removesuffix("_pb2") for path in Path(rsfed.v1.__path__[0]).glob("*_pb2.py")}


def _messages(file):
    for message in file.message_types_by_name.values():
        yield message
        yield from message.nested_types


@pytest.fixture
def home(tmp_path):
    made, _ = make_node(tmp_path)
    configure(made, '# footprints = "10km"', 'footprints = "country"\ncountries = "borders.geojson"')
    return made


def read(home):
    return detail_of(home, load_config(NodeConfig, home.path).policy)


def test_the_borders_lie_in_the_home_or_where_a_whole_path_says(home, tmp_path):
    (home.path / "borders.geojson").write_bytes(borders())
    assert (read(home).places, len(read(home).countries.boxes)) == ("country", len(BOXES))
    (home.path / "borders.geojson").rename(tmp_path / "borders.geojson")
    configure(home, '\ncountries = "', f'\ncountries = "{tmp_path}/')
    assert len(read(home).countries.boxes) == len(BOXES)


def _link(path):
    path.with_name("real.geojson").write_bytes(borders())
    path.symlink_to("real.geojson")


BAD = {
    "missing": (lambda path: None, "borders.geojson is not there; put it into the home, or correct [policy] countries"),
    "a link": (_link, "borders.geojson is a link; put the file itself there"),
    "a pipe": (os.mkfifo, "borders.geojson is no plain file of at most"),
    "a folder": (lambda path: path.mkdir(), "borders.geojson cannot be read: Is a directory; name a file"),
    "too large": (lambda path: os.truncate(_touched(path), (64 << 20) + 1), "of at most 67,108,864 bytes"),
    "other JSON": (lambda path: path.write_text("{}"), "borders.geojson is no GeoJSON FeatureCollection"),
}


def _touched(path):
    path.touch()
    return path


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD)
def test_a_file_of_borders_that_will_not_do_is_named_with_the_remedy(home, make, said):
    make(home.path / "borders.geojson")
    with pytest.raises(ConfigError) as refused:
        read(home)
    assert said in refused.value.public
    assert "\n" not in refused.value.public
    assert refused.value.detail == str(home.path / "borders.geojson")
    assert refused.value.exit_code == ExitCode.CONFIGURATION
