"""The node's labelled patches as an encoder reads them, held in memory while training goes on."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator, Sequence

from node.catalogue import Catalogue
from node.reading import Content, Reader, reader
from rsfed.errors import TrainingError
from rsfed.hashing.dataset import PatchSet, patch_bytes
from rsfed.hashing.plan import TrainingPlan
from rsfed.home import Home
from rsfed.raster.item import Item
from rsfed.telemetry import log
from rsfed.trust.release_store import ReleaseStore

Progress = Callable[[int, int], None]
"""Called while patches are read, with patches read and patches in all."""


def training_items(
    home: Home, plan: TrainingPlan, memory_mib: int, *, without: Container[int] = ()
) -> tuple[list[Item], Reader]:
    """Return the items that this node trains on, a part drawn by the plan's seed where memory does not hold all.

    Args:
        home: The node's home.
        plan: What is trained.
        memory_mib: Memory for patches.
        without: Ids of patches that are left out.

    Returns:
        The items, and what reads them.

    Raises:
        TrainingError: TRUNK_MISSING or TRUNK_UNFIT where the network stands on a trunk.
        ConfigError: EXTRA_MISSING, the trunk needs onnxruntime.
    """
    with Catalogue(home) as catalogue:
        items = [
            item
            for item in catalogue.items(plan.modality)
            if item.id not in without
            and (not plan.objective.needs_labels or not set(plan.class_ids).isdisjoint(item.labels))
        ]
    reading = reader(home, plan.architecture, plan.input, ReleaseStore(home.releases).current())
    return sample(items, reading, memory_mib, plan.seed), reading


def sample(items: Sequence[Item], reading: Reader, memory_mib: int, seed: int) -> list[Item]:
    """Return as many items as memory holds patches, in their order; which ones, the seed decides."""
    room = max(1, (memory_mib << 20) // patch_bytes(reading.spec, reading.features))
    if len(items) <= room:
        return list(items)
    drawn = random.Random(seed).sample(range(len(items)), room)  # noqa: S311 - repeatable, keeps no secret
    return [items[position] for position in sorted(drawn)]


def read_patches(
    items: Sequence[Item],
    reading: Reader,
    classes: Sequence[int],
    progress: Progress = lambda _done, _all: None,
    *,
    unreadable: Callable[[Item], None] = lambda _item: None,
) -> PatchSet:
    """Read patches in their order; those that cannot be read any more are left out.

    Args:
        items: The patches; memory for all of them is taken.
        reading: How they are read.
        classes: Ids of the classes in the order of the columns of labels.
        progress: Told how it goes on.
        unreadable: Told what is left out.

    Raises:
        TrainingError: NO_LABELLED_PATCHES, there are none or none can be read.
    """
    memory = len(items) * patch_bytes(reading.spec, reading.features)
    patches = PatchSet.from_items(
        _contents(items, reading, progress, unreadable),
        reading.spec,
        classes,
        features=reading.features,
        memory_bytes=memory,
    )
    if len(patches) < len(items):
        log.warning("training.patches_unreadable", count=len(items) - len(patches))
    if not len(patches):
        raise TrainingError(
            "this archive has no readable patch to train on; ingest images, and map their labels to classes of the "
            'federation in [labels.map] of node.toml (only the objective "contrastive" takes patches without a class)',
            reason="NO_LABELLED_PATCHES",
        )
    return patches


def _contents(
    items: Sequence[Item], reading: Reader, progress: Progress, unreadable: Callable[[Item], None]
) -> Iterator[tuple[Content, tuple[int, ...]]]:
    left_out: list[Item] = []  # moved or changed since the last ingest, which will say so
    for done, (item, content) in enumerate(reading.contents(items, left_out.append), 1):
        yield content, item.labels
        progress(done + len(left_out), len(items))
    for item in left_out:
        unreadable(item)
