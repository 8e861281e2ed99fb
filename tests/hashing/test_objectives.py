"""What all objectives have in common: the factory, their terms, batches, gradients, and what bad input does."""

import numpy as np
import pytest
import torch

from rsfed.config_objectives import BatchAllSection, CentresSection, ContrastiveSection, MilanSection, PairwiseSection
from rsfed.errors import CodeError, TrainingError
from rsfed.hashing.objectives import make_objective
from rsfed.hashing.objectives.sampling import balanced, uniform
from rsfed.hashing.objectives.terms import balance_loss, push_loss, quantisation_loss

SECTIONS = [
    MilanSection(margin=2.5),  # so large that every triplet counts
    BatchAllSection(),
    CentresSection(within=0),
    CentresSection(),
    PairwiseSection(),
    ContrastiveSection(),
]
SUPERVISED = [section for section in SECTIONS if section.needs_labels]


def name(section):
    return section.name


def make(section, *, classes=(4, 9, 30), bits=16, seed=0):
    return make_objective(section, classes, bits, seed=seed)


def batch(section, labels, *, seed=0, bits=16):
    """Outputs that gradients can be taken of, and labels in the form that `losses` takes."""
    rows = torch.tensor(labels).repeat(make(section).views, 1)
    torch.manual_seed(seed)
    return (0.1 + 0.8 * torch.rand(len(rows), bits, dtype=torch.float64)).requires_grad_(), rows


MIXED = [[True, False, False], [False, True, False], [True, True, False], [False, True, False], [False, False, True],
         [False, False, False]]  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS, ids=name)
def test_gradients_are_those_of_the_loss(section):
    objective = make(section)
    outputs, labels = batch(section, MIXED)
    assert torch.autograd.gradcheck(lambda out: objective.losses(out, labels).total, outputs)
    assert objective.losses(outputs, labels).compared


@pytest.mark.parametrize("section", SECTIONS, ids=name)
@pytest.mark.parametrize("labels", [[[True, False, False]] * 6, [[False] * 3] * 6], ids=["one class", "no label"])
def test_a_batch_with_nothing_to_compare_has_a_finite_loss_and_gradient(section, labels):
    outputs, rows = batch(section, labels)
    losses = make(section).losses(outputs, rows)
    losses.total.backward()
    assert bool(losses.total.isfinite()) and bool(outputs.grad.isfinite().all())  # noqa: PT018
    per_record = section.name == "centres" and labels[0][0]
    assert losses.compared == (per_record or not section.needs_labels)


@pytest.mark.parametrize("section", SECTIONS, ids=name)
def test_binary_outputs_have_a_finite_loss_and_gradient(section):
    _, labels = batch(section, MIXED)
    outputs = torch.tensor([[0.0, 1.0] * 8]).repeat(len(labels), 1).requires_grad_()
    total = make(section).losses(outputs, labels).total
    total.backward()
    assert bool(total.isfinite()) and bool(outputs.grad.isfinite().all())  # noqa: PT018


@pytest.mark.parametrize("section", SECTIONS, ids=name)
@pytest.mark.parametrize("seed", range(5))
def test_batches_are_positions_of_patches_and_the_seed_decides(section, seed):
    rng = np.random.default_rng(seed)
    labels = rng.random((rng.integers(1, 40), 3)) < rng.choice([0.0, 0.05, 0.4])
    one, same = (make(section).sample(labels, 12, np.random.default_rng(seed)) for _ in range(2))
    assert (one == same).all()
    assert 0 < len(one) <= 12
    assert set(one) <= set(range(len(labels)))


@pytest.mark.parametrize("section", SUPERVISED, ids=name)
def test_unlabelled_patches_are_chosen_only_where_there_is_no_label_at_all(section):
    labels = np.zeros((30, 3), dtype=bool)
    assert len(make(section).sample(labels, 9, np.random.default_rng(0))) == 9
    labels[4:9, 1] = labels[7:12, 2] = True
    assert set(make(section).sample(labels, 9, np.random.default_rng(0))) <= set(range(4, 12))


@pytest.mark.parametrize("section", SUPERVISED, ids=name)
@pytest.mark.parametrize("classes", [(), (7,)])
def test_fewer_than_two_classes_are_refused_with_the_remedy(section, classes):
    with pytest.raises(TrainingError, match="contrastive") as refusal:
        make(section, classes=classes)
    assert refusal.value.reason == "NOTHING_TO_COMPARE"


def test_contrastive_needs_no_class():
    assert make(ContrastiveSection(), classes=()).views == 2


@pytest.mark.parametrize("section", SECTIONS, ids=name)
@pytest.mark.parametrize("bits", [20, 8, 264])
def test_widths_that_codes_cannot_have_are_refused(section, bits):
    with pytest.raises(CodeError):
        make(section, bits=bits)


def test_more_classes_than_separable_centres_are_refused():
    with pytest.raises(TrainingError) as refusal:
        make(CentresSection(), classes=range(2000))
    assert refusal.value.reason == "TOO_MANY_CLASSES"
    make(PairwiseSection(), classes=range(2000))


def test_adam_has_the_decay_rates_of_the_objective():
    assert make(MilanSection()).betas == (0.5, 0.9), "those of the authors' code"
    assert make(MilanSection(beta_1=0.8)).betas == (0.8, 0.9)
    assert make(BatchAllSection()).betas == (0.9, 0.999)


def test_push_is_least_for_binary_outputs_and_balance_for_half_of_the_bits_set():
    half, quarter = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[1.0, 0, 0, 0]])
    assert push_loss(half).item() == pytest.approx(-0.25)
    assert push_loss(torch.full((1, 4), 0.5)).item() == 0
    assert balance_loss(half).item() == 0
    assert balance_loss(quarter).item() == pytest.approx(1 / 16)


def test_balance_is_of_each_image_not_of_a_bit_over_the_batch():
    assert balance_loss(torch.tensor([[1.0, 1], [0, 0]])).item() == pytest.approx(0.25)


def test_quantisation_is_the_squared_distance_of_relaxed_codes_from_binary_ones():
    assert quantisation_loss(torch.tensor([[1.0, 0]])).item() == 0
    assert quantisation_loss(torch.tensor([[0.5, 0.5]])).item() == 1
    assert quantisation_loss(torch.tensor([[0.75, 0.2], [1, 0]])).item() == pytest.approx((0.25 + 0.16) / 4)


def test_batches_are_balanced_over_the_classes_of_the_node():
    labels = np.zeros((200, 5), dtype=bool)
    labels[:180, 0] = labels[180:198, 1] = labels[198:, 3] = True  # 180, 18 and 2 patches; two classes absent
    chosen = balanced(labels, 64, np.random.default_rng(0))
    counts = labels[chosen].sum(axis=0)
    assert len(chosen) == 64
    assert sorted(counts[[0, 1, 3]]) == [21, 21, 22]
    assert len(set(chosen[labels[chosen, 1]])) == 18, "no patch twice before all were taken"


def test_uniform_batches_hold_classes_by_their_patches_none_twice_and_unlabelled_ones_only_without_any_label():
    labels = np.zeros((220, 3), dtype=bool)
    labels[:180, 0] = labels[180:200, 1] = True
    assert sorted(uniform(labels, 200, np.random.default_rng(0))) == list(range(200))
    counts = sum(labels[uniform(labels, 64, np.random.default_rng(seed))].sum(axis=0) for seed in range(50)) / 50
    assert counts == pytest.approx([57.6, 6.4, 0], abs=1)
    assert set(uniform(labels[200:], 20, np.random.default_rng(0))) == set(range(20))


def test_a_batch_holds_several_patches_of_each_of_its_classes():
    labels = np.eye(40, dtype=bool).repeat(10, axis=0)
    chosen = balanced(labels, 64, np.random.default_rng(0))
    counts = labels[chosen].sum(axis=0)
    assert set(counts) == {0, 4}
    other = balanced(labels, 64, np.random.default_rng(1))
    assert (labels[other].sum(axis=0) != counts).any()
