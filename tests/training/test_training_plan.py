"""The plan that travels with every task is complete, and a node takes no other."""

import json

import pytest
from training_fakes import small_plan

from rsfed.errors import InvalidMessage
from rsfed.hashing.plan import parse_plan


def test_a_plan_comes_back_as_it_was_written():
    assert parse_plan(small_plan().model_dump_json()) == small_plan()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", 63), ("bits", 512), ("batch", "8"), ("batch", 0), ("local_steps", 10**9), ("learning_rate", 0),
        ("learning_rate", 2.0), ("rounds", 0), ("seed", -1), ("code", "import os"), ("objective", {"name": "other"}),
        ("input", {"groups": []}), ("modality", ""),
    ],
)  # fmt: skip
def test_a_plan_with_anything_wrong_or_unknown_is_refused(field, value):
    raw = json.loads(small_plan().model_dump_json()) | {field: value}
    with pytest.raises(InvalidMessage) as refused:
        parse_plan(json.dumps(raw))
    assert refused.value.reason == "PLAN_INVALID"


@pytest.mark.parametrize("text", [None, "", "{", "[]", 7, '{"learning_rate": NaN}'])
def test_what_is_no_plan_at_all_is_refused(text):
    with pytest.raises(InvalidMessage):
        parse_plan(text)


def test_the_learning_rate_falls_to_a_tenth_and_never_rises():
    plan = small_plan(rounds=5)
    rates = [plan.rate(number) for number in range(1, 6)]
    assert rates[0] == plan.learning_rate
    assert rates[-1] == pytest.approx(plan.learning_rate / 10)
    assert rates == sorted(rates, reverse=True)
    assert small_plan(rounds=1).rate(1) == plan.learning_rate


def test_every_round_has_a_seed_of_its_own():
    seeds = [small_plan(seed=seed).round_seed(number) for seed in range(3) for number in range(1, 100)]
    assert len(set(seeds)) == len(seeds)
