"""The closed form for the last layer: what nodes sum apart is ridge regression on all that the layer takes."""

import numpy as np
import pytest
import torch

from rsfed.errors import TrainingError
from rsfed.hashing import refit as module
from rsfed.hashing.centres import hash_centres
from rsfed.hashing.closed_form import LEAST_PATCHES
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.head import TrunkHead
from rsfed.hashing.refit import refit, sums
from rsfed.hashing.weights import get_state

WIDTH, BITS, HELD, CLASSES = 24, 16, 12, 3
CENTRES = hash_centres(range(CLASSES), HELD, 0)


def patches(seed=0, each=30):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), each)
    features = np.random.default_rng(99).normal(0, 1, (CLASSES, WIDTH))[labels] + rng.normal(
        0, 0.3, (len(labels), WIDTH)
    )
    rows = tuple((each.astype(np.float16),) for each in features)
    return PatchSet(rows, np.eye(CLASSES, dtype=bool)[labels], len(rows), augmentable=False)


def part(data, chosen):
    return PatchSet(tuple(data.patches[n] for n in chosen), data.labels[chosen], len(chosen), augmentable=False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TrunkHead(WIDTH, BITS)


def taken(network, data):
    with torch.inference_mode():
        return network.features(network.describe(torch.from_numpy(np.stack([p[0] for p in data.patches]).astype("f4"))))


def test_the_layer_is_the_ridge_regression_of_what_it_takes_on_the_centres_up_to_its_length(network):
    data = patches()
    before, rows = get_state(network), np.c_[taken(network, data).numpy(), np.ones(len(data))]
    after = refit(get_state(network), [sums(network, part(data, np.arange(n, len(data), 2)), CENTRES) for n in (0, 1)])
    padded = np.vstack([rows, np.sqrt(module.REFIT_RIDGE) * np.eye(rows.shape[1])])
    targets = np.vstack([np.where(CENTRES, 1.0, -1.0)[data.labels.argmax(axis=1)], np.zeros((rows.shape[1], HELD))])
    expected, *_ = np.linalg.lstsq(padded, targets, rcond=None)
    expected *= np.linalg.norm(before["head.weight"][:HELD]) / np.linalg.norm(expected[:-1])
    weight, bias = after["head.weight"][:HELD], after["head.bias"][:HELD]
    assert weight == pytest.approx(expected[:-1].T, abs=1e-4)
    assert bias == pytest.approx(expected[-1], abs=1e-4)


def test_free_bits_and_all_other_layers_stay(network):
    before = get_state(network)
    after = refit(get_state(network), [sums(network, patches(), CENTRES)])
    assert after.keys() == before.keys()
    for name, array in before.items():
        kept = slice(HELD, None) if name.startswith("head.") else slice(None)
        assert (after[name][kept] == array[kept]).all()
        assert after[name].dtype == np.float32
    assert not (after["head.weight"][:HELD] == before["head.weight"][:HELD]).any()


def test_a_network_that_never_learnt_finds_the_centres_of_new_patches(network):
    network.load_state_dict(
        {n: torch.from_numpy(a) for n, a in refit(get_state(network), [sums(network, patches(), CENTRES)]).items()}
    )
    unseen = patches(1)
    with torch.inference_mode():
        bits = (network(*map(torch.from_numpy, unseen.batch(np.arange(len(unseen))))) > 0.5).numpy()[:, :HELD]
    assert (bits == CENTRES[unseen.labels.argmax(axis=1)]).mean() > 0.95


def test_a_node_with_too_few_patches_gives_no_sums_and_a_federation_of_none_is_refused(network):
    few = part(patches(), np.arange(LEAST_PATCHES - 1))
    for attempt in (lambda: sums(network, few, CENTRES), lambda: refit(get_state(network), [])):
        with pytest.raises(TrainingError) as refused:
            attempt()
        assert refused.value.reason == "TOO_FEW_PATCHES"
