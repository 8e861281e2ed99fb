"""The objectives of pairs, labelled or not, against values computed by hand."""

import numpy as np
import pytest
import torch

from rsfed.config_objectives import ContrastiveSection, PairwiseSection
from rsfed.hashing.objectives.contrastive import Contrastive
from rsfed.hashing.objectives.pairwise import Pairwise, pair_loss
from rsfed.hashing.objectives.terms import view_loss


def likelihood(outputs, labels, scale):
    """DPSH with one loop per letter."""
    signs = 2 * outputs - 1
    found = []
    for i in range(len(outputs)):
        for j in range(i):
            if labels[i].any() and labels[j].any():
                theta = scale * (signs[i] * signs[j]).mean()
                found.append(np.log(1 + np.exp(theta)) - (theta if (labels[i] & labels[j]).any() else 0))
    return np.mean(found)


def test_pairwise_equals_the_loop_over_all_pairs():
    rng = np.random.default_rng(0)
    outputs, labels = rng.random((9, 24)), rng.random((9, 4)) < 0.3
    labels[3] = False
    found = pair_loss(torch.from_numpy(outputs), torch.from_numpy(labels), 8.0).item()
    assert found == pytest.approx(likelihood(outputs, labels, 8.0))


@pytest.mark.parametrize("bits", [16, 64, 256])
def test_equal_and_opposite_binary_codes_have_the_same_likelihood_at_every_width(bits):
    """DPSH's own theta, half the inner product of codes of 16 bits, is 8 for equal ones."""
    codes = torch.tensor([[1.0] * bits, [1.0] * bits, [0.0] * bits], dtype=torch.float64)
    labels = torch.tensor([[True, False], [True, False], [False, True]])
    assert pair_loss(codes, labels, 8.0).item() == pytest.approx(np.log1p(np.exp(-8.0)), rel=1e-4)
    assert pair_loss(codes, labels[[0, 2, 1]], 8.0).item() == pytest.approx(
        (np.log1p(np.exp(8)) * 2 + np.log1p(np.exp(-8))) / 3, rel=1e-4
    )


@pytest.mark.parametrize("labels", [[[True, False]] * 3, [[True, False], [True, True], [False, False]], [[False] * 2]])
def test_pairs_that_are_all_alike_leave_quantisation_alone(labels):
    outputs = torch.rand(len(labels), 16)
    losses = Pairwise(PairwiseSection(quantisation=3.0)).losses(outputs, torch.tensor(labels))
    assert not losses.compared
    assert losses.total.item() == pytest.approx(3 * ((1 - (2 * outputs - 1).abs()) ** 2).mean().item(), rel=1e-5)


def test_pairwise_compares_classes_of_one_image_each():
    assert Pairwise(PairwiseSection()).losses(torch.rand(2, 16), torch.eye(2, dtype=torch.bool)).compared


def test_nt_xent_of_two_patches_by_hand():
    outputs = torch.tensor([[1.0, 1], [1, 0], [1, 1], [1, 0.0]])  # relaxed: ++ +- ++ +-
    cosines = [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]  # to the three other views
    partner = [1, 2, 0, 1]  # place of the same patch's view among them
    odds = np.exp(2 * np.array(cosines))
    expected = -np.log(odds[range(4), partner] / odds.sum(axis=1)).mean()
    assert view_loss(outputs, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_contrastive_looks_at_no_label_and_weighs_its_terms():
    outputs = torch.rand(8, 16)
    section = ContrastiveSection(temperature=0.2, quantisation=0.5, balance=2.0)
    found = Contrastive(section).losses(outputs, torch.zeros(8, 0, dtype=torch.bool))
    expected = view_loss(outputs, 0.2) + 0.5 * ((1 - (2 * outputs - 1).abs()) ** 2).mean()
    expected += 2 * ((outputs.mean(dim=1) - 0.5) ** 2).mean()
    assert found.compared
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_patch_has_nothing_to_be_told_apart_from():
    found = Contrastive(ContrastiveSection()).losses(torch.rand(2, 16), torch.zeros(2, 3, dtype=torch.bool))
    assert not found.compared
    assert bool(found.total.isfinite())


def test_no_patch_is_told_apart_from_itself():
    objective, labels = Contrastive(ContrastiveSection()), np.zeros((10, 0), dtype=bool)
    assert sorted(objective.sample(labels, 64, np.random.default_rng(0))) == list(range(10))
    counts = np.zeros(10)
    for seed in range(300):
        chosen = objective.sample(labels, 3, np.random.default_rng(seed))
        assert len(set(chosen)) == 3
        counts[chosen] += 1
    assert counts.min() > 60, "each of ten patches is expected 90 times"
