"""Features of a frozen trunk, kept in a file from one evaluation to the next: they take minutes to make."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rsfed.hashing.trunk import Vector
from rsfed.home import make_folder
from rsfed.raster.input_spec import InputSpec
from rsfed.trust.manifest import FrozenTrunk


class FeatureFile:
    """Features by the content digest of the patch.

    Args:
        folder: Where the file of this trunk and input lies; None to keep nothing.
        trunk: What makes the features.
        spec: How patches are read for it.
    """

    def __init__(self, folder: Path | None, trunk: FrozenTrunk, spec: InputSpec) -> None:
        use = hashlib.sha256((trunk.model_dump_json() + spec.model_dump_json()).encode()).hexdigest()
        self._path = None if folder is None else folder / f"features-{use[:16]}.npz"
        self._known = {} if self._path is None else _load(self._path)
        self._held = len(self._known)

    def get(self, digest: str, make: Callable[[], Vector]) -> Vector:
        """Return the features of a patch, made now if they are not known."""
        if digest not in self._known:
            self._known[digest] = make()
        return self._known[digest]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write what was made meanwhile on leaving, also when the work breaks off."""
        try:
            yield
        finally:
            if self._path is not None and len(self._known) > self._held:
                self._write(self._path)

    def _write(self, path: Path) -> None:
        make_folder(path.parent)
        digests = np.frombuffer(bytes.fromhex("".join(self._known)), np.uint8).reshape(len(self._known), -1)
        part = path.with_suffix(".part.npz")
        np.savez(part, digests=digests, features=np.stack(list(self._known.values())))
        part.replace(path)


def _load(path: Path) -> dict[str, Vector]:
    """Return what a file holds; a damaged one counts as empty and is written anew."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            rows = zip(held["digests"], held["features"], strict=True)
            return {digest.tobytes().hex(): vector for digest, vector in rows}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}
