"""What the training service itself costs and survives, measured on real processes over mTLS on one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rsfed.lab.demo_federation import COORDINATOR
from rsfed.lab.soak_training import NODES, PLAN, Outcome, trial

WIDTH = 32  # channels of the first stage of a network of 1.2 million parameters
STEPS = 4  # of a node in a round
ROUNDS = 60  # as the default of `rsfed evaluate --federated`, so that the first weights count as they do there
_FIRST = 1  # round in which the training processes start and weights travel whole


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """Figures of one federation of three nodes.

    Attributes:
        round_overhead_s: Seconds that a round takes beyond the computing of its slowest node; the median.
        bytes_ratio: Bytes of a round both ways, against weights in float32; the mean of all rounds.
        resume_ok: Whether a run whose coordinator is killed in its middle ends with the weights of one that is not.
    """

    round_overhead_s: float
    bytes_ratio: float
    resume_ok: bool


async def service_figures() -> ServiceFigures:
    """Train twice, once with a coordinator that is killed.

    Raises:
        RsfedError: a run failed.
    """
    plan = replace(PLAN, width=WIDTH, local_steps=STEPS)
    calm = await trial(plan=plan, number=ROUNDS)
    killed = await trial(COORDINATOR, calm.seconds / 2, plan, ROUNDS)
    return ServiceFigures(_overhead(calm), _bytes_ratio(calm), killed.weights == calm.weights)


def _overhead(outcome: Outcome) -> float:
    later = [each for each in outcome.rounds if each["round"] > _FIRST]
    return float(np.median([each["seconds"] - each["slowest_node_seconds"] for each in later]))


def _bytes_ratio(outcome: Outcome) -> float:
    moved = sum(each["sent_bytes"] + each["received_bytes"] for each in outcome.rounds)
    return float(moved / (2 * len(NODES) * outcome.model_bytes * len(outcome.rounds)))
