"""Archives that STAC catalogues, collections and ItemCollections describe."""

from __future__ import annotations

import json

import numpy as np
import pystac
import pytest
from raster_makers import REFLECTANCE, UTM, look, photo, spec, write_image
from safe_makers import COMMON, RASTER, scene, stac_item, write_item

from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.modality import modality
from rsfed.raster.reader import read

SIDE = 24  # pixels
COLOURS = spec("red green blue nir", size=SIDE, gsd=10.0, fit="crop")


def values(seed=0):
    made = scene(seed, size=SIDE)
    return {band: made[band] for band in COMMON}


def written(folder, prefix="", seed=0):
    """Write the bands of an item, and return its assets."""
    folder.mkdir(parents=True, exist_ok=True)
    for band, stored in values(seed).items():
        write_image(folder / f"{prefix}{band}.tif", stored[None], **UTM)
    return {name: {"href": f"./{prefix}{band}.tif", "raster:bands": RASTER} for band, name in COMMON.items()}


def item(number, assets, **more):
    return stac_item(assets) | {"id": number, "links": []} | more


def put(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def catalogue(path, *links, kind="Catalog"):
    told = [{"rel": relation, "href": href} for relation, href in links]
    return put(path, {"type": kind, "stac_version": "1.0.0", "id": path.parent.name, "description": "x", "links": told})


def found(archive, known=()):
    """Names of what is taken up, and reasons by name of what is not."""
    entries = list(walk(archive, known=known))
    taken = [entry.name for entry in entries if isinstance(entry, Candidate)]
    return taken, {entry.name: entry.reason for entry in entries if not isinstance(entry, Candidate)}


def content(path, root):
    (window,) = inspect(path, root=root, modality=modality(REFLECTANCE), spec=COLOURS).windows
    return read(Item(1, path, window.window, REFLECTANCE, window.digest), COLOURS)["all"], window.digest


@pytest.fixture
def published(tmp_path):
    """A catalogue as pystac lays it out: one collection of two items."""
    archive = tmp_path / "archive"
    extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
    top, collection = pystac.Catalog("top", "all"), pystac.Collection("sentinel-2-l2a", "ours", extent)
    top.add_child(collection)
    for number, name in enumerate(("one", "two")):
        assets = written(archive / "sentinel-2-l2a" / name, seed=number)
        collection.add_item(pystac.Item.from_dict(item(name, assets)))
    top.normalize_and_save(str(archive), pystac.CatalogType.SELF_CONTAINED)
    return archive


def test_a_catalogue_as_pystac_writes_it_gives_the_items_that_it_links_to(published):
    assert found(published) == (["sentinel-2-l2a/one", "sentinel-2-l2a/two"], {})
    linked = published / "sentinel-2-l2a" / "collection.json"
    document = json.loads(linked.read_text())
    document["links"] = [each for each in document["links"] if "two" not in each["href"]]
    linked.write_text(json.dumps(document))
    taken, problems = found(published)
    assert taken == ["sentinel-2-l2a/one"]
    assert "no catalogue above it links to it" in problems["sentinel-2-l2a/two"]


def test_a_catalogue_of_which_a_part_cannot_be_read_takes_no_item_away(published):
    (published / "sentinel-2-l2a" / "collection.json").write_text('{"type": "Collection", "stac_ver')
    taken, problems = found(published)
    assert taken == ["sentinel-2-l2a/one", "sentinel-2-l2a/two"]
    assert "copy it again" in problems["sentinel-2-l2a/collection.json"]


def test_links_lead_nowhere_outside_of_the_archive(tmp_path):
    archive = tmp_path / "archive"
    put(tmp_path / "outside" / "x.json", item("x", written(tmp_path / "outside")))
    catalogue(tmp_path / "outside" / "catalog.json", ("item", "./x.json"))
    put(archive / "a" / "a.json", item("a", written(archive / "a")))
    for number, href in enumerate(("../../outside/catalog.json", "%2e%2e/../outside/catalog.json")):
        catalogue(archive / f"c{number}" / "catalog.json", ("child", href))
    (archive / "link").symlink_to(tmp_path / "outside")
    catalogue(archive / "c2" / "catalog.json", ("item", "../link/x.json"))
    catalogue(archive / "c3" / "catalog.json", ("item", "https://example.org/x.json"), ("item", "/etc/x.json"))
    catalogue(archive / "c4" / "catalog.json", ("item", "gone.json"), ("child", "catalog.json"))
    taken, problems = found(archive)
    assert taken == ["a"]
    for number in range(3):
        assert "leads out of the archive" in problems[f"c{number}/catalog.json"]
    assert "2 of its links lead to other places" in problems["c3/catalog.json"]
    assert "it is not there" in problems["c4/gone.json"]


@pytest.mark.parametrize("href", ["loop.json", "\ud800.json", "%ff%00.json", "a/" * 3000 + "x.json", "x" * 300])
def test_a_link_or_asset_that_no_file_can_be_costs_itself_alone(tmp_path, href):
    put(tmp_path / "good" / "good.json", item("good", written(tmp_path / "good")))
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    put(tmp_path / "many" / "bad.json", item("bad", {"red": {"href": href.replace(".json", ".tif")}}))
    put(tmp_path / "many" / "fine.json", item("fine", written(tmp_path / "many")))
    catalogue(tmp_path / "catalog.json", ("item", "good/good.json"), ("item", "many/fine.json"), ("item", href))
    taken, problems = found(tmp_path)
    assert taken == ["good", "many/fine.json"]
    assert {"loop.json", "many/bad.json"} <= set(problems)


def test_every_item_of_an_item_collection_is_a_source_of_its_own(tmp_path):
    alone = put(tmp_path / "alone" / "alone.json", item("one", written(tmp_path / "alone", seed=1))).parent
    archive = tmp_path / "archive"
    listed = [item(name, written(archive / "s", f"{name}_", seed)) for seed, name in enumerate(("zero", "one"))]
    path = put(archive / "s" / "all.json", {"type": "FeatureCollection", "features": listed})
    assert found(archive) == (["s/all.json/one", "s/all.json/zero"], {})
    pixels, digest = content(path / "one", archive)
    np.testing.assert_array_equal(pixels, content(alone, tmp_path)[0])
    put(path, {"type": "FeatureCollection", "features": [listed[1] | {"bbox": [0, 0, 1, 1]}]})
    assert found(archive)[0] == ["s/all.json/one", *(f"s/zero_{band}.tif" for band in sorted(COMMON))]
    assert content(path / "one", archive)[1] == digest, "what else is listed changes no patch"
    listed[1]["properties"]["earthsearch:boa_offset_applied"] = True
    put(path, {"type": "FeatureCollection", "features": listed})
    assert content(path / "one", archive)[1] != digest, "another radiometry is another patch"
    put(path, {"type": "FeatureCollection", "features": listed[:1]})
    with pytest.raises(Exception, match="lists it no more; run the ingest again"):
        look(path / "one", REFLECTANCE, COLOURS, archive)


def test_several_items_in_one_folder_are_each_its_json(tmp_path):
    for seed, name in enumerate(("one", "two")):
        put(tmp_path / "s" / f"{name}.json", item(name, written(tmp_path / "s", f"{name}_", seed)))
    assert found(tmp_path) == (["s/one.json", "s/two.json"], {})
    one, two = (content(tmp_path / "s" / f"{name}.json", tmp_path)[0] for name in ("one", "two"))
    for seed, pixels in enumerate((one, two)):
        np.testing.assert_array_equal(pixels[2], np.maximum(values(seed)["B02"], 1000) - 1000)


def test_an_item_hides_no_other_file_beside_it_but_what_it_names_itself(tmp_path):
    folder = write_item(tmp_path / "s", values())
    document = json.loads((folder / "s.json").read_text())
    document["assets"]["thumbnail"] = {"href": "./small/view.png"}
    put(folder / "s.json", document)
    for name in ("small/view.png", "small/other.png", "photo.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_image(folder / name, photo(), driver="PNG")
    (folder / "report.pdf").write_bytes(b"%PDF")
    taken, problems = found(tmp_path)
    assert taken == ["s", "s/photo.png", "s/small/other.png"]
    assert list(problems) == ["s/report.pdf"]


def test_two_items_of_one_id_are_one_and_the_one_that_was_there_stays(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / name / f"{name}.json", item("same", written(tmp_path / name)))
    put(tmp_path / "c" / "c.json", item("same", written(tmp_path / "c"), collection="other"))
    taken, problems = found(tmp_path)
    assert taken == ["a", "c"]
    assert problems == {"b": "it is a copy of a; take one of them out"}
    assert found(tmp_path, known={"b"})[0] == ["b", "c"]


def test_items_whose_ids_will_not_do_are_told_and_the_others_go_in(tmp_path):
    assets = written(tmp_path)
    changed = {key: assets[key] for key in list(assets)[1:]}
    features = [item("one", assets), item("one", changed), item("../x", assets), item(7, assets), {"type": "Feature"}]
    put(tmp_path / "all.json", {"type": "FeatureCollection", "features": features})
    taken, problems = found(tmp_path)
    assert taken == ["all.json/one"]
    assert "another item of the same id" in problems["all.json/one"]
    assert sorted(problems) == ["all.json/'../x'", "all.json/7", "all.json/one"]


def test_json_that_is_no_stac_is_passed_over(tmp_path):
    put(tmp_path / "labels.geojson", {"type": "FeatureCollection", "features": [{"type": "Feature"}]})
    write_image(tmp_path / "b.tif", np.ones((4, 8, 8), np.uint16), **UTM)
    assert found(tmp_path) == (["b.tif"], {})
