"""Encoders: patches to codes, by the network and weights of a release.

A code must be the same whenever and beside whatever a patch is hashed. Floating-point sums depend on the shape of the
batch they are computed in, so every batch has the same shape and the last one is filled up with zeros.

How many threads are used is the caller's choice: `torch.set_num_threads`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rsfed.codes import Codes, pack
from rsfed.errors import ReleaseRefused, TrainingError
from rsfed.hashing.network import HashNetwork, build_network, only_group
from rsfed.hashing.weights import State, from_bytes, set_state
from rsfed.raster.input_spec import InputSpec
from rsfed.trust.manifest import Architecture

if TYPE_CHECKING:
    from rsfed.trust.release_store import Release

_BATCH = 8  # patches; as fast as larger ones on a CPU, and quick for one query image

Content = Mapping[str, NDArray[np.float32]]
"""Patch content: for each band group float32, shape (bands, size, size)."""


class Encoder:
    """Makes the codes of patches.

    Args:
        network: Network with its weights.
        spec: Input that it was built for.
    """

    def __init__(self, network: HashNetwork, spec: InputSpec) -> None:
        self._network = network.eval()
        self._group = only_group(spec)

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
        return cls.from_state(state, entry.architecture, entry.input, release.manifest.bits)

    @classmethod
    def from_state(cls, state: State, architecture: Architecture, spec: InputSpec, bits: int) -> Self:
        """Make an encoder of weights that are in no release yet.

        Raises:
            CodeError: bits is not a width that codes may have.
            TrainingError: WEIGHTS_UNFIT or ENCODER_INPUT.
        """
        network = build_network(architecture, spec, bits)
        set_state(network, state)
        return cls(network, spec)

    def encode(self, contents: Iterable[Content]) -> Codes:
        """Return the code of each patch; it does not depend on the other patches or their order.

        Args:
            contents: Patches as `raster.read` gives them for this encoder's input; taken a batch at a time, so that as
                many as wanted may be read on the way.

        Returns:
            Packed codes, uint8, shape (n, bits // 8).

        Raises:
            TrainingError: ENCODER_INPUT, a patch has other bands or another size than the encoder takes.
        """
        codes = [pack(np.zeros((0, self._network.head.out_features), np.bool_))]
        with torch.inference_mode():
            for count, batch in self._batches(contents):
                binary = (self._network(torch.from_numpy(batch)) > 0.5).numpy()
                codes.append(pack(binary[:count]))
        return np.concatenate(codes)

    def _batches(self, contents: Iterable[Content]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the patches in batches of one shape, each with the number of its rows that are patches."""
        shape = (len(self._group.bands), self._group.size, self._group.size)
        waiting = iter(contents)
        while taken := list(islice(waiting, _BATCH)):
            batch = np.zeros((_BATCH, *shape), dtype=np.float32)
            for row, content in zip(batch, taken, strict=False):
                patch = content.get(self._group.name)
                if patch is None or patch.shape != shape:
                    bands, height, width = shape
                    raise TrainingError(
                        f"a patch does not fit the encoder, which takes {bands} bands of {width} x {height} pixels; "
                        "read it with the encoder's InputSpec",
                        reason="ENCODER_INPUT",
                    )
                row[:] = patch
            yield len(taken), batch
