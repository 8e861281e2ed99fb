"""The closed form: what nodes sum apart is what one place would find."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import unpack
from rsfed.hashing import refit
from rsfed.hashing.centres import centres_beside_free, hash_centres
from rsfed.hashing.closed_form import ROUNDING, Sums, hyperplanes, solve, total
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.head import FourierHead
from rsfed.hashing.refit import RIDGE, fit, from_arrays, sums, to_arrays, wire_bytes
from rsfed.hashing.weights import get_state, set_state
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality

BITS, FREE, CLASSES, WIDTH, COUNT = 16, 4, 4, 12, 200
SPEC = default_spec(modality("rgb"), 32)  # which a head on features does not look at


def blobs(seed, each=30):
    """Classes that differ in a few features, with scales that differ from patch to patch."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(0, 2, (CLASSES, WIDTH))
    labels = np.repeat(np.arange(CLASSES), each)
    features = (means[labels] + rng.normal(0, 0.6, (len(labels), WIDTH))) * rng.uniform(0.1, 90, (len(labels), 1))
    return features.astype(np.float32), np.eye(CLASSES, dtype=bool)[labels]


def head(seed=0, count=COUNT, bits=BITS):
    torch.manual_seed(seed)
    return FourierHead(WIDTH, bits, count)


def rows(features, count=COUNT):
    with torch.inference_mode():
        return np.c_[head(count=count).describe(torch.from_numpy(features)).double().numpy(), np.ones(len(features))]


def patches(features, labels):
    return PatchSet(tuple((row,) for row in features), labels, len(labels), augmentable=False)


def learnt(parts, free=0.25):
    """A head whose last layer is solved for from what nodes send, over the wire's form."""
    network = head()
    centres = centres_beside_free(range(CLASSES), BITS, free, 7)
    given = []
    for features, labels in parts:
        own = sums(network, patches(features, labels), centres)
        given.append(from_arrays(to_arrays(own), own.patches, get_state(network), centres.shape[1]))
    set_state(network, fit(get_state(network), given, 7))
    return Encoder(network, SPEC), centres


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.booleans())
def test_any_division_over_nodes_gives_what_one_place_gives(seed, nodes, by_class):
    features, labels = blobs(seed)
    rng = np.random.default_rng(seed)
    owner = labels.argmax(axis=1) % nodes if by_class else rng.integers(0, nodes, len(labels))
    taken, centres = rows(features), hash_centres(range(CLASSES), BITS, 1)
    parts = [Sums.of(taken[owner == n], labels[owner == n], centres) for n in range(nodes)]
    together = Sums.of(taken, labels, centres)
    assert total(parts).patches == together.patches == len(labels)
    assert solve(total(parts), RIDGE) == pytest.approx(solve(together, RIDGE), rel=1e-9, abs=1e-9)
    planes = [hyperplanes(each, FREE, 1) for each in (total(parts), together)]
    assert planes[0] == pytest.approx(planes[1], abs=1e-6)


def test_codes_are_the_same_from_nodes_of_one_class_each_as_from_one_place():
    features, labels = blobs(0, each=60)
    unseen, _ = blobs(1)
    apart, _ = learnt([(features[column], labels[column]) for column in labels.T])
    together, _ = learnt([(features, labels)])
    one, other = (unpack(each.encode_set(patches(unseen, labels[: len(unseen)]))) for each in (apart, together))
    assert (one != other).mean() < 0.002, "but for what float32 rounds"


def test_the_weights_are_those_of_ridge_regression_on_the_signs_of_the_centres():
    features, labels = blobs(3)
    taken, centres = rows(features), hash_centres(range(CLASSES), BITS, 3)
    targets = np.where(centres, 1.0, -1.0)[labels.argmax(axis=1)]
    ridge = RIDGE + ROUNDING * np.square(taken).sum()
    padded = np.vstack([taken, np.sqrt(ridge) * np.eye(taken.shape[1])])
    expected, *_ = np.linalg.lstsq(padded, np.vstack([targets, np.zeros((taken.shape[1], BITS))]), rcond=None)
    assert solve(Sums.of(taken, labels, centres), RIDGE) == pytest.approx(expected, abs=1e-7)


def test_hyperplanes_go_through_the_mean_along_the_directions_that_patches_differ_most_in():
    features, labels = blobs(3)
    taken = rows(features)
    planes = hyperplanes(Sums.of(taken, labels, hash_centres(range(CLASSES), BITS, 3)), FREE, 5)
    sides = taken @ planes
    assert sides.mean(axis=0) == pytest.approx(np.zeros(FREE), abs=1e-9)
    centred = taken[:, :-1] - taken[:, :-1].mean(axis=0)
    _, spread, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.square(sides).sum() == pytest.approx(np.square(spread[:FREE]).sum())
    assert planes[:-1].T @ planes[:-1] == pytest.approx(np.eye(FREE), abs=1e-9)


@pytest.mark.parametrize("each", [1, 30])  # also of fewer directions than there are planes
def test_hyperplanes_are_the_same_to_the_bit_whenever_they_are_found(each):
    features, labels = blobs(3, each)
    given = Sums.of(rows(features), labels, hash_centres(range(CLASSES), BITS, 3))
    first = hyperplanes(given, FREE, 5)
    assert np.isfinite(first).all()
    for _ in range(5):
        assert (hyperplanes(given, FREE, 5) == first).all()


def test_products_of_projections_approach_the_gaussian_kernel_of_standardised_patches():
    features, _ = blobs(5)
    taken = rows(features[:20], 40_000)[:, :-1]
    each = features[:20].astype(float)
    standardised = (each - each.mean(axis=1, keepdims=True)) / each.std(axis=1, keepdims=True)
    distance = np.square(standardised[:, None] - standardised[None]).sum(axis=2)
    assert taken @ taken.T == pytest.approx(np.exp(-distance / (2 * WIDTH)), abs=0.03)


def test_codes_of_new_patches_are_the_centres_of_their_classes_whatever_the_scale_of_a_patch():
    features, labels = blobs(0)
    encoder, centres = learnt([(features, labels)])
    unseen, truth = blobs(1)
    codes = encoder.encode_set(patches(unseen, truth))
    assert (unpack(codes)[:, : centres.shape[1]] == centres[truth.argmax(axis=1)]).mean() > 0.97
    assert (encoder.encode_set(patches(unseen * np.float32(50), truth)) == codes).all()


def test_free_bits_tell_patches_of_one_class_apart():
    features, labels = blobs(0)
    unseen, truth = blobs(1, each=60)
    (free, _), (none, _) = (learnt([(features, labels)], free=share) for share in (0.25, 0))
    codes, fewer = (each.encode_set(patches(unseen, truth)) for each in (free, none))
    counts = [len(np.unique(each, axis=0)) for each in (codes, fewer)]
    assert counts[0] > 2 * counts[1], counts


def test_a_patch_of_several_classes_is_drawn_between_their_centres():
    centres = np.array([[True, True], [True, False]])
    assert Sums.of(np.ones((2, 1)), np.array([[True, True], [True, False]]), centres).targets.tolist() == [[2.0, 1.0]]


def test_unlabelled_patches_take_no_part(monkeypatch):
    monkeypatch.setattr(refit, "_AT_ONCE", 7)  # several stretches
    features, labels = blobs(2)
    network, centres = head(), hash_centres(range(CLASSES), BITS, 2)
    known = labels.copy()
    known[::3] = False
    kept = known.any(axis=1)
    all_, some = (
        sums(network, patches(features, known), centres),
        sums(network, patches(features[kept], labels[kept]), centres),
    )
    assert all_.patches == some.patches == kept.sum()
    assert all_.gram == pytest.approx(some.gram, abs=1e-6)
    assert all_.targets == pytest.approx(some.targets, abs=1e-6)


def test_sums_take_as_many_bytes_as_is_said_before():
    features, labels = blobs(2)
    network, centres = head(), hash_centres(range(CLASSES), BITS, 2)
    arrays = to_arrays(sums(network, patches(features, labels), centres))
    assert sum(array.nbytes for array in arrays.values()) == wire_bytes(get_state(network), BITS)
