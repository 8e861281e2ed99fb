"""Central similarity, against values computed by hand."""

import numpy as np
import pytest
import torch

from rsfed.config_objectives import CentresSection
from rsfed.hashing.centres import hash_centres
from rsfed.hashing.objectives.centres import Centres, centre_loss
from rsfed.hashing.objectives.terms import view_loss

SIGNS = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [-1, -1, 1, 1]])


def loss(outputs, labels):
    return centre_loss(torch.tensor(outputs), torch.tensor(labels), SIGNS).item()


def test_one_label_is_the_cross_entropy_to_its_centre():
    found = loss([[0.9, 0.8, 0.3, 0.1]], [[True, False, False]])
    assert found == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.7, 0.9])), rel=1e-5)


def test_several_labels_count_by_their_majority_and_even_bits_are_left_free():
    found = loss([[0.9, 0.8, 0.3, 0.1]], [[True, True, False]])  # agree on the first and the last bit
    assert found == pytest.approx(-(np.log(0.9) + np.log(0.9)) / 4, rel=1e-5)
    found = loss([[0.9, 0.8, 0.3, 0.1]], [[True, True, True]])  # two of three: a third of the weight
    assert found == pytest.approx(-np.mean(np.log([0.9, 0.2, 0.3, 0.9])) / 3, rel=1e-5)


def test_each_record_has_a_loss_of_its_own():
    rng = np.random.default_rng(0)
    outputs, labels = rng.random((5, 4)), rng.random((5, 3)) < 0.4
    labels[:, 0] |= ~labels.any(axis=1)
    alone = [loss(outputs[[row]], labels[[row]]) for row in range(5)]
    assert loss(outputs, labels) == pytest.approx(np.mean(alone))


def test_unlabelled_records_count_in_quantisation_alone():
    objective = Centres(CentresSection(within=0.0, quantisation=0.0), [1, 2], 16, seed=0)
    outputs, labels = torch.rand(4, 16), torch.tensor([[True, False], [False, False], [False, True], [False, False]])
    with_them, without = objective.losses(outputs, labels), objective.losses(outputs[::2], labels[::2])
    assert with_them.total.item() == pytest.approx(without.total.item())


@pytest.mark.parametrize(("free", "bits"), [(0.0, 16), (0.25, 12), (0.5, 8), (0.3, 11)])
def test_free_bits_are_the_last_and_no_centre_draws_them(free, bits):
    objective = Centres(CentresSection(free=free, within=0.0, quantisation=0.0), [5, 8], 16, seed=3)
    outputs = torch.full((2, 16), 0.4).requires_grad_()
    objective.losses(outputs, torch.eye(2, dtype=torch.bool)).total.backward()
    assert (outputs.grad[:, bits:] == 0).all()
    drawn = outputs.grad[:, :bits] < 0  # downhill is up: the bit shall be set
    assert (drawn.numpy() == hash_centres([5, 8], bits, 3)).all()


def test_quantisation_is_of_all_bits():
    outputs, labels = torch.rand(3, 16), torch.eye(3, dtype=torch.bool)
    heavy, none = (
        Centres(CentresSection(within=0.0, quantisation=weight), [1, 2, 3], 16, seed=0)
        .losses(outputs, labels)
        .total.item()
        for weight in (2.0, 0.0)
    )
    assert heavy - none == pytest.approx(2 * ((1 - (2 * outputs - 1).abs()) ** 2).mean().item(), rel=1e-5)


def test_nodes_that_know_the_classes_in_another_order_train_for_the_same_centres():
    outputs = torch.rand(3, 32)
    one = Centres(CentresSection(within=0.0), [1, 2, 3], 32, seed=0).losses(outputs, torch.eye(3, dtype=torch.bool))
    other = Centres(CentresSection(within=0.0), [3, 1, 2], 32, seed=0).losses(
        outputs, torch.eye(3, dtype=torch.bool)[:, [2, 0, 1]]
    )
    assert one.total.item() == other.total.item()


def test_within_compares_the_codes_of_two_views_of_each_patch():
    objective = Centres(CentresSection(within=0.3), [5, 8], 16, seed=3)
    plain = Centres(CentresSection(within=0.0), [5, 8], 16, seed=3)
    outputs, labels = torch.rand(6, 16), torch.eye(2, dtype=torch.bool)[[0, 1, 1] * 2]
    difference = objective.losses(outputs, labels).total - plain.losses(outputs, labels).total
    assert difference.item() == pytest.approx(0.3 * view_loss(outputs, 0.2).item(), rel=1e-4)
    assert (objective.views, plain.views) == (2, 1)


def test_within_a_class_no_patch_is_told_apart_from_itself():
    labels = np.eye(2, dtype=bool)[[0] * 3 + [1] * 5]
    chosen = Centres(CentresSection(within=0.3), [5, 8], 16, seed=3).sample(labels, 64, np.random.default_rng(0))
    assert sorted(chosen) == list(range(8))


def test_a_small_share_is_one_free_bit_at_least():
    outputs = torch.full((1, 16), 0.4).requires_grad_()
    objective = Centres(CentresSection(free=0.01, within=0.0, quantisation=0.0), [5, 8], 16, seed=3)
    objective.losses(outputs, torch.tensor([[True, False]])).total.backward()
    assert (outputs.grad != 0)[0].tolist() == [True] * 15 + [False]
