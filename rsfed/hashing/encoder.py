"""Encoders: patches to codes, by the network and weights of a release.

A code must be the same whenever and beside whatever a patch is hashed. Floating-point sums depend on the shape of the
batch they are computed in, so every batch has the same shape and the last one is filled up with zeros.

How many threads are used is the caller's choice: `torch.set_num_threads`. A frozen trunk always runs on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rsfed.codes import Codes, pack
from rsfed.errors import ReleaseRefused, TrainingError
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.head import HashNetwork
from rsfed.hashing.network import build_network
from rsfed.hashing.trunk import FEATURES, Trunk
from rsfed.hashing.weights import State, from_bytes, set_state
from rsfed.heap import keep_freed_memory
from rsfed.raster.input_spec import InputSpec
from rsfed.trust.manifest import Architecture, FrozenTrunk

if TYPE_CHECKING:
    from rsfed.trust.release_store import Release

_BATCH = 8  # patches; as fast as larger ones on a CPU, and quick for one query image

Content = Mapping[str, NDArray[np.floating]]
"""Patch content: for each band group float32, shape (bands, size, size), or under `FEATURES` what the trunk gave."""
_Row = tuple[NDArray[np.floating], ...]  # what a network takes of one patch


class Encoder:
    """Makes the codes of patches.

    Args:
        network: Network with its weights.
        spec: Input that it was built for.
        trunk: What makes the features that the network takes; None where it takes bands, or only features are hashed.
    """

    def __init__(self, network: HashNetwork, spec: InputSpec, trunk: Trunk | None = None) -> None:
        self._network = network.eval()
        self._groups = spec.groups
        self._trunk = trunk
        keep_freed_memory()

    @classmethod
    def load(cls, release: Release, encoder_id: str | None = None) -> Self:
        """Load an encoder of a verified release.

        Args:
            release: The release.
            encoder_id: Which of its encoders; None for the only one.

        Raises:
            ReleaseRefused: ENCODER_UNKNOWN, the release has no such encoder, or several and none was named.
            TrainingError: WEIGHTS_UNFIT, its weights do not fit its architecture.
        """
        encoders = release.manifest.encoders
        if encoder_id is None and len(encoders) == 1:
            encoder_id = next(iter(encoders))
        if encoder_id is None or encoder_id not in encoders:
            known = ", ".join(sorted(encoders))
            raise ReleaseRefused(f"name one of the release's encoders: {known}", reason="ENCODER_UNKNOWN")
        entry = encoders[encoder_id]
        state = from_bytes(release.weights(encoder_id).read_bytes())
        trunk = None
        if isinstance(entry.architecture, FrozenTrunk):
            trunk = Trunk(release.folder / entry.architecture.trunk.name, entry.architecture)
        return cls.from_state(state, entry.architecture, entry.input, release.manifest.bits, trunk)

    @classmethod
    def from_state(
        cls, state: State, architecture: Architecture, spec: InputSpec, bits: int, trunk: Trunk | None = None
    ) -> Self:
        """Make an encoder of weights that are in no release yet.

        Raises:
            CodeError: bits is not a width that codes may have.
            TrainingError: WEIGHTS_UNFIT or ENCODER_INPUT.
        """
        network = build_network(architecture, spec, bits)
        set_state(network, state)
        return cls(network, spec, trunk)

    def encode(self, contents: Iterable[Content]) -> Codes:
        """Return the code of each patch; it does not depend on the other patches or their order.

        Args:
            contents: Patches as `raster.read` gives them for this encoder's input, or their features as its trunk made
                them before; taken a batch at a time, so that as many as wanted may be read on the way.

        Returns:
            Packed codes, uint8, shape (n, bits // 8).

        Raises:
            ConfigError: EXTRA_MISSING, the trunk needs onnxruntime.
            TrainingError: ENCODER_INPUT, a patch has other bands or another size than the encoder takes; TRUNK_UNFIT.
        """
        return self._hash(self._rows(contents))

    def encode_set(self, patches: PatchSet) -> Codes:
        """Return the code of each patch of a set, as `encode` does."""
        return self._hash(iter(patches.patches))

    def _hash(self, rows: Iterator[_Row]) -> Codes:
        codes = [pack(np.zeros((0, self._network.head.out_features), np.bool_))]
        with torch.inference_mode():
            while taken := list(islice(rows, _BATCH)):
                binary = (self._network(*map(torch.from_numpy, _batch(taken))) > 0.5).numpy()
                codes.append(pack(binary[: len(taken)]))
        return np.concatenate(codes)

    def _rows(self, contents: Iterable[Content]) -> Iterator[_Row]:
        if self._trunk is None:
            return map(self._bands, contents)
        return self._features(self._trunk, iter(contents))

    def _features(self, trunk: Trunk, contents: Iterator[Content]) -> Iterator[_Row]:
        """Yield the features of each patch, made now where they are not known yet."""
        while taken := list(islice(contents, _BATCH)):
            made = iter(trunk.features(self._bands(content)[0] for content in taken if FEATURES not in content))
            for content in taken:
                yield (content[FEATURES] if FEATURES in content else next(made),)

    def _bands(self, content: Content) -> _Row:
        found = tuple(content.get(group.name) for group in self._groups)
        for group, patch in zip(self._groups, found, strict=True):
            shape = (len(group.bands), group.size, group.size)
            if patch is None or patch.shape != shape:
                raise TrainingError(
                    f"a patch does not fit the encoder, which takes {shape[0]} bands of {group.size} x {group.size} "
                    "pixels; read it with the encoder's InputSpec",
                    reason="ENCODER_INPUT",
                )
        return tuple(patch for patch in found if patch is not None)


def _batch(rows: Sequence[_Row]) -> list[NDArray[np.float32]]:
    """Stack rows to batches of one shape, float32, filled up with zeros."""
    batches = [np.empty((_BATCH, *part.shape), np.float32) for part in rows[0]]
    for batch in batches:
        batch[len(rows) :] = 0
    for place, row in enumerate(rows):
        for batch, part in zip(batches, row, strict=True):
            batch[place] = part
    return batches
