"""The complete plan of a training run: everything a node needs to train, as strict data.

The coordinator writes it into every task; the node trusts none of it before it has passed here and its own limits.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rsfed.codes import check_bits
from rsfed.config_objectives import RecordedObjective
from rsfed.errors import CodeError, InvalidMessage
from rsfed.raster.input_spec import InputSpec
from rsfed.trust.manifest import Architecture, FrozenTrunk, Nomenclature

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"  # records: a result has metrics in place of the config
DELTA, CODING = "delta", "coding"  # record with a packed change in place of the arrays; setting that asks for one
PLAN, ROUND = "plan", "server-round"  # settings of a task; Flower's strategies write the round under this name
MEMBERS, SOFTWARE = "members", "software"  # settings: how many nodes have this task; version of the coordinator
EXAMPLES, LOSS, SECONDS = "num-examples", "loss", "seconds"  # numbers of a result
TRAIN = "train"  # kind of the task of a round
PREFLIGHT = "query.preflight"  # kind of the task that a node gets first: may and can it take part?
SUMS = "query.sums"  # kind of the task that asks for what the last layer is solved for from
NO_SUMS = "no-sums"  # setting of its answer: why a node that takes part gives none of the sums below
EVALUATE = "evaluate"  # kind of the task that ends a run: counting for calibration

FINAL_RATE = 0.1  # of the learning rate, in the last round


def _bits(value: int) -> int:
    try:
        return check_bits(value)
    except CodeError as error:
        raise ValueError(error.public) from error


class TrainingPlan(BaseModel):
    """How every node trains in every round of a run.

    Attributes:
        modality: Modality of the patches to train on.
        input: How a patch is read.
        architecture: How the network is built.
        bits: Width of its codes.
        objective: The losses and their weights.
        nomenclature: The federation's classes.
        rounds: Rounds of the run.
        local_steps: Optimiser steps of a node in one round.
        batch: Patches of one step.
        learning_rate: Step size in the first round; see `rate`.
        seed: Makes the run repeatable.
        proximal: Weight of the term that holds a node near the weights that a round starts from; see `train_steps`.
        solve_start: Whether the last layer is solved for before the first round, from sums of the nodes.
        solve_end: Whether it is after the last round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: str = Field(min_length=1, max_length=64)
    input: InputSpec
    architecture: Architecture
    bits: Annotated[int, AfterValidator(_bits)]
    objective: RecordedObjective
    nomenclature: Nomenclature
    rounds: int = Field(ge=1, le=10_000)
    local_steps: int = Field(ge=1, le=100_000)
    batch: int = Field(ge=4, le=4096)
    learning_rate: float = Field(gt=0, le=1)
    seed: int = Field(ge=0, lt=1 << 62)
    # These are left out where they do nothing: older nodes refuse a plan with a key that they do not know.
    proximal: float = Field(default=0.0, ge=0, le=100, exclude_if=lambda value: value == 0)
    solve_start: bool = Field(default=False, exclude_if=lambda value: not value)
    solve_end: bool = Field(default=False, exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _solves_what_it_can(self) -> Self:
        head = self.architecture.head if isinstance(self.architecture, FrozenTrunk) else None
        if (self.solve_start or self.solve_end) and not (head and self.objective.name == "centres"):
            raise ValueError("a last layer is solved for on a frozen trunk and for hash centres alone")
        if self.closed_form != (head == "fourier"):
            raise ValueError("the closed form, and it alone, has Fourier features of a frozen trunk")
        if self.closed_form and self.rounds > 1:
            raise ValueError("the closed form is one round")
        return self

    @property
    def closed_form(self) -> bool:
        """Whether the one round asks nodes for sums, and no node trains."""
        return self.objective.name == "closed_form"

    @property
    def solves(self) -> bool:
        """Whether nodes are asked for sums."""
        return self.closed_form or self.solve_start or self.solve_end

    @property
    def class_ids(self) -> list[int]:
        """Ids of the classes in the order of the columns of labels."""
        return [entry.id for entry in self.nomenclature.classes]

    def rate(self, round_: int) -> float:
        """Return the learning rate of a round: it falls on half a cosine to a tenth in the last round."""
        progress = (round_ - 1) / max(1, self.rounds - 1)
        return self.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)

    def round_seed(self, round_: int) -> int:
        """Return the seed of a round, different for every round of the run."""
        return self.seed * 10_007 + round_


def parse_plan(text: object) -> TrainingPlan:
    """Read a plan that came with a task.

    Raises:
        InvalidMessage: PLAN_INVALID, naming the first entry that is wrong.
    """
    try:
        return TrainingPlan.model_validate_json(str(text), strict=True)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its form"
        raise InvalidMessage(f"the training plan is wrong at {where}", reason="PLAN_INVALID") from error
