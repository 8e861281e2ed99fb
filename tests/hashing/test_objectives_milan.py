"""MiLaN as published, against values computed by hand."""

import numpy as np
import pytest
import torch

from rsfed.config_objectives import MilanSection
from rsfed.hashing.objectives.milan import Milan

ONLY_TRIPLETS = {"push": 0.0, "balance": 0.0}
RNG = np.random.default_rng


def losses(outputs, labels, **options):
    return Milan(MilanSection(**options)).losses(torch.tensor(outputs), torch.tensor(labels))


def test_the_published_loss_of_two_triplets():
    outputs = [[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.3, 0.4], [0.0, 0.5], [0.6, 0.8]]  # a a p p n n
    labels = [[True, False]] * 4 + [[False, True]] * 2
    # |(1,0) - (.8,.6)|^2 = .4 and |(1,0) - (0,1)|^2 = 2, for all have length 1 once normalised: .4 - 2 + .2 < 0
    # |(.6,.8) - (.6,.8)|^2 = 0 for positive, once normalised, and negative: 0 - 0 + .2
    triplet = (0 + 0.2) / 2
    push = -np.mean([0.25, 0.25, 0.01, 0.09, 0.09, 0.01, 0.04, 0.01, 0.25, 0, 0.01, 0.09])
    balance = np.mean([0, 0.04, 0.04, 0.0225, 0.0625, 0.04])
    found = losses(outputs, labels)
    assert found.compared
    assert found.total.item() == pytest.approx(triplet + 0.001 * push + balance, rel=1e-5)
    weighted = losses(outputs, labels, margin=0.3, push=0.5, balance=2.0).total.item()
    assert weighted == pytest.approx(0.3 / 2 + 0.5 * push + 2 * balance, rel=1e-5)


def test_triplets_that_keep_the_margin_count_in_the_mean():
    outputs = [[1.0, 0.0]] * 6 + [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]  # two of three negatives are far away
    labels = [[True, False]] * 6 + [[False, True]] * 3
    assert losses(outputs, labels, **ONLY_TRIPLETS).total.item() == pytest.approx(0.2 / 3)


def test_with_several_labels_a_triplet_needs_a_shared_class_and_a_negative_without():
    outputs = [[1.0, 0.0]] * 5 + [[0.0, 1.0]]  # a second triplet would keep the margin
    valid = [[True, False, True], [True, True, False], [False, True, False]]
    shares = [[True, False, True], [True, True, False], [False, False, True]]  # with the anchor
    rows = [valid[0], shares[0], valid[1], shares[1], valid[2], shares[2]]
    assert losses(outputs, rows, **ONLY_TRIPLETS).total.item() == pytest.approx(0.2), "one triplet, not two"
    assert not losses(outputs[:3], shares).compared
    assert not losses(outputs[:3], [*valid[:2], [False, False, False]]).compared, "an unlabelled patch is no negative"


def test_a_batch_is_of_one_class_against_one_other():
    labels = np.eye(5, dtype=bool).repeat(80, axis=0)
    seen = set()
    for seed in range(60):
        chosen = Milan(MilanSection()).sample(labels, 90, RNG(seed))
        anchors, positives, negatives = labels[chosen].argmax(axis=1).reshape(3, 30)
        assert len(set(anchors) | set(positives)) == len(set(negatives)) == 1
        assert anchors[0] != negatives[0]
        assert len(set(chosen)) == 90, "each image once"
        seen.add((anchors[0], negatives[0]))
    assert len(seen) > 15, "of 20 pairs of classes"


@pytest.mark.parametrize(("batch", "triplets"), [(90, 4), (10, 3), (3, 1)])
def test_a_small_class_gives_fewer_triplets_and_never_itself_as_positive(batch, triplets):
    labels = np.eye(2, dtype=bool)[[0] * 9 + [1]]  # nine images, and one
    for seed in range(10):
        chosen = Milan(MilanSection()).sample(labels, batch, RNG(seed))
        anchors, positives, negatives = chosen.reshape(3, triplets)
        assert set(negatives) == {9}, "a class with one image gives negatives only"
        assert not set(anchors) & set(positives)


def test_negatives_are_drawn_without_the_class_of_the_anchors():
    labels = np.array([[True, True], [True, True], [True, False], [False, True], [False, True]])
    for seed in range(20):
        chosen = Milan(MilanSection()).sample(labels, 9, RNG(seed))
        first = labels[chosen].reshape(3, -1, 2)
        own = int(np.flatnonzero(first[:2].all(axis=(0, 1)))[0])
        assert not first[2, :, own].any() or first[:2, :, 1 - own].all()


@pytest.mark.parametrize("classes", [[0] * 6, [0, 1, 2]], ids=["one class", "one image each"])
def test_without_a_triplet_push_and_balance_remain(classes):
    labels = np.eye(3, dtype=bool)[classes]
    chosen = Milan(MilanSection()).sample(labels, 9, RNG(0))
    outputs = torch.rand(len(chosen), 16)
    found = Milan(MilanSection()).losses(outputs, torch.from_numpy(labels[chosen]))
    balance = ((outputs.mean(dim=1) - 0.5) ** 2).mean()
    assert found.total.item() == pytest.approx((balance - 0.001 * ((outputs - 0.5) ** 2).mean()).item(), rel=1e-5)
    assert not found.compared
