"""Sentinel-1 products as agencies ship them: what is read of them, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from raster_makers import look, spec
from safe_makers import GRD, NOISE, SIGMA, amplitudes, points, swath, vectors, write_measurement, write_s1

from rsfed.errors import RasterRejected
from rsfed.raster.item import Window
from rsfed.raster.layout import walk
from rsfed.raster.layouts import product_at
from rsfed.raster.modality import modality
from rsfed.raster.source import opened

KIND = "sentinel-1-grd-db"
RADAR = modality(KIND)
SPEC = spec("VV VH", size=64, gsd=10.0, fit="tile")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    values = amplitudes()
    values["VV"][80, 90] = 0
    return values, write_s1(tmp_path_factory.mktemp("grd") / GRD, values)


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / GRD)


def decibels(folder, window):
    with opened(folder, RADAR) as source:
        return source.read([0, 1], window)


def by_hand(values, row, col, azimuth=True):
    """Return backscatter of one pixel by the tables that `safe_makers` writes."""
    low, high = 400 + col / 2, 600 + col / 2
    sigma = low + (high - low) * row / 160
    noise = (100 + col / 2) * (1 + 2 * row / 160 if azimuth and col < 100 else 1)
    return 10 * np.log10((float(values[row, col]) ** 2 - noise) / sigma**2)


def test_amplitudes_are_calibrated_and_denoised_pixel_by_pixel(made):
    values, folder = made
    found, valid = decibels(folder, Window(60, 70, 80, 30))
    for row, col in ((70, 60), (85, 99), (85, 100), (99, 139)):
        assert found[0, row - 70, col - 60] == pytest.approx(by_hand(values["VV"], row, col), abs=1e-4)
        assert found[1, row - 70, col - 60] == pytest.approx(by_hand(values["VH"], row, col), abs=1e-4)
    assert (~valid).sum() == 1
    assert not valid[10, 30], "amplitude 0 of one polarisation"


def test_the_scene_says_where_when_and_in_which_pass_it_lies(made):
    _, folder = made
    (found,) = walk(folder.parent)
    assert found.path == folder
    info = look(folder, KIND, SPEC)
    assert (info.width, info.height, info.gsd, info.dtype) == (200, 160, 10, "float32")
    assert info.acquisition == "S1A:054117:069480", "mission, orbit and datatake as names have them"
    assert [each.isoformat() for each in info.acquired] == [
        "2024-05-31T16:50:43.120000+00:00",
        "2024-05-31T16:51:08.120000+00:00",
    ]
    assert product_at(folder).tags()["PASS"] == "descending"
    assert info.footprint is not None


def test_footprints_follow_the_control_points(made):
    _, folder = made
    grid = points(200, 160)
    with opened(folder, RADAR) as source:
        corner, middle = source.location.footprints([Window(0, 0, 50, 40), Window(100, 80, 50, 40)])
    by_place = {(point.col, point.row): (point.x, point.y) for point in grid}
    assert corner[0] == pytest.approx(by_place[0, 40][0], abs=1e-9)
    assert corner[3] == pytest.approx(by_place[0, 0][1], abs=1e-9)
    assert middle[2] == pytest.approx(by_place[150, 80][0], abs=1e-9)
    assert middle[1] == pytest.approx(by_place[150, 120][1], abs=1e-9)


def test_files_and_folder_may_have_been_renamed_alike(copy):
    renamed = copy.rename(copy.parent / "night")
    for number, path in enumerate(sorted((renamed / "annotation").glob("*.xml"))):
        stem = path.stem
        for each in sorted(renamed.rglob(f"*{stem}*")):
            each.rename(each.with_name(each.name.replace(stem, f"part{number}")))
    assert look(renamed, KIND, SPEC).acquisition == "S1A:054117:069480"


def test_cloud_optimised_products_and_products_of_before_2018_are_read_alike(made, tmp_path):
    values, folder = made
    old = NOISE.replace("noiseRangeVector", "noiseVector").replace("noiseRangeLut", "noiseLut")
    before = write_s1(tmp_path / "old", values, noise=old)
    for path in (before / "measurement").iterdir():
        path.rename(path.with_name(f"{path.stem}-cog.tiff"))
    window = Window(60, 70, 80, 30)
    found, _ = decibels(before, window)
    assert found[0, 15, 0] == pytest.approx(by_hand(values["VV"], 85, 60, azimuth=False), abs=1e-4)
    np.testing.assert_allclose(found[:, :, 40:], decibels(folder, window)[0][:, :, 40:], atol=1e-4)


def test_what_lies_outside_of_the_swaths_has_no_data(tmp_path):
    folder = write_s1(tmp_path / "a", amplitudes(), swaths=swath(0, 20, 159, 99) + swath(0, 100, 159, 179))
    _, valid = decibels(folder, Window(0, 80, 200, 10))
    assert not valid[:, :20].any()
    assert valid[:, 20:180].all()
    assert not valid[:, 180:].any()


def only(name):
    def remove(folder):
        for path in folder.rglob(f"*-{name}-*"):
            path.unlink()

    return remove


def without(pattern):
    def remove(folder):
        for path in folder.glob(pattern):
            path.unlink()

    return remove


def rewritten(pattern, old, new):
    def rewrite(folder):
        path = min(folder.glob(pattern))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return rewrite


def smaller(folder):
    write_measurement(min((folder / "measurement").iterdir()), np.ones((100, 100), np.uint16))


def truncated(folder):
    path = min((folder / "measurement").iterdir())
    path.write_bytes(path.read_bytes()[:9000])


CALIBRATION, NOISES = "annotation/calibration/calibration-*", "annotation/calibration/noise-*"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (only("vh"), "holds VV and modality sentinel-1-grd-db needs VH; leave it out"),
        (without("annotation/*.xml"), "product annotation is missing; copy"),
        (without(CALIBRATION), "calibration annotation is missing; copy"),
        (without(NOISES), "noise annotation is missing; copy"),
        (without("measurement/*"), "measurement files are missing; copy"),
        (without("measurement/*-vh-*"), "a measurement file is missing; copy"),
        (smaller, "another size than its annotation says; copy"),
        (truncated, "truncated or damaged; copy"),
        (rewritten(CALIBRATION, "<calibration>", "<calibration"), "truncated or no XML; copy"),
        (rewritten(CALIBRATION, "<calibration>", "<!DOCTYPE calibration><calibration>"), "document type"),
        (rewritten(CALIBRATION, "400.0", "none"), "sigmaNought that is no number; copy"),
        (rewritten(CALIBRATION, "400.0", "0"), "sigma nought that is not positive; copy"),
        (rewritten(CALIBRATION, "sigmaNought", "betaNought"), "no usable table of sigmaNought; copy"),
        (rewritten(NOISES, "noiseRangeVector", "other"), "has no range noise; copy"),
        (rewritten("annotation/*.xml", "GRD", "SLC"), "type SLC, not GRD; leave it out"),
        (rewritten("annotation/*.xml", "Descending", "Ascending"), "another pass than that of the other polarisation"),
        (rewritten("annotation/*.xml", "54117", "many"), "another absoluteOrbitNumber"),
        (rewritten("annotation/*.xml", "1.000000e+01</range", "-1</range"), "another rangePixelSpacing"),
    ],
)
def test_a_product_that_will_not_do_is_refused_in_one_line_with_the_remedy(copy, harm, reason):
    harm(copy)
    with pytest.raises(RasterRejected, match=reason) as refused:
        look(copy, KIND, SPEC)
    assert "\n" not in refused.value.public
    assert "20240531" not in refused.value.public


def test_another_modality_says_where_it_belongs(made):
    with pytest.raises(RasterRejected, match=r"archive holds sentinel-1-rtc-db; .* sentinel-1-grd-db"):
        look(made[1], "sentinel-1-rtc-db", SPEC)


def test_what_the_annotations_say_is_read_again_when_they_change(copy):
    before, _ = decibels(copy, Window(60, 70, 8, 8))
    (path, _) = sorted(copy.glob(CALIBRATION))
    louder = vectors("calibrationVector", "sigmaNought", [(0, [0], [50.0])])
    path.write_text(path.read_text().replace(SIGMA, louder))
    after, _ = decibels(copy, Window(60, 70, 8, 8))
    assert not np.allclose(before, after)


def test_thermal_noise_that_is_removed_already_is_not_taken_off_twice(copy, made):
    for path in copy.glob("annotation/*.xml"):
        text = path.read_text().replace(
            "<imageAnnotation>",
            "<imageAnnotation><processingInformation><thermalNoiseCorrectionPerformed>true"
            "</thermalNoiseCorrectionPerformed></processingInformation>",
        )
        path.write_text(text)
    found, _ = decibels(copy, Window(60, 70, 8, 8))
    sigma = 430 + 200 * 70 / 160
    assert found[0, 0, 0] == pytest.approx(20 * np.log10(float(made[0]["VV"][70, 60]) / sigma), abs=1e-4)
