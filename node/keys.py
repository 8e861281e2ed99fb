"""Secrets that only this node ever uses: the handle key and the tie key, in `secrets/` of its home."""

from __future__ import annotations

import secrets
from pathlib import Path

from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.trust.identity import write_atomically

KEY_BYTES = 32


def handle_key(home: Home) -> bytes:
    """Return the key that handles are encrypted with; made at first use."""
    return _load_or_make(home.path / "secrets" / "handle.key")


def tie_key(home: Home) -> bytes:
    """Return the key that orders items that tie; made at first use."""
    return _load_or_make(home.path / "secrets" / "tie.key")


def _load_or_make(path: Path) -> bytes:
    """Return the 32 bytes of a key file, 0600.

    Raises:
        StateError: the file is damaged. A new key would make every handle given out so far meaningless.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        write_atomically(path, secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise StateError(f"{path.name} is damaged; restore a backup", detail=str(path))
    return key
