"""Strategies: each is chosen by its name with options of its own, and goes on after a restart as if there was none."""

import numpy as np
import pytest
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from test_training_rounds import moved, run, run_whole
from training_fakes import result_of, small_plan

from coordinator.training.rounds import Rules
from coordinator.training.strategies import make_strategy
from rsfed.config import CoordinatorConfig, load_config
from rsfed.config_strategies import FedTrimmedAvgSection, StrategySection
from rsfed.errors import ConfigError
from rsfed.hashing.payload import decode

SECTIONS = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.1},
    "fedavgm": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "fedadam": {"eta": 0.03},
    "fedyogi": {"eta": 0.03},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.2},
    "krum": {"num_malicious_nodes": 1},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "bulyan": {"num_malicious_nodes": 1},
}
NODES = 7  # as many as Bulyan needs against one


def section(name, **options) -> StrategySection:
    return TypeAdapter(StrategySection).validate_python({"name": name, **SECTIONS[name], **options})


def start():
    """Weights whose names are not in the order in which they travel."""
    rng = np.random.default_rng(3)
    return {
        "stem.w": rng.normal(size=(4, 3)).astype(np.float32),
        "head.w": rng.normal(size=(3, 4)).astype(np.float32),
        "head.scale": np.array(1.5, np.float32),
    }


def node(number):
    """A node whose step depends on the weights, the round and the node, so that no round is like another."""

    def answer(task):
        payload = decode(task)
        rng = np.random.default_rng([number, payload.round])
        moved = {
            name: (0.9 * array + 0.1 * rng.normal(size=array.shape)).astype(np.float32)
            for name, array in sorted(payload.arrays["arrays"].items())
        }
        return result_of(task, arrays={"arrays": moved}, examples=10 + number)

    return answer


async def trained(chosen, *, rounds=4, since=None, kept=None):
    nodes = {f"node-{number}": node(number) for number in range(NODES)}
    options = {"since": since} if since else {"start": start()}
    plan = small_plan(rounds=rounds)
    return (await run(nodes, plan=plan, strategy=chosen, rules=Rules(NODES, 30.0), kept=kept, **options))[0].weights


def bits(weights):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in weights.items()}


@pytest.mark.parametrize("name", SECTIONS)
async def test_two_rounds_and_two_after_a_restart_give_what_four_give(name):
    kept = []
    whole = await trained(section(name), kept=kept)
    assert bits(await trained(section(name), since=kept[1])) == bits(whole)
    assert {array.dtype for array in whole.values()} == {np.dtype(np.float32)}
    assert {n: a.shape for n, a in whole.items()} == {n: a.shape for n, a in start().items()}


def configured(home, toml):
    (home / "coordinator.toml").write_text(f'federation = "alps"\n[strategy]\n{toml}')
    return load_config(CoordinatorConfig, home).strategy


def test_each_strategy_is_chosen_by_its_name_and_refuses_the_options_of_others(tmp_path):
    assert configured(tmp_path, "") == section("fedavg")
    for name, options in SECTIONS.items():
        lines = [f'name = "{name}"', *(f"{key} = {value}" for key, value in options.items())]
        assert configured(tmp_path, "\n".join(lines)) == section(name)
        with pytest.raises(ConfigError, match=f"strategy.{name}.scale: unknown key"):
            configured(tmp_path, "\n".join([*lines, "scale = 1"]))


@given(st.floats(0.001, 0.4999))
def test_a_trimmed_mean_needs_as_many_nodes_as_leave_something_out(beta):
    least = FedTrimmedAvgSection(beta=beta).least_nodes
    one_up = np.zeros((least, 1)), np.zeros((least - 1, 1))
    for results in one_up:
        results[0] = 1.0
    assert trim_mean(one_up[0], beta) == 0.0
    assert trim_mean(one_up[1], beta) > 0.0


LEAST = {"fedmedian": 3, "fedtrimmedavg": 5, "krum": 5, "multikrum": 5, "bulyan": 7}


@pytest.mark.parametrize("name", LEAST)
async def test_a_run_of_fewer_nodes_than_a_strategy_needs_is_refused_before_any_node_is_asked(name):
    asked, rules = [], Rules(LEAST[name] - 1, 30.0)
    nodes = {f"node-{number}": lambda task: asked.append(task) or result_of(task) for number in range(NODES)}
    with pytest.raises(ConfigError, match=f"{name} .* needs {LEAST[name]} nodes .* --nodes {LEAST[name]}"):
        await run_whole(nodes, strategy=section(name), rules=rules)
    assert asked == []
    assert {other: section(other).least_nodes for other in SECTIONS} == dict.fromkeys(SECTIONS, 1) | LEAST


RESIST = {"fedavg": 0.6, "fedmedian": 1.0, "fedtrimmedavg": 1.0, "krum": 1.0, "multikrum": 1.0}


@pytest.mark.parametrize("name", RESIST)
async def test_of_four_and_one_whose_update_is_sign_flipped_what_orders_results_keeps_to_the_four(name):
    nodes = {f"node-{number}": moved(1) for number in range(4)} | {"node-4": moved(-1)}
    chosen = section(name, num_nodes_to_select=2) if name == "multikrum" else section(name)
    whole, rounds = await run(nodes, plan=small_plan(rounds=1), strategy=chosen, rules=Rules(5, 30.0))
    assert rounds[0]["failed"] == {}, "its norm is that of the others"
    assert {float(value) for array in whole.weights.values() for value in array.flat} == {np.float32(RESIST[name])}


@pytest.mark.parametrize(
    "toml",
    [
        'name = "fedavg2"', 'name = "fedprox"\nproximal_mu = 0', 'name = "fedavgm"\nserver_momentum = 1',
        'name = "fedadam"\neta = 0', 'name = "fedyogi"\nbeta_2 = nan', 'name = "fedtrimmedavg"\nbeta = 0.5',
        'name = "fedtrimmedavg"\nbeta = 0',
        'name = "krum"\nnum_malicious_nodes = -1', 'name = "multikrum"\nnum_nodes_to_select = 0',
    ],
)  # fmt: skip
def test_options_out_of_range_are_problems_of_the_file(tmp_path, toml):
    with pytest.raises(ConfigError, match=r"coordinator.toml: strategy"):
        configured(tmp_path, toml)


def test_what_each_strategy_is_made_of_is_flowers_own():
    for name, options in SECTIONS.items():
        made = make_strategy(section(name), fraction=0.5, min_nodes=NODES)
        assert section(name).title.lower() == name
        assert any(
            kind.__name__ == section(name).title and kind.__module__.startswith("flwr.") for kind in type(made).__mro__
        )
        assert (made.fraction_train, made.min_train_nodes) == (0.5, NODES)
        assert all(getattr(made, option) == value for option, value in options.items())
