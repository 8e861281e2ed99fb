"""A member's identity on disk: keys, certificate chain and trust bundle, each file replaced whole or not at all.

`identity/` holds `identity.pem` (key and chain together, so that they always fit), `next-key.pem` (a key whose
certificate has not come yet), `sealing-key.pem`, `bundle.binpb`, `bundle.checked` and `federation.json`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError

from rsfed.errors import NotAdmitted, StateError
from rsfed.trust.bundle import Bundle, open_bundle
from rsfed.trust.certificates import load_chain, member_of, to_pem
from rsfed.trust.names import MemberId
from rsfed.v1.federation_pb2 import SignedTrustBundle

_IDENTITY, _NEXT_KEY, _SEALING_KEY = "identity.pem", "next-key.pem", "sealing-key.pem"
_BUNDLE, _CHECKED, _FEDERATION = "bundle.binpb", "bundle.checked", "federation.json"
Key = TypeVar("Key", ec.EllipticCurvePrivateKey, X25519PrivateKey)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who one is, with the keys to prove it.

    Attributes:
        member: The name in the certificate.
        key: Private key of the certificate, P-256.
        chain: Certificates, the leaf first.
        sealing_key: Private key that messages to this member are sealed for.
        bundle: Whom one believes.
    """

    member: MemberId
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]
    sealing_key: X25519PrivateKey = field(repr=False)
    bundle: Bundle = field(repr=False)

    @property
    def key_pem(self) -> bytes:
        """The private key as PEM text."""
        return _key_to_pem(self.key)

    @property
    def chain_pem(self) -> bytes:
        """The certificates as PEM text, the leaf first."""
        return to_pem(self.chain)

    def fits_channel_of(self, used: Identity) -> bool:
        """Say whether a channel that another identity opened serves this one: same certificate, same CAs."""
        return used is self or (used.chain, used.bundle.cas) == (self.chain, self.bundle.cas)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of a member to be: the one a certificate is requested for, and the sealing key."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    sealing_key: X25519PrivateKey = field(repr=False)

    @property
    def sealing_public(self) -> bytes:
        """Public half of the sealing key, 32 bytes."""
        return self.sealing_key.public_key().public_bytes_raw()


@dataclass(frozen=True, slots=True)
class Federation:
    """How the coordinator is reached, as learnt on joining."""

    address: str
    join_address: str
    coordinator: MemberId


def create_keys(folder: Path, *, joining: bool = False) -> Keys:
    """Return the keys of the next certificate, making what is missing; no key that can be read is replaced.

    The key in use stays in `identity.pem` until `save_certificate` replaces it together with its certificate.

    Args:
        folder: Folder of the identity.
        joining: Make a sealing key anew that cannot be read: only joining tells the federation of the new one.

    Raises:
        StateError: the sealing key cannot be read.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    key = _kept_or_made(folder / _NEXT_KEY, _parse_key, lambda: ec.generate_private_key(ec.SECP256R1()), anew=True)
    sealing = _kept_or_made(folder / _SEALING_KEY, _parse_sealing_key, X25519PrivateKey.generate, anew=joining)
    return Keys(key, sealing)


def load_identity(folder: Path) -> Identity:
    """Read the identity of a member.

    Raises:
        NotAdmitted: NOT_JOINED, there is no certificate yet.
        StateError: a file is damaged.
    """
    if not (folder / _IDENTITY).exists():
        raise NotAdmitted(
            "this home has not joined a federation; run `join TOKEN` with an invitation first",
            reason="NOT_JOINED",
            detail=str(folder),
        )
    try:
        key_and_chain = (folder / _IDENTITY).read_bytes()  # once: a renewal may replace the file meanwhile
        chain = load_chain(key_and_chain)
        return Identity(
            member=member_of(chain[0]),
            key=_parse_key(key_and_chain),
            chain=chain,
            sealing_key=_parse_sealing_key((folder / _SEALING_KEY).read_bytes()),
            bundle=load_bundle(folder),
        )
    except (OSError, NotAdmitted) as error:
        raise StateError("the identity is damaged; restore a backup or join again", detail=str(error)) from error


def load_bundle(folder: Path) -> Bundle:
    """Read the trust bundle that was saved last, with the time at which it was last known to be the newest.

    Raises:
        StateError: there is none, or it is damaged.
    """
    try:
        signed = SignedTrustBundle.FromString((folder / _BUNDLE).read_bytes())
        bundle = open_bundle(signed)
        checked = (folder / _CHECKED).read_text() if (folder / _CHECKED).exists() else ""
        return replace(bundle, refreshed=datetime.fromisoformat(checked) if checked else None)
    except (OSError, ValueError, DecodeError, NotAdmitted) as error:
        raise StateError("the trust bundle is damaged; restore a backup or join again", detail=str(error)) from error


def save_certificate(folder: Path, chain: tuple[x509.Certificate, ...]) -> None:
    """Take a new certificate into use, together with the key it was requested for.

    Raises:
        NotAdmitted: KEY_MISMATCH, the certificate is for another key; nothing was changed.
    """
    key = create_keys(folder).key
    if chain[0].public_key() != key.public_key():
        raise NotAdmitted("the certificate is for another key than was requested", reason="KEY_MISMATCH")
    write_atomically(folder / _IDENTITY, _key_to_pem(key) + to_pem(chain))
    (folder / _NEXT_KEY).unlink()


def save_bundle(folder: Path, signed: SignedTrustBundle, *, refreshed: datetime | None = None) -> None:
    """Keep an admitted trust bundle.

    Args:
        folder: Folder of the identity.
        signed: The bundle.
        refreshed: When the coordinator said that it is the newest; None at the coordinator itself.
    """
    write_atomically(folder / _BUNDLE, signed.SerializeToString())
    if refreshed is not None:
        mark_refreshed(folder, refreshed)


def mark_refreshed(folder: Path, moment: datetime) -> None:
    """Note that the coordinator confirmed the saved bundle as the newest."""
    write_atomically(folder / _CHECKED, moment.astimezone(UTC).isoformat().encode())


def save_federation(folder: Path, federation: Federation) -> None:
    """Keep how the coordinator is reached."""
    fields = {
        "address": federation.address,
        "join_address": federation.join_address,
        "coordinator": federation.coordinator.uri,
    }
    write_atomically(folder / _FEDERATION, json.dumps(fields, indent=1).encode())


def load_federation(folder: Path) -> Federation:
    """Read how the coordinator is reached.

    Raises:
        NotAdmitted: NOT_JOINED, it is not known yet.
        StateError: the file is damaged.
    """
    try:
        fields = json.loads((folder / _FEDERATION).read_bytes())
        return Federation(fields["address"], fields["join_address"], MemberId.parse(fields["coordinator"]))
    except FileNotFoundError as error:
        raise NotAdmitted("this home has not joined a federation", reason="NOT_JOINED") from error
    except (OSError, ValueError, KeyError, TypeError, NotAdmitted) as error:
        raise StateError("federation.json is damaged; restore a backup or join again", detail=str(error)) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by new content, readable by its owner only; a crash leaves the old or the new, never a part."""
    with writing_atomically(path) as draft:
        draft.write_bytes(data)


@contextmanager
def writing_atomically(path: Path) -> Iterator[Path]:
    """Give the place of a draft, readable by its owner only, that replaces a file at the end of the block.

    A crash leaves the old or the new, never a part.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        yield draft
        os.fsync(handle)
        draft.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise
    finally:
        os.close(handle)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kept_or_made(path: Path, parse: Callable[[bytes], Key], make: Callable[[], Key], *, anew: bool) -> Key:
    """Return the key in a file; one that is missing is made, and one that cannot be read where it may be made anew."""
    with suppress(FileNotFoundError):
        try:
            return parse(path.read_bytes())
        except StateError:
            if not anew:
                raise
    key = make()
    write_atomically(path, _key_to_pem(key))
    return key


def _key_to_pem(key: ec.EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _parse_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = _parse_pem(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise StateError("the key of the certificate is of another kind; restore a backup or join again")
    return key


def _parse_sealing_key(pem: bytes) -> X25519PrivateKey:
    key = _parse_pem(pem)
    if not isinstance(key, X25519PrivateKey):
        raise StateError("the sealing key is of another kind; restore a backup or join again")
    return key


def _parse_pem(pem: bytes) -> object:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise StateError("a private key cannot be read; restore a backup or join again") from error
