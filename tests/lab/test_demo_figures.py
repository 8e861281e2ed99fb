"""Figures of served rankings, and baselines on images whose answer is known."""

import numpy as np
import pytest
from PIL import Image

from rsfed.lab.demo_data import divide, find_images
from rsfed.lab.demo_figures import baselines, served_figures, typical


def test_figures_are_of_the_order_that_was_served():
    figures = served_figures(["a", "b"], [["a", "b", "a"], ["a", "a", "a"]])
    assert figures.precision_at_10 == pytest.approx((2 / 10 + 0) / 2)
    assert figures.map_at_20 == pytest.approx(((1 / 1 + 2 / 3) / 2 + 0) / 2)


def test_no_hits_are_no_success_and_no_error():
    assert served_figures(["a"], [[]]).map_at_20 == 0


def colours(root, *, alike):
    rng = np.random.default_rng(0)
    for c in range(4):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (24, 24, 3)) if alike else rng.normal(40 + 50 * c, 9, (24, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"class{c}" / f"{i}.png")
    return find_images(root)


def made(images):
    return baselines(images, divide(images, ("alps", "baltic"), skew=5, seed=0), bits=64, seed=0)


def test_colours_that_tell_the_classes_are_found_by_every_baseline(tmp_path):
    plain = made(colours(tmp_path, alike=False))
    assert plain.colour_accuracy == 1
    assert plain.hyperplanes.map_at_20 > 0.95
    assert 0.15 < plain.chance.precision_at_10 < 0.35


def test_images_that_tell_nothing_leave_every_baseline_at_chance(tmp_path):
    plain = made(colours(tmp_path, alike=True))
    assert plain.colour_accuracy < 0.7
    assert plain.hyperplanes.precision_at_10 == pytest.approx(plain.chance.precision_at_10, abs=0.12)


def test_a_damaged_image_costs_the_baselines_that_image_only(tmp_path):
    images = colours(tmp_path, alike=False)
    division = divide(images, ("alps", "baltic"), skew=5, seed=0)
    division.archives["alps"][0].path.write_bytes(b"no image")
    assert baselines(images, division, bits=64, seed=0).colour_accuracy == 1


def test_typical_queries_are_those_nearest_to_the_median_and_last_the_worst():
    assert typical([0.0, 1.0, 0.5, 0.6, 0.9], "abcde", 3) == [3, 2, 0]
    assert typical([0.0, 1.0, 0.5, 0.6, 0.9], "abccb", 3) == [3, 4, 0]
    assert typical([0.4, 0.2], "ab", 4) == [0, 1]
    assert typical([0.3], "a", 4) == [0]
