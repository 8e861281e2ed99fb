"""Features of a frozen trunk, kept in a file from one evaluation to the next: they take minutes to make."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from rsfed.hashing.trunk import Vector
from rsfed.home import make_folder
from rsfed.raster.input_spec import InputSpec
from rsfed.trust.manifest import FrozenTrunk


class FeatureFile:
    """Features by the content digest of the patch.

    Args:
        known: What was made before.
    """

    def __init__(self, known: dict[str, Vector]) -> None:
        self._known = known
        self._made = 0

    @classmethod
    @contextmanager
    def opened(cls, folder: Path | None, trunk: FrozenTrunk, spec: InputSpec) -> Iterator[Self]:
        """Open the file of a trunk and an input in a folder; what was made meanwhile is written on leaving.

        Also when the work breaks off, so that it goes on from there. Without a folder nothing is kept.
        """
        if folder is None:
            yield cls({})
            return
        use = hashlib.sha256((trunk.trunk.sha256 + spec.model_dump_json()).encode()).hexdigest()
        path = folder / f"features-{use[:16]}.npz"
        features = cls(_load(path))
        try:
            yield features
        finally:
            if features._made:  # noqa: SLF001 - its own
                features._save(path)  # noqa: SLF001 - its own

    def get(self, digest: str, make: Callable[[], Vector]) -> Vector:
        """Return the features of a patch, made now if they are not known."""
        if digest not in self._known:
            self._known[digest] = make()
            self._made += 1
        return self._known[digest]

    def _save(self, path: Path) -> None:
        make_folder(path.parent)
        digests = np.frombuffer(bytes.fromhex("".join(self._known)), np.uint8).reshape(len(self._known), -1)
        part = path.with_suffix(".part.npz")
        np.savez(part, digests=digests, features=np.stack(list(self._known.values())))
        part.replace(path)


def _load(path: Path) -> dict[str, Vector]:
    """Return what a file holds; a damaged one counts as empty and is written anew."""
    try:
        with np.load(path, allow_pickle=False) as held:
            digests, features = held["digests"], held["features"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {}
    return {row.tobytes().hex(): vector for row, vector in zip(digests, features, strict=True)}
