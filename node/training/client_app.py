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
from node.training.bounds import check_epochs, check_plan, check_round, check_sums, reported
from node.training.calibration import check_consent, contribute, read_queries
from node.training.holdout import HeldOut, hold_out
from node.training.journal import rounds_since
from node.training.patches import read_patches, training_items
from node.training.preflight import check_archive, check_software
from node.training.trainer import sum_up, train_round
from rsfed.clock import utc_now
from rsfed.config import NodeConfig, NodeTraining, load_config
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.calibration import to_records
from rsfed.hashing.closed_form import Sums
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.payload import Arrays, Metrics
from rsfed.hashing.plan import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    LOSS,
    MEMBERS,
    METRICS,
    PLAN,
    ROUND,
    SECONDS,
    SOFTWARE,
    TrainingPlan,
    parse_plan,
)
from rsfed.hashing.refit import to_arrays
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
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, ROUNDS_PER_DAY,
            TOO_FEW_MEMBERS, NO_LABELLED_PATCHES, NOTHING_TO_COMPARE, TOO_MANY_CLASSES, WEIGHTS_UNFIT, DIVERGED.
    """
    plan, start = _read(message)
    home, limits, config = _home(context), _config(context).training, _settings(message)
    _check_bounds(home, plan, limits, config)
    own = _own(home, plan, limits, message.metadata.run_id)
    check_epochs(plan, limits, len(own.patches))
    result = train_round(plan, config.get(ROUND), start, own.patches, threads=limits.threads)
    told = reported(limits, result.loss, patches=result.examples, acquisitions=own.acquisitions)
    return _reply(message, result.arrays, {EXAMPLES: result.examples, SECONDS: result.seconds} | told)


def sums(message: Message, context: Context) -> Message:
    """Return sums over the own patches of what the last layer takes, from which the coordinator solves for that layer.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        ConfigError: POLICY_LEVEL, the operator chose none.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, ROUNDS_PER_DAY,
            TOO_FEW_MEMBERS, SUMS_REFUSED, NO_LABELLED_PATCHES, TOO_FEW_ACQUISITIONS, TOO_FEW_PATCHES, WEIGHTS_UNFIT.
    """
    plan, weights = _read(message)
    home, config = _home(context), _config(context)
    _check_bounds(home, plan, config.training, _settings(message))
    own = _own(home, plan, config.training, message.metadata.run_id)
    floor = policy(config.policy.level).floor
    check_sums(plan, config.training, acquisitions=own.acquisitions, floor=floor)
    return _summed(message, sum_up(plan, weights, own.patches, threads=config.training.threads))


def evaluate(message: Message, context: Context) -> Message:
    """Count how near held-out patches find their like with trained weights, for calibration; nothing else leaves.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        ConfigError: POLICY_LEVEL, the operator chose none.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, CALIBRATION_REFUSED,
            NO_LABELLED_PATCHES, TOO_FEW_ACQUISITIONS, NOTHING_TO_COMPARE, WEIGHTS_UNFIT.
    """
    plan, weights = _read(message)
    home, config = _home(context), _config(context)
    check_plan(plan, config.training, utc_now())
    check_consent(config.training)
    floor = policy(config.policy.level).floor
    own = _own(home, plan, config.training, message.metadata.run_id)
    queries, threads = read_queries(home, plan, own.held_out), config.training.threads
    counts = contribute(plan, weights, own.patches, queries, by=own.held_out.by, floor=floor, threads=threads)
    return _reply(message, *to_records(counts))


def _settings(message: Message) -> ConfigRecord:
    """Return the settings of a task."""
    if CONFIG not in message.content.config_records:
        raise InvalidMessage("the task has no settings", reason="TASK_INCOMPLETE")
    return message.content[CONFIG]


def _read(message: Message) -> tuple[TrainingPlan, Arrays]:
    """Return the plan and the weights of a task."""
    config, records = _settings(message), message.content.array_records
    if ARRAYS not in records:
        raise InvalidMessage("the task has no weights", reason="TASK_INCOMPLETE")
    return parse_plan(config.get(PLAN)), {name: array.numpy() for name, array in records[ARRAYS].items()}


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


def _reply(message: Message, arrays: Arrays, metrics: Metrics) -> Message:
    content = {
        ARRAYS: ArrayRecord({name: Array(array) for name, array in arrays.items()}),
        METRICS: MetricRecord(dict(metrics)),
    }
    return Message(RecordDict(content), reply_to=message)


def _summed(message: Message, given: Sums) -> Message:
    return _reply(message, to_arrays(given), {EXAMPLES: given.patches})


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
app.query("sums")(sums)
app.train()(train)
app.evaluate()(evaluate)


def app_over(patches: PatchSet, threads: int, acquisitions: int) -> ClientApp:
    """Return the app of a node of the lab, which holds patches and has no home, no policy and no operator to ask.

    It trains as every node does and tells its loss; it takes part in all that it is asked, but for calibration.

    Args:
        patches: Patches that it trains on.
        threads: Threads to compute with.
        acquisitions: Distinct ones among the patches.
    """
    held = ClientApp()

    def agree(message: Message, _context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    def train_on(message: Message, _context: Context) -> Message:
        plan, start = _read(message)
        result = train_round(plan, _settings(message).get(ROUND), start, patches, threads=threads)
        return _reply(message, result.arrays, {EXAMPLES: result.examples, LOSS: result.loss, SECONDS: result.seconds})

    def sum_over(message: Message, _context: Context) -> Message:
        plan, weights = _read(message)
        check_sums(plan, NodeTraining(), acquisitions=acquisitions, floor=1)
        return _summed(message, sum_up(plan, weights, patches, threads=threads))

    def refuse(_message: Message, _context: Context) -> Message:
        raise TrainingError("a node of the lab does not calibrate", reason="CALIBRATION_REFUSED")

    held.query("preflight")(agree)
    held.query("sums")(sum_over)
    held.train()(train_on)
    held.evaluate()(refuse)
    return held
