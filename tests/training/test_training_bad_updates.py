"""What a node sends that cannot be right costs it the round, and names it; the run ends with the others' release."""

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from founded import founded, make_template
from safetensors import numpy as safetensors
from test_training_runs import Coordinator
from training_fakes import answer_tasks, in_rounds, result_of, until

from coordinator.roster import roster
from coordinator.training import records
from rsfed.clock import utc_now
from rsfed.hashing.payload import decode
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1 import training_pb2 as pb

STEP, ROUNDS = 2.0**-23, 2  # a step that, a million times as long, is still no longer than the weights are
HONEST = ("aare", "birs", "cher", "doubs")


def sent(task, change):
    """An honest result whose arrays were changed behind the codec's back, which refuses to send such."""
    message = pb.TaskPayload.FromString(result_of(task, step=STEP))
    record = next(record for record in message.records if record.name == "arrays")
    arrays = safetensors.load(record.arrays)
    change(arrays, min(arrays))
    record.arrays = safetensors.save(arrays)
    return message.SerializeToString()


def put(value):
    def change(arrays, name):
        arrays[name] = np.full_like(arrays[name], value)

    return change


def scaled(task):
    """An update in the right direction, a million times as long."""
    return result_of(task, step=1e6 * STEP)


BAD = {
    "of NaN": ("NOT_FINITE", lambda task: sent(task, put(np.nan))),
    "of inf": ("NOT_FINITE", lambda task: sent(task, put(np.inf))),
    "of another shape": ("UPDATE_SHAPE", lambda task: sent(task, lambda a, n: a.update({n: a[n][None]}))),
    "of another type": ("PAYLOAD_MALFORMED", lambda task: sent(task, lambda a, n: a.update({n: a[n].astype(float)}))),
    "under another name": ("UPDATE_SHAPE", lambda task: sent(task, lambda a, n: a.update({"other": a.pop(n)}))),
    "of one array fewer": ("UPDATE_SHAPE", lambda task: sent(task, lambda a, n: a.pop(n))),
    "of one array more": ("UPDATE_SHAPE", lambda task: sent(task, lambda a, n: a.update({"other": a[n]}))),
    "a million times as long": ("UPDATE_TOO_LARGE", scaled),
    "without its patches": ("UPDATE_FORM", lambda task: result_of(task, metrics={"metrics": {"seconds": 1.0}})),
    "with records that changed places": (
        "UPDATE_FORM",
        lambda task: result_of(
            task, arrays={"metrics": decode(task).arrays["arrays"]}, metrics={"arrays": {"num-examples": 1.0}}
        ),
    ),
    "that is no payload": ("PAYLOAD_MALFORMED", lambda _: b"\x80\x04N."),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def federation(template, tmp_path):
    with founded(template, tmp_path / "c") as opened:
        for name in (*HONEST, "rogue"):
            opened.enroll(name)
        yield opened


@pytest.mark.parametrize("how", BAD)
async def test_a_bad_update_is_named_and_counted_and_the_release_is_that_of_the_others(federation, how):
    reason, answer = BAD[how]
    state, first = federation.state, federation.publisher.current()
    coordinator = Coordinator(federation.home, state)
    whole = federation.config.training.model_copy(update={"coding": "float32"})  # so that the result is exact
    coordinator.driver._config = lambda: federation.config.model_copy(update={"training": whole})
    coordinator.driver._starting = federation.publisher.start
    coordinator.driver._publish = federation.publisher.publish_trained
    nodes = dict.fromkeys(HONEST, lambda task: result_of(task, step=STEP)) | {"rogue": answer}
    work = [asyncio.create_task(answer_tasks(coordinator.board, name, in_rounds(a))) for name, a in nodes.items()]
    await until(lambda: len(coordinator.board.present()) == len(nodes))
    run = records.request_run(state, ROUNDS, len(HONEST), utc_now())
    work.append(asyncio.create_task(coordinator.driver.run()))
    try:
        ended = await coordinator.ended(run)
    finally:
        for task in work:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert (ended.state, ended.release_version) == ("done", first.manifest.version + 1)
    rounds = [data for kind, data in coordinator.events(run) if kind == "round"]
    assert [(data["nodes"], data["failed"]) for data in rounds] == [(list(HONEST), {"rogue": reason})] * ROUNDS
    with state.reading() as connection:
        rejected = {listed.name: listed.rejected for listed in roster(connection, utc_now())}
    assert rejected == dict.fromkeys(HONEST, 0) | {"rogue": ROUNDS}
    release = ReleaseStore(federation.home.releases).current()
    assert release.manifest.training.nodes == len(HONEST)
    before, after = (safetensors.load(each.weights("rgb").read_bytes()) for each in (first, release))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array + np.float32(STEP) + np.float32(STEP))
