"""The node's Flower `ClientApp`: trains on its own labelled patches, on the same terms whoever calls it.

Used by the node's worker, by tests over a `Grid` in one process, and on the stock Flower engine with
`node-config = 'home="..."'`.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from node.training.patches import load_patches
from node.training.trainer import check_limits, train_round
from rsfed.config import NodeConfig, load_config
from rsfed.errors import InvalidMessage
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.plan import ARRAYS, CONFIG, EXAMPLES, LOSS, METRICS, PLAN, ROUND, SECONDS, TrainingPlan, parse_plan
from rsfed.home import Home
from rsfed.telemetry import log

app = ClientApp()


def train(message: Message, context: Context) -> Message:
    """Train for one round and return weights, number of patches, loss and seconds; nothing else leaves.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        TrainingError: TRAINING_DISABLED, PLAN_LIMITS, NO_LABELLED_PATCHES, NOTHING_TO_COMPARE, TOO_MANY_CLASSES,
            WEIGHTS_UNFIT, DIVERGED.
    """
    records = message.content
    if ARRAYS not in records.array_records or CONFIG not in records.config_records:
        raise InvalidMessage("the task has no weights or no settings", reason="TASK_INCOMPLETE")
    settings = records[CONFIG]
    plan = parse_plan(settings.get(PLAN))
    home = Home(Path(context.node_config["home"]))
    limits = load_config(NodeConfig, home.path).training
    check_limits(plan, limits)
    start = {name: array.numpy() for name, array in records[ARRAYS].items()}
    patches = _patches(home, plan, limits.memory_mib, message.metadata.run_id)
    result = train_round(plan, settings.get(ROUND), start, patches, threads=limits.threads)
    content = {
        ARRAYS: ArrayRecord({name: Array(array) for name, array in result.arrays.items()}),
        METRICS: MetricRecord({EXAMPLES: result.examples, LOSS: result.loss, SECONDS: result.seconds}),
    }
    return Message(RecordDict(content), reply_to=message)


_kept: dict[tuple[Home, TrainingPlan, int, int], PatchSet] = {}


def _patches(home: Home, plan: TrainingPlan, memory_mib: int, run_id: int) -> PatchSet:
    """Read the patches once for each run; those of another run are given back first, memory is for one set."""
    key = (home, plan, memory_mib, run_id)
    if key not in _kept:
        _kept.clear()
        log.info("training.reading", run=run_id)
        _kept[key] = load_patches(home, plan, memory_mib)
    return _kept[key]


app.train()(train)
