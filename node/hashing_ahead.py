"""Codes made by others while an archive is ingested, so that `serve` finds them and hashes only what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from node.catalogue import Catalogue
from node.presence import Presence
from node.reading import BandReader, by_source, noted, portions
from rsfed.crew import Hands, made_of_each
from rsfed.trust.manifest import FrozenTrunk
from rsfed.trust.release_store import Release, ReleaseStore

if TYPE_CHECKING:
    from rsfed.codes import Ids
    from rsfed.hashing.encoder import Encoder
    from rsfed.home import Home
    from rsfed.raster.input_spec import InputSpec
    from rsfed.raster.item import Item
    from rsfed.trust.manifest import Architecture

_BATCH = 64  # codes committed at a time
_PAGE = 1024  # patches looked up at a time


class Hasher:
    """Reads and hashes patches wherever it is sent, on one thread.

    Args:
        weights: Of the encoder, as safetensors.
        architecture: How it is built.
        spec: How it takes its input.
        bits: Width of its codes.
    """

    def __init__(self, weights: bytes, architecture: Architecture, spec: InputSpec, bits: int) -> None:
        self._made_of = weights, architecture, spec, bits
        self._reader = BandReader(spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hasher, self._made_of

    def __call__(self, items: Sequence[Item]) -> Iterator[list[bytes | None]]:
        """Yield the code of each patch, at once; None for each that cannot be read."""
        ids: list[int] = []
        codes = self._encoder.encode(noted(self._reader.contents(items, lambda _: None), ids))
        made = dict(zip(ids, codes, strict=True))
        yield [made[item.id].tobytes() if item.id in made else None for item in items]

    @cached_property
    def _encoder(self) -> Encoder:
        from rsfed.hashing.encoder import Encoder  # noqa: PLC0415 - loaded only where it is used
        from rsfed.hashing.weights import from_bytes  # noqa: PLC0415

        weights, architecture, spec, bits = self._made_of
        return Encoder.from_state(from_bytes(weights), architecture, spec, bits)


def hash_ahead(home: Home, hands: Hands, progressed: Callable[[int, int], None]) -> int:
    """Make the codes that patches lack under the current release, if there is one.

    Those of encoders on a frozen trunk are left to `serve`, which keeps the trunk's features.

    Args:
        home: The node's home.
        hands: Who reads and hashes.
        progressed: Called with the patches that are done and all that lack a code of this encoder.

    Returns:
        How many codes were made.

    Raises:
        ArchiveError: WORKERS or SCHEDULER, as `Hands` says.
    """
    release = ReleaseStore(home.releases).current()
    if release is None:
        return 0
    with Catalogue(home) as catalogue:
        return sum(
            _hashed(catalogue, release, name, hands, progressed)
            for name, encoder in release.manifest.encoders.items()
            if not isinstance(encoder.architecture, FrozenTrunk)
        )


def _hashed(
    catalogue: Catalogue, release: Release, name: str, hands: Hands, progressed: Callable[[int, int], None]
) -> int:
    encoder = release.manifest.encoders[name]
    present = Presence(catalogue.connection).ids(encoder.modality)
    missing = np.setdiff1d(present, catalogue.coded(release.digest, name), assume_unique=True)
    weights = release.weights(name).read_bytes()
    work = Hasher(weights, encoder.architecture, encoder.input, release.manifest.bits)
    done = made = 0
    with closing(made_of_each(hands, work, portions(_waiting(catalogue, release, name, missing)), by_source)) as each:
        while batch := list(islice(each, _BATCH)):
            codes = {item.id: code for item, code in batch if code is not None}
            packed = np.frombuffer(b"".join(codes.values()), np.uint8).reshape(len(codes), -1 if codes else 0)
            catalogue.put_codes(release.digest, name, list(codes), packed)
            done, made = done + len(batch), made + len(codes)
            progressed(min(done, len(missing)), len(missing))
    return made


def _waiting(catalogue: Catalogue, release: Release, name: str, ids: Ids) -> Iterator[Item]:
    """Yield those of these patches that have got no code meanwhile: `serve` hashes at the same time."""
    for start in range(0, len(ids), _PAGE):
        yield from catalogue.uncoded(release.digest, name, ids[start : start + _PAGE])
