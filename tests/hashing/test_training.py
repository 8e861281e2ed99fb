"""The training loop and what it is fed."""

import numpy as np
import pytest
import torch

from rsfed.config_objectives import BatchAllSection, CentresSection, ContrastiveSection, MilanSection, PairwiseSection
from rsfed.errors import TrainingError
from rsfed.hashing.dataset import PatchSet, patch_bytes
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation import evaluate
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import Losses, make_objective
from rsfed.hashing.training import train_steps
from rsfed.hashing.weights import get_state, to_bytes

from .conftest import ARCHITECTURE, BITS, patches_of, spec_of

OBJECTIVE = make_objective(BatchAllSection(), range(4), BITS, seed=0)


def fit(data, *, steps=5, seed=0, batch=16, objective=OBJECTIVE, **options):
    network = build_network(ARCHITECTURE, spec_of(2), BITS, seed=1)
    report = train_steps(network, data, objective, steps=steps, batch=batch, learning_rate=2e-3, seed=seed, **options)
    return network, report


def figures(network, queries, gallery):
    encoder = Encoder(network, spec_of(2))
    (query_contents, query_ids), (contents, ids) = zip(*queries, strict=True), zip(*gallery, strict=True)
    one_hot = np.eye(4, dtype=bool)
    return evaluate(
        encoder.encode(query_contents), one_hot[np.ravel(query_ids)], encoder.encode(contents), one_hot[np.ravel(ids)]
    )


@pytest.mark.parametrize(
    ("section", "gain"),
    [(BatchAllSection(), 0.2), (MilanSection(), 0.2), (CentresSection(), 0.2), (PairwiseSection(), 0.1)],
)
def test_training_brings_patches_of_a_class_together(patch_set, section, gain):
    gallery, queries = list(patches_of(range(4), 12, seed=0)), list(patches_of(range(4), 6, seed=99))
    before = figures(build_network(ARCHITECTURE, spec_of(2), BITS, seed=1), queries, gallery)
    objective = make_objective(section, range(4), BITS, seed=0)
    network, report = fit(patch_set, steps=60, batch=32, objective=objective)
    after = figures(network, queries, gallery)
    assert after.mean_average_precision > before.mean_average_precision + gain
    assert report.loss < report.losses[0]
    assert report.idle_steps == 0


def test_contrastive_training_learns_without_any_label():
    unlabelled = [(content, ()) for content, _ in patches_of(range(4), 12, seed=0)]
    objective = make_objective(ContrastiveSection(), (), BITS, seed=0)
    _, report = fit(PatchSet.from_items(unlabelled, spec_of(2), ()), steps=60, batch=32, objective=objective)
    assert report.idle_steps == 0
    assert report.loss < report.losses[0] - 0.1
    assert report.examples == 60 * 32 * 2, "two views of each patch"


def test_two_views_of_features_that_nothing_may_turn_differ():
    features = PatchSet(tuple((row,) for row in np.ones((40, 30), np.float16)), np.zeros((40, 4), bool), 40, False)
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(30, BITS)

        def forward(self, rows):
            seen.append(rows.clone())
            return torch.sigmoid(self.head(rows))

    for section, alike in ((ContrastiveSection(), False), (CentresSection(within=0), True)):
        objective = make_objective(section, range(4), BITS, seed=0)
        train_steps(Watching(), features, objective, steps=1, batch=16, learning_rate=1e-3, seed=0)
        first, *others = seen.pop().chunk(objective.views)
        assert bool((first == 1).all()) is alike
        assert all((first != other).any() for other in others)


def test_adam_takes_the_decay_rates_of_the_objective(patch_set):
    def weights(**rates):
        objective = make_objective(MilanSection(**rates), range(4), BITS, seed=0)
        return to_bytes(get_state(fit(patch_set, objective=objective)[0]))

    assert weights() == weights(beta_1=0.5, beta_2=0.9) != weights(beta_1=0.9, beta_2=0.999)


def test_the_same_seed_gives_the_same_weights_to_the_bit(patch_set):
    first, second, other = (to_bytes(get_state(fit(patch_set, seed=s)[0])) for s in (4, 4, 5))
    assert first == second
    assert first != other


def test_the_report_says_what_was_done_and_progress_is_told(patch_set):
    told = []
    _, report = fit(patch_set, steps=4, on_progress=lambda *step: told.append(step))
    assert (report.steps, report.examples, len(report.losses)) == (4, 64, 4)
    assert told == [(i + 1, 4, loss) for i, loss in enumerate(report.losses)]
    assert report.seconds > 0
    assert report.peak_memory > 10 << 20


@pytest.mark.parametrize("ids", [(3,), ()], ids=["one class", "no label"])
def test_an_archive_with_nothing_to_compare_is_trained_and_reported_as_idle(ids):
    items = [(content, ids) for content, _ in patches_of(range(2), 5, seed=0)]
    network, report = fit(PatchSet.from_items(items, spec_of(2), range(4)), steps=3)
    assert report.idle_steps == report.steps == 3
    with pytest.raises(TrainingError) as refusal:
        report.refuse_idle()
    assert refusal.value.reason == "NOTHING_TO_COMPARE"
    assert all(np.isfinite(array).all() for array in get_state(network).values())


def test_an_archive_smaller_than_a_batch_is_trained():
    _, report = fit(PatchSet.from_items(patches_of(range(3), 1, seed=0), spec_of(2), range(4)), batch=64)
    assert report.idle_steps == 0
    assert report.examples == 5 * 64


def test_nothing_to_train_on_is_refused():
    with pytest.raises(TrainingError) as refusal:
        fit(PatchSet.from_items([], spec_of(2), range(4)))
    assert refusal.value.reason == "NO_PATCHES"


class Spoilt(type(OBJECTIVE)):
    """Loses its finite loss, whatever the network gives."""

    def __init__(self):
        super().__init__(BatchAllSection())

    def losses(self, outputs, labels):
        return Losses(outputs.sum() * float("inf"), compared=True)


def test_a_diverged_training_stops_with_its_remedy(patch_set):
    network = build_network(ARCHITECTURE, spec_of(2), BITS)
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError) as refusal:
        train_steps(network, patch_set, OBJECTIVE, steps=2, batch=8, learning_rate=1e-3, seed=0)
    assert refusal.value.reason == "DIVERGED"
    with pytest.raises(TrainingError) as refusal:
        fit(patch_set, objective=Spoilt())
    assert refusal.value.reason == "DIVERGED"


def test_a_last_step_that_spoils_the_weights_is_no_result(patch_set):
    network = build_network(ARCHITECTURE, spec_of(2), BITS)
    with pytest.raises(TrainingError) as refusal:
        train_steps(network, patch_set, OBJECTIVE, steps=1, batch=8, learning_rate=float("inf"), seed=0)
    assert refusal.value.reason == "DIVERGED"


def test_patches_and_labels_are_held_as_they_were_given():
    items = list(patches_of(range(3), 2, seed=0))
    items[1] = (items[1][0], (7, 30))
    items[2] = (items[2][0], (11, 30))
    items[3] = (items[3][0], ())
    data = PatchSet.from_items(items, spec_of(2), [7, 11])
    assert (len(data), data.offered) == (6, 6)
    assert data.labels[1].tolist() == [True, False], "an id that is no class of the federation is passed over"
    assert data.labels[2].tolist() == [False, True]
    assert not data.labels[3].any()
    (batch,) = data.batch(np.array([4, 4, 0]))
    assert batch.dtype == np.float32
    assert batch[2] == pytest.approx(items[0][0]["all"], abs=2e-3)
    assert (batch[0] == batch[1]).all()


def test_memory_is_bounded_by_a_uniform_sample_of_all_patches():
    spec = spec_of(1, size=8)
    kept = np.zeros(40)
    for seed in range(300):
        items = (({"all": np.full((1, 8, 8), i, np.float32)}, (0,)) for i in range(40))
        data = PatchSet.from_items(items, spec, [0], memory_bytes=10 * patch_bytes(spec) + 5, seed=seed)
        assert (len(data), data.offered) == (10, 40)
        kept[[int(patch[0, 0, 0]) for (patch,) in data.patches]] += 1
    assert sum(patch.nbytes for (patch,) in data.patches) <= 10 * patch_bytes(spec) + 5
    assert kept.min() > 40, "each of 40 patches is expected 75 times"
    assert kept.max() < 115


def test_extreme_values_stay_finite():
    content = {"all": np.array([[-3e38, 3e38], [1e5, 0]], np.float32).reshape(1, 2, 2).repeat(4, 1).repeat(4, 2)}
    data = PatchSet.from_items([(content, (0,))], spec_of(1, size=8), [0])
    assert np.isfinite(data.batch(np.array([0]))[0]).all()


def test_the_proximal_term_holds_weights_near_their_start_and_is_not_in_the_loss_that_is_told(patch_set):
    start = build_network(ARCHITECTURE, spec_of(2), BITS, seed=1)

    def moved(network):
        return sum(
            float((now - was).detach().double().square().sum())
            for now, was in zip(network.parameters(), start.parameters(), strict=True)
        )

    (free, told), (loose, _), (held, told_held) = (fit(patch_set, steps=6, proximal=mu) for mu in (0.0, 1.0, 1000.0))
    assert moved(held) < moved(loose) < moved(free)
    # The first step is the same with any mu, because nothing has moved yet: what is told differs from the third on.
    assert told_held.losses[:2] == told.losses[:2]
    assert told_held.losses[2] != told.losses[2]
