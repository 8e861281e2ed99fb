"""What nodes send, before a strategy sees it: streamed means are Flower's, and clipping shortens what is too long."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from flwr.supercore.task_identity import TaskIdentity
from test_training_rounds import moved, run
from training_fakes import weights

from coordinator.training import strategies
from coordinator.training.arrays import record_of, views
from coordinator.training.rounds import Rules
from coordinator.training.strategies import make_strategy, state_of
from coordinator.training.updates import TooFewUpdates, Updates
from rsfed.config_strategies import FedAvgMSection, FedAvgSection, FedMedianSection
from rsfed.hashing.payload import decode

PAIRS = {
    "fedavg": (FedAvg, strategies.StreamedAvg, {}),
    "fedprox": (FedProx, strategies.StreamedProx, {"proximal_mu": 0.1}),
    "fedavgm": (FedAvgM, strategies.StreamedAvgM, {"server_momentum": 0.9, "server_learning_rate": 0.7}),
    "fedavgm without momentum": (FedAvgM, strategies.StreamedAvgM, {"server_learning_rate": 0.7}),
    "fedadam": (FedAdam, strategies.StreamedAdam, {"eta": 0.01}),
    "fedyogi": (FedYogi, strategies.StreamedYogi, {"eta": 0.01}),
}


TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 1, 5  # a message cannot be made without


def drawn(rng):
    return {"w": rng.normal(size=(40, 30)).astype(np.float32), "scale": np.array(rng.normal(), np.float32)}


def reply(number, arrays, examples):
    metrics = MetricRecord({"num-examples": float(examples), "seconds": 0.1})
    task = Message(RecordDict(), dst_node_id=number, message_type="train")
    return Message(RecordDict({"arrays": record_of(arrays), "metrics": metrics}), reply_to=task)


class Nodes:
    def get_node_ids(self):
        return [1]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_streaming_gives_what_flower_gives_to_rounding(name, seed):
    flower, streamed, options = PAIRS[name]
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 7, 300, 10**6], 6)
    made = [kind(min_train_nodes=1, min_available_nodes=1, **options) for kind in (flower, streamed)]
    current = [record_of(drawn(rng))] * 2
    for number in (1, 2, 3):
        before = views(current[0])
        steps = [drawn(rng) for _ in sizes]
        sent = [{n: np.asarray(a + 0.1 * step[n], np.float32) for n, a in before.items()} for step in steps]
        for at, strategy in enumerate(made):
            strategy.configure_train(number, current[at], ConfigRecord(), Nodes())
            replies = (
                reply(node, arrays, size) for node, (arrays, size) in enumerate(zip(sent, sizes, strict=True), 1)
            )
            current[at], _ = strategy.aggregate_train(number, replies)
        for key, array in views(current[0]).items():
            np.testing.assert_allclose(views(current[1])[key], array, rtol=2e-4, atol=2e-5)


def bad(**changes):
    arrays = weights(1)
    return reply(2, {**arrays, **changes}, 10)


BAD = {
    "UPDATE_NOT_FINITE": bad(scale=np.array(np.inf, np.float32)),
    "UPDATE_SHAPE": bad(w=np.zeros((3, 2), np.float32)),
    "UPDATE_SHAPE of another type": bad(w=np.zeros((2, 3))),
    "UPDATE_SHAPE of one more": bad(x=np.zeros(1, np.float32)),
    "UPDATE_SHAPE of one fewer": reply(2, {"w": weights(1)["w"]}, 10),
    "UPDATE_TOO_LARGE": bad(w=np.full((2, 3), 1e6, np.float32)),
    "UPDATE_EXAMPLES": reply(2, weights(1), 0),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_right_is_never_seen(reason):
    good = reply(1, weights(1), 10)
    updates = Updates([BAD[reason], good], weights(), needed=1, limit=None)
    assert list(updates) == [good]
    assert (updates.nodes, updates.failed) == ([1], {2: reason.split()[0]})


def test_too_few_updates_stop_the_strategy_before_its_step():
    strategy = make_strategy(FedAvgMSection(), fraction=1.0, min_nodes=1)
    with pytest.raises(TooFewUpdates):
        strategy.aggregate_train(1, Updates([reply(1, weights(1), 10)], weights(), needed=2, limit=None))
    assert state_of(strategy) == {}


def test_an_update_over_the_limit_is_shortened_to_it_and_others_are_left():
    long, short = ({"w": np.full((2, 3), step, np.float32), "scale": np.zeros((), np.float32)} for step in (3, 0.1))
    updates = Updates([reply(1, long, 10), reply(2, short, 10)], weights(), needed=1, limit=2.0)
    cut, left = (views(update.content["arrays"]) for update in updates)
    assert np.linalg.norm(cut["w"]) == pytest.approx(2.0, rel=1e-6)
    np.testing.assert_array_equal(left["w"], short["w"])
    assert updates.norms == pytest.approx([3 * 6**0.5, 0.1 * 6**0.5])


@pytest.mark.parametrize("section", [FedAvgSection, FedMedianSection])
async def test_clipping_holds_each_node_to_the_median_of_the_round_before_also_after_a_restart(section):
    nodes = {"a": moved(1), "b": moved(1), "c": lambda task: moved(1 if decode(task).round == 1 else 8)(task)}
    kept, rules, chosen = [], Rules(3, 30.0), section(clip=True)
    whole, _ = await run(nodes, rules=rules, strategy=chosen, kept=kept)
    np.testing.assert_allclose(whole.weights["w"], weights(3)["w"], rtol=1e-6)
    again, _ = await run(nodes, rules=rules, strategy=chosen, since=kept[0])
    assert again.weights["w"].tobytes() == whole.weights["w"].tobytes()
