"""Scenes: read in one go as patch by patch, cut along a grid of their projection, with clouds told apart."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raster_makers import REFLECTANCE, UTM, reflectance, spec, write_image
from rasterio import Affine
from rasterio.control import GroundControlPoint
from safe_makers import scene, write_jp2, write_s2

from rsfed.errors import RasterRejected
from rsfed.raster.image_file import ImageFile
from rsfed.raster.input_spec import BandGroup, InputSpec, default_spec
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item, Window
from rsfed.raster.modality import modality
from rsfed.raster.pixels import Strip, nodata_shares
from rsfed.raster.reader import read, read_many

BANDS = "red green blue nir"
KNOWN = modality(REFLECTANCE)
TILES = spec(BANDS, size=16, gsd=10.0, fit="tile")


def _look(path, wanted=TILES, stride=None, kind=KNOWN):
    return inspect(path, root=None, modality=kind, spec=wanted, stride=stride)


def _items(path, wanted=TILES, stride=None, kind=KNOWN):
    windows = _look(path, wanted, stride, kind).windows
    return [Item(number, path, each.window, kind.name, each.digest) for number, each in enumerate(windows)]


def _told(item, wanted):
    try:
        return {name: group.tobytes() for name, group in read(item, wanted).items()}
    except RasterRejected as error:
        return error.public


def _as_read_one_by_one(items, wanted):
    """Whether reading patches of a source in one go gives what reading each of them gives, to the last bit."""
    for item, content in read_many(items, wanted):
        if isinstance(content, RasterRejected):
            got = content.public
        else:
            got = {name: group.tobytes() for name, group in content.items()}
        if got != _told(item, wanted):
            return False
    return True


def _several_groups(reduction, fill):
    groups = (
        BandGroup(name="a", bands=("red", "nir"), gsd=10.0, size=16, offset=(1, 2), scale=(3, 4)),
        BandGroup(name="b", bands=("blue",), gsd=13.0, size=9, offset=(0,), scale=(1,)),
    )
    return InputSpec(groups=groups, fit="tile", reduction=reduction, holes="rings", fill=fill)


@given(
    width=st.integers(20, 90),
    height=st.integers(20, 90),
    block=st.sampled_from([None, 16, 32]),
    stride=st.sampled_from([None, 50.0, 70.0, 160.0]),
    reduction=st.sampled_from([1, 2, 4]),
    several=st.booleans(),
    empty=st.sampled_from([0.0, 0.02, 0.6]),
    shuffled=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_patches_read_in_one_go_are_those_read_one_by_one(
    tmp_path, width, height, block, stride, reduction, several, empty, shuffled
):
    random = np.random.default_rng(width * height)
    values = random.integers(1, 4000, (4, height, width)).astype(np.uint16)
    values[:, random.random((height, width)) < empty] = 0
    blocks = {} if block is None else {"tiled": True, "blockxsize": block, "blockysize": block}
    path = write_image(tmp_path / "s.tif", values, nodata=0, compress="deflate", **UTM, **blocks)
    wanted = _several_groups(reduction, -2.0) if several else TILES.model_copy(update={"reduction": reduction})
    items = _items(path, wanted, stride)
    if shuffled:
        random.shuffle(items)
    assert _as_read_one_by_one(items, wanted)
    assert _as_read_one_by_one(items[1::3] or items, wanted)


def test_every_block_of_a_scene_is_decoded_once(tmp_path, monkeypatch):
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    path = write_image(tmp_path / "s.tif", reflectance(size=128), **UTM, **blocks)
    items, decoded, plain = _items(path, stride=60.0), [], ImageFile.read

    def counted(self, places, window):
        decoded.append((window.row, window.height))
        return plain(self, places, window)

    monkeypatch.setattr(ImageFile, "read", counted)
    monkeypatch.setattr("rsfed.raster.limits.STRIP_BYTES", 1)
    assert len(list(read_many(items, TILES))) == len(items) > 100
    assert decoded == [(0, 32), (32, 32), (64, 32), (96, 32)]


def test_a_product_of_several_pixel_sizes_is_read_in_one_go_as_patch_by_patch(tmp_path):
    folder = write_s2(tmp_path / "product.SAFE", scene(1, size=96))
    kind = modality("sentinel-2-l2a")
    wanted = default_spec(kind, 16, "tile")
    items = _items(folder, wanted, 100.0, kind)
    assert len(items) > 20
    assert _as_read_one_by_one(items, wanted)


def test_damage_costs_the_patches_that_it_touches_and_no_others(tmp_path):
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    path = write_image(tmp_path / "s.tif", reflectance(size=96), **UTM, **blocks)
    items = _items(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 5 // 6])  # the last row of blocks has lost some
    whole = [Item(item.id, path, item.window, item.modality, _digest(item)) for item in items]
    contents = [content for _, content in read_many(whole, TILES)]
    refused = [content for content in contents if isinstance(content, RasterRejected)]
    assert 0 < len(refused) < len(items) // 2
    assert {error.public.split(",")[0] for error in refused} == {"its pixels cannot be decoded"}
    assert _as_read_one_by_one(whole, TILES)


def _digest(item):
    from rsfed.raster.digest import content_digest, file_digest

    return content_digest(file_digest(item.path), item.window, item.modality)


def test_a_file_that_changes_while_it_is_read_gives_no_more_patches(tmp_path):
    path = write_image(tmp_path / "s.tif", reflectance(1, size=64), **UTM)
    items = _items(path)
    reading = read_many(items, TILES)
    assert not isinstance(next(reading)[1], RasterRejected)
    write_image(path, reflectance(2, size=64), **UTM)
    rest = [content for _, content in reading]
    assert len(rest) == len(items) - 1
    assert all(isinstance(content, RasterRejected) for content in rest)
    assert "changed since it was ingested" in rest[-1].public


def test_a_file_that_is_gone_refuses_each_of_its_patches_once(tmp_path):
    path = write_image(tmp_path / "s.tif", reflectance(size=64), **UTM)
    items = _items(path)
    path.unlink()
    answers = list(read_many(items, TILES))
    assert [item for item, _ in answers] == items
    assert all(isinstance(content, RasterRejected) for _, content in answers)


def _scene_at(path, west, north, *, size=100, gsd=10.0, values=None):
    where = {"crs": "EPSG:32633", "transform": Affine(gsd, 0, west, 0, -gsd, north)}
    return write_image(path, reflectance(size=size) if values is None else values, **where)


def test_the_same_ground_is_the_same_patch_in_every_scene_of_a_projection(tmp_path):
    ground = reflectance(size=200)
    one = _scene_at(tmp_path / "1.tif", 500_000, 5_000_000, values=ground[:, :150, :150])
    two = _scene_at(tmp_path / "2.tif", 500_370, 4_999_590, values=ground[:, 41:200, 37:200])
    contents = []
    for path in (one, two):
        windows = _look(path, stride=160.0).windows
        items = _items(path, stride=160.0)
        contents.append(
            {
                each.footprint: content["all"].tobytes()
                for each, (_, content) in zip(windows, read_many(items, TILES), strict=True)
            }
        )
    first, second = ({tuple(np.round(box, 7)): data for box, data in each.items()} for each in contents)
    shared = set(first) & set(second)
    assert len(shared) >= 25
    assert all(first[box] == second[box] for box in shared)


@given(st.integers(-500, 500), st.integers(-500, 500), st.integers(20, 120), st.sampled_from([100.0, 160.0, 230.0]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_patches_of_a_fixed_grid_lie_on_it_and_inside(tmp_path, col, row, size, stride):
    west, north = 500_000 + 10 * col, 5_000_000 + 10 * row
    path = _scene_at(tmp_path / "s.tif", west, north, size=size)
    room = 10 * (size - 16)
    on_grid = {
        ((x - west) // 10, (north - y) // 10)
        for x in np.arange(west // stride, (west + room) // stride + 1) * stride
        for y in np.arange((north - room) // stride, north // stride + 1) * stride
        if west <= x <= west + room and north - room <= y <= north
    }
    if not on_grid:
        with pytest.raises(RasterRejected, match="no patch of the grid"):
            _look(path, stride=stride)
        return
    found = {(each.window.col, each.window.row) for each in _look(path, stride=stride).windows}
    assert found == on_grid


@pytest.mark.parametrize(
    ("where", "wanted", "reason"),
    [
        ({}, TILES, "axes of a projection"),
        ({"crs": "EPSG:32633", "transform": Affine(8, 6, 500_000, 6, -8, 5_000_000)}, TILES, "axes of a projection"),
        ({"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 15, 0, -1e-4, 45)}, TILES, "axes of a projection"),
        (UTM, spec(BANDS, fit="resize"), "take out [archive] stride"),
        (UTM, spec(BANDS, size=80, gsd=10.0, fit="tile"), "no patch of the grid"),
        (UTM, spec(BANDS, size=200, gsd=10.0, fit="tile"), "use larger images"),
    ],
)
def test_what_a_fixed_grid_does_not_fit_is_refused_with_what_to_do(tmp_path, where, wanted, reason):
    path = write_image(tmp_path / "s.tif", reflectance(size=64), **where)
    with pytest.raises(RasterRejected) as caught:
        _look(path, wanted, stride=1600.0)
    assert reason in caught.value.public


def test_a_scene_that_lies_by_control_points_only_is_no_grid(tmp_path):
    corners = ((0, 0), (0, 64), (64, 0))
    points = [GroundControlPoint(row, col, 500_000 + 10 * col, 5_000_000 - 10 * row) for row, col in corners]
    path = write_image(tmp_path / "s.tif", reflectance(size=64), gcps=points, crs="EPSG:32633")
    with pytest.raises(RasterRejected, match="axes of a projection"):
        _look(path, stride=160.0)


def test_a_rotated_scene_is_cut_by_its_own_pixels_without_a_fixed_grid(tmp_path):
    where = {"crs": "EPSG:32633", "transform": Affine(8, 6, 500_000, 6, -8, 5_000_000)}
    path = write_image(tmp_path / "s.tif", reflectance(size=64), **where)
    assert len(_look(path).windows) == 16


def test_all_patches_of_an_empty_scene_are_told_empty(tmp_path):
    path = write_image(tmp_path / "s.tif", np.zeros((4, 64, 64), np.uint16), nodata=0, **UTM)
    assert [each.nodata for each in _look(path).windows] == [1.0] * 16


def test_clouds_and_shadows_are_told_patch_by_patch_and_snow_is_none(tmp_path):
    classes = np.full((48, 48), 4, np.uint8)
    for place, kind in enumerate((3, 8, 9, 10)):
        classes[place, :8] = kind
    classes[:8, 8:16] = 11
    folder = write_s2(tmp_path / "product.SAFE", scene(1, size=96), classes=classes)
    kind = modality("sentinel-2-l2a")
    shares = {
        (each.window.col, each.window.row): each.cloud
        for each in _look(folder, default_spec(kind, 16, "tile"), kind=kind).windows
    }
    assert shares.pop((0, 0)) == 0.5
    assert set(shares.values()) == {0.0}
    bare = write_s2(tmp_path / "bare.SAFE", scene(1, size=96))
    assert _look(bare, default_spec(kind, 16, "tile"), kind=kind).windows[0].cloud is None


def _clouds(folder, kind):
    """Return the share of clouds in each patch by its corner."""
    known = modality(kind)
    windows = _look(folder, default_spec(known, 16, "tile"), kind=known).windows
    return {(each.window.col, each.window.row): each.cloud for each in windows}


def test_clouds_are_told_by_coarse_classes_to_the_pixel(tmp_path):
    classes = np.full((16, 16), 4, np.uint8)
    classes[:3, :3] = 9
    shares = _clouds(write_s2(tmp_path / "a.SAFE", scene(1), classes=classes, classes_gsd=60), "sentinel-2-l2a")
    edge, corner = 2 * 16 / 256, 2 * 2 / 256  # clouds are 18 pixels wide and high, patches 16
    assert {place: share for place, share in shares.items() if share} == {
        (0, 0): 1.0, (16, 0): edge, (0, 16): edge, (16, 16): corner
    }  # fmt: skip


def test_clouds_of_level_1c_are_told_by_its_classification_mask_and_snow_is_none(tmp_path):
    mask = np.zeros((3, 16, 16), np.uint8)
    mask[0, 0, 0], mask[1, 8, 8], mask[2] = 1, 1, 1
    folder = write_s2(tmp_path / "a.SAFE", scene(1), level="L1C", mask=mask)
    shares = _clouds(folder, "sentinel-2-l1c")
    assert {place: share for place, share in shares.items() if share} == {(0, 0): 36 / 256, (48, 48): 36 / 256}
    scl = np.full((48, 48), 4, np.uint8)
    both = write_s2(tmp_path / "b.SAFE", scene(1), mask=mask, classes=scl)
    assert set(_clouds(both, "sentinel-2-l2a").values()) == {0.0}, "the scene classification knows more"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"corner": (600_020.0, 5_400_000.0)}, "covers other ground"),
        ({"epsg": 32632}, "another projection"),
        ({"gsd": 30}, "covers other ground"),
    ],
)
def test_classes_that_lie_elsewhere_than_the_scene_are_refused(tmp_path, change, reason):
    classes = np.full((48, 48), 4, np.uint8)
    folder = write_s2(tmp_path / "a.SAFE", scene(1), classes=classes)
    write_jp2(next(folder.rglob("*SCL_20m.jp2")), classes[None], **{"gsd": 20, **change})
    with pytest.raises(RasterRejected, match=f"band SCL: it .*{reason}.*;"):
        _clouds(folder, "sentinel-2-l2a")


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    factor=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_shares_of_coarse_pixels_are_those_of_their_copies(shape, factor, seed):
    random = np.random.default_rng(seed)
    valid = random.random(shape) < 0.5
    parts = [Strip(row, valid[row : row + 7], valid[row : row + 7]) for row in range(0, shape[0], 7)]
    fine = valid.repeat(factor[1], axis=0).repeat(factor[0], axis=1)
    windows = []
    for _ in range(8):
        (top, bottom), (left, right) = (sorted(random.choice(side + 1, 2, replace=False)) for side in fine.shape)
        windows.append(Window(int(left), int(top), int(right - left), int(bottom - top)))
    wanted = [1 - fine[w.row : w.row + w.height, w.col : w.col + w.width].mean() for w in windows]
    assert nodata_shares(iter(parts), windows, factor).tolist() == pytest.approx(wanted, abs=1e-12)


def test_shares_of_a_coarse_raster_take_little_memory():
    valid = np.random.default_rng(0).random((1500, 1500)) < 0.5
    tracemalloc.start()
    nodata_shares([Strip(0, valid, valid)], [Window(0, 0, 9000, 9000)], (6, 6))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20, "eight bytes for each of a part of its pixels, not for the 81 million that they stand for"
