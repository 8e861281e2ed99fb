"""What the soak of training calls good; its trials themselves are `make soak-training`."""

import random
from dataclasses import replace

import pytest

from rsfed.errors import StateError
from rsfed.lab import soak_training
from rsfed.lab.soak_training import COORDINATOR, NODES, SEEDS, Outcome, check_worth

CALM = Outcome("00", 0.9, 20.0, ({"round": 1, "nodes": list(NODES)},), 4, len(NODES))


def worth(precision):
    return replace(CALM, mean_average_precision=precision)


@pytest.mark.parametrize(("others", "least"), [((0.9, 0.9), 0.89), ((0.88, 0.92), 0.84)])
def test_a_trial_is_worth_what_another_seed_or_a_single_query_explains_and_no_less(others, least):
    calm = [CALM, *map(worth, others)]
    check_worth(worth(least + 1e-6), calm)
    check_worth(worth(1.0), calm)
    with pytest.raises(StateError, match="below that of an undisturbed run"):
        check_worth(worth(least - 1e-6), calm)


async def test_a_look_kills_node_and_coordinator_in_runs_of_the_closed_form_and_counts_what_is_not_good(monkeypatch):
    asked = []

    async def trial(victim=None, moment=0.0, plan=soak_training.PLAN):
        asked.append((plan.objective, plan.seed, victim))
        assert 0 <= moment <= CALM.seconds
        if victim in NODES:
            raise StateError("it ended in the middle")
        return CALM

    monkeypatch.setattr(soak_training, "trial", trial)
    found = await soak_training._soak(1, random.Random(0))
    calm, disturbed = asked[:SEEDS], asked[SEEDS:]
    assert calm == [("closed_form", seed, None) for seed in range(SEEDS)]
    assert [(objective, seed) for objective, seed, _ in disturbed] == [("closed_form", 0)] * 2
    assert disturbed[0][2] == COORDINATOR
    assert disturbed[1][2] in NODES
    assert (found["trials"], found["good"]) == (2, 1)
    assert "it ended in the middle" in found["failed"][0]
    assert found["closed_form"]["trials"] == {"node": 0, "coordinator": 1}
    assert found["closed_form"]["identical_weights"]["coordinator"] == 1
    asked.clear()
    found = await soak_training._soak(3, random.Random(0))
    assert [objective for objective, _, victim in asked if victim == COORDINATOR] == [
        "closed_form",
        "centres",
        "centres",
    ]
    assert found.keys() >= {"closed_form", "trunk", "scratch"}
