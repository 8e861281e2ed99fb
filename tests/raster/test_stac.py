"""STAC items on disk, as catalogues give them away."""

from __future__ import annotations

import json

import numpy as np
import pytest
from raster_makers import REFLECTANCE, UTM, look, spec, write_image
from safe_makers import BANDS, COMMON, SIZE, scene, stac_item, write_item

from rsfed.errors import RasterRejected
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.layouts import product_at
from rsfed.raster.modality import modality
from rsfed.raster.reader import read

KIND = "sentinel-2-l2a"
OPTICAL = modality(KIND)
WHOLE = spec(" ".join(OPTICAL.bands), size=SIZE, gsd=10.0, fit="crop")
COLOURS = spec("red green blue nir", size=SIZE, gsd=10.0, fit="crop")


def content(path, kind=KIND, wanted=WHOLE, declared=None):
    (window,) = inspect(path, root=path.parent, modality=modality(kind), spec=wanted, radiometry=declared).windows
    return read(Item(1, path, window.window, kind, window.digest, radiometry=declared), wanted)["all"]


def raised(values):
    return {band: stored + 1000 for band, stored in values.items()}


@pytest.fixture
def small():
    return {band: scene()[band] for band in COMMON}


def test_the_same_scene_is_the_same_with_the_offset_to_apply_and_applied(tmp_path):
    values = {band: stored for band, stored in scene().items() if band != "B10"}
    raw = write_item(tmp_path / "raw", raised(values))
    done = write_item(tmp_path / "done", values, **{"earthsearch:boa_offset_applied": True})
    wanted = np.stack([np.kron(values[name], np.ones((BANDS[name] // 10,) * 2)) for name in OPTICAL.bands])
    np.testing.assert_array_equal(content(raw), wanted)
    np.testing.assert_array_equal(content(done), wanted)


def test_an_item_is_one_candidate_with_its_time_overpass_and_ground(tmp_path, small):
    folder = write_item(tmp_path / "item", small, name="other")
    (found,) = walk(tmp_path)
    assert isinstance(found, Candidate)
    info = look(found.path, REFLECTANCE, COLOURS)
    assert (info.acquisition, info.crs, info.bands) == ("S2A:20240531T103021", "EPSG:32633", 4)
    assert info.acquired[0].isoformat() == "2024-05-31T10:30:23+00:00"
    (folder / "other.json").write_text(json.dumps(stac_item({}, **{"s2:datatake_id": 7})))
    (found,) = (each for each in walk(tmp_path) if not isinstance(each, Candidate))
    assert found.reason == "none of its assets lies beside its JSON; copy them there"


def test_overpass_is_also_known_from_the_names_of_products(tmp_path, small):
    uri = "S2A_MSIL2A_20240531T103021_N0510_R108_T33UUP_20240531T150000.SAFE"
    folder = write_item(tmp_path / "a", small, **{"s2:datatake_id": None, "s2:product_uri": uri})
    assert look(folder, REFLECTANCE, COLOURS).acquisition == "S2A:20240531T103021"


@pytest.mark.parametrize("href", ["https://example.org/tiles/{}.tif?sig=a", "s3://bucket/{}.tif", "/data/{}.tif"])
def test_assets_that_were_downloaded_beside_their_item_are_found_by_their_last_name(tmp_path, small, href):
    folder = write_item(tmp_path / "a", small, href=href)
    assert content(folder, REFLECTANCE, COLOURS).shape == (4, SIZE, SIZE)


@pytest.mark.parametrize("href", ["../outside/{}.tif", "%2e%2e/outside/{}.tif", "file:///{}.tif", "http://[", "\0", 7])
def test_no_asset_outside_of_the_items_folder_is_ever_opened(tmp_path, small, href):
    write_item(tmp_path / "outside", small)
    folder = write_item(tmp_path / "a", small)
    for band in small:
        (folder / f"{band}.tif").unlink()
    path = folder / "a.json"
    item = json.loads(path.read_text())
    for band, asset in item["assets"].items():
        asset["href"] = href.format(band) if isinstance(href, str) else href
    path.write_text(json.dumps(item))
    with pytest.raises(RasterRejected, match="none of its assets"):
        look(folder, REFLECTANCE, COLOURS)


def test_a_link_out_of_the_archive_is_refused(tmp_path, small):
    outside = write_item(tmp_path / "outside" / "b", small)
    folder = write_item(tmp_path / "archive" / "a", small)
    (folder / "B04.tif").unlink()
    (folder / "B04.tif").symlink_to(outside / "B04.tif")
    with pytest.raises(RasterRejected, match="link out of the archive"):
        inspect(folder, root=folder.parent, modality=modality(REFLECTANCE), spec=COLOURS)


def test_what_an_item_does_not_say_needs_the_operators_word(tmp_path, small):
    folder = write_item(tmp_path / "a", raised(small), raster=[])
    with pytest.raises(RasterRejected, match=r"archive\.radiometry"):
        look(folder, REFLECTANCE, COLOURS)
    assert content(folder, REFLECTANCE, COLOURS, declared=-1000)[0, 0, 0] == small["B04"][0, 0]


def test_items_that_lack_a_band_or_are_of_another_level_are_refused(tmp_path, small):
    folder = write_item(tmp_path / "a", small)
    with pytest.raises(RasterRejected, match="are missing; copy it again"):
        look(folder, KIND, WHOLE)
    with pytest.raises(RasterRejected, match="of level 2A and the archive holds sentinel-2-l1c"):
        look(folder, "sentinel-2-l1c", spec("B02", size=8))


@pytest.mark.parametrize("level", ["1C", "2A"])
@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("s2:product_uri", "S2A_MSIL{}_20240531T103021_N0510_R108_T33UUP_20240531T150000.SAFE"),
        ("s2:product_type", "S2MSI{}"),
        ("processing:level", "L{}"),
        ("id", "S2A_33UUP_20240531_0_L{}"),
    ],
)
def test_the_level_is_taken_from_where_catalogues_say_it(tmp_path, small, key, told, level):
    folder = write_item(tmp_path / "a", small, **{key: told.format(level)})
    path = folder / "a.json"
    item = json.loads(path.read_text()) | {"collection": "ours"}
    path.write_text(json.dumps(item | {"id": told.format(level) if key == "id" else "ours"}))
    for kind in {"1C": (REFLECTANCE, KIND), "2A": ("sentinel-2-l1c",)}[level]:
        with pytest.raises(RasterRejected, match=f"it is of level {level} and the archive holds {kind}"):
            look(folder, kind, spec(" ".join(modality(kind).bands), size=8))


def test_jpeg_2000_originals_have_their_offset_whatever_was_applied_to_the_catalogues_own_files(tmp_path, small):
    done = write_item(tmp_path / "done", small, **{"earthsearch:boa_offset_applied": True})
    folder = write_item(tmp_path / "originals", raised(small), **{"earthsearch:boa_offset_applied": True})
    path = folder / "originals.json"
    item = json.loads(path.read_text())
    for band, asset in zip(small, item["assets"].values(), strict=True):
        (folder / f"{band}.tif").unlink()
        options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        write_image(folder / f"{band}.jp2", small[band][None] + 1000, **UTM, **options)
        asset |= {"href": f"s3://bucket/{band}.jp2", "type": "image/jp2"}
    path.write_text(json.dumps(item))
    np.testing.assert_array_equal(content(folder, REFLECTANCE, COLOURS), content(done, REFLECTANCE, COLOURS))
    for asset in item["assets"].values():
        del asset["raster:bands"]
    path.write_text(json.dumps(item))
    with pytest.raises(RasterRejected, match=r"archive\.radiometry"):
        look(folder, REFLECTANCE, COLOURS)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"type": "Feature", "stac_version": "1.0.0", "assets": []}',
        "[" * 100_000,
        '{"type": "Feature"}',
    ],
)
def test_a_folder_whose_json_is_no_item_is_a_plain_folder(tmp_path, content):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "a.json").write_text(content)
    write_image(folder / "b.tif", np.ones((4, 8, 8), np.uint16), **UTM)
    assert [each.name for each in walk(tmp_path)] == ["a/b.tif"]


def test_names_of_bands_are_those_of_common_catalogues(tmp_path, small):
    folder = write_item(tmp_path / "a", small)
    path = folder / "a.json"
    item = json.loads(path.read_text())
    old = item["assets"]
    item["assets"] = {
        "B02_10m": old["blue"],
        "visual1": old["green"] | {"eo:bands": [{"name": "B03", "common_name": "green"}]},
        "visual2": old["red"] | {"bands": [{"name": "red-band", "eo:common_name": "red"}]},
        "thumbnail": {"href": "B08.tif"},
        "nir": old["nir"],
    }
    path.write_text(json.dumps(item))
    assert list(product_at(folder).bands) == ["B02", "B03", "B04", "B08"]


def test_other_satellites_are_read_where_their_item_says_the_scale(tmp_path, small):
    landsat = [{"scale": 0.0000275, "offset": -0.2}]
    folder = write_item(tmp_path / "a", raised(small), raster=landsat, platform="landsat-8")
    path = folder / "a.json"
    item = json.loads(path.read_text()) | {"collection": "landsat-c2-l2", "id": "LC08_L2SP_001062_20201031_02_T1"}
    item["assets"]["nir08"] = item["assets"].pop("nir")
    path.write_text(json.dumps(item))
    wanted = (small["B08"][0, 0] + 1000) * 0.275 - 2000
    assert content(folder, REFLECTANCE, COLOURS)[3, 0, 0] == pytest.approx(max(0, wanted), abs=0.01)
    quality = np.zeros((SIZE, SIZE), np.uint16)
    for place, bits in enumerate((0b100, 0b1000, 0b10000, 0b10, 0b100000, 0b1, 0b1100_0000_0000)):
        quality[place] = bits  # cirrus, cloud, shadow; dilated, snow, fill and a doubtful shadow
    write_image(folder / "quality.TIF", quality[None], **UTM)
    item["assets"]["QA_PIXEL.TIF"] = {"href": "https://example.org/quality.TIF"}
    path.write_text(json.dumps(item))
    (window,) = look(folder, REFLECTANCE, COLOURS).windows
    assert window.cloud == 3 / SIZE
    for asset in item["assets"].values():
        asset.pop("raster:bands", None)
    path.write_text(json.dumps(item))
    with pytest.raises(RasterRejected, match="does not say the scale of its values; add raster:scale"):
        look(folder, REFLECTANCE, COLOURS)
