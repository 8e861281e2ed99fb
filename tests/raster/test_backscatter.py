"""From amplitudes to decibels, against tables worked out by hand and against numpy over the whole scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raster_makers import UTM, item_of, spec, write_image

from rsfed.raster.backscatter import Block, Calibration, table, to_decibels, to_power
from rsfed.raster.item import Window
from rsfed.raster.reader import read

SIGMA = table([(0, [0, 10], [100, 200]), (10, [0, 10], [300, 400])])
NOISE = table([(0, [0, 10], [10, 20]), (10, [0, 10], [10, 20])])
AZIMUTH = (Block(0, 0, 9, 9, (0.0, 10.0), (1.0, 2.0)),)
WHOLE = Window(0, 0, 10, 10)


def calibration(size=1000, **rest) -> Calibration:
    return Calibration(**{"width": size, "height": size, "sigma": SIGMA, "noise": None} | rest)


def test_tables_are_interpolated_along_lines_and_between_them():
    values = SIGMA.at(Window(0, 0, 12, 12))
    assert values[0, 0] == 100
    assert values[0, 5] == 150
    assert values[5, 0] == 200
    assert values[5, 5] == 250
    assert values[10, 10] == 400
    assert values[11, 11] == 400, "constant beyond its ends"
    uneven = table([(0, [0, 10], [0, 10]), (4, [0, 2, 10], [8, 0, 8])])
    assert uneven.at(Window(2, 2, 1, 1))[0, 0] == pytest.approx((2 + 0) / 2), "each line has pixels of its own"
    assert (table([(7, [0, 10], [5, 5])]).at(Window(3, 3, 2, 4)) == 5).all(), "one line is all there is"


@given(st.integers(0, 7), st.integers(0, 7), st.integers(1, 5), st.integers(1, 5))
def test_a_window_has_the_values_of_the_whole_scene(col, row, width, height):
    known = calibration(size=12, noise=NOISE, azimuth=AZIMUTH, swaths=(Block(0, 1, 11, 9),))
    amplitudes = np.random.default_rng(1).integers(0, 9, (12, 12)).astype(np.uint16)
    whole, valid = known.decibels(amplitudes, Window(0, 0, 12, 12))
    part, known_part = known.decibels(
        amplitudes[row : row + height, col : col + width], Window(col, row, width, height)
    )
    np.testing.assert_allclose(part, whole[row : row + height, col : col + width], rtol=1e-5)
    np.testing.assert_array_equal(known_part, valid[row : row + height, col : col + width])


def test_backscatter_is_power_by_the_square_of_the_table():
    values, valid = calibration().decibels(np.full((10, 10), 200), WHOLE)
    assert values[0, 0] == pytest.approx(10 * np.log10(200**2 / 100**2), abs=1e-4)
    assert values[5, 5] == pytest.approx(10 * np.log10(200**2 / 250**2), abs=1e-4)
    assert valid.all()


def test_thermal_noise_of_range_and_azimuth_is_taken_off_before_the_table():
    values, _ = calibration(noise=NOISE, azimuth=AZIMUTH).decibels(np.full((10, 10), 200), WHOLE)
    assert values[0, 0] == pytest.approx(10 * np.log10((200**2 - 10) / 100**2), abs=1e-4)
    assert values[5, 5] == pytest.approx(10 * np.log10((200**2 - 15 * 1.5) / 250**2), abs=1e-4)
    bare, _ = calibration(noise=NOISE).decibels(np.full((10, 10), 200), WHOLE)
    assert bare[5, 5] == pytest.approx(10 * np.log10((200**2 - 15) / 250**2), abs=1e-4), (
        "older products have no azimuth"
    )


def test_nothing_is_known_of_amplitude_zero_and_outside_of_the_swaths():
    amplitudes = np.full((10, 10), 200)
    amplitudes[3, 4] = 0
    swaths = (Block(0, 2, 4, 6), Block(5, 2, 9, 7))
    _, valid = calibration(swaths=swaths).decibels(amplitudes, WHOLE)
    wanted = np.zeros((10, 10), bool)
    wanted[0:5, 2:7] = wanted[5:10, 2:8] = True
    wanted[3, 4] = False
    np.testing.assert_array_equal(valid, wanted)


def test_border_noise_is_cut_and_calm_water_is_dark():
    loud = table([(0, [0], [1e4])])
    known = calibration(noise=loud)
    amplitudes = np.full((10, 10), 50)  # less than the noise
    _, edge = known.decibels(amplitudes, WHOLE)
    assert not edge.any()
    values, middle = known.decibels(amplitudes, Window(500, 500, 10, 10))
    assert middle.all()
    assert values == pytest.approx(-50, abs=1e-4)
    _, corner = known.decibels(np.full((40, 40), 50), Window(960, 10, 40, 40))
    assert corner[10:, :20].all(), "the margin is 2 % of each side"
    assert not corner[:10].any()
    assert not corner[:, 20:].any()


@given(st.floats(-49, 60))
def test_power_and_decibels_are_each_others_way_back(value):
    assert to_decibels(to_power(np.float32([value]))) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    "lines", [[], [(1, [0], [1]), (1, [0], [1])], [(0, [0, 0], [1, 1])], [(0, [0, 1], [1])], [(0, [float("nan")], [1])]]
)
def test_a_table_that_makes_no_sense_is_refused(lines):
    with pytest.raises(ValueError, match=r"ascend|missing"):
        table(lines)


def test_decibels_are_averaged_in_power(tmp_path):
    stored = np.zeros((2, 32, 32), np.float32)
    stored[:, :, ::2], stored[:, :, 1::2] = -10, -20
    stored[0, 0, 0] = np.nan
    path = write_image(tmp_path / "a.tif", stored, **UTM)
    mean = 10 * np.log10((0.1 + 0.01) / 2)
    for kind, wanted in (("sentinel-1-rtc-db", mean), ("sentinel-1-grd-db", mean), ("sentinel-1-grd", -15)):
        for settings in ({"size": 16}, {"size": 16, "reduction": 2}):
            known = spec("VV VH", gsd=20, fit="crop", resampling="average", **settings)
            values = read(item_of(path, kind, known), known)["all"]
            assert values[1, 8, 8] == pytest.approx(wanted, abs=1e-3), (kind, settings)
            assert values[0, 0, 0] == pytest.approx(wanted, abs=2), "a pixel without data takes no part"


def test_a_files_own_overview_of_decibels_is_no_average_of_power(tmp_path):
    import rasterio

    stored = np.zeros((2, 64, 64), np.float32)
    stored[:, :, ::2], stored[:, :, 1::2] = -10, -20
    path = write_image(tmp_path / "a.tif", stored, **UTM)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2], rasterio.enums.Resampling.average)
    known = spec("VV VH", size=32, gsd=20, fit="crop", reduction=2)
    values = read(item_of(path, "sentinel-1-rtc-db", known), known)["all"]
    assert values[0, 8, 8] == pytest.approx(10 * np.log10((0.1 + 0.01) / 2), abs=1e-3)
