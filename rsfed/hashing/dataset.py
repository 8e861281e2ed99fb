"""Patches of an archive held in memory for training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.trunk import FEATURES
from rsfed.raster.input_spec import InputSpec

MEMORY_BYTES = 1 << 30
_LARGEST = float(np.finfo(np.float16).max)

Patch = tuple[NDArray[np.float16], ...]
"""One array for each band group, float16, shape (bands, size, size); or the features of a frozen trunk alone."""
Batch = tuple[NDArray[np.float32], ...]
"""The same of several patches, float32, each with one more axis in front."""


@dataclass(frozen=True, slots=True)
class PatchSet:
    """Patches with their labels.

    Attributes:
        patches: What a network takes of each patch; kept apart, so that no second copy of all of them is ever made.
        labels: bool, shape (patches, classes); a row without a class is an unlabelled patch.
        offered: Number of patches that were offered; more than are held where memory ends.
        augmentable: Whether they are images, which augmentation may turn. Features of a frozen trunk are not: they
            were made once, and no turn of them means anything.
    """

    patches: tuple[Patch, ...]
    labels: NDArray[np.bool_]
    offered: int
    augmentable: bool = True

    @classmethod
    def from_items(  # noqa: PLR0913 - what is held, how, and how much of it
        cls,
        items: Iterable[tuple[Mapping[str, NDArray[np.floating]], Collection[int]]],
        spec: InputSpec,
        class_ids: Sequence[int],
        *,
        features: int = 0,
        memory_bytes: int = MEMORY_BYTES,
        seed: int = 0,
    ) -> Self:
        """Take patches in; when they are more than memory holds, keep a uniformly random sample of all.

        The sample is drawn as the patches come (Vitter, "Random sampling with a reservoir", 1985, algorithm R).

        Args:
            items: Content (as `raster.read` gives it, or the features of it) and class ids of each patch; ids of no
                class are passed over.
            spec: Input that the contents were read for.
            class_ids: Ids of the classes in the order of the columns of `labels`.
            features: How many features of a frozen trunk the contents hold; 0 where they hold bands.
            memory_bytes: Most memory that the patches may take; one patch is always held.
            seed: Seed of the sample.
        """
        names = [FEATURES] if features else [group.name for group in spec.groups]
        room = max(1, memory_bytes // patch_bytes(spec, features))
        rng = np.random.default_rng(seed)
        columns = {class_id: column for column, class_id in enumerate(class_ids)}
        held: list[tuple[Patch, NDArray[np.bool_]]] = []
        offered = 0
        for content, ids in items:
            place = len(held) if len(held) < room else int(rng.integers(0, offered + 1))
            offered += 1
            if place < room:
                held[place : place + 1] = [(_compact(content, names), _row(ids, columns))]
        labels = np.array([row for _, row in held], dtype=np.bool_).reshape(len(held), len(class_ids))
        return cls(tuple(patch for patch, _ in held), labels, offered, augmentable=not features)

    def __len__(self) -> int:
        return len(self.patches)

    def of_classes(self, told: NDArray[np.bool_]) -> Self:
        """Return the same patches with labels of these classes alone, bool, shape (classes,)."""
        return replace(self, labels=self.labels & told)

    def batch(self, positions: NDArray[np.int64]) -> Batch:
        """Return patches by position: for each input of the network float32, shape (n, bands, size, size)."""
        chosen = [self.patches[position] for position in positions]
        return tuple(np.stack(parts).astype(np.float32) for parts in zip(*chosen, strict=True))


def patch_bytes(spec: InputSpec, features: int = 0) -> int:
    """Return the memory of one patch, or of its features, in bytes."""
    values = features or sum(len(group.bands) * group.size**2 for group in spec.groups)
    return values * np.dtype(np.float16).itemsize


def _compact(content: Mapping[str, NDArray[np.floating]], names: Sequence[str]) -> Patch:
    return tuple(np.clip(content[name], -_LARGEST, _LARGEST).astype(np.float16) for name in names)


def _row(ids: Collection[int], columns: Mapping[int, int]) -> NDArray[np.bool_]:
    row = np.zeros(len(columns), dtype=np.bool_)
    row[[columns[class_id] for class_id in ids if class_id in columns]] = True
    return row
