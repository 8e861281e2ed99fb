"""The node's labelled patches as an encoder reads them, held in memory while training goes on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from node.catalogue import Catalogue
from rsfed.errors import RasterRejected, TrainingError
from rsfed.hashing.dataset import PatchSet, patch_bytes
from rsfed.hashing.plan import TrainingPlan
from rsfed.home import Home
from rsfed.raster.input_spec import InputSpec
from rsfed.raster.item import Item
from rsfed.raster.reader import Content, read
from rsfed.telemetry import log

Progress = Callable[[int, int], None]
"""Called while patches are read, with patches read and patches in all."""


def load_patches(home: Home, plan: TrainingPlan, memory_mib: int) -> PatchSet:
    """Read the patches that this node trains on; a part drawn by the plan's seed where memory does not hold all.

    Raises:
        TrainingError: NO_LABELLED_PATCHES.
    """
    with Catalogue(home) as catalogue:
        items = [
            item
            for item in catalogue.items(plan.modality)
            if not plan.objective.needs_labels or not set(plan.class_ids).isdisjoint(item.labels)
        ]
    return read_patches(sample(items, plan.input, memory_mib, plan.seed), plan.input, plan.class_ids)


def sample(items: Sequence[Item], spec: InputSpec, memory_mib: int, seed: int) -> list[Item]:
    """Return as many items as memory holds patches, in their order; which ones, the seed decides."""
    room = max(1, (memory_mib << 20) // patch_bytes(spec))
    if len(items) <= room:
        return list(items)
    drawn = random.Random(seed).sample(range(len(items)), room)  # noqa: S311 - repeatable, keeps no secret
    return [items[position] for position in sorted(drawn)]


def read_patches(
    items: Sequence[Item], spec: InputSpec, classes: Sequence[int], progress: Progress = lambda _done, _all: None
) -> PatchSet:
    """Read patches; those that cannot be read any more are left out.

    Args:
        items: The patches; memory for all of them is taken.
        spec: How they are read.
        classes: Ids of the classes in the order of the columns of labels.
        progress: Told how it goes on.

    Raises:
        TrainingError: NO_LABELLED_PATCHES, there are none or none can be read.
    """
    memory = len(items) * patch_bytes(spec)
    patches = PatchSet.from_items(_contents(items, spec, progress), spec, classes, memory_bytes=memory)
    if len(patches) < len(items):
        log.warning("training.patches_unreadable", count=len(items) - len(patches))
    if not len(patches):
        raise TrainingError(
            "this archive has no readable patch to train on; ingest images, and map their labels to classes of the "
            'federation in [labels.map] of node.toml (only the objective "contrastive" takes patches without a class)',
            reason="NO_LABELLED_PATCHES",
        )
    return patches


def _contents(items: Sequence[Item], spec: InputSpec, progress: Progress) -> Iterator[tuple[Content, tuple[int, ...]]]:
    for done, item in enumerate(items, 1):
        with suppress(RasterRejected):  # moved or changed since the last ingest, which will say so
            yield read(item, spec), item.labels
        progress(done, len(items))
