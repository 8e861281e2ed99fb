"""Objectives: what a hash network is trained for. Each says which patches form a batch and what their loss is.

Networks and the loop that takes the steps are in `rsfed.hashing`; here is no state and no IO. Every objective takes
sigmoid outputs; its options are its section of coordinator.toml, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence

from rsfed.codes import check_bits
from rsfed.config_objectives import (
    BatchAllSection,
    CentresSection,
    ClosedFormSection,
    MilanSection,
    ObjectiveSection,
    PairwiseSection,
)
from rsfed.errors import TrainingError
from rsfed.hashing.centres import centres_beside_free
from rsfed.hashing.objectives.centres import Centres
from rsfed.hashing.objectives.contrastive import Contrastive
from rsfed.hashing.objectives.interface import Losses, Objective
from rsfed.hashing.objectives.milan import Milan
from rsfed.hashing.objectives.milan_batchall import MilanBatchAll
from rsfed.hashing.objectives.pairwise import Pairwise

__all__ = ["Losses", "Objective", "check_objective", "make_objective"]


def check_objective(section: ObjectiveSection, classes: Sequence[int], bits: int, *, seed: int) -> None:
    """Find out before any work whether codes of a width can be learnt for some classes; arguments as `make_objective`.

    Raises:
        CodeError: bits is not a width that codes may have.
        TrainingError: NOTHING_TO_COMPARE or TOO_MANY_CLASSES.
    """
    check_bits(bits)
    if section.needs_labels and len(classes) < 2:
        raise TrainingError(
            f'the objective "{section.name}" tells classes apart and there are fewer than two: add classes to the '
            'nomenclature and label patches, or train with the objective "contrastive"',
            reason="NOTHING_TO_COMPARE",
        )
    if isinstance(section, CentresSection | ClosedFormSection):
        centres_beside_free(classes, bits, section.free, seed)


def make_objective(section: ObjectiveSection, classes: Sequence[int], bits: int, *, seed: int) -> Objective:
    """Make the objective that a configuration, plan or release names.

    Args:
        section: Which one, with its options.
        classes: Stable ids of the classes in the order of the columns of labels.
        bits: Width of the codes.
        seed: Seed of the run: nodes with the same one train for the same hash centres.

    Raises:
        CodeError: bits is not a width that codes may have.
        TrainingError: NOTHING_TO_COMPARE, the objective needs labels and there are fewer than two classes;
            TOO_MANY_CLASSES, codes of this width have no room for their centres; or NOT_TRAINED, the closed form is
            solved for and takes no steps.
    """
    check_objective(section, classes, bits, seed=seed)
    match section:
        case ClosedFormSection():
            raise TrainingError("the closed form takes no steps of training", reason="NOT_TRAINED")
        case MilanSection():
            return Milan(section)
        case BatchAllSection():
            return MilanBatchAll(section)
        case CentresSection():
            return Centres(section, classes, bits, seed=seed)
        case PairwiseSection():
            return Pairwise(section)
        case _:
            return Contrastive(section)
