"""KULSH and KSLSH against the formulae that define them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.linalg import eig
from scipy.optimize import approx_fprime

from rsfed.codes import unpack
from rsfed.errors import CodeError, TrainingError
from rsfed.hashing.baselines import kslsh
from rsfed.hashing.baselines.hyperplanes import RandomHyperplanes
from rsfed.hashing.baselines.kernel import ANCHORS, AnchorKernel, draw_anchors
from rsfed.hashing.baselines.kslsh import KSLSH, Pairs
from rsfed.hashing.baselines.kulsh import KULSH, inverse_root
from rsfed.hashing.evaluation import evaluate


def blobs(seed, *, per_class=40, classes=4, signal=3, noise=20):
    """Classes that differ in a few dimensions of many, with a large mean as real features have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 2, (classes, signal))
    labels = np.repeat(np.arange(classes), per_class)
    features = np.hstack(
        [centres[labels] + rng.normal(0, 0.5, (len(labels), signal)), rng.normal(0, 2, (len(labels), noise))]
    )
    return (features + 50).astype(np.float32), np.eye(classes, dtype=bool)[labels]


def rbf(a, b, bandwidth):
    return np.exp(-np.square(a[:, None].astype(float) - b[None].astype(float)).sum(axis=2) / (2 * bandwidth))


def centring(size):
    return np.eye(size) - 1 / size


def test_kernel_is_an_rbf_whose_bandwidth_is_the_mean_squared_distance():
    features, _ = blobs(0)
    anchors = features[:9]
    kernel = AnchorKernel.fit(anchors, features)
    bandwidth = np.square(features[:, None].astype(float) - anchors[None]).sum(axis=2).mean()
    expected = rbf(features, anchors, bandwidth)
    assert kernel.bandwidth == pytest.approx(bandwidth)
    assert kernel.rows(features) == pytest.approx(expected - expected.mean(axis=0))


def test_anchors_are_different_images_and_all_of_a_small_archive():
    features = np.arange(1000.0)[:, None]
    drawn = draw_anchors(features, np.random.default_rng(0))
    assert len(np.unique(drawn)) == len(drawn) == ANCHORS
    assert sorted(draw_anchors(features[:7], np.random.default_rng(0))) == sorted(features[:7])


def test_the_inverse_root_whitens_what_has_positive_eigenvalues_and_drops_the_rest():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    values = np.array([4.0, 1.0, 0.25, 1e-17, 0.0, -2.0])
    root = inverse_root(basis * values @ basis.T)
    kept = basis[:, :3]
    assert root == pytest.approx(kept * [0.5, 1, 2] @ kept.T)
    assert root @ (basis * values @ basis.T) @ root == pytest.approx(kept @ kept.T)


def test_kulsh_is_the_sign_of_the_centred_kernel_times_whitened_sums_of_anchors():
    features, _ = blobs(2)
    fitted = KULSH.fit(features, 32, seed=3)
    anchors = fitted.kernel.anchors + fitted.kernel.origin
    size, summed = len(anchors), min(len(anchors) // 4, 30)
    bare = rbf(anchors, anchors, fitted.kernel.bandwidth)
    centred = centring(size) @ bare @ centring(size)
    # undoing the whitening gives the sums back: t ones for each bit, less their mean
    values, vectors = np.linalg.eigh(centred)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    sums = root @ fitted.weights + summed / size
    assert np.round(sums, 6) == pytest.approx(np.round(sums))
    assert np.round(sums).sum(axis=0) == pytest.approx(summed)
    assert set(np.unique(np.round(sums))) == {0, 1}
    queries, _ = blobs(4)
    asked = rbf(queries, anchors, fitted.kernel.bandwidth)
    asked = asked - asked.mean(axis=1, keepdims=True) - bare.mean(axis=0) + bare.mean()
    assert (unpack(fitted.encode(queries)) == (asked @ fitted.weights > 0)).all()


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(bool, (7, 3)), st.integers(0, 9))
def test_pairs_multiply_like_the_matrix_that_they_stand_for(labels, seed):
    labels[~labels.any(axis=1), 0] = True
    labels[:3] = [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    rng = np.random.default_rng(seed)
    pairs, dense = Pairs.of(labels, 16), 16 * np.where((labels[:, None] & labels).any(axis=2), 1.0, -1.0)
    for _ in range(3):
        columns = rng.normal(size=(7, 2))
        assert pairs.times(columns) == pytest.approx(dense @ columns)
        assert pairs.times(columns[:, 0]) == pytest.approx(dense @ columns[:, 0])
        signs = np.where(rng.random(7) < 0.5, 1.0, -1.0)
        pairs, dense = pairs.less(signs), dense - np.outer(signs, signs)


@pytest.fixture(scope="module")
def problem():
    features, labels = blobs(5, per_class=15)
    kernel = AnchorKernel.fit(features[::4], features)
    return kernel.rows(features), Pairs.of(labels, 16)


def test_the_relaxed_direction_is_the_top_generalised_eigenvector_scaled_to_the_samples(problem):
    rows, pairs = problem
    direction = kslsh.relaxed_direction(rows, pairs)
    left, right = rows.T @ pairs.times(rows), rows.T @ rows
    assert direction @ right @ direction == pytest.approx(len(rows))
    largest = eig(left, right, right=False).real.max()
    assert left @ direction == pytest.approx(largest * right @ direction, abs=1e-6 * np.abs(left @ direction).max())


def test_the_slope_of_the_smooth_cost_is_its_derivative(problem):
    _, pairs = problem
    at = np.random.default_rng(6).normal(size=60)
    numeric = approx_fprime(at, lambda x: kslsh.smooth_cost(x, pairs)[0], 1e-6)
    assert kslsh.smooth_cost(at, pairs)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-2)
    smooth = np.tanh(at / 2)
    assert kslsh.smooth_cost(at, pairs)[0] == pytest.approx(-smooth @ pairs.times(smooth))


def test_refinement_reaches_a_valley_of_the_smooth_cost(problem):
    rows, pairs = problem
    start = kslsh.relaxed_direction(rows, pairs)
    end = kslsh.refine(rows, pairs, start)
    (before, _), (after, slope) = (kslsh.smooth_cost(rows @ point, pairs) for point in (start, end))
    assert after < before
    stepped, _ = kslsh.smooth_cost(rows @ (end - 1e-5 * rows.T @ slope), pairs)
    assert abs(after - stepped) / len(rows) < 0.1


def test_every_bit_explains_what_the_bits_before_it_left(problem):
    rows, pairs = problem
    weights = kslsh.learn_weights(rows, pairs, 16)
    for bit in range(16):
        signs = np.where(rows @ weights[:, bit] > 0, 1.0, -1.0)
        relaxed = np.where(rows @ kslsh.relaxed_direction(rows, pairs) > 0, 1.0, -1.0)
        assert signs @ pairs.times(signs) >= relaxed @ pairs.times(relaxed)
        pairs = pairs.less(signs)


def test_learning_from_labels_beats_hyperplanes_where_most_dimensions_are_noise():
    features, labels = blobs(7)
    queries, wanted = blobs(8)
    scores = [
        evaluate(fitted.encode(queries), wanted, fitted.encode(features), labels).mean_average_precision
        for fitted in (
            KSLSH.fit(features, labels, 16, seed=0),
            KULSH.fit(features, 16, seed=0),
            RandomHyperplanes.fit(features, 16, seed=0),
        )
    ]
    assert scores[0] > 0.85
    assert max(scores[1:]) < 0.65


def test_unlabelled_images_take_no_part():
    features, labels = blobs(9, per_class=10)
    more = np.concatenate([features, features + 7])
    fitted = KSLSH.fit(features, labels, 16, seed=1)
    partly = KSLSH.fit(more, np.concatenate([labels, np.zeros_like(labels)]), 16, seed=1)
    assert (fitted.encode(more) == partly.encode(more)).all()


@pytest.mark.parametrize(
    "fit", [KULSH.fit, lambda features, bits, seed: KSLSH.fit(features, blobs(0, per_class=10)[1], bits, seed)]
)
def test_the_same_seed_gives_the_same_codes_and_wrong_input_is_refused(fit):
    features, _ = blobs(10, per_class=10)
    first, second, other = (fit(features, 16, seed).encode(features) for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()
    with pytest.raises(CodeError):
        fit(features, 20, 0)
    with pytest.raises(TrainingError, match="same features"):
        fit(np.full_like(features, 0.1), 16, 0)
    features[3, 3] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        fit(features, 16, 0)


def test_an_archive_of_fewer_images_than_bits_is_hashed():
    features, labels = blobs(11, per_class=2)
    assert KULSH.fit(features, 64, seed=0).encode(features).shape == (8, 8)
    codes = KSLSH.fit(features, labels, 64, seed=0).encode(features)
    figures = evaluate(codes, labels, codes, labels, own=np.arange(8), map_k=1)
    assert figures.mean_average_precision == 1


def test_many_images_get_the_codes_that_they_get_one_by_one():
    features = np.random.default_rng(12).normal(size=(20_000, 2)).astype(np.float32)
    fitted = KULSH.fit(features[:100], 16, seed=0)
    assert (
        fitted.encode(features)[::1999] == np.concatenate([fitted.encode(row) for row in features[::1999, None]])
    ).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.ones((6, 1), bool), "at least two classes"),
        (np.array([[1, 1, 0], [0, 1, 1]] * 3, bool), "at least two classes"),  # all share the second
        (np.eye(6, dtype=bool), "at least two images"),
        (np.zeros((6, 2), bool), "at least two images"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, message):
    features = np.random.default_rng(13).normal(size=(6, 4)).astype(np.float32)
    with pytest.raises(TrainingError, match=message):
        KSLSH.fit(features, labels, 16, seed=0)
