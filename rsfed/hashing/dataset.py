"""Patches of an archive held in memory for training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.network import only_group
from rsfed.raster.input_spec import BandGroup, InputSpec

MEMORY_BYTES = 1 << 30
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class PatchSet:
    """Patches with their labels.

    Attributes:
        patches: One array for each patch, float16, shape (bands, size, size); kept apart, so that no second copy of
            all of them is ever made.
        labels: bool, shape (patches, classes); a row without a class is an unlabelled patch.
        offered: Number of patches that were offered; more than are held where memory ends.
    """

    patches: tuple[NDArray[np.float16], ...]
    labels: NDArray[np.bool_]
    offered: int

    @classmethod
    def from_items(
        cls,
        items: Iterable[tuple[Mapping[str, NDArray[np.float32]], Collection[int]]],
        spec: InputSpec,
        class_ids: Sequence[int],
        *,
        memory_bytes: int = MEMORY_BYTES,
        seed: int = 0,
    ) -> Self:
        """Take patches in; when they are more than memory holds, keep a uniformly random sample of all.

        The sample is drawn as the patches come (Vitter, "Random sampling with a reservoir", 1985, algorithm R).

        Args:
            items: Content (as `raster.read` gives it) and class ids of each patch; ids of no class are passed over.
            spec: Input that the contents were read for.
            class_ids: Ids of the classes in the order of the columns of `labels`.
            memory_bytes: Most memory that the patches may take; one patch is always held.
            seed: Seed of the sample.

        Raises:
            TrainingError: ENCODER_INPUT, the input has several band groups.
        """
        group = only_group(spec)
        room = max(1, memory_bytes // patch_bytes(spec))
        rng = np.random.default_rng(seed)
        columns = {class_id: column for column, class_id in enumerate(class_ids)}
        held: list[tuple[NDArray[np.float16], NDArray[np.bool_]]] = []
        offered = 0
        for content, ids in items:
            place = len(held) if len(held) < room else int(rng.integers(0, offered + 1))
            offered += 1
            if place < room:
                held[place : place + 1] = [(_compact(content, group), _row(ids, columns))]
        labels = np.array([row for _, row in held], dtype=np.bool_).reshape(len(held), len(class_ids))
        return cls(tuple(patch for patch, _ in held), labels, offered)

    def __len__(self) -> int:
        return len(self.patches)

    def batch(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return patches by position, float32, shape (n, bands, size, size)."""
        return np.stack([self.patches[position] for position in positions]).astype(np.float32)


def patch_bytes(spec: InputSpec) -> int:
    """Return the memory of one patch in bytes."""
    group = only_group(spec)
    return len(group.bands) * group.size**2 * np.dtype(np.float16).itemsize


def _compact(content: Mapping[str, NDArray[np.float32]], group: BandGroup) -> NDArray[np.float16]:
    return np.clip(content[group.name], -_LARGEST, _LARGEST).astype(np.float16)


def _row(ids: Collection[int], columns: Mapping[int, int]) -> NDArray[np.bool_]:
    row = np.zeros(len(columns), dtype=np.bool_)
    row[[columns[class_id] for class_id in ids if class_id in columns]] = True
    return row
