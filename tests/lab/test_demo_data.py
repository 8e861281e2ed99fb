"""What `rsfed demo --data` makes of a folder."""

import os

import numpy as np
import pytest
from PIL import Image
from raster_makers import optical_patch, write_image

from rsfed.errors import ArchiveError, UsageError
from rsfed.lab import demo_data
from rsfed.lab.demo_data import divide, find_images, lay_out
from rsfed.lab.synth import generate
from rsfed.raster.writer import Grid, write_geotiff

NODES = ("alps", "baltic")


def photographs(root, *, classes=3, each=12, size=(40, 30)):
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", size, (c * 60, i * 10, 99)).save(root / f"class{c}" / f"{i}.jpg")
    return root


def geotiffs(root, dtype, bands):
    for c in ("a", "b"):
        (root / c).mkdir(parents=True)
        values = np.full((bands, 24, 24), 7, dtype)
        write_geotiff(root / c / "x.tif", values, Grid(32632, 400_000, 5_000_000, 10), {})
    return root


def test_photographs_are_rgb_and_each_stands_alone(tmp_path):
    images = find_images(photographs(tmp_path))
    assert (images.modality.name, images.size, len(images.samples)) == ("rgb", 24, 36)
    assert {sample.acquisition for sample in images.samples} == {None}


def test_products_are_no_images_of_a_demo(tmp_path):
    optical_patch(photographs(tmp_path) / "class0")
    assert len(find_images(tmp_path).samples) == 36


@pytest.mark.parametrize(
    ("dtype", "bands", "name"),
    [
        ("uint8", 3, "rgb"),
        ("uint16", 4, "rgbn-reflectance"),
        ("uint16", 12, "sentinel-2-l2a"),
        ("float32", 2, "sentinel-1-grd"),
        ("uint8", 5, "uint8-5"),
        ("int16", 7, "int16-7"),
    ],
)
def test_the_modality_is_found_from_the_files(tmp_path, dtype, bands, name):
    assert find_images(geotiffs(tmp_path, dtype, bands)).modality.name == name


def test_a_damaged_first_image_does_not_hide_what_the_others_are(tmp_path):
    photographs(tmp_path)
    (tmp_path / "class0" / "0.jpg").write_bytes(b"no image")
    assert find_images(tmp_path).modality.name == "rgb"


def test_a_damaged_image_never_becomes_a_query(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_data, "QUERY_SHARE", 0.5)
    photographs(tmp_path)
    bad = {tmp_path / f"class{c}" / f"{i}.jpg" for c in range(3) for i in range(1, 6)}
    for path in bad:
        path.write_bytes(b"no image")
    division = divide(find_images(tmp_path), NODES, skew=10, seed=0)
    assert division.queries
    assert not {sample.path for sample in division.queries} & bad


def test_acquisitions_of_geotiffs_stay_on_one_side(tmp_path):
    generate(tmp_path / "syn", patches=160, size=24, seed=1)
    division = divide(find_images(tmp_path / "syn"), NODES, skew=1, seed=0)
    sides = [{s.acquisition for s in side} for side in [*division.archives.values(), division.queries]]
    assert all(None not in side for side in sides)
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_files_are_laid_out_under_their_own_names_and_the_originals_stay(tmp_path):
    images = find_images(photographs(tmp_path / "data"))
    placed = lay_out(images.samples[:5], images.root, tmp_path / "archive")
    for path, sample in placed.items():
        assert path.read_bytes() == sample.path.read_bytes()
        assert path.parent.name == sample.label
        assert not path.is_symlink()


def test_where_links_cannot_be_made_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    images = find_images(photographs(tmp_path / "data"))
    (path,) = lay_out(images.samples[:1], images.root, tmp_path / "archive")
    assert path.read_bytes() == images.samples[0].path.read_bytes()
    assert path.stat().st_ino != images.samples[0].path.stat().st_ino


def test_a_folder_without_class_folders_is_refused_with_what_is_needed(tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "x.jpg")
    with pytest.raises(UsageError, match="class sub-folders"):
        find_images(tmp_path)


def test_images_of_no_known_kind_are_refused_with_what_is_taken(tmp_path):
    for name in ("field", "lake"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.tif", np.ones((17, 30, 30), np.uint8))
    with pytest.raises(UsageError, match="1 to 16 bands"):
        find_images(tmp_path)


def test_files_that_are_no_images_are_refused_as_such(tmp_path):
    photographs(tmp_path, each=1)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="can be read as an image: it is not a GeoTIFF"):
        find_images(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ArchiveError):
        find_images(tmp_path / "none")
