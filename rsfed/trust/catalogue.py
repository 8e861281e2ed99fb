"""A node's catalogue with its signature: made by the node, and checked by whoever searches it.

Signed with the key of the node's certificate; the chain travels along, so that a catalogue can be kept and passed on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from rsfed.codes import Codes, from_bytes
from rsfed.errors import CodeError, InvalidAnswer, NotAdmitted
from rsfed.trust.bundle import Bundle
from rsfed.trust.certificates import CLOCK_TOLERANCE, load_chain, public_key_of, to_der, verify_chain
from rsfed.trust.identity import Identity
from rsfed.trust.manifest import Manifest
from rsfed.trust.names import MemberId, Role
from rsfed.trust.scope import level_name
from rsfed.v1.catalogue_pb2 import Catalogue, CataloguePart, SignedCatalogue
from rsfed.v1.outcome_pb2 import POLICY_LEVEL_CATALOGUE, POLICY_LEVEL_COUNTS, POLICY_LEVEL_SEALED

PUBLISHING = {POLICY_LEVEL_CATALOGUE, POLICY_LEVEL_SEALED, POLICY_LEVEL_COUNTS}
"""Levels at which nodes publish and answer no query."""

_DOMAIN = b"rsfed-catalogue-v1"


@dataclass(frozen=True, slots=True)
class Part:
    """What a catalogue tells of one encoder.

    Attributes:
        middles: Code in the middle of each bucket, uint8, shape (buckets, bits // 8); none at the level counts.
        classes: Ids of counted classes; none at other levels.
        sizes: Noisy count of each bucket or class, uint32.
    """

    middles: Codes
    classes: tuple[int, ...]
    sizes: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Opened:
    """A catalogue whose signature is right and which keeps the rules.

    Attributes:
        node: Name of the node.
        level: Its policy level in lower case.
        release: Digest of the release, 32 bytes.
        epoch: Number of the publication.
        made: When it was made.
        next: There is no newer one before.
        floor: Acquisitions of the archive, and of each bucket, at least.
        spread: Nineteen of twenty counts lie at most so far from what counted.
        parts: By encoder.
    """

    node: str
    level: str
    release: bytes
    epoch: int
    made: datetime
    next: datetime
    floor: int
    spread: int
    parts: dict[str, Part]


def sign_catalogue(catalogue: Catalogue, identity: Identity) -> bytes:
    """Return a catalogue as it is given away: a serialized SignedCatalogue."""
    data = catalogue.SerializeToString(deterministic=True)
    return SignedCatalogue(
        catalogue=data,
        certificate_chain=[to_der(cert) for cert in identity.chain],
        signature=identity.key.sign(_DOMAIN + data, ec.ECDSA(hashes.SHA256())),
    ).SerializeToString(deterministic=True)


def digest_of(signed: bytes) -> bytes:
    """Return the digest by which chunks name a catalogue."""
    return hashlib.sha256(signed).digest()


def open_catalogue(signed: bytes, node: str, manifest: Manifest, bundle: Bundle, *, now: datetime) -> Opened:
    """Check and read a catalogue.

    Args:
        signed: A serialized SignedCatalogue.
        node: Name of the node that it has to be of.
        manifest: That of the release that it names.
        bundle: The trust bundle.
        now: Wall clock.

    Raises:
        InvalidAnswer: CATALOGUE_INVALID, it is not genuine, or breaks a rule.
    """
    try:
        message = SignedCatalogue.FromString(signed)
        catalogue = Catalogue.FromString(message.catalogue)
        made, due = catalogue.made.ToDatetime(UTC), catalogue.next.ToDatetime(UTC)
        chain = load_chain(list(message.certificate_chain))
        signer = verify_chain(chain, bundle.cas, now=made)
        public_key_of(chain[0]).verify(message.signature, _DOMAIN + message.catalogue, ec.ECDSA(hashes.SHA256()))
        parts = {part.encoder: _part(part, manifest.bits) for part in catalogue.parts}
    except (InvalidSignature, NotAdmitted, DecodeError, CodeError, ValueError, OverflowError) as error:
        raise _invalid("is not genuine") from error
    expected = MemberId(bundle.federation, Role.NODE, node)
    _require(signer == expected and catalogue.node == expected.uri, "is of somebody else")
    _require(signer.uri not in bundle.revoked_names, "is of a node that was revoked")
    _require(made <= now + CLOCK_TOLERANCE and made <= due, "is of the future")
    _require(catalogue.level in PUBLISHING, "is of a level that has none")
    _require(parts.keys() <= manifest.encoders.keys(), "speaks of encoders that the release has not")
    by_class = catalogue.level == POLICY_LEVEL_COUNTS
    _require(all(bool(part.classes) <= by_class and len(part.middles) * by_class == 0 for part in parts.values()),
             "tells what its level does not")  # fmt: skip
    known = (catalogue.release_digest, catalogue.epoch, made, due, catalogue.floor, catalogue.spread)
    return Opened(node, level_name(catalogue.level), *known, parts)


def _part(part: CataloguePart, bits: int) -> Part:
    middles, sizes = from_bytes(part.middles, bits), np.frombuffer(part.sizes, "<u4").astype(np.uint32)
    if len(sizes) != len(middles) + len(part.classes):
        raise ValueError("it has not one size for each bucket or class")
    return Part(middles, tuple(part.classes), sizes)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _invalid(what)


def _invalid(what: str) -> InvalidAnswer:
    return InvalidAnswer(f"a node's catalogue {what}; it is left out", reason="CATALOGUE_INVALID")


def part_of(encoder: str, middles: Codes, classes: Sequence[int], sizes: NDArray[np.int64]) -> CataloguePart:
    """Return what a catalogue tells of one encoder, as the wire has it."""
    return CataloguePart(
        encoder=encoder, middles=middles.tobytes(), classes=classes, sizes=sizes.astype("<u4").tobytes()
    )
