"""The closed form: what nodes sum apart is what one place would find."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import unpack
from rsfed.errors import TrainingError
from rsfed.hashing import closed_form
from rsfed.hashing.centres import hash_centres
from rsfed.hashing.closed_form import LEAST_PATCHES, RIDGE, ClosedForm, Projections, Sums, solve, total

BITS, CLASSES, WIDTH, COUNT = 16, 4, 12, 200


def blobs(seed, each=30):
    """Classes that differ in a few features, with scales that differ from patch to patch."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(0, 2, (CLASSES, WIDTH))
    labels = np.repeat(np.arange(CLASSES), each)
    features = (means[labels] + rng.normal(0, 0.6, (len(labels), WIDTH))) * rng.uniform(0.1, 90, (len(labels), 1))
    return features.astype(np.float32), np.eye(CLASSES, dtype=bool)[labels]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.booleans())
def test_any_division_over_nodes_gives_what_one_place_gives(seed, nodes, by_class):
    features, labels = blobs(seed)
    rng = np.random.default_rng(seed)
    owner = labels.argmax(axis=1) % nodes if by_class else rng.integers(0, nodes, len(labels))
    projections = Projections.draw(WIDTH, 1, COUNT)
    rows, centres = projections.rows(features), hash_centres(range(CLASSES), BITS, 1)
    rows, labels, owner = (np.repeat(each, LEAST_PATCHES, axis=0) for each in (rows, labels, owner))  # none gives less
    parts = [Sums.of(rows[owner == n], labels[owner == n], centres) for n in np.unique(owner)]
    together = Sums.of(rows, labels, centres)
    assert total(parts).patches == together.patches == len(labels)
    assert solve(total(parts)) == pytest.approx(solve(together), rel=1e-9, abs=1e-9)


def test_the_weights_are_those_of_ridge_regression_on_the_signs_of_the_centres():
    features, labels = blobs(3)
    rows = Projections.draw(WIDTH, 3, COUNT).rows(features)
    centres = hash_centres(range(CLASSES), BITS, 3)
    targets = np.where(centres, 1.0, -1.0)[labels.argmax(axis=1)]
    padded = np.vstack([rows, np.sqrt(RIDGE) * np.eye(rows.shape[1])])
    expected, *_ = np.linalg.lstsq(padded, np.vstack([targets, np.zeros((rows.shape[1], BITS))]), rcond=None)
    assert solve(Sums.of(rows, labels, centres)) == pytest.approx(expected, abs=1e-8)


def test_projections_approach_the_gaussian_kernel_of_standardised_patches():
    features, _ = blobs(5)
    rows = Projections.draw(WIDTH, 5, 40_000).rows(features[:20])
    each = features[:20].astype(float)
    standardised = (each - each.mean(axis=1, keepdims=True)) / each.std(axis=1, keepdims=True)
    distance = np.square(standardised[:, None] - standardised[None]).sum(axis=2)
    assert rows @ rows.T == pytest.approx(np.exp(-distance / (2 * WIDTH)), abs=0.03)


def test_codes_of_new_patches_are_the_centres_of_their_classes_whatever_the_scale_of_a_patch():
    features, labels = blobs(0)
    nodes = [(features[column], labels[column]) for column in labels.T]
    fitted = ClosedForm.fit(nodes, range(CLASSES), BITS, 7, projections=COUNT)
    unseen, truth = blobs(1)
    bits = unpack(fitted.encode(unseen))
    wanted = hash_centres(range(CLASSES), BITS, 7)[truth.argmax(axis=1)]
    assert (bits == wanted).mean() > 0.97
    assert (fitted.encode(unseen * np.float32(50)) == fitted.encode(unseen)).all()


def test_a_patch_of_several_classes_is_drawn_between_their_centres():
    centres = np.array([[True, True], [True, False]])
    labels = np.tile([[True, True], [True, False]], (LEAST_PATCHES, 1))
    sums = Sums.of(np.ones((len(labels), 1)), labels, centres)
    assert sums.targets.tolist() == [[2.0 * LEAST_PATCHES, 1.0 * LEAST_PATCHES]]


def test_unlabelled_patches_take_no_part():
    features, labels = blobs(2)
    rows, centres = Projections.draw(WIDTH, 2, COUNT).rows(features), hash_centres(range(CLASSES), BITS, 2)
    known = labels.copy()
    known[::3] = False
    kept = known.any(axis=1)
    assert solve(Sums.of(rows, known, centres)) == pytest.approx(solve(Sums.of(rows[kept], labels[kept], centres)))


def test_a_node_below_the_least_number_of_labelled_patches_gives_nothing():
    features, labels = blobs(2)
    few = np.arange(LEAST_PATCHES - 1)
    rows, centres = Projections.draw(WIDTH, 2, COUNT).rows(features), hash_centres(range(CLASSES), BITS, 2)
    hidden = labels.copy()
    hidden[few[-1] + 1 :] = False
    for given_rows, given_labels in ((rows[few], labels[few]), (rows, hidden)):
        with pytest.raises(TrainingError) as refused:
            Sums.of(given_rows, given_labels, centres)
        assert refused.value.reason == "TOO_FEW_PATCHES"
    others = np.arange(len(few), len(labels))
    both = ClosedForm.fit(
        [(features[part], labels[part]) for part in (few, others)], range(CLASSES), BITS, 2, projections=COUNT
    )
    alone = ClosedForm.fit([(features[others], labels[others])], range(CLASSES), BITS, 2, projections=COUNT)
    assert (both.weights == alone.weights).all()


def test_a_federation_of_small_nodes_alone_is_refused():
    features, labels = blobs(2)
    with pytest.raises(TrainingError) as refused:
        ClosedForm.fit([(features[:5], labels[:5])], range(CLASSES), BITS, 2, projections=COUNT)
    assert refused.value.reason == "TOO_FEW_PATCHES"
    assert closed_form.LEAST_PATCHES > 5
