"""Augmentation: the eight positions of a square, and light that changes all bands alike."""

import numpy as np
import pytest

from rsfed.hashing.augment import DROPPED, JITTER, Augmentation, drop_features


def views(patches, seed=0):
    return Augmentation.draw(len(patches), np.random.default_rng(seed)).apply(patches)


def test_turns_are_the_eight_positions_of_a_square():
    patch = np.arange(2 * 9, dtype=np.float32).reshape(1, 2, 3, 3)
    drawn = Augmentation.draw(400, np.random.default_rng(0))
    still = Augmentation(drawn.position, np.ones(400, np.float32), np.zeros(400, np.float32))
    turned = still.apply(patch.repeat(400, axis=0))
    seen, counts = np.unique(turned.reshape(400, -1), axis=0, return_counts=True)
    assert len(seen) == 8
    assert counts.min() > 25
    for each in turned:
        assert (np.sort(each, axis=None) == np.sort(patch, axis=None)).all()
        assert (each[1] - each[0] == 9).all(), "bands are turned together"


def test_light_changes_all_bands_and_pixels_of_a_patch_by_one_gain_and_one_offset():
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(200, 3, 1, 1)).astype(np.float32).repeat(4, axis=2).repeat(4, axis=3)
    seen = views(flat)
    assert (seen == seen[:, :, :1, :1]).all(), "no noise"
    gains, offsets = [], []
    for before, after in zip(flat[:, :, 0, 0], seen[:, :, 0, 0], strict=True):
        (gain, offset), residual, *_ = np.linalg.lstsq(np.stack([before, np.ones(3)], axis=1), after, rcond=None)
        assert residual.sum() < 1e-9
        gains.append(gain), offsets.append(offset)
    for values, middle in ((gains, 1), (offsets, 0)):
        assert max(np.abs(np.array(values) - middle)) <= JITTER + 1e-3
        assert np.std(values) == pytest.approx(JITTER / 3**0.5, rel=0.2), "each as likely"
    assert abs(np.corrcoef(gains, offsets)[0, 1]) < 0.3


def test_the_seed_decides_and_what_is_given_stays():
    patches = np.random.default_rng(2).normal(size=(6, 2, 4, 4)).astype(np.float32)
    before = patches.copy()
    assert (views(patches, 3) == views(patches, 3)).all()
    assert (views(patches, 3) != views(patches, 4)).any()
    assert (patches == before).all()
    assert views(patches).dtype == np.float32


def test_one_augmentation_turns_band_groups_of_any_size_alike():
    corner = lambda size: np.pad(np.ones((1, 1, 1, 1), np.float32), ((0, 0), (0, 0), (0, size - 1), (0, size - 1)))  # noqa: E731
    augmentation = Augmentation.draw(40, np.random.default_rng(5))
    small, large = (augmentation.apply(corner(size).repeat(40, axis=0)) for size in (3, 6))
    assert (small[:, 0, ::2, ::2] == large[:, 0, ::5, ::5]).all()


def test_a_view_of_features_lacks_some_and_changes_no_other():
    features = np.random.default_rng(3).uniform(1, 2, (50, 400)).astype(np.float32)
    seen = drop_features(features, np.random.default_rng(4))
    dropped = seen == 0
    assert (seen[~dropped] == features[~dropped]).all()
    assert dropped.mean() == pytest.approx(DROPPED, abs=0.01)
    assert (dropped[0] != dropped[1]).any(), "each patch by itself"
