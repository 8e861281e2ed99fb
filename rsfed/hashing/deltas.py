"""Changes of weights in few bytes: what both ways of a round carry in place of the weights themselves.

Blocks of an array are scaled by their largest value and rounded to a few levels (block quantisation, as in QSGD and its
successors), then Huffman-coded: levels near zero are frequent. What rounding loses is returned to the sender, who adds
it to the next change (error feedback, Seide et al. 2014; Karimireddy et al. 2019), so that no part of it is lost for
good. Reading gives the same bits on every machine: it takes one float32 multiplication for each value.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import InvalidMessage

PACKED = ("float16", "int8", "int4")  # in half precision, or in 255 or 15 levels for a block
Take = Callable[[str, NDArray[np.float32], NDArray[np.float32]], None]
"""Takes the name of an array, its change, and what of the change its packed form gives."""

BLOCK = 512  # values that share a step
_LEVELS = {"int8": 127, "int4": 7}  # on either side of zero
_PLAIN, _DEFLATED = b"\0", b"\1"  # first byte of a packed change
_PAYS = 0.98  # of the plain size, that Huffman coding must stay below
_HALF_MAX = float(np.finfo(np.float16).max)


def fingerprint(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return what tells weights apart, whatever their order: SHA-256 over names, shapes and values, 32 bytes."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(f"{name} {weights[name].shape}\n".encode())
        found.update(weights[name].astype("<f4", copy=False).tobytes())
    return found.digest()


def pack(change: Iterable[tuple[str, NDArray[np.float32]]], coding: str, take: Take) -> bytes:
    """Return a change in its packed form.

    Arrays are gone through one by one, so that memory need not hold all of the change.

    Args:
        change: Names and finite values, float32, any shape.
        coding: One of `PACKED`.
        take: Told what becomes of each array.

    Raises:
        InvalidMessage: DELTA_FORM, the coding is unknown, or NOT_FINITE.
    """
    _check(coding)
    heads: dict[str, bytes] = {}
    bodies: dict[str, bytes] = {}
    for name, array in change:
        heads[name], bodies[name] = _encode(_finite(array), coding)
        given = _decode(memoryview(heads[name]), memoryview(bodies[name]), coding)
        take(name, array, given.reshape(array.shape))
    plain = b"".join(part[name] for part in (heads, bodies) for name in sorted(heads))
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_HUFFMAN_ONLY)
    deflated = deflate.compress(plain) + deflate.flush()
    return _DEFLATED + deflated if len(deflated) < _PAYS * len(plain) else _PLAIN + plain


def unpack(
    packed: bytes, like: Mapping[str, NDArray[np.float32]], coding: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the names and values of a change that came over the wire.

    Args:
        packed: What `pack` gave.
        like: Arrays with the names and shapes of the change, in the order that is wanted.
        coding: One of `PACKED`.

    Raises:
        InvalidMessage: DELTA_FORM, the bytes are no such change, or NOT_FINITE.
    """
    _check(coding)
    names = sorted(like)
    heads = [_head_bytes(like[name].size, coding) for name in names]
    bodies = [like[name].size * (2 if coding == "float16" else 1) for name in names]
    plain = _inflate(packed, sum(heads) + sum(bodies))
    del packed  # memory may be short
    ends = np.cumsum(heads + bodies)
    parts = [plain[end - size : end] for end, size in zip(ends, heads + bodies, strict=True)]
    places = {name: position for position, name in enumerate(names)}
    for name, array in like.items():
        head, body = parts[places[name]], parts[places[name] + len(names)]
        yield name, _decode(head, body, coding).reshape(array.shape)


def _check(coding: str) -> None:
    if coding not in PACKED:
        raise _misformed("its coding is unknown")


def _encode(array: NDArray[np.float32], coding: str) -> tuple[bytes, bytes]:
    """Return the steps of an array's blocks, if any, and its values in units of them."""
    flat = np.asarray(array, np.float32).reshape(-1)
    if coding == "float16":
        return b"", flat.clip(-_HALF_MAX, _HALF_MAX).astype("<f2").tobytes()
    levels = _LEVELS[coding]
    blocks = np.zeros((-(-flat.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: flat.size] = flat
    largest = np.maximum(blocks.max(axis=1, initial=0.0), -blocks.min(axis=1, initial=0.0))
    steps = largest / np.float32(levels)
    np.divide(blocks, steps[:, None], out=blocks, where=steps[:, None] > 0)  # in place: layers are large
    blocks[steps == 0] = 0  # values too small for a step of their own
    np.rint(blocks, out=blocks).clip(-levels, levels, out=blocks)
    return steps.astype("<f4").tobytes(), blocks.astype(np.int8).reshape(-1)[: flat.size].tobytes()


def _decode(head: memoryview, body: memoryview, coding: str) -> NDArray[np.float32]:
    if coding == "float16":
        halves = np.frombuffer(body, "<f2").astype(np.float32)
        return _finite(halves)
    steps, values = _finite(np.frombuffer(head, "<f4")), np.frombuffer(body, np.int8)
    levels = _LEVELS[coding]
    if (steps < 0).any() or values.min(initial=0) < -levels or values.max(initial=0) > levels:
        raise _misformed("a value is out of its range")
    given = values.astype(np.float32)
    whole = given.size - given.size % BLOCK
    with np.errstate(over="ignore"):
        given[:whole].reshape(-1, BLOCK)[...] *= steps[: whole // BLOCK, None]
        given[whole:] *= steps[whole // BLOCK :]
    return _finite(given)


def _head_bytes(size: int, coding: str) -> int:
    return 0 if coding == "float16" else 4 * -(-size // BLOCK)


def _inflate(packed: bytes, size: int) -> memoryview:
    """Return so many bytes, never more, whatever the sender put in."""
    kind, content = packed[:1], memoryview(packed)[1:]
    if kind == _DEFLATED:
        inflate = zlib.decompressobj()
        try:
            plain = inflate.decompress(content, size + 1)
        except zlib.error as error:
            raise _misformed("it cannot be inflated") from error
        if not inflate.eof or inflate.unused_data:
            raise _misformed("it has another length")
        content = memoryview(plain)
    elif kind != _PLAIN:
        raise _misformed("it has no known form")
    if len(content) != size:
        raise _misformed("it has another length")
    return content


def _finite(array: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(array).all():
        raise InvalidMessage("a change of the weights is not finite", reason="NOT_FINITE")
    return array


def _misformed(what: str) -> InvalidMessage:
    return InvalidMessage(f"a change of the weights was refused: {what}", reason="DELTA_FORM")
