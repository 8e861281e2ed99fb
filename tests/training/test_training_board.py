"""The board hands each task to its node only, takes results in parts, and knows who is there."""

import asyncio
import threading

import pytest
from training_fakes import deliver

from coordinator.training import board as board_module
from coordinator.training.board import RunStopped, TaskBoard
from coordinator.training.records import RunCancelled
from rsfed.clock import Deadline
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.payload import digest

PAYLOAD = b"a task" * 50
RESULT = bytes(range(256)) * 40


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return TaskBoard(monotonic=clock)


def push(board, task, offset, chunk, *, data=RESULT, node="a"):
    return board.receive(node, task.id, (len(data), digest(data)), offset, chunk)


def collect(board, tasks, deadline):
    return list(board.collect(tasks, deadline))


def reason_of(action) -> str:
    with pytest.raises((TrainingError, InvalidMessage)) as refused:
        action()
    return refused.value.reason


async def test_a_waiting_node_gets_its_task_at_once(board):
    waiting = asyncio.create_task(board.next_task("a", 30))
    await asyncio.sleep(0.01)
    assert board.present() == ["a"]
    threading.Thread(target=board.offer, args=("a", board.blob(PAYLOAD))).start()
    task = await asyncio.wait_for(waiting, 5)
    assert task.payload.read() == PAYLOAD
    assert task.payload.sha256 == digest(PAYLOAD)


async def test_nodes_get_their_own_tasks_only(board):
    board.offer("b", board.blob(PAYLOAD))
    assert await board.next_task("a", 0.01) is None


async def test_a_task_that_was_not_finished_is_handed_out_again(board):
    board.offer("a", board.blob(PAYLOAD))
    first, again = await board.next_task("a", 1), await board.next_task("a", 1)
    assert first is again
    deliver(board, first, RESULT)
    assert await board.next_task("a", 0.01) is None


async def test_a_node_waits_once_however_often_it_asks(board):
    waiting = [asyncio.create_task(board.next_task("a", 30)) for _ in range(50)]
    other = asyncio.create_task(board.next_task("b", 30))
    sent_away = [await asyncio.wait_for(each, 5) for each in waiting[:-1]]
    assert sent_away == [None] * 49
    assert board.present() == ["a", "b"]
    task = board.offer("a", board.blob(PAYLOAD))
    assert await asyncio.wait_for(waiting[-1], 5) is task
    assert not other.done()
    other.cancel()


async def test_a_node_that_stops_waiting_is_no_longer_present(board):
    waiting = asyncio.create_task(board.next_task("a", 30))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert board.present() == []


async def test_a_node_is_present_for_a_moment_between_two_calls(board, clock):
    await board.next_task("a", 0)
    assert board.present() == ["a"]
    clock.now += board_module.GRACE_S + 1
    assert board.present() == []


def test_a_result_arrives_in_parts_and_goes_on_where_it_stopped(board):
    task = board.offer("a", board.blob(PAYLOAD))
    assert push(board, task, 0, RESULT[:4000]) == 4000
    assert push(board, task, 9000, RESULT[9000:]) == 4000  # not the next byte: not taken
    assert push(board, task, 0, b"") == 4000  # asks where to go on
    assert push(board, task, 0, RESULT[:4000]) == 4000  # the answer to the first part was lost
    assert push(board, task, 4000, RESULT[4000:9000]) == 9000
    assert push(board, task, 0, RESULT[:4000]) == 9000  # came twice, late
    assert push(board, task, 9000, RESULT[9000:]) == len(RESULT)
    assert task.upload.read() == RESULT
    assert push(board, task, 9000, RESULT[9000:]) == len(RESULT)  # nor does a repeat spoil it


def test_a_node_that_computed_again_starts_its_upload_again(board):
    task = board.offer("a", board.blob(PAYLOAD))
    push(board, task, 0, RESULT[:4000])
    other = RESULT[::-1]
    assert push(board, task, 4000, other[4000:], data=other) == 0
    assert push(board, task, 0, other, data=other) == len(other)
    assert task.upload.read() == other


def test_a_result_that_does_not_fit_its_digest_is_dropped_and_can_be_sent_again(board):
    task = board.offer("a", board.blob(PAYLOAD))
    expected = (len(RESULT), digest(RESULT))
    assert reason_of(lambda: board.receive("a", task.id, expected, 0, RESULT[:-1] + b"x")) == "PAYLOAD_DIGEST"
    assert not task.done
    assert push(board, task, 0, RESULT) == len(RESULT)


def test_a_result_much_larger_than_its_task_is_refused_before_it_is_held(board):
    task = board.offer("a", board.blob(PAYLOAD))
    size = len(PAYLOAD) + board_module.RESULT_MARGIN + 1
    assert reason_of(lambda: board.receive("a", task.id, (size, bytes(32)), 0, b"x")) == "PAYLOAD_TOO_LARGE"
    assert reason_of(lambda: board.receive("a", task.id, (10, bytes(32)), 0, b"x" * 11)) == "PAYLOAD_TOO_LARGE"
    assert not task.upload


def test_a_result_as_large_as_its_run_expects_is_taken_and_another_run_expects_nothing(board):
    expected = (len(PAYLOAD) + board_module.RESULT_MARGIN + 1, bytes(32))
    board.expect(expected[0])
    task = board.offer("a", board.blob(PAYLOAD))
    assert board.receive("a", task.id, expected, 0, b"x") == 1
    board.begin()
    task = board.offer("a", board.blob(PAYLOAD))
    assert reason_of(lambda: board.receive("a", task.id, expected, 0, b"x")) == "PAYLOAD_TOO_LARGE"


def test_the_task_of_another_node_is_unknown_and_stays_untouched(board):
    task = board.offer("a", board.blob(PAYLOAD))
    assert reason_of(lambda: board.task("b", task.id)) == "UNKNOWN_TASK"
    assert reason_of(lambda: push(board, task, 0, RESULT, node="b")) == "UNKNOWN_TASK"
    assert reason_of(lambda: board.task("a", "0" * 32)) == "UNKNOWN_TASK"
    assert not task.done


def test_a_task_of_a_round_that_is_over_is_expired_for_its_node_and_unknown_to_others(board):
    task = board.offer("a", board.blob(PAYLOAD))
    collect(board, [task], Deadline.after(0))
    assert reason_of(lambda: push(board, task, 0, RESULT)) == "TASK_EXPIRED"
    assert reason_of(lambda: board.task("b", task.id)) == "UNKNOWN_TASK"


def test_a_newer_task_replaces_one_that_a_node_still_has(board):
    old = board.offer("a", board.blob(PAYLOAD))
    new = board.offer("a", board.blob(PAYLOAD))
    assert reason_of(lambda: board.task("a", old.id)) == "TASK_EXPIRED"
    assert board.task("a", new.id) is new


def test_waiting_for_results_ends_with_the_last_one(board):
    tasks = [board.offer(node, board.blob(PAYLOAD)) for node in "ab"]
    for task in tasks:
        threading.Timer(0.05, deliver, (board, task, RESULT)).start()
    collect(board, tasks, Deadline.after(60))
    assert [task.upload.read() for task in tasks] == [RESULT, RESULT]


def test_a_node_that_went_silent_is_not_waited_for(board, clock):
    silent, alive = board.offer("a", board.blob(PAYLOAD)), board.offer("b", board.blob(PAYLOAD))
    clock.now += board_module.SILENCE_S + 1
    board.task("b", alive.id)
    threading.Timer(0.05, deliver, (board, alive, RESULT)).start()
    collect(board, [silent, alive], Deadline.after(3600))  # longer than a test may take
    assert (silent.done, alive.upload.read()) == (False, RESULT)


def test_a_sign_of_life_keeps_a_node_in_the_round(board, clock):
    task = board.offer("a", board.blob(PAYLOAD))
    clock.now += board_module.SILENCE_S - 1
    assert board.receive("a", task.id, (0, b""), 0, b"") == 0
    clock.now += board_module.SILENCE_S - 1
    threading.Timer(0.05, deliver, (board, task, RESULT)).start()
    collect(board, [task], Deadline.after(60))
    assert task.upload.read() == RESULT


async def test_stopping_ends_runs_and_sends_waiting_nodes_away(board):
    task = board.offer("a", board.blob(PAYLOAD))
    waiting = asyncio.create_task(board.next_task("b", 30))
    collecting = asyncio.create_task(asyncio.to_thread(collect, board, [task], Deadline.after(60)))
    await asyncio.sleep(0.05)
    board.stop()
    assert await asyncio.wait_for(waiting, 5) is None
    with pytest.raises(RunStopped):
        await asyncio.wait_for(collecting, 5)
    with pytest.raises(RunStopped):
        board.offer("a", board.blob(PAYLOAD))


async def test_cancelling_ends_the_run_and_its_tasks_and_the_next_run_goes_on(board):
    task = board.offer("a", board.blob(PAYLOAD))
    waiting = asyncio.create_task(board.next_task("b", 30))
    collecting = asyncio.create_task(asyncio.to_thread(collect, board, [task], Deadline.after(60)))
    await asyncio.sleep(0.05)
    board.cancel()
    with pytest.raises(RunCancelled):
        await asyncio.wait_for(collecting, 5)
    for action in (lambda: board.offer("a", board.blob(PAYLOAD)), lambda: board.pause(60)):
        with pytest.raises(RunCancelled):
            action()
    assert reason_of(lambda: push(board, task, 0, RESULT)) == "TASK_EXPIRED"
    board.begin()
    board.offer("b", board.blob(PAYLOAD))
    assert (await asyncio.wait_for(waiting, 5)).node == "b"
