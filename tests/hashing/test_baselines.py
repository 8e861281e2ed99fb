"""Baselines: plain features, random hyperplanes, mean colour."""

import numpy as np
import pytest

from rsfed.codes import hamming
from rsfed.errors import CodeError, TrainingError
from rsfed.hashing.baselines.hyperplanes import RandomHyperplanes
from rsfed.hashing.colour import NearestMeanColour
from rsfed.hashing.features import BINS, band_ranges, plain_features


def test_features_are_mean_deviation_and_histogram_of_every_band():
    rng = np.random.default_rng(0)
    patches = rng.uniform(-1, 1, (5, 3, 12, 12)).astype(np.float32)
    ranges = np.array([[-1.0, 1.0]] * 3)
    features = plain_features(patches, ranges)
    assert features.shape == (5, 3 * (2 + BINS))
    assert features.dtype == np.float32
    assert features[:, :3] == pytest.approx(patches.mean(axis=(2, 3)), abs=1e-6)
    assert features[:, 3:6] == pytest.approx(patches.std(axis=(2, 3)), abs=1e-6)
    for patch in range(5):
        for band in range(3):
            counts, _ = np.histogram(patches[patch, band], bins=BINS, range=(-1, 1))
            found = features[patch, 6 + band * BINS : 6 + (band + 1) * BINS]
            assert found == pytest.approx(counts / 144, abs=1e-6)


def test_values_beyond_the_range_of_the_archive_go_to_the_end_bins():
    patches = np.array([-9.0, 0.0, 0.99, 9.0], np.float32).reshape(1, 1, 2, 2)
    histogram = plain_features(patches, np.array([[0.0, 1.0]]))[0, 2:]
    assert histogram[0] == histogram[-1] == 0.5


def test_histograms_span_what_the_archive_holds_not_its_outliers():
    rng = np.random.default_rng(1)
    patches = rng.uniform(100, 200, (20, 2, 16, 16)).astype(np.float32)
    patches[0, 0, 0, 0] = 1e6
    (low, high), _ = band_ranges(patches)
    assert 100 <= low < 103
    assert 197 < high <= 200


def test_a_constant_band_is_no_obstacle():
    patches = np.full((3, 1, 4, 4), 7.0, np.float32)
    features = plain_features(patches, band_ranges(patches))
    assert np.isfinite(features).all()
    codes = RandomHyperplanes.fit(features, 16, seed=0).encode(features)
    assert (codes == codes[0]).all()


@pytest.mark.parametrize("features", [np.array([[1, 2], [np.nan, 3]], np.float32), np.zeros((0, 2), np.float32)])
def test_features_that_no_code_can_be_made_of_are_refused(features):
    with pytest.raises(TrainingError, match=r"not finite|no features"):
        RandomHyperplanes.fit(features, 16, seed=0)


def test_hyperplanes_keep_angles_as_distances():
    rng = np.random.default_rng(2)
    features = rng.standard_normal((4000, 10)).astype(np.float32)
    planes = RandomHyperplanes.fit(features, 256, seed=3)
    standard = (features[:2] - planes.centre) / planes.deviation
    angle = np.arccos(standard[0] @ standard[1] / np.prod(np.linalg.norm(standard, axis=1)))
    distance = hamming(*(planes.encode(features[[i]]) for i in (0, 1)))[0, 0]
    assert distance / 256 == pytest.approx(angle / np.pi, abs=0.1)


def test_bits_of_the_baseline_are_balanced_although_features_share_a_large_mean():
    rng = np.random.default_rng(4)
    features = (rng.standard_normal((500, 8)) * [1, 1, 1, 1, 50, 50, 0.01, 0.01] + 1000).astype(np.float32)
    bits = np.unpackbits(RandomHyperplanes.fit(features, 64, seed=0).encode(features), axis=1)
    assert (np.abs(bits.mean(axis=0) - 0.5) < 0.15).all()


def test_the_same_seed_gives_the_same_hyperplanes_and_a_wrong_width_is_refused():
    features = np.random.default_rng(5).standard_normal((20, 6)).astype(np.float32)
    first, second, other = (RandomHyperplanes.fit(features, 32, seed=s).encode(features) for s in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()
    with pytest.raises(CodeError):
        RandomHyperplanes.fit(features, 20, seed=0)


def test_colour_solves_what_colour_can_solve_and_nothing_else():
    rng = np.random.default_rng(6)
    classes = np.repeat(np.arange(3), 50)
    apart = np.array([[0.0, 0], [1, 0], [0, 1]])[classes] + rng.normal(0, 0.05, (150, 2))
    assert NearestMeanColour.fit(apart, classes).accuracy(apart, classes) == 1
    alike = rng.normal(0, 1, (150, 2))
    assert NearestMeanColour.fit(alike[:75], classes[:75] % 2).accuracy(alike[75:], classes[75:] % 2) < 0.7


def test_a_bright_band_does_not_outweigh_the_others():
    classes = np.array([0, 1] * 40)
    rng = np.random.default_rng(7)
    colours = np.stack([rng.normal(0, 1000, 80), classes + rng.normal(0, 0.05, 80)], axis=1)
    assert NearestMeanColour.fit(colours, classes).accuracy(colours, classes) > 0.95
