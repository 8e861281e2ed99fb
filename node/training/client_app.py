"""The node's Flower `ClientApp`: trains on its own labelled patches, and counts for calibration, whoever calls it.

Used by the node's worker, by tests over a `Grid` in one process, and on the stock Flower engine with
`node-config = 'home="..."'`. `app_over` is the same for the lab, over patches that it holds.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from node.training.calibration import check_consent, contribute, read_queries
from node.training.holdout import HeldOut, hold_out
from node.training.patches import load_patches
from node.training.trainer import check_limits, train_round
from rsfed.config import NodeConfig, NodeTraining, load_config
from rsfed.errors import InvalidMessage, TrainingError
from rsfed.hashing.calibration import to_records
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.payload import Arrays, Metrics
from rsfed.hashing.plan import ARRAYS, CONFIG, EXAMPLES, LOSS, METRICS, PLAN, ROUND, SECONDS, TrainingPlan, parse_plan
from rsfed.home import Home
from rsfed.privacy.policy import policy
from rsfed.telemetry import log

app = ClientApp()


def train(message: Message, context: Context) -> Message:
    """Train for one round and return weights, number of patches, loss and seconds; nothing else leaves.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        TrainingError: TRAINING_DISABLED, PLAN_LIMITS, NO_LABELLED_PATCHES, NOTHING_TO_COMPARE, TOO_MANY_CLASSES,
            WEIGHTS_UNFIT, DIVERGED.
    """
    plan, start = _read(message)
    home, limits = _home(context), _config(context).training
    check_limits(plan, limits)
    patches, _ = _patches(home, plan, limits, message.metadata.run_id)
    result = train_round(plan, message.content[CONFIG].get(ROUND), start, patches, threads=limits.threads)
    return _reply(message, result.arrays, {EXAMPLES: result.examples, LOSS: result.loss, SECONDS: result.seconds})


def evaluate(message: Message, context: Context) -> Message:
    """Count how near held-out patches find their like with trained weights, for calibration; nothing else leaves.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        ConfigError: POLICY_LEVEL, the operator chose none.
        TrainingError: TRAINING_DISABLED, PLAN_LIMITS, CALIBRATION_REFUSED, NO_LABELLED_PATCHES, TOO_FEW_ACQUISITIONS,
            NOTHING_TO_COMPARE, WEIGHTS_UNFIT.
    """
    plan, weights = _read(message)
    home, config = _home(context), _config(context)
    check_limits(plan, config.training)
    check_consent(config.training)
    floor = policy(config.policy.level).floor
    gallery, held_out = _patches(home, plan, config.training, message.metadata.run_id)
    queries = read_queries(home, plan, held_out)
    counts = contribute(plan, weights, gallery, queries, by=held_out.by, floor=floor, threads=config.training.threads)
    return _reply(message, *to_records(counts))


def _read(message: Message) -> tuple[TrainingPlan, Arrays]:
    """Return the plan and the weights of a task."""
    records = message.content
    if ARRAYS not in records.array_records or CONFIG not in records.config_records:
        raise InvalidMessage("the task has no weights or no settings", reason="TASK_INCOMPLETE")
    return parse_plan(records[CONFIG].get(PLAN)), {name: array.numpy() for name, array in records[ARRAYS].items()}


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


_kept: dict[tuple[Home, TrainingPlan, NodeTraining, int], tuple[PatchSet, HeldOut]] = {}


def _patches(home: Home, plan: TrainingPlan, limits: NodeTraining, run_id: int) -> tuple[PatchSet, HeldOut]:
    """Read the patches once for each run; those of another run are given back first, memory is for one set.

    What is held out for calibration is decided with them: an ingest may go on meanwhile.
    """
    key = (home, plan, limits, run_id)
    if key not in _kept:
        _kept.clear()
        log.info("training.reading", run=run_id)
        held_out = hold_out(home, plan) if limits.calibration else HeldOut()
        _kept[key] = load_patches(home, plan, limits.memory_mib, without=held_out.ids), held_out
    return _kept[key]


app.train()(train)
app.evaluate()(evaluate)


def app_over(patches: PatchSet, threads: int) -> ClientApp:
    """Return the app of a node of the lab, which holds patches and has no home, no policy and no operator to ask.

    It trains as every node does; for calibration it does not count.

    Args:
        patches: Patches that it trains on.
        threads: Threads to compute with.
    """
    held = ClientApp()

    def train_on(message: Message, _context: Context) -> Message:
        plan, start = _read(message)
        result = train_round(plan, message.content[CONFIG].get(ROUND), start, patches, threads=threads)
        return _reply(message, result.arrays, {EXAMPLES: result.examples, LOSS: result.loss, SECONDS: result.seconds})

    def refuse(_message: Message, _context: Context) -> Message:
        raise TrainingError("a node of the lab does not calibrate", reason="CALIBRATION_REFUSED")

    held.train()(train_on)
    held.evaluate()(refuse)
    return held
