"""The secret keys of a federation: one file each in secrets/, readable by the owner only."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.trust.certificates import fingerprint
from rsfed.trust.identity import write_atomically
from rsfed.trust.release_rules import key_id


class Keyring:
    """CA and release keys by the name of their public part."""

    def __init__(self, home: Home) -> None:
        self._folder = home.path / "secrets"

    def add_ca(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> str:
        """Keep the key of a CA certificate and return the certificate's fingerprint in hexadecimal digits."""
        name = fingerprint(certificate).hex()
        self._write(self._ca_path(name), key)
        return name

    def ca(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Return the key of the CA certificate with this fingerprint.

        Raises:
            StateError: it is missing or unreadable.
        """
        key = _read(self._ca_path(name))
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StateError("the file of a CA key holds another kind of key; restore a backup")
        return key

    def add_release_key(self, key: Ed25519PrivateKey) -> str:
        """Keep a key that signs releases and return its id."""
        name = key_id(key.public_key())
        self._write(self._release_path(name), key)
        return name

    def release_key(self, name: str) -> Ed25519PrivateKey:
        """Return the release key with this id.

        Raises:
            StateError: it is missing or unreadable.
        """
        key = _read(self._release_path(name))
        if not isinstance(key, Ed25519PrivateKey):
            raise StateError("the file of a release key holds another kind of key; restore a backup")
        return key

    def discard_ca(self, name: str) -> None:
        """Delete the key of a CA that signs no more."""
        self._ca_path(name).unlink(missing_ok=True)

    def discard_release_key(self, name: str) -> None:
        """Delete a release key that signs no more."""
        self._release_path(name).unlink(missing_ok=True)

    def _ca_path(self, name: str) -> Path:
        return self._folder / f"ca-{name[:32]}.pem"

    def _release_path(self, name: str) -> Path:
        return self._folder / f"release-{name}.pem"

    def _write(self, path: Path, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(path, pem)


def _read(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise StateError("a key of the federation is missing; restore a backup", detail=path.name) from error
