"""What a node contributes to a release beside weights: counts of near pairs of held-out patches, and of its codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch

from node.reading import reader
from node.training.holdout import LEAST_PATCHES, HeldOut, Kind
from node.training.patches import read_patches
from rsfed.config import NodeTraining
from rsfed.errors import TrainingError
from rsfed.hashing.calibration import PairCounts, count_pairs
from rsfed.hashing.codebook import CodeCounts, count_codes
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation.counts import distance_histograms
from rsfed.hashing.payload import Arrays
from rsfed.hashing.plan import TrainingPlan
from rsfed.hashing.refit import centres_if_any
from rsfed.home import Home
from rsfed.trust.release_store import ReleaseStore


def check_consent(limits: NodeTraining) -> None:
    """Refuse where the operator lets no statistics leave.

    Raises:
        TrainingError: CALIBRATION_REFUSED.
    """
    if not limits.calibration:
        raise TrainingError("this node contributes nothing to the calibration", reason="CALIBRATION_REFUSED")


def contribute(  # noqa: PLR0913 - the network, what it is asked, and on which terms
    plan: TrainingPlan,
    weights: Arrays,
    gallery: PatchSet,
    queries: Iterable[PatchSet],
    acquisitions: Sequence[str],
    *,
    by: Kind,
    floor: int,
    least: int,
    threads: int,
) -> tuple[PairCounts, CodeCounts]:
    """Search what was trained on for what was held out and count what is near, and count the codes of each class.

    Args:
        plan: What was trained.
        weights: The trained weights.
        gallery: Patches that were trained on; unlabelled ones are left out, as nothing is known of what they show.
        queries: Patches that were not, one set for each acquisition.
        acquisitions: That of each patch that was trained on.
        by: Whether the sets are whole acquisitions, or single patches.
        floor: Distinct acquisitions that class statistics must come from, at least 1.
        least: Distinct acquisitions that the codes of a class must come from to be counted.
        threads: Threads to compute with.

    Raises:
        TrainingError: TOO_FEW_ACQUISITIONS, NOTHING_TO_COMPARE (patches of one class only) or WEIGHTS_UNFIT.
    """
    torch.set_num_threads(threads)
    encoder = Encoder.from_state(weights, plan.architecture, plan.input, plan.bits)
    labelled = gallery.labels.any(axis=1)
    codes, labels = encoder.encode_set(gallery)[labelled], gallery.labels[labelled]
    groups, held_out = [], []
    for asked in queries:
        held_out.append((encoder.encode_set(asked), asked.labels))
        groups.append(distance_histograms(*held_out[-1], codes, labels))
    if len(groups) < floor:
        raise TrainingError(
            f"class statistics would come from {len(groups)} held-out acquisitions, and may from {floor} or more; "
            f"an archive of fewer than {LEAST_PATCHES} labelled patches holds none out, nor does one of which "
            "that would be more than a quarter",
            reason="TOO_FEW_ACQUISITIONS",
        )
    if all((group.items == group.relevant).all() for group in groups):
        raise TrainingError("all labelled patches of this archive have the same class", reason="NOTHING_TO_COMPARE")
    behind = [acquisitions[place] for place in np.flatnonzero(labelled).tolist()]
    centres = centres_if_any(plan)
    return count_pairs(groups, by), count_codes(codes, labels, behind, held_out, centres, least=least)


def read_queries(home: Home, plan: TrainingPlan, held_out: HeldOut) -> Iterator[PatchSet]:
    """Yield the held-out patches of one acquisition after the other, as far as they can be read."""
    reading = reader(home, plan.architecture, plan.input, ReleaseStore(home.releases).current())
    for items in held_out.queries:
        with suppress(TrainingError):
            yield read_patches(items, reading, plan.class_ids)
