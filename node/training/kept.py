"""What a node keeps of a run between its rounds, on disk, so that only changes of the weights travel.

It is worth one download: where it is missing or damaged the node misses a round and gets the whole weights again. It
goes with the run; where the node is not told of the end, after a day.
"""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from rsfed.hashing.exchange import Kept
from rsfed.hashing.payload import Arrays
from rsfed.home import Home
from rsfed.telemetry import log

_PARTS = ("start", "lost", "before")
_ROUND, _RUN, _APPLIED = "round", "run", "applied"

LIFE_S = 24 * 3600.0  # from one round to the next


class DiskMemory:
    """Keeps what the last round left, whatever its run, in the home of a node."""

    def __init__(self, home: Home) -> None:
        self._path = home.path / "training.safetensors"

    def keep(self, run_id: int, kept: Kept) -> None:
        """Keep what a round left, in place of what the round before left."""
        arrays = {
            f"{part}/{name}": np.asarray(array, order="C")  # else safetensors writes its bytes as they lie
            for part in _PARTS
            for name, array in getattr(kept, part).items()
        }
        draft = self._path.with_suffix(".new")
        try:
            said = {_RUN: str(run_id), _ROUND: str(kept.round), _APPLIED: kept.applied.hex()}
            safetensors.save_file(arrays, draft, said)
            draft.replace(self._path)  # not synced: what a power failure damages is asked for again
        except (OSError, SafetensorError) as error:  # the disk may be full; the result is sent all the same
            log.warning("training.not_kept", run=run_id, error_type=type(error).__name__)
            draft.unlink(missing_ok=True)
            self.forget()

    def recall(self, run_id: int) -> Kept | None:
        """Return what the last round of a run left; None where there is nothing of it."""
        try:
            with safe_open(self._path, "numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get(_RUN) != str(run_id):
                    return None
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            start, lost, before = (_part(arrays, part) for part in _PARTS)
            return Kept(int(metadata[_ROUND]), start, lost, before, bytes.fromhex(metadata[_APPLIED]))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            log.warning("training.kept_damaged", run=run_id, error_type=type(error).__name__)
            return None

    def forget_others(self, run_id: int) -> None:
        """Give back the room of every run but this one."""
        try:
            with safe_open(self._path, "numpy") as file:
                kept = (file.metadata() or {}).get(_RUN)
        except (OSError, SafetensorError):  # there is nothing, or nothing of use
            kept = None
        if kept != str(run_id):
            self.forget()

    def forget(self) -> None:
        """Give back the room on the disk."""
        with suppress(FileNotFoundError):
            self._path.unlink()

    def forget_old(self) -> None:
        """Give back the room of a run that goes on no more: its last round here was a day ago."""
        with suppress(FileNotFoundError):
            if time.time() - self._path.stat().st_mtime > LIFE_S:
                self.forget()


def _part(arrays: Arrays, part: str) -> Arrays:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
