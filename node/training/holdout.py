"""Which labelled patches are kept out of training: whole acquisitions, so that no held-out patch has a twin there.

Their order is a hash, so that an archive that grows goes on holding out most of what it held out before.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

from node.catalogue import Catalogue
from rsfed.errors import TrainingError
from rsfed.hashing.calibration import MAX_QUERIES
from rsfed.hashing.plan import TrainingPlan
from rsfed.home import Home
from rsfed.raster.item import Item

HELD_OUT, MOST_HELD_OUT = 0.2, 0.5  # of the patches: at least, and at most where acquisitions are held out whole
LEAST_PATCHES = 50  # of an archive that keeps some for calibration; fewer are all needed for training
_CALIBRATION, _MOST_CALIBRATION = 0.1, 0.25  # of the patches, as above

Kind = Literal["acquisition", "patch"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Patches that a run does not train on, to be asked for when it is calibrated.

    Attributes:
        ids: Ids of all of them.
        queries: Those that are asked for, by acquisition.
        by: Whether whole acquisitions were held out, or, where too few are known for that, single patches.
    """

    ids: frozenset[int] = frozenset()
    queries: tuple[tuple[Item, ...], ...] = ()
    by: Kind = "patch"


def hold_out(home: Home, plan: TrainingPlan, floor: int) -> HeldOut:
    """Return what a run keeps for its calibration.

    Args:
        home: The node's home.
        plan: What is trained.
        floor: Distinct acquisitions that class statistics must come from.

    Returns:
        Nothing of an archive that sends no counts, since it has fewer than `LEAST_PATCHES` patches, or too few
        acquisitions to spare so many: it is trained on as a whole.
    """
    items = labelled_items(home, plan)
    if len(items) < LEAST_PATCHES:
        return HeldOut()
    _, held_out, by = split(items, least=_CALIBRATION, most=_MOST_CALIBRATION, acquisitions=floor)
    shuffled = _by_acquisition(sorted(held_out, key=lambda item: _order(item.id)))
    if len(shuffled) < floor or (by == "patch" and floor > 1):  # twins of single patches are trained on
        return HeldOut()
    in_turn = (item for item in chain.from_iterable(zip_longest(*shuffled)) if item is not None)
    drawn = list(in_turn)[:MAX_QUERIES]  # so of every acquisition
    kept = {item.id for item in drawn}  # single patches that nobody asks for had better be trained on
    if by == "acquisition":
        kept = _whole(home, plan, {item.acquisition for item in held_out})
    return HeldOut(frozenset(kept), tuple(map(tuple, _by_acquisition(drawn))), by)


def _whole(home: Home, plan: TrainingPlan, acquisitions: Container[str]) -> set[int]:
    """Return the ids of all patches of some acquisitions, also of unlabelled ones, which some objectives train on."""
    with Catalogue(home) as catalogue:
        return {item.id for item in catalogue.items(plan.modality) if item.acquisition in acquisitions}


def labelled_items(home: Home, plan: TrainingPlan) -> list[Item]:
    """Return the patches of the plan's modality that have one of its classes, by rising id."""
    classes = {entry.id for entry in plan.nomenclature.classes}
    with Catalogue(home) as catalogue:
        items = catalogue.training_items()
        return [item for item in items if item.modality == plan.modality and not classes.isdisjoint(item.labels)]


def split(
    items: Sequence[Item], *, least: float = HELD_OUT, most: float = MOST_HELD_OUT, acquisitions: int = 1
) -> tuple[list[Item], list[Item], Kind]:
    """Keep a part of the items out of training.

    Args:
        items: The items.
        least: Share of them that is held out at least.
        most: Share that is held out at most, where it is whole acquisitions.
        acquisitions: How many of these are held out at least, as far as `most` allows.

    Returns:
        Items to train on, items held out, and what was held out; each part has at least one item.

    Raises:
        TrainingError: TOO_FEW_PATCHES.
    """
    if len(items) < 2:
        raise TrainingError("training needs at least two labelled patches; ingest more", reason="TOO_FEW_PATCHES")
    by_acquisition = _hold_out(_by_acquisition(items), least * len(items), most * len(items), acquisitions)
    if by_acquisition is not None:
        return *by_acquisition, "acquisition"
    parts = [[item] for item in sorted(items, key=lambda item: _order(item.id))]
    by_patch = _hold_out(parts, least * len(items), most * len(items), 1)
    return *(by_patch or (list(items[1:]), list(items[:1]))), "patch"


def _hold_out(
    parts: Collection[list[Item]], least: float, most: float, count: int
) -> tuple[list[Item], list[Item]] | None:
    """Hold out whole parts until there are enough; None where the parts are too few or too large for that.

    Args:
        parts: The parts.
        least: Items that are held out at least.
        most: Items that are held out at most.
        count: Parts that are held out at least, as far as `most` allows; none takes the room of those that are missing.
    """
    trained_on: list[Item] = []
    held_out: list[Item] = []
    missing = count
    for part in parts:
        wanted = missing > 0 or len(held_out) < least
        fits = wanted and len(part) * max(1, missing) <= most - len(held_out)
        (held_out if fits else trained_on).extend(part)
        missing -= fits
    return (trained_on, held_out) if held_out and trained_on else None


def _by_acquisition(items: Sequence[Item]) -> list[list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.acquisition].append(item)
    return [groups[key] for key in sorted(groups, key=_order)]


def _order(key: str | int) -> bytes:
    return hashlib.sha256(str(key).encode()).digest()
