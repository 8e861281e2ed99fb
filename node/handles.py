"""Handles: 16 opaque bytes that name a patch or a bucket to one requester in one query.

A handle is one AES-256 block of (item id, salt of the query) under the node's handle key, so nothing is stored for
each item and without the key a handle means nothing. A bucket has its mark, a number below 0, in place of the id. What
a handle means may only be used together with the ledger: it knows the salt, whose query it was, and for how long.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from rsfed.errors import UnknownHandle
from rsfed.wire import HANDLE_BYTES

SALT_BYTES = 8


class Handles:
    """Makes and opens the handles of one node.

    Args:
        key: The node's handle key, 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        # No block comes twice: ids differ within a query, salts between queries. So single blocks are enough.
        self._cipher = Cipher(AES256(key), ECB())  # noqa: S305

    def seal(self, ids: NDArray[np.int64], salt: bytes) -> bytes:
        """Return the handles of items, or of buckets by their marks, one after the other, 16 bytes each."""
        blocks = np.empty((len(ids), 2), dtype="<i8")
        blocks[:, 0] = ids
        blocks[:, 1] = np.frombuffer(salt, dtype="<i8")
        return self._cipher.encryptor().update(blocks.tobytes())

    def open(self, handle: bytes) -> tuple[int, bytes]:
        """Return (item id or mark, salt) of a handle; of a made-up one, numbers that the ledger does not know.

        Raises:
            UnknownHandle: handle has another length.
        """
        if len(handle) != HANDLE_BYTES:
            raise UnknownHandle(f"a handle has {HANDLE_BYTES} bytes, {2 * HANDLE_BYTES} hexadecimal digits")
        block = self._cipher.decryptor().update(handle)
        return int.from_bytes(block[:SALT_BYTES], "little", signed=True), block[SALT_BYTES:]
