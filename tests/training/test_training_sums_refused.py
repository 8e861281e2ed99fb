"""Sums that cannot be right, or claim too much: refused or held down before they reach the last layer."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from safetensors import numpy as safetensors

from coordinator.training.arrays import record_of
from coordinator.training.blob import Blob
from coordinator.training.solving import Aside, _held_down, _read
from node.training import client_app, stock
from rsfed.errors import InvalidMessage
from rsfed.hashing import refit
from rsfed.hashing.closed_form import Sums

WIDTH, BITS = 4, 6
WEIGHTS = {
    refit._ROWS: np.ones((8, WIDTH - 1), np.float32),
    refit._NORM_ROWS: np.ones(WIDTH - 1, np.float32),
    refit._NORM_BIAS: np.zeros(WIDTH - 1, np.float32),
}


def sums(patches: int = 30, seed: int = 0) -> Sums:
    draw = np.random.default_rng(seed)
    rows = np.hstack([draw.normal(0, 0.5, (patches, WIDTH - 1)), np.ones((patches, 1))])
    return Sums(rows.T @ rows, rows.T @ draw.choice([-1.0, 1.0], (patches, BITS)), patches)


def content(given: Sums, **changes) -> RecordDict:
    arrays = refit.to_arrays(given)
    records = {
        "arrays": record_of(arrays.items()),
        "metrics": MetricRecord({"num-examples": float(given.patches), "seconds": 0.5}),
    }
    return RecordDict(records | changes)


def aside(given: Sums) -> Aside:
    return Aside(Blob.of(safetensors.save(refit.to_arrays(given))), given.patches)


def test_honest_sums_are_read():
    given = sums()
    read, seconds = _read(content(given), WEIGHTS, BITS)
    assert seconds == 0.5
    np.testing.assert_allclose(read.gram, given.gram, rtol=1e-5)
    assert read.patches == 30


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": ConfigRecord({"num-examples": "abc"})},
        {"arrays": ConfigRecord({"gram": 1.0})},
        {"metrics": record_of([("num-examples", np.ones(1, np.float32))])},
        {"metrics": MetricRecord({"num-examples": [1.0, 2.0]})},
        {"metrics": MetricRecord({"num-examples": 30.0, "seconds": 0.5, "more": 1.0})},
        {"metrics": MetricRecord({"num-examples": 30.0})},
    ],
)
def test_records_of_other_types_are_refused_and_end_no_run(changes):
    with pytest.raises(InvalidMessage) as caught:
        _read(content(sums(), **changes), WEIGHTS, BITS)
    assert caught.value.reason == "SUMS_FORM"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sums_that_are_not_finite_are_refused(value):
    given = sums()
    given.gram[0, 0] = value
    with pytest.raises(InvalidMessage) as caught:
        _read(content(given), WEIGHTS, BITS)
    assert caught.value.reason == "SUMS_VALUES"


def test_a_time_that_is_no_number_is_refused():
    with pytest.raises(InvalidMessage) as caught:
        _read(content(sums(), metrics=MetricRecord({"num-examples": 30.0, "seconds": np.nan})), WEIGHTS, BITS)
    assert caught.value.reason == "SUMS_VALUES"


def test_a_node_that_claims_far_more_patches_than_others_counts_for_ten_medians():
    honest = {node: sums(30, node) for node in range(4)}
    greedy = sums(30, 9).times(1e5)
    greedy = Sums(greedy.gram, greedy.targets, 3_000_000)
    *light, heavy = _held_down({node: aside(given) for node, given in {**honest, 9: greedy}.items()})
    for given, held in zip([*honest.values(), greedy.times(300 / 3_000_000)], [*light, heavy], strict=True):
        np.testing.assert_allclose(held.gram, given.gram, rtol=1e-5)
        np.testing.assert_allclose(held.targets, given.targets, rtol=1e-5)
    _, alone = _held_down({0: aside(honest[0]), 9: aside(greedy)})  # of two nobody can say who is right
    np.testing.assert_allclose(alone.gram, greedy.gram, rtol=1e-5)


def test_the_stock_engine_knows_every_task_that_our_own_knows():
    assert _tasks(stock.app) == _tasks(client_app.app)


def _tasks(app) -> set[str]:
    return set(app._registered_funcs)
