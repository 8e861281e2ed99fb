"""The node's Flower `ClientApp`: says whether it takes part, trains on own labelled patches, counts for calibration.

It is the same whoever calls it, and keeps to what the operator allows. Used by the node's worker, by tests over a
`Grid` in one process, and on the stock Flower engine with `node-config = 'home="..."'`.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from node.state import open_state
from node.training import kept
from node.training.bounds import check_epochs, check_plan, check_round, reported
from node.training.calibration import check_consent, contribute, read_queries
from node.training.holdout import HeldOut, hold_out
from node.training.journal import rounds_since
from node.training.patches import read_patches, training_items
from node.training.preflight import check_archive, check_software
from node.training.trainer import train_round
from rsfed.clock import utc_now
from rsfed.config import NodeConfig, NodeTraining, load_config
from rsfed.errors import InvalidMessage
from rsfed.hashing.calibration import to_records
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.exchange import answered, received
from rsfed.hashing.payload import Arrays, Metrics
from rsfed.hashing.plan import (
    ARRAYS,
    CODING,
    CONFIG,
    DELTA,
    EXAMPLES,
    MEMBERS,
    METRICS,
    PLAN,
    ROUND,
    SECONDS,
    SOFTWARE,
    TrainingPlan,
    parse_plan,
)
from rsfed.home import Home
from rsfed.privacy.policy import policy
from rsfed.telemetry import log

app = ClientApp()


def preflight(message: Message, context: Context) -> Message:
    """Say whether this node may and can take part in a run, by an empty result or a reason why not.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        TrainingError: OTHER_SOFTWARE, or what `train` and the archive have against the plan.
    """
    config = _settings(message)
    check_software(config.get(SOFTWARE))
    plan, home, limits = parse_plan(config.get(PLAN)), _home(context), _config(context).training
    _check_bounds(home, plan, limits, config)
    check_archive(home, plan, limits)
    return Message(RecordDict(), reply_to=message)


def train(message: Message, context: Context) -> Message:
    """Train for one round and return weights, number of patches, seconds and, if the operator wants, the rounded loss.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, PLAN_INVALID, BASE_UNKNOWN or DELTA_FORM.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, ROUNDS_PER_DAY,
            TOO_FEW_MEMBERS, NO_LABELLED_PATCHES, NOTHING_TO_COMPARE, TOO_MANY_CLASSES, WEIGHTS_UNFIT, DIVERGED.
    """
    home, limits, config = _home(context), _config(context).training, _settings(message)
    plan, start = _read(message, home)
    _check_bounds(home, plan, limits, config)
    own = _own(home, plan, limits, message.metadata.run_id)
    check_epochs(plan, limits, len(own.patches))
    result = train_round(plan, config.get(ROUND), start, own.patches, threads=limits.threads)
    told = reported(limits, result.loss, patches=result.examples, acquisitions=own.acquisitions)
    metrics = {EXAMPLES: result.examples, SECONDS: result.seconds} | told
    if CODING in config:
        return _reply(message, _change(home, message, start, result.arrays), metrics)
    return _reply(message, _records(result.arrays), metrics)


def evaluate(message: Message, context: Context) -> Message:
    """Count how near held-out patches find their like with trained weights, for calibration; nothing else leaves.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, PLAN_INVALID, BASE_UNKNOWN or DELTA_FORM.
        ConfigError: POLICY_LEVEL, the operator chose none.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, CALIBRATION_REFUSED,
            NO_LABELLED_PATCHES, TOO_FEW_ACQUISITIONS, NOTHING_TO_COMPARE, WEIGHTS_UNFIT.
    """
    home, config = _home(context), _config(context)
    plan, weights = _read(message, home)
    check_plan(plan, config.training, utc_now())
    check_consent(config.training)
    floor = policy(config.policy.level).floor
    own = _own(home, plan, config.training, message.metadata.run_id)
    queries, threads = read_queries(home, plan, own.held_out), config.training.threads
    counts = contribute(plan, weights, own.patches, queries, by=own.held_out.by, floor=floor, threads=threads)
    kept.forget(home)  # this task ends the run
    arrays, metrics = to_records(counts)
    return _reply(message, _records(arrays), metrics)


def _settings(message: Message) -> ConfigRecord:
    """Return the settings of a task."""
    if CONFIG not in message.content.config_records:
        raise InvalidMessage("the task has no settings", reason="TASK_INCOMPLETE")
    return message.content[CONFIG]


def _read(message: Message, home: Home) -> tuple[TrainingPlan, Arrays]:
    """Return the plan and the weights of a task, which come whole or as a change of those of the last round."""
    plan, content = parse_plan(_settings(message).get(PLAN)), message.content
    if DELTA in content.config_records:
        return plan, received(content[DELTA], kept.recall(home, message.metadata.run_id))
    if ARRAYS not in content.array_records:
        raise InvalidMessage("the task has no weights", reason="TASK_INCOMPLETE")
    return plan, {name: array.numpy() for name, array in content[ARRAYS].items()}


def _change(home: Home, message: Message, start: Arrays, trained: Arrays) -> RecordDict:
    """Return a result as a packed change, after keeping what the next round builds on."""
    config, run_id = _settings(message), message.metadata.run_id
    change, left = answered(config[ROUND], start, trained, str(config[CODING]), kept.recall(home, run_id))
    kept.keep(home, run_id, left)
    return RecordDict({DELTA: ConfigRecord(change)})


def _check_bounds(home: Home, plan: TrainingPlan, limits: NodeTraining, config: ConfigRecord) -> None:
    """Refuse what the operator does not allow."""
    now = utc_now()
    check_plan(plan, limits, now)
    with closing(open_state(home)) as connection:
        check_round(limits, config.get(MEMBERS), rounds_since(connection, now - timedelta(days=1)))


def _home(context: Context) -> Home:
    return Home(Path(context.node_config["home"]))


def _config(context: Context) -> NodeConfig:
    return load_config(NodeConfig, _home(context).path)


def _records(arrays: Arrays) -> RecordDict:
    return RecordDict({ARRAYS: ArrayRecord({name: Array(array) for name, array in arrays.items()})})


def _reply(message: Message, content: RecordDict, metrics: Metrics) -> Message:
    content[METRICS] = MetricRecord(dict(metrics))
    return Message(content, reply_to=message)


@dataclass(frozen=True, slots=True)
class _Own:
    """What a run trains on here.

    Attributes:
        patches: The patches.
        held_out: Those that are kept out of training.
        acquisitions: Distinct ones among the patches.
    """

    patches: PatchSet
    held_out: HeldOut
    acquisitions: int


_kept: dict[tuple[Home, TrainingPlan, NodeTraining, int], _Own] = {}


def _own(home: Home, plan: TrainingPlan, limits: NodeTraining, run_id: int) -> _Own:
    """Read the patches once for each run; those of another run are given back first, memory is for one set.

    What is held out for calibration is decided with them: an ingest may go on meanwhile.
    """
    key = (home, plan, limits, run_id)
    if key not in _kept:
        _kept.clear()
        log.info("training.reading", run=run_id)
        held_out = hold_out(home, plan) if limits.calibration else HeldOut()
        items, reading = training_items(home, plan, limits.memory_mib, without=held_out.ids)
        patches = read_patches(items, reading, plan.class_ids)
        _kept[key] = _Own(patches, held_out, len({item.acquisition for item in items}))
    return _kept[key]


app.query("preflight")(preflight)
app.train()(train)
app.evaluate()(evaluate)
