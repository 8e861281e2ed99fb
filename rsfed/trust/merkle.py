"""The Merkle tree of RFC 6962: one hash for a whole list, short proofs for one entry or an earlier list. Pure.

Hashes are SHA-256 and 32 bytes long everywhere. Whether a proof holds is told, never raised: a proof comes from others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry of the list."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash over two neighbouring subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """A list that grows, with the hash of every complete subtree at hand: 64 bytes of memory for each entry."""

    def __init__(self) -> None:
        self._levels = [bytearray()]  # level h: hashes of the complete subtrees of 2^h entries, one after the other

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Append an entry by its leaf hash."""
        height, node = 0, leaf
        while True:
            if height == len(self._levels):
                self._levels.append(bytearray())
            level = self._levels[height]
            level += node
            if len(level) % (2 * HASH_BYTES):
                return
            node = node_hash(bytes(level[-2 * HASH_BYTES : -HASH_BYTES]), node)
            height += 1

    def leaf(self, index: int) -> bytes:
        """Return the leaf hash of one entry."""
        return self._complete(index, 0)

    def root(self, size: int | None = None) -> bytes:
        """Return the hash of the first `size` entries, of all when None.

        Raises:
            ValueError: there are not so many.
        """
        size = len(self) if size is None else size
        self._require(0 <= size <= len(self))
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that entry `index` is one of the first `size`.

        Raises:
            ValueError: it is not, or there are not so many.
        """
        self._require(0 <= index < size <= len(self))
        start, end, path = 0, size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the first `old` entries are the beginning of the first `new`.

        Raises:
            ValueError: `old` is 0 or above `new`, or there are not so many.
        """
        self._require(0 < old <= new <= len(self))
        start, end, path = 0, new, []
        while end != old:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        if start:
            path.append(self._hash(start, end))
        return path[::-1]

    def _hash(self, start: int, end: int) -> bytes:
        """Return the hash over entries, `start` being where RFC 6962 may begin a subtree of so many."""
        width = end - start
        if width & (width - 1) == 0:
            return self._complete(start, width.bit_length() - 1)
        middle = start + _split(width)
        return node_hash(self._hash(start, middle), self._hash(middle, end))

    def _complete(self, start: int, height: int) -> bytes:
        place = (start >> height) * HASH_BYTES
        return bytes(self._levels[height][place : place + HASH_BYTES])

    @staticmethod
    def _require(holds: bool) -> None:
        if not holds:
            raise ValueError("the list has no such entries")


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether a proof shows that an entry is number `index` of the `size` entries under a root."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            place, last = _skip_right_edge(place, last)
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def extends(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether a proof shows that the `old` entries under one root are the beginning of the `new` under another."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_found = new_found = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old_found, new_found = node_hash(sibling, old_found), node_hash(sibling, new_found)
            place, last = _skip_right_edge(place, last)
        else:
            new_found = node_hash(new_found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and old_found == old_root and new_found == new_root


def _skip_right_edge(place: int, last: int) -> tuple[int, int]:
    """Go up to where the subtree is a right child: on the right edge of the tree it is carried up unchanged."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last


def _split(width: int) -> int:
    """Return the largest power of two below the width of a subtree."""
    return 1 << (width - 1).bit_length() - 1
