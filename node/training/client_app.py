"""The node's Flower `ClientApp`: says whether it takes part, trains on own labelled patches, counts for calibration.

It is the same whoever calls it, and keeps to what the operator allows. Used by the node's worker, by tests over a
`Grid` in one process, and on the stock Flower engine with `node-config = 'home="..."'`.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from node.state import open_state
from node.training.bounds import check_epochs, check_plan, check_round, check_rounds_left, classes_of_sums, reported
from node.training.calibration import check_consent, contribute, read_queries
from node.training.holdout import HeldOut, hold_out
from node.training.journal import rounds_since
from node.training.kept import DiskMemory
from node.training.messages import read, settings_of, summed, trained, with_arrays
from node.training.patches import read_patches, training_items
from node.training.preflight import check_archive, check_software, check_sums
from node.training.trainer import sum_up, train_round
from rsfed.clock import utc_now
from rsfed.config import NodeConfig, NodeTraining, load_config
from rsfed.errors import RsfedError
from rsfed.hashing.calibration import to_records
from rsfed.hashing.codebook import to_arrays
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.plan import (
    CONFIG,
    MEMBERS,
    NO_SUMS,
    PLAN,
    ROUND,
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

    A node that takes part and will not give the sums that the run asks for says why.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, or PLAN_INVALID.
        TrainingError: OTHER_SOFTWARE, or what `train` and the archive have against the plan.
    """
    config = settings_of(message)
    check_software(config.get(SOFTWARE))
    plan, home, own = parse_plan(config.get(PLAN)), _home(context), _config(context)
    limits = own.training
    DiskMemory(home).forget_others(message.metadata.run_id)  # nodes are not told of every end of a run
    _check_bounds(home, plan, limits, config)
    items = check_archive(home, plan, own)
    try:
        if plan.solves:
            check_sums(items, plan, limits, floor=policy(own.policy.level).floor)
            check_rounds_left(plan, limits, config.get(ROUND), _rounds_today(home))
    except RsfedError as error:
        if plan.closed_form:  # it asks for nothing else
            raise
        return Message(RecordDict({CONFIG: ConfigRecord({NO_SUMS: error.reason})}), reply_to=message)
    return Message(RecordDict(), reply_to=message)


def train(message: Message, context: Context) -> Message:
    """Train for one round and return weights, number of patches, seconds and, if the operator wants, the rounded loss.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, PLAN_INVALID, BASE_UNKNOWN, DELTA_FORM or NOT_FINITE.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, ROUNDS_PER_DAY,
            TOO_FEW_MEMBERS, NO_LABELLED_PATCHES, NOTHING_TO_COMPARE, TOO_MANY_CLASSES, WEIGHTS_UNFIT, DIVERGED.
    """
    home, config, asked = _home(context), _config(context), settings_of(message)
    limits, memory = config.training, DiskMemory(home)
    plan, start = read(message, memory)
    _check_bounds(home, plan, limits, asked)
    own = _own(home, plan, config, message.metadata.run_id)
    check_epochs(plan, limits, len(own.patches))
    result = train_round(plan, asked.get(ROUND), start, own.patches, threads=limits.threads)
    told = reported(limits, result.loss, patches=result.examples, acquisitions=len(set(own.acquisitions)))
    return trained(message, start, result, told, memory)


def sums(message: Message, context: Context) -> Message:
    """Return sums over the own patches of what the last layer takes, from which the coordinator solves for that layer.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, PLAN_INVALID, BASE_UNKNOWN, DELTA_FORM or NOT_FINITE.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, ROUNDS_PER_DAY,
            TOO_FEW_MEMBERS, SUMS_REFUSED, NO_LABELLED_PATCHES, TOO_FEW_ACQUISITIONS, TOO_FEW_PATCHES, WEIGHTS_UNFIT.
    """
    home, config = _home(context), _config(context)
    plan, weights = read(message, DiskMemory(home))
    _check_bounds(home, plan, config.training, settings_of(message))
    own = _own(home, plan, config, message.metadata.run_id)
    floor = policy(config.policy.level).floor
    told = classes_of_sums(plan, config.training, own.patches.labels, own.acquisitions, floor=floor)
    return summed(message, *sum_up(plan, weights, own.patches.of_classes(told), threads=config.training.threads))


def evaluate(message: Message, context: Context) -> Message:
    """Count how near held-out patches find their like with trained weights, and the codes of classes; no more leaves.

    Raises:
        InvalidMessage: TASK_INCOMPLETE, PLAN_INVALID, BASE_UNKNOWN, DELTA_FORM or NOT_FINITE.
        TrainingError: TRAINING_DISABLED, OBJECTIVE_REFUSED, PLAN_LIMITS, OUTSIDE_HOURS, CALIBRATION_REFUSED,
            NO_LABELLED_PATCHES, TOO_FEW_ACQUISITIONS, NOTHING_TO_COMPARE, WEIGHTS_UNFIT.
    """
    home, config = _home(context), _config(context)
    memory = DiskMemory(home)
    try:
        plan, weights = read(message, memory)
        check_plan(plan, config.training, utc_now())
        check_consent(config.training)
        floor = policy(config.policy.level).floor
        own = _own(home, plan, config, message.metadata.run_id)
        pairs, codes = contribute(
            plan,
            weights,
            own.patches,
            read_queries(home, plan, own.held_out),
            own.acquisitions,
            by=own.held_out.by,
            floor=floor,
            least=max(floor, config.training.sums_acquisitions),
            threads=config.training.threads,
        )
    finally:
        memory.forget()  # this task ends the run; before, it would be missed by a node that is killed in the middle
    arrays, numbers = to_records(pairs)
    return with_arrays(message, arrays | to_arrays(codes), numbers)


def _check_bounds(home: Home, plan: TrainingPlan, limits: NodeTraining, config: ConfigRecord) -> None:
    """Refuse what the operator does not allow."""
    check_plan(plan, limits, utc_now())
    check_round(limits, config.get(MEMBERS), _rounds_today(home))


def _rounds_today(home: Home) -> int:
    with closing(open_state(home)) as connection:
        return rounds_since(connection, utc_now() - timedelta(days=1))


def _home(context: Context) -> Home:
    return Home(Path(context.node_config["home"]))


def _config(context: Context) -> NodeConfig:
    return load_config(NodeConfig, _home(context).path)


@dataclass(frozen=True, slots=True)
class _Own:
    """What a run trains on here.

    Attributes:
        patches: The patches.
        held_out: Those that are kept out of training.
        acquisitions: That of each of the patches.
    """

    patches: PatchSet
    held_out: HeldOut
    acquisitions: tuple[str, ...]


_kept: dict[tuple[Home, TrainingPlan, NodeTraining, int], _Own] = {}


def _own(home: Home, plan: TrainingPlan, config: NodeConfig, run_id: int) -> _Own:
    """Read the patches once for each run; those of another run are given back first, memory is for one set.

    What is held out for calibration is decided with them: an ingest may go on meanwhile.
    """
    limits = config.training
    key = (home, plan, limits, run_id)
    if key not in _kept:
        _kept.clear()
        log.info("training.reading", run=run_id)
        held_out = hold_out(home, plan, policy(config.policy.level).floor) if limits.calibration else HeldOut()
        items, reading = training_items(home, plan, limits.memory_mib, without=held_out.ids)
        lost: set[int] = set()
        patches = read_patches(items, reading, plan.class_ids, unreadable=lambda item: lost.add(item.id))
        _kept[key] = _Own(patches, held_out, tuple(item.acquisition for item in items if item.id not in lost))
    return _kept[key]


app.query("preflight")(preflight)
app.query("sums")(sums)
app.train()(train)
app.evaluate()(evaluate)
