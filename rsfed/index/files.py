"""Files of an index: named arrays that are mapped into memory, under a header that says whose they are.

A file starts with a magic word, the format version, and the length and checksum of its header; the header is JSON and
names every array with its place, and the checksum of all of them. Whatever was cut off, edited or swapped is found
before an array is used. A file is written under another name, synced, renamed, and the folder synced: after a crash it
is there whole or not at all.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import StateError
from rsfed.index.jit import kernel

FORMAT = 1
_MAGIC = b"rsfedidx"
_HEAD = struct.Struct("<8sII16s")  # magic, format, length and checksum of the header
_ALIGN = 64
PENDING = ".pending"  # end of the name of a file that is being written


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose codes a file holds: those of another release are never mixed in.

    Attributes:
        release: Digest of the release.
        encoder: Id of the encoder within it.
        bits: Width of the codes.
    """

    release: bytes
    encoder: str
    bits: int

    def described(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"release": self.release.hex(), "encoder": self.encoder, "bits": self.bits}


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that was read: its arrays, what its header says beside them, and the checksum of the arrays."""

    arrays: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any]
    checksum: str


def damaged(path: Path, why: str) -> StateError:
    """Return the error that names a damaged file."""
    return StateError(
        "a file of the index is damaged; start the node again, it rebuilds the file from its catalogue",
        reason="INDEX_DAMAGED",
        detail=f"{path}: {why}",
    )


def missing(error: FileNotFoundError) -> StateError:
    """Return the error that names a file which a manifest names and nobody finds."""
    return damaged(Path(str(error.filename)), "it is missing")


def write(path: Path, owner: Owner, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> str:
    """Write a file durably and return the checksum of its arrays."""
    listed: list[dict[str, Any]] = []
    content: list[NDArray[np.uint64]] = []
    offset, total = 0, 0
    for name, array in arrays.items():
        listed.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "offset": offset})
        for block in _blocks(array):
            content.append(block)
            total += int(checksum_of(block, offset // 8))
            offset += block.nbytes
    checksum = f"{total % 2**64:016x}"
    header = owner.described() | {"about": dict(about), "arrays": listed, "bytes": offset, "checksum": checksum}
    text = json.dumps(header).encode()
    text += b" " * (-(_HEAD.size + len(text)) % _ALIGN)
    replace(path, [_HEAD.pack(_MAGIC, FORMAT, len(text), _digest(text)), text, *content])
    return checksum


def read(path: Path, owner: Owner) -> Stored:
    """Map a file into memory.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: INDEX_DAMAGED, the file is not as it was written, or not one of this owner and format: a manifest,
            which is read before, names such files only.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEAD.size:
            raise damaged(path, "cut off")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, length, digest = _HEAD.unpack_from(mapped)
    if (magic, version) != (_MAGIC, FORMAT):
        raise damaged(path, "no file of an index in this format")
    text = mapped[_HEAD.size : _HEAD.size + length]
    if _digest(text) != digest:
        raise damaged(path, "its header was changed")
    header = json.loads(text)
    if not is_of(owner, header):
        raise damaged(path, "it is of another release, encoder or width")
    first = _HEAD.size + length
    if len(mapped) != first + header["bytes"]:
        raise damaged(path, "cut off or continued")
    if f"{checksum_of(np.frombuffer(mapped, np.uint64, offset=first), 0):016x}" != header["checksum"]:
        raise damaged(path, "its arrays were changed")
    arrays = {entry["name"]: _array(mapped, first, entry) for entry in header["arrays"]}
    return Stored(arrays, header["about"], header["checksum"])


def sealed(body: Mapping[str, Any]) -> bytes:
    """Return what a small file of text holds: JSON under its format version and checksum."""
    text = json.dumps({"format": FORMAT} | dict(body))
    return json.dumps({"checksum": _digest(text.encode()).hex(), "content": text}).encode()


def unsealed(path: Path, content: bytes) -> dict[str, Any]:
    """Return what was sealed.

    Raises:
        StateError: INDEX_DAMAGED, the file is not as it was written; INDEX_FORMAT, newer software wrote it.
    """
    try:
        whole = json.loads(content)
        text = whole["content"]
        if _digest(text.encode()).hex() != whole["checksum"]:
            raise damaged(path, "it was changed")
        body: dict[str, Any] = json.loads(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, "cut off or edited") from error
    check_format(path, body["format"])
    return body


def check_format(path: Path, version: int) -> None:
    """Refuse a file of newer software.

    Raises:
        StateError: INDEX_FORMAT.
    """
    if version > FORMAT:
        raise StateError(
            f"the index has format {version}, this software reads up to {FORMAT}; update the software",
            reason="INDEX_FORMAT",
            detail=str(path),
        )


def is_of(owner: Owner, header: Mapping[str, Any]) -> bool:
    """Return whether a header says that a file is of this owner."""
    return owner.described() == {name: header.get(name) for name in owner.described()}


def check_owner(path: Path, owner: Owner, header: Mapping[str, Any]) -> None:
    """Refuse a file of another release, encoder or width.

    Raises:
        StateError: INDEX_FOREIGN.
    """
    if not is_of(owner, header):
        raise StateError(
            "the index holds codes of another release than the one that is served; the node makes its own",
            reason="INDEX_FOREIGN",
            detail=str(path),
        )


def replace(path: Path, content: list[Any]) -> None:
    """Put a file in place durably: all of it or nothing."""
    pending = path.with_name(path.name + PENDING)
    with pending.open("wb") as file:
        for part in content:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    pending.rename(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[np.uint64]]:
    """Return an array as words: first what is aligned, uncopied, then the rest filled up with zeros."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = flat.nbytes // _ALIGN * _ALIGN
    if whole:
        yield flat[:whole].view(np.uint64)
    if whole < flat.nbytes:
        rest = np.zeros(_ALIGN, np.uint8)
        rest[: flat.nbytes - whole] = flat[whole:]
        yield rest.view(np.uint64)


def _array(mapped: mmap.mmap, first: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype, count, first + entry["offset"]).reshape(shape)


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


@kernel
def checksum_of(words: NDArray[np.uint64], first: int) -> np.uint64:
    """Return a sum over scattered words and places, at the speed of memory: finds damage, not a forger.

    Args:
        words: Words that follow each other, uint64.
        first: Place of the first of them; sums of blocks add up to that of the whole.
    """
    total = np.uint64(0)
    for number in range(np.uint64(len(words))):
        place = np.uint64(first) + number
        value = (words[number] ^ (place * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
        total += value ^ (value >> np.uint64(29))
    return total
