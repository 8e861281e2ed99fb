"""What makes codes in a node, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from node.reading import Content
from rsfed.codes import Codes
from rsfed.trust.release_store import Release


class Encoder(Protocol):
    """Makes the codes of patches."""

    def encode(self, contents: Iterable[Content]) -> Codes:
        """Return one code for each content, which is taken when it is due, uint8, shape (n, bits // 8)."""


MakeEncoder = Callable[[Release, str], Encoder]


def torch_encoder(threads: int) -> MakeEncoder:
    """Return what loads an encoder of a release to run on this many threads; torch loads at the first use."""

    def load(release: Release, encoder_id: str) -> Encoder:
        import torch  # noqa: PLC0415 - a node whose codes are complete never needs it

        from rsfed.hashing.encoder import Encoder as HashEncoder  # noqa: PLC0415

        torch.set_num_threads(threads)
        return HashEncoder.load(release, encoder_id)

    return load
