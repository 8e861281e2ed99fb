"""What nodes send, before a strategy sees it: streamed means are Flower's, and what cannot be right is rejected."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from training_fakes import weights

from coordinator.training import strategies
from coordinator.training.arrays import record_of, views
from coordinator.training.updates import sift

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
    return Message(RecordDict({"arrays": record_of(arrays.items()), "metrics": metrics}), reply_to=task)


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
    current = [record_of(drawn(rng).items())] * 2
    for number in (1, 2, 3):
        before = views(current[0])
        ways = [drawn(rng) for _ in sizes]
        sent = [{n: np.asarray(a + 0.1 * way[n], np.float32) for n, a in before.items()} for way in ways]
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


def with_records(**records):
    return Message(RecordDict(records), reply_to=Message(RecordDict(), dst_node_id=2, message_type="train"))


def with_array(**fields):
    """An update whose array says of itself what Flower's messages let a node say."""
    honest = record_of(weights(1).items())
    whole = {"dtype": "float32", "shape": (2, 3), "stype": "numpy.ndarray", "data": honest["w"].data} | fields
    return with_records(arrays=ArrayRecord({**honest, "w": Array(**whole)}), metrics=NUMBERS)


NUMBERS = MetricRecord({"num-examples": 10.0, "seconds": 0.1})
OBJECTS = b"\x93NUMPY\x01\x00\x3e\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }".ljust(61) + b"\n"
BAD = {
    "UPDATE_NOT_FINITE": bad(scale=np.array(np.inf, np.float32)),
    "UPDATE_NOT_FINITE of NaN": bad(w=np.full((2, 3), np.nan, np.float32)),
    "UPDATE_NOT_FINITE in a number": reply(2, weights(1), float("nan")),
    "UPDATE_SHAPE": bad(w=np.zeros((3, 2), np.float32)),
    "UPDATE_SHAPE of another type": bad(w=np.zeros((2, 3))),
    "UPDATE_SHAPE of another byte order": bad(w=np.zeros((2, 3), ">f4")),
    "UPDATE_SHAPE of one more": bad(x=np.zeros(1, np.float32)),
    "UPDATE_SHAPE of one fewer": reply(2, {"w": weights(1)["w"]}, 10),
    "UPDATE_TOO_LARGE": bad(w=np.full((2, 3), 1e6, np.float32)),
    "UPDATE_EXAMPLES": reply(2, weights(1), 0),
    "UPDATE_LOSS": with_records(
        arrays=record_of(weights(1).items()),
        metrics=MetricRecord({"num-examples": 10.0, "seconds": 0.1, "loss": 1.7e308}),
    ),
    "UPDATE_FORM of nothing": with_records(),
    "UPDATE_FORM of records that changed places": with_records(arrays=NUMBERS, metrics=record_of(weights(1).items())),
    "UPDATE_FORM of settings": with_records(
        arrays=record_of(weights(1).items()), metrics=ConfigRecord({"num-examples": 1.0})
    ),
    "UPDATE_FORM of a list": with_records(
        arrays=record_of(weights(1).items()), metrics=MetricRecord({"num-examples": [1.0, 2.0], "seconds": 0.1})
    ),
    "UPDATE_FORM of no numpy array": with_array(stype="torch.tensor"),
    "UPDATE_FORM of no header": with_array(data=b"\x93NUMPY"),
    "UPDATE_FORM of half a header": with_array(data=record_of(weights(1).items())["w"].data[:40]),
    "UPDATE_FORM of a header that does not end": with_array(data=b"\x93NUMPY\x01\x00\x02\x00{("),
    "UPDATE_FORM of too few bytes": with_array(data=record_of(weights(1).items())["w"].data[:-4]),
    "UPDATE_FORM of bytes after the end": with_array(data=record_of(weights(1).items())["w"].data + bytes(4)),
    "UPDATE_FORM of Python objects": with_array(data=OBJECTS + bytes(48)),
    "UPDATE_SHAPE that the array denies": with_array(data=Array(np.zeros((3, 2), np.float32)).data),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_right_is_never_seen(reason):
    good = reply(1, weights(1), 10)
    updates = sift([BAD[reason], good], weights())
    assert list(updates) == [good]
    assert (list(updates.good), updates.failed) == ([1], {2: reason.split()[0]})


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x40\x00{'descr': "]))
def test_whatever_bytes_an_array_has_it_is_rejected_and_no_error_of_the_run(tail, head):
    assert sift([with_array(data=head + tail)], weights()).failed == {2: "UPDATE_FORM"}


def steps(*norms, examples=10):
    """Updates of one node each, as long as given."""
    sizes = examples if isinstance(examples, tuple) else (examples,) * len(norms)
    moved = ({"w": np.zeros((2, 3), np.float32), "scale": np.array(norm, np.float32)} for norm in norms)
    return [reply(node, arrays, size) for node, (arrays, size) in enumerate(zip(moved, sizes, strict=True), 1)]


def test_an_update_that_is_longer_than_ten_medians_of_its_round_is_rejected():
    assert sift(steps(0.01, 0.01, 0.1, 0.1, 0.9, 1.1), weights()).failed == {6: "UPDATE_TOO_LARGE"}
    assert sift(steps(0.125, 0.25, 2.5), weights()).failed == {}
    assert sift(steps(0.125, 0.25, 2.75), weights()).failed == {3: "UPDATE_TOO_LARGE"}


def test_two_updates_alone_do_not_tell_which_of_them_is_too_long():
    assert sift(steps(0.001, 1.0), weights()).failed == {}


def test_a_claim_of_patches_counts_for_ten_medians_of_the_round_at_most():
    updates = sift(steps(1, 1, 1, 1, examples=(20, 30, 40, 10**8)), weights())
    assert [update.content["metrics"]["num-examples"] for update in updates] == [20, 30, 40, 350]
    assert updates.examples == 440


def test_results_can_be_gone_through_once_more_and_come_in_the_order_of_the_weights():
    start = {"w": weights()["w"], "scale": weights()["scale"]}
    turned = {name: weights(1)[name] for name in ("scale", "w")}
    updates = sift([reply(1, turned, 10)], start)
    for _ in range(2):
        assert [list(update.content["arrays"]) for update in updates] == [["w", "scale"]]
