"""MiLaN's losses over all triplets of a batch, against loops that say what they are."""

import resource

import numpy as np
import pytest
import torch

from rsfed.config_objectives import BatchAllSection
from rsfed.hashing.objectives.milan_batchall import MilanBatchAll, triplet_loss
from rsfed.hashing.objectives.terms import balance_loss, push_loss


def by_hand(outputs, labels, margin):
    """The triplet loss with one loop per letter."""
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    shares = lambda i, j: bool((labels[i] & labels[j]).any())  # noqa: E731
    violations = []
    for a in range(len(labels)):
        for p in range(len(labels)):
            for n in range(len(labels)):
                if a != p and shares(a, p) and labels[n].any() and not shares(a, n):
                    gap = ((unit[a] - unit[p]) ** 2).sum() - ((unit[a] - unit[n]) ** 2).sum() + margin
                    violations.append(max(0, gap))
    active = [v for v in violations if v > 0]
    return np.mean(active) if active else 0.0


@pytest.mark.parametrize("multi", [False, True])
def test_triplet_loss_equals_the_loop_over_all_triplets(multi):
    rng = np.random.default_rng(0)
    outputs = rng.random((14, 24))
    labels = np.eye(4, dtype=bool)[rng.integers(0, 4, 14)]
    if multi:
        labels |= rng.random((14, 4)) < 0.2
    labels[5] = False  # unlabelled
    loss = triplet_loss(torch.from_numpy(outputs).float(), torch.from_numpy(labels), 0.2)
    assert loss.item() == pytest.approx(by_hand(outputs, labels, 0.2), rel=1e-4)


def test_triplet_loss_is_zero_once_every_margin_is_kept():
    outputs = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    labels = torch.eye(2, dtype=torch.bool).repeat_interleave(2, dim=0)
    assert triplet_loss(outputs, labels, 0.2).item() == 0


def test_a_patch_that_shares_one_class_is_no_negative():
    outputs = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    labels = torch.tensor([[True, False], [True, True], [False, True]])
    assert triplet_loss(outputs, labels, 0.2).item() == pytest.approx(
        by_hand(outputs.numpy(), labels.numpy(), 0.2), rel=1e-5
    )


@pytest.mark.parametrize(
    "labels", [[[True, False]] * 4, [[False, False]] * 4, [[True, False], [False, True]]], ids=["one", "none", "alone"]
)
def test_without_a_valid_triplet_push_and_balance_remain(labels):
    outputs = torch.rand(len(labels), 16, requires_grad=True)
    losses = MilanBatchAll(BatchAllSection()).losses(outputs, torch.tensor(labels))
    assert not losses.compared
    assert losses.total.item() == pytest.approx((0.001 * push_loss(outputs) + balance_loss(outputs)).item())
    losses.total.backward()
    assert bool(outputs.grad.isfinite().all())


def test_the_weights_of_the_section_are_used():
    torch.manual_seed(0)
    outputs, labels = torch.rand(6, 16), torch.eye(3, dtype=torch.bool).repeat(2, 1)
    losses = MilanBatchAll(BatchAllSection(margin=0.5, push=0.3, balance=2.0)).losses(outputs, labels)
    expected = triplet_loss(outputs, labels, 0.5) + 0.3 * push_loss(outputs) + 2 * balance_loss(outputs)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_large_batch_of_few_classes_is_estimated_from_part_of_its_pairs():
    rng = np.random.default_rng(0)
    outputs, half = rng.random((220, 16)), 110  # 23,980 pairs, of which 4,096 are taken at most
    labels = torch.eye(2, dtype=torch.bool).repeat_interleave(half, dim=0)
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    distance = 2 - 2 * unit @ unit.T
    gaps = [distance[a, p] - distance[a, half:] + 0.2 for a in range(half) for p in range(half) if p != a]
    expected = np.mean([gap[gap > 0].sum() for gap in gaps]) / np.mean([(gap > 0).sum() for gap in gaps])
    found = triplet_loss(torch.from_numpy(outputs).float(), labels, 0.2).item()
    assert found == pytest.approx(expected, rel=0.05)


def test_the_memory_of_the_loss_does_not_grow_with_the_number_of_pairs():
    labels = torch.eye(2, dtype=torch.bool).repeat_interleave(512, dim=0)  # half a million pairs: 2 GiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    triplet_loss(torch.rand(1024, 16), labels, 0.2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
