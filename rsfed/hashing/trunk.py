"""Frozen trunks: any ONNX model that makes features of a patch, as a federation brings it.

The model is a file that came over the wire, so it is opened with care: within a size limit, only as one file, with
ONNX Runtime's own operators on the CPU. A feature must be the same whenever and beside whatever a patch is seen, so one
thread computes it and the model always sees one patch at a time (or, where it takes a fixed number, that number,
filled up with zeros); on a CPU this costs no time.

Features are rounded to float16 as soon as they are made, for training, indexing and queries alike: what a cache keeps
is then exactly what the head sees. What is not a number becomes 0, what is too large the largest number of float16.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import ConfigError, TrainingError
from rsfed.hashing.augment import positions
from rsfed.hashing.onnx_file import names_other_files
from rsfed.raster.input_spec import MAX_SIZE, MIN_SIZE
from rsfed.raster.modality import MAX_BANDS
from rsfed.trust.manifest import FileEntry, FrozenTrunk

if TYPE_CHECKING:
    import onnxruntime

TRUNK = "trunk.onnx"  # name of the file in a release
FEATURES = "features of the trunk"
"""Key of a patch's content under which features stand in for its bands: float16, shape (features,)."""
MAX_TRUNK_BYTES = 1 << 30
_MAX_FEATURES = 16384
_MAX_AT_ONCE = 64  # patches that a model may take at a time
_LARGEST = float(np.finfo(np.float16).max)
_SILENT = 4  # severity of the runtime's own log, which may name files

Vector = NDArray[np.float16]
"""Features of one patch, float16, shape (features,)."""


class Trunk:
    """Makes features; the model is opened when the first ones are wanted.

    Args:
        path: The ONNX file, its digest checked.
        architecture: What is said of it.
    """

    def __init__(self, path: Path, architecture: FrozenTrunk) -> None:
        self._path = path
        self._architecture = architecture

    def features(self, patches: Iterable[NDArray[np.float32]]) -> list[Vector]:
        """Return the features of each patch; they do not depend on the other patches.

        Args:
            patches: float32, shape (bands, size, size) each, of the size that the trunk takes.

        Raises:
            ConfigError: EXTRA_MISSING, onnxruntime is not installed.
            TrainingError: TRUNK_UNFIT, the model cannot be opened or is not what is said of it.
        """
        waiting = list(patches)
        if not waiting:
            return []  # nothing opens a model that nothing is asked of
        if self._architecture.turns:  # any position of a patch seen from above is as good as another
            seen = (self._compute(positions(patch)) for patch in waiting)
            return _compact(np.stack([each.mean(axis=0) for each in seen]))
        return _compact(self._compute(waiting))

    def _compute(self, waiting: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the features as the model gives them, float32, shape (n, features), n at least 1."""
        session = self._session
        name, at_once = session.get_inputs()[0].name, _rows(session.get_inputs()[0].shape[0])
        made = []
        for start in range(0, len(waiting), at_once):
            part = waiting[start : start + at_once]
            batch = np.zeros((at_once, *part[0].shape), np.float32)
            batch[: len(part)] = part
            made.append(_run(session, name, batch)[: len(part)])
        return np.concatenate(made)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        session = _open(self._path.read_bytes())
        wanted = self._architecture
        bands, size = _takes(session, wanted.size)
        if (bands, size, _gives(session, bands, size)) != (wanted.bands, wanted.size, wanted.features):
            raise _unfit("takes or gives something else than the release says")
        return session


def inspect_trunk(path: Path, size: int, *, turns: bool = False) -> FrozenTrunk:
    """Check that a file can be a federation's trunk and return what a release says of it.

    Args:
        path: The ONNX file.
        size: Width and height in pixels of the input, where the model leaves that open.
        turns: Whether features are averaged over the eight positions of a square, for eight times the cost.

    Raises:
        ConfigError: EXTRA_MISSING, onnxruntime is not installed.
        TrainingError: TRUNK_UNFIT, and why.
    """
    try:
        length = path.stat().st_size
        if length > MAX_TRUNK_BYTES:
            raise _unfit(f"has {length} bytes; at most {MAX_TRUNK_BYTES} are taken")
        data = path.read_bytes()
    except OSError as error:
        raise TrainingError("the file of the trunk cannot be read", reason="TRUNK_UNFIT", detail=str(path)) from error
    session = _open(data)
    bands, size = _takes(session, size)
    entry = FileEntry(name=TRUNK, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return FrozenTrunk(trunk=entry, bands=bands, size=size, features=_gives(session, bands, size), turns=turns)


def _open(data: bytes) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, loaded only where a trunk is used
    except ImportError as error:
        raise ConfigError(
            "this federation's encoder stands on an ONNX model; install rsfed with its extra onnx: "
            "pip install 'rsfed[onnx]'",
            reason="EXTRA_MISSING",
        ) from error
    if names_other_files(data):
        raise _unfit("keeps parts in other files; save it as one file")
    with tempfile.TemporaryDirectory() as empty:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = _SILENT
        # The check above should leave nothing to be looked for here.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise TrainingError(
                "the trunk is no ONNX model that this version of onnxruntime can open on a CPU",
                reason="TRUNK_UNFIT",
                detail=type(error).__name__,
            ) from error


def _takes(session: onnxruntime.InferenceSession, size: int) -> tuple[int, int]:
    """Return bands and size of the model's input; `size` where the model leaves it open."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        raise _unfit("must take one float32 input of shape (n, bands, height, width)")
    at_once, bands, *sides = inputs[0].shape
    if not isinstance(bands, int) or not 1 <= bands <= MAX_BANDS:
        raise _unfit(f"must say how many bands it takes, at most {MAX_BANDS}")
    if isinstance(at_once, int) and at_once > _MAX_AT_ONCE:
        raise _unfit(f"takes {at_once} patches at a time; export it with a batch of any size")
    fixed = {side for side in sides if isinstance(side, int)} or {size}
    if len(fixed) != 1 or not MIN_SIZE <= min(fixed) <= MAX_SIZE:
        raise _unfit(f"must take square patches of {MIN_SIZE} to {MAX_SIZE} pixels")
    return bands, fixed.pop()


def _gives(session: onnxruntime.InferenceSession, bands: int, size: int) -> int:
    """Return how many features the model gives, by trying it."""
    given = session.get_inputs()[0]
    rows = _rows(given.shape[0])
    probe = np.random.default_rng(0).uniform(-1, 1, (rows, bands, size, size)).astype(np.float32)
    features = _run(session, given.name, probe)
    if features.ndim != 2 or len(features) != rows or not 1 <= features.shape[1] <= _MAX_FEATURES:
        raise _unfit(f"must give one float32 output of shape (n, features), with at most {_MAX_FEATURES} features")
    if not np.isfinite(features).all():
        raise _unfit("gives features that are not finite")
    return int(features.shape[1])


def _run(session: onnxruntime.InferenceSession, name: str, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        outputs: list[Any] = session.run(None, {name: batch})
    except Exception as error:
        raise TrainingError(
            "the trunk cannot be run on patches of its size", reason="TRUNK_UNFIT", detail=type(error).__name__
        ) from error
    if len(outputs) != 1 or not isinstance(outputs[0], np.ndarray) or outputs[0].dtype != np.float32:
        raise _unfit("must give one float32 output of shape (n, features)")
    return outputs[0]


def _rows(at_once: object) -> int:
    """Return how many patches the model sees at a time."""
    return at_once if isinstance(at_once, int) and at_once > 0 else 1


def _compact(features: NDArray[np.float32]) -> list[Vector]:
    finite = np.nan_to_num(features, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    return list(np.clip(finite, -_LARGEST, _LARGEST).astype(np.float16))


def _unfit(why: str) -> TrainingError:
    return TrainingError(f"the trunk will not do: it {why}", reason="TRUNK_UNFIT")
