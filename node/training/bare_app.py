"""The `ClientApp` of a node of the lab, which holds patches and has no home, no policy and no operator to ask."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from node.training.bounds import classes_of_sums
from node.training.messages import read, settings_of, summed, trained
from node.training.trainer import sum_up, train_round
from rsfed.config import NodeTraining
from rsfed.errors import TrainingError
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.exchange import Kept
from rsfed.hashing.objectives.sampling import Sample
from rsfed.hashing.plan import LOSS, ROUND


class _InMemory:
    """Keeps what the last round left, of the one run that an app of the lab sees."""

    def __init__(self) -> None:
        self._kept: Kept | None = None

    def recall(self, _run_id: int) -> Kept | None:
        return self._kept

    def keep(self, _run_id: int, kept: Kept) -> None:
        self._kept = kept


def app_over(
    patches: PatchSet, threads: int, acquisitions: Sequence[str], *, sample: Sample | None = None
) -> ClientApp:
    """Return an app that trains as every node does, tells its loss, and takes part in all but calibration.

    Args:
        patches: Patches that it trains on.
        threads: Threads to compute with.
        acquisitions: That of each patch.
        sample: Chooses batches in the place of the plan's objective.
    """
    app, memory = ClientApp(), _InMemory()

    def agree(message: Message, _context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    def train(message: Message, _context: Context) -> Message:
        plan, start = read(message, memory)
        result = train_round(plan, settings_of(message).get(ROUND), start, patches, threads=threads, sample=sample)
        return trained(message, start, result, {LOSS: result.loss}, memory)

    def sums(message: Message, _context: Context) -> Message:
        plan, weights = read(message, memory)
        told = classes_of_sums(plan, NodeTraining(), patches.labels, acquisitions, floor=1)
        return summed(message, *sum_up(plan, weights, patches.of_classes(told), threads=threads))

    def refuse(_message: Message, _context: Context) -> Message:
        raise TrainingError("a node of the lab does not calibrate", reason="CALIBRATION_REFUSED")

    app.query("preflight")(agree)
    app.query("sums")(sums)
    app.train()(train)
    app.evaluate()(refuse)
    return app
