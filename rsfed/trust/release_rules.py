"""When a release is genuine and may replace the current one: functions without IO, as The Update Framework does it.

- The signature is checked over the exact bytes before anything in them is read; nothing is serialised again.
- Versions only rise, counted for each signing key: who steals a key and publishes the highest version is undone by
  taking the key out of the trust bundle.
- The same version with other bytes is a rollback too.
- An expired release is refused, and so is one from the future.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rsfed.errors import ReleaseRefused
from rsfed.trust.certificates import CLOCK_TOLERANCE
from rsfed.trust.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest


@dataclass(frozen=True, slots=True)
class ReleaseHistory:
    """What must never be forgotten about releases.

    Attributes:
        highest: Version and digest (32 bytes) of the newest release admitted, by id of the key that signed it.
        seen: The latest time that this machine ever saw; a clock that goes back does not revive what expired.
    """

    highest: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    seen: datetime | None = None

    def at(self, now: datetime) -> ReleaseHistory:
        """Return the history with the time moved on, never back."""
        return replace(self, seen=max(now, self.seen or now))

    def with_release(self, key_id: str, version: int, digest: bytes) -> ReleaseHistory:
        """Return the history with a newly admitted release."""
        return replace(self, highest={**self.highest, key_id: (version, digest)})


def key_id(public_key: Ed25519PublicKey) -> str:
    """Return the id of a release key: the first 8 bytes of the SHA-256 of the key, in hexadecimal digits."""
    raw = public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def sign_manifest(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """Sign the exact bytes of a manifest; the signature has 64 bytes."""
    return key.sign(data)


def verify_header(
    manifest_bytes: bytes, signature: bytes, signing_key_id: str, release_keys: Mapping[str, Ed25519PublicKey]
) -> Manifest:
    """Check a manifest's signature, then read it.

    Args:
        manifest_bytes: Exact bytes of manifest.json.
        signature: Ed25519 signature over them, 64 bytes.
        signing_key_id: Id of the key that signed.
        release_keys: Keys of the trust bundle by id.

    Raises:
        ReleaseRefused: RELEASE_MALFORMED (too large, unreadable), RELEASE_KEY_UNKNOWN, RELEASE_SIGNATURE,
            RELEASE_SCHEMA.
    """
    if len(manifest_bytes) > MAX_MANIFEST_BYTES:
        raise ReleaseRefused("the release's manifest is too large", reason="RELEASE_MALFORMED")
    key = release_keys.get(signing_key_id)
    if key is None:
        raise ReleaseRefused(
            "the release is signed by a key that the federation does not list", reason="RELEASE_KEY_UNKNOWN"
        )
    try:
        key.verify(signature, manifest_bytes)
    except InvalidSignature as error:
        raise ReleaseRefused("the release's signature is wrong", reason="RELEASE_SIGNATURE") from error
    return parse_manifest(manifest_bytes)


def admit(  # noqa: PLR0913 - everything the decision depends on, nothing hidden
    history: ReleaseHistory, candidate: Manifest, digest: bytes, signing_key_id: str, *, federation: str, now: datetime
) -> None:
    """Check that a genuine release may replace the current one.

    Args:
        history: What was admitted here before.
        candidate: Manifest of the release, its signature checked.
        digest: SHA-256 of the manifest's bytes, 32 bytes.
        signing_key_id: Id of the key that signed it.
        federation: Whose releases are wanted.
        now: Time of the check; the latest time of the history counts when that is later.

    Raises:
        ReleaseRefused: WRONG_FEDERATION, RELEASE_EXPIRED, CLOCK_SKEW (made in the future) or RELEASE_ROLLBACK.
    """
    time = max(now, history.seen or now)
    if candidate.federation != federation:
        raise ReleaseRefused("the release is of another federation", reason="WRONG_FEDERATION")
    if candidate.expired(time):
        raise ReleaseRefused(
            f"release {candidate.version} expired on {candidate.expires:%Y-%m-%d}; ask the coordinator for a new one",
            reason="RELEASE_EXPIRED",
        )
    if candidate.created > time + CLOCK_TOLERANCE:
        raise ReleaseRefused(
            f"release {candidate.version} was made in the future; check this machine's clock", reason="CLOCK_SKEW"
        )
    version, known = history.highest.get(signing_key_id, (0, b""))
    if candidate.version < version or (candidate.version == version and digest != known):
        raise ReleaseRefused(f"release {candidate.version} may not replace {version}", reason="RELEASE_ROLLBACK")
