"""The node's `ClientApp` on the stock Flower engine: the app of `client_app`, behind what `serve` does elsewhere.

A SuperNode takes tasks by itself: it knows no operator's word and keeps no account, and of an app that fails it sends
the text of the error. So each task goes here through what is installed for our own engine, in the same form, and what
leaves is a result or a closed reason.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from node.state import open_state
from node.training import client_app, consent, journal
from node.training.adapter import run_task, to_payload, to_records
from node.training.noted import TaskNotes
from rsfed.errors import ConfigError, RsfedError
from rsfed.hashing.payload import Payload, decode, digest, encode
from rsfed.hashing.plan import CONFIG, LOSS, METRICS, ROUND
from rsfed.home import Home
from rsfed.telemetry import log

_NO_RESULT = 0  # Flower's code of an error without a code of its own

app = ClientApp()


def answer(message: Message, context: Context) -> Message:
    """Work on a task as the operator allows it, and reply with the result or with a closed reason; never fails."""
    run = message.metadata.run_id
    try:
        home = _home(context)
        task = _read(message)
        with closing(open_state(home)) as connection:
            result = decode(_work(connection, home, task))
        reason = result.error
    except RsfedError as error:
        log.warning("training.task_refused", run=run, reason=error.reason)
        reason = error.reason
    except Exception as error:  # noqa: BLE001 - whatever it is, its text stays here
        log.error("training.failed", run=run, error_type=type(error).__name__)
        reason = "TRAINING_FAILED"
    if reason:
        return Message(Error(_NO_RESULT, reason), reply_to=message)
    return Message(to_records(result), reply_to=message)


def _home(context: Context) -> Home:
    if "home" not in context.node_config:
        raise ConfigError("the SuperNode does not say where the node is; start it with --node-config 'home=\"DIR\"'")
    return Home(Path(str(context.node_config["home"])))


def _read(message: Message) -> Payload:
    config = message.content.config_records.get(CONFIG, {})
    head = Payload(message.metadata.run_id, int(config.get(ROUND, 0)), message.metadata.message_type)
    return to_payload(message.content, head)


def _work(connection: sqlite3.Connection, home: Home, task: Payload) -> bytes:
    """Return the result in its wire form, and write into the account what was asked and what is sent."""
    notes = TaskNotes(home, connection)
    _check_consent(connection, notes, task)
    data, started = encode(task), time.monotonic()
    objective, steps = journal.asked(task)
    row = journal.begin(connection, task.run_id, task.round, task.kind, len(data), objective=objective, steps=steps)
    state, result, loss = journal.INTERRUPTED, b"", None
    try:
        notes.begun(task, data)
        with _own_identity():
            result = run_task(client_app.app, home.path, data)
        answered = decode(result)
        state, loss = answered.error or journal.DONE, answered.metrics.get(METRICS, {}).get(LOSS)
        consent.check_run(connection, task.run_id)  # it may have been refused meanwhile
    except RsfedError as error:
        state, result = error.reason, b""
        raise
    finally:
        seconds, sent_digest = time.monotonic() - started, digest(result).hex() if result else None
        journal.end(connection, row, state=state, sent=len(result), seconds=seconds, loss=loss, sent_digest=sent_digest)
        log.info("training.task", run=task.run_id, round=task.round, state=state, seconds=round(seconds, 1))
        notes.ended(task, state=state, sent=len(result), sent_digest=sent_digest)
    return result


def _check_consent(connection: sqlite3.Connection, notes: TaskNotes, task: Payload) -> None:
    try:
        consent.check_not_paused(connection)
        consent.check_run(connection, task.run_id)
    except RsfedError as error:
        notes.refused(error.reason)
        raise


@contextmanager
def _own_identity() -> Iterator[None]:
    """Let a task be worked on under another identity: the engine's stands in this process, for its reply."""
    engine = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
    try:
        yield
    finally:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = engine


app.query("preflight")(answer)
app.query("sums")(answer)
app.train()(answer)
app.evaluate()(answer)
