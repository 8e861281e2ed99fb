"""The fast way for the plainest of files: little-endian TIFF, one band, uncompressed, in strips that follow each other.

Small files of single bands, as in BigEarthNet, cost rasterio ten times more to open than to read. What is read here is
held against every rule first: a header with any field that is not known, not at its usual place or not exactly right is
left to rasterio, whose pixels, georeference and nodata value these are equal to.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine

from rsfed.raster import limits
from rsfed.raster.image import Pixels, Source, without_data
from rsfed.raster.item import Window
from rsfed.raster.location import Location, is_sound
from rsfed.raster.modality import Modality

_MOST_BYTES = 4 << 20  # of a file; what is larger gains nothing
_HEADER = 8  # bytes before anything that it points to
_CORNER = 48  # bytes that say the corner
_MOST_TAGS = 32
_INLINE = 4  # bytes of values that lie in the tag itself
_MOST_VALUES = 1 << 16  # of a tag
_SHORT, _LONG, _ASCII, _DOUBLE = 3, 4, 2, 12
_FORMS = {_ASCII: "B", _SHORT: "H", _LONG: "I", _DOUBLE: "d"}

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _FORMAT = 273, 277, 278, 279, 284, 339
_SCALE, _TIE, _KEYS, _KEY_TEXT, _NODATA = 33550, 33922, 34735, 34737, 42113
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _FORMAT}
_GEOGRAPHIC = {_SCALE, _TIE, _KEYS, _KEY_TEXT}
_KNOWN = _NEEDED | _GEOGRAPHIC | {_NODATA}
_USUAL = {  # types, and number of values where it is fixed; of all others one whole number
    _OFFSETS: ((_SHORT, _LONG), 0),
    _COUNTS: ((_SHORT, _LONG), 0),
    _SCALE: ((_DOUBLE,), 3),
    _TIE: ((_DOUBLE,), 6),
    _KEYS: ((_SHORT,), 0),
    _KEY_TEXT: ((_ASCII,), 0),
    _NODATA: ((_ASCII,), 0),
}
_ONES = (_COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR)  # no compression, black is zero, one band
_TYPES = {(8, 1): "uint8", (16, 1): "uint16", (16, 2): "int16", (32, 3): "float32"}

_STORED = {name: np.dtype(name).newbyteorder("<") for name in _TYPES.values()}
_UTM, _SOUTH = {*range(32601, 32661), *range(32701, 32761)}, 32700
_CODE_AT = 27  # place of the code in the keys
_NUMBER = re.compile(rb"-?\d{1,15}(?:\.\d{1,15})?")
_GONE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})  # a link, a folder or a pipe: the slow way tells


class _Tag(NamedTuple):
    """Where the values of a tag lie: their type, number and place, or the values themselves where they fit."""

    kind: int
    length: int
    place: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return struct.calcsize(_FORMS[self.kind]) * self.length

    @property
    def end(self) -> int:
        """Where the values end; 0 where they lie in the tag."""
        return self.place + self.size if self.size > _INLINE else 0


class _Plan(NamedTuple):
    """What a header says, without where the pixels lie.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        dtype: numpy name of the sample type.
        start: First byte of the pixels.
        size: Bytes of all pixels.
        epsg: Code of the reference system; None without one.
        gsd: Pixel size across and down in metres.
        corner: Where the corner is said; None without a reference system.
        nodata: Nodata value; None without one.
    """

    width: int
    height: int
    dtype: str
    start: int
    size: int
    epsg: int | None
    gsd: tuple[float, float]
    corner: int | None
    nodata: float | None


class _Told(NamedTuple):
    """What of a file is neither pixels nor corner.

    Attributes:
        places: Where pixels and corner lie, as text.
        parts: The parts between them.
    """

    places: bytes
    parts: tuple[slice, ...]

    @classmethod
    def of(cls, plan: _Plan, length: int) -> Self:
        """Return what that is in a file of some bytes."""
        edges = [0, *(edge for hole in sorted(_holes(plan)) for edge in hole), length]
        parts = tuple(slice(*edges[place : place + 2]) for place in range(0, len(edges), 2))
        return cls(b"%d,%d,%d," % (plan.start, plan.size, plan.corner or 0), parts)

    def key(self, content: bytes) -> bytes:
        """Return it."""
        return self.places + b"".join([content[part] for part in self.parts])


@dataclass(frozen=True, slots=True)
class PlainTiff(Source):
    """A file whose bytes are in memory.

    Attributes:
        values: Its samples, shape (1, height, width).
    """

    values: NDArray[Any]

    @classmethod
    def open(cls, path: Path, modality: Modality) -> Self | None:
        """Read a file; None for one that is not plain, which is for others to open or refuse.

        Args:
            path: The file; a link is not followed.
            modality: What it must be.

        Raises:
            OSError: it cannot be read.
        """
        content = None if len(modality.bands) > 1 else _content(path)
        found = None if content is None else _read_header(content)
        if content is None or found is None or found[0].dtype not in modality.dtypes:
            return None
        plan, west, north = found
        values = np.frombuffer(content, _STORED[plan.dtype], plan.width * plan.height, plan.start)
        return cls(
            path=path,
            width=plan.width,
            height=plan.height,
            dtype=plan.dtype,
            nodata=(plan.nodata,),
            location=_location(plan, west, north),
            block_rows=plan.height,
            row_bytes=values.itemsize * plan.width,
            overview=1,
            digests={str(path): hashlib.sha256(content).digest()},
            values=values.reshape(1, plan.height, plan.width),
        )

    def read(self, _places: Sequence[int], window: Window) -> Pixels:
        """Return a part of the one band, which is in memory."""
        return self._part(window), self.valid(window)

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Return where a part of the one band has data."""
        bad = without_data(self._part(window), self.nodata)
        return ~bad if bad is not None and bad.any() else None

    def _part(self, window: Window) -> NDArray[Any]:
        rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        return self.values[:, rows, cols]

    @property
    def in_memory(self) -> bool:
        """Yes."""
        return True

    def tags(self) -> Mapping[str, str]:
        """Return nothing: a file with metadata is not plain."""
        return {}

    def close(self) -> None:
        """Do nothing: the file is closed since it was read."""


def _content(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        content = os.read(handle, status.st_size + 1)  # one more tells a file that grew
        return content if len(content) == status.st_size else None
    finally:
        os.close(handle)


@lru_cache(maxsize=64)  # bands of one patch share it
def _location(plan: _Plan, west: float, north: float) -> Location:
    if plan.epsg is None:
        return Location(None, Affine.identity(), plan.height)
    return Location.in_metres(plan.epsg, Affine(plan.gsd[0], 0.0, west, 0.0, -plan.gsd[1], north))


def _read_header(content: bytes) -> tuple[_Plan, float, float] | None:
    """Return what the header says, and easting and northing of the upper left corner."""
    plan = _known(content) or _worked_out(content)
    if plan is None or plan.start + plan.size > len(content):
        return None
    if plan.corner is None:
        return plan, 0.0, 0.0
    col, row, _, west, north, _ = struct.unpack_from("<6d", content, plan.corner)
    return None if col or row or not (math.isfinite(west) and math.isfinite(north)) else (plan, west, north)


# Files of an archive differ by pixels and corner alone. So a header is worked out once for many: another file as long,
# whose other bytes are the same, says the same, unless something else of the header lies among the pixels or in the
# corner, whose bytes are not compared.
_LAST: dict[int, _Told] = {}  # by length of the file
_PLANS: dict[bytes, _Plan] = {}  # by all bytes but pixels and corner
_MOST_PLANS = 256
_MOST_KEPT = 4096  # bytes of a header


def _known(content: bytes) -> _Plan | None:
    last = _LAST.get(len(content))
    return None if last is None else _PLANS.get(last.key(content))


def _holes(plan: _Plan) -> list[tuple[int, int]]:
    """Return first byte and end of the pixels, and of the corner where there is one."""
    pixels = (plan.start, plan.start + plan.size)
    return [pixels] if plan.corner is None else [pixels, (plan.corner, plan.corner + _CORNER)]


def _apart(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[1] <= other[0] or one[0] >= other[1]


def _worked_out(content: bytes) -> _Plan | None:
    tags = _directory(content)
    values = {number: _bytes(content, tag) for number, tag in tags or ()}
    if tags is None or None in values.values():
        return None
    plan = _plan(dict(tags), {number: value for number, value in values.items() if value is not None})
    if plan is None:
        return None
    (first,) = struct.unpack_from("<I", content, 4)
    header = [(first, first + 2 + 12 * len(tags) + 4)]
    header += [(tag.place, tag.end) for number, tag in tags if tag.end and number != _TIE]
    holes = _holes(plan)
    apart = all(_apart(each, hole) for each in header for hole in holes) and all(map(_apart, holes, holes[1:]))
    told = _Told.of(plan, len(content))
    if apart and len(key := told.key(content)) <= _MOST_KEPT:
        if len(_PLANS) >= _MOST_PLANS or len(_LAST) >= _MOST_PLANS:
            _PLANS.clear()
            _LAST.clear()
        _LAST[len(content)] = told
        _PLANS[key] = plan
    return plan


def _directory(content: bytes) -> tuple[tuple[int, _Tag], ...] | None:
    """Return the tags of the only image of a file."""
    if len(content) < _HEADER or content[:4] != b"II*\x00":
        return None
    (start,) = struct.unpack_from("<I", content, 4)
    if not _HEADER <= start <= len(content) - 2:
        return None
    (count,) = struct.unpack_from("<H", content, start)
    end = start + 2 + 12 * count + 4
    alone = count <= _MOST_TAGS and end <= len(content) and content[end - 4 : end] == bytes(4)
    return _tags(content[start + 2 : end - 4]) if alone else None


def _tags(directory: bytes) -> tuple[tuple[int, _Tag], ...] | None:
    """Return the tags of a directory, None if one is unknown, of another type than usual, or out of order."""
    entries = [
        (number, _Tag(kind, length, place)) for number, kind, length, place in struct.iter_unpack("<HHII", directory)
    ]
    numbers = [number for number, _ in entries]
    if numbers != sorted(set(numbers)) or not _NEEDED <= set(numbers) <= _KNOWN:
        return None
    held = set(numbers) & _GEOGRAPHIC
    if held and held != _GEOGRAPHIC:
        return None
    return tuple(entries) if all(_usual(number, tag) for number, tag in entries) else None


def _usual(number: int, tag: _Tag) -> bool:
    """Return whether a tag has the type and number of values that it should have."""
    kinds, count = _USUAL.get(number, ((_SHORT, _LONG), 1))
    return tag.kind in kinds and (tag.length == count if count else 0 < tag.length < _MOST_VALUES)


def _bytes(content: bytes, tag: _Tag) -> bytes | None:
    """Return the values of a tag as bytes, None where the file ends before."""
    if not tag.end:
        return struct.pack("<I", tag.place)[: tag.size]
    return content[tag.place : tag.end] if tag.place >= _HEADER and tag.end <= len(content) else None


def _plan(tags: Mapping[int, _Tag], values: Mapping[int, bytes]) -> _Plan | None:
    """Return what the values of all tags but the corner say; None unless everything is as it should be."""
    texts = {number: value for number, value in values.items() if tags[number].kind == _ASCII}
    told = {
        number: struct.unpack(f"<{tags[number].length}{_FORMS[tags[number].kind]}", value)
        for number, value in values.items()
        if number not in texts
    }
    (width,), (height,), (rows,) = told[_WIDTH], told[_HEIGHT], told[_ROWS]
    dtype = _TYPES.get((told[_BITS][0], told[_FORMAT][0]))
    sides = 0 < width <= limits.MAX_SIDE and 0 < height <= limits.MAX_SIDE
    if dtype is None or any(told[number] != (1,) for number in _ONES) or not sides or not rows:
        return None
    start = _one_piece(told[_OFFSETS], told[_COUNTS], width * np.dtype(dtype).itemsize, height, min(rows, height))
    nodata = _nodata(texts.get(_NODATA), dtype)
    epsg = _epsg(told[_KEYS], texts.get(_KEY_TEXT, b"")) if _KEYS in told else None
    across, down, _ = told.get(_SCALE, (1.0, 1.0, 0.0))
    if start is None or nodata is False or (epsg is None and _KEYS in told) or not is_sound(across, down):
        return None
    size = width * height * np.dtype(dtype).itemsize
    corner = tags[_TIE].place if _TIE in tags else None
    value = None if nodata is None else float(nodata)
    return _Plan(width, height, dtype, start, size, epsg, (across, down), corner, value)


def _one_piece(offsets: Sequence[int], counts: Sequence[int], row: int, height: int, rows: int) -> int | None:
    """Return where the pixels begin, None unless the strips are whole and follow each other."""
    sizes = [row * min(rows, height - top) for top in range(0, height, rows)]
    if list(counts) != sizes or offsets[0] < _HEADER:
        return None
    begins = [offsets[0]]
    for size in sizes[:-1]:
        begins.append(begins[-1] + size)
    return offsets[0] if list(offsets) == begins else None


def _epsg(keys: Sequence[int], text: bytes) -> int | None:
    """Return the zone of UTM that the keys name and nothing else; None for whatever is said otherwise."""
    code = keys[_CODE_AT] if len(keys) > _CODE_AT else 0
    return code if code in _UTM and (tuple(keys), text) == _utm(code) else None


def _utm(code: int) -> tuple[tuple[int, ...], bytes]:
    """Return the keys and text of a zone of UTM as GDAL writes them."""
    name = f"WGS 84 / UTM zone {code % 100}{'N' if code < _SOUTH else 'S'}|".encode()
    head = (1, 1, 0, 7, 1024, 0, 1, 1, 1025, 0, 1, 1)  # projected, pixels are areas
    names = (1026, _KEY_TEXT, len(name), 0, 2049, _KEY_TEXT, 7, len(name))
    return (*head, *names, 2054, 0, 1, 9102, 3072, 0, 1, code, 3076, 0, 1, 9001), name + b"WGS 84|\x00"


def _nodata(text: bytes | None, dtype: str) -> float | bool | None:
    """Return the nodata value, None where there is none that samples can equal, False where the text is unusual."""
    if text is None:
        return None
    number = text.rstrip(b"\x00 ")
    if not _NUMBER.fullmatch(number):
        return False
    value = float(number)
    if dtype == "float32":
        return value
    held = np.iinfo(dtype)
    if not held.min <= value <= held.max:
        return False
    return value if value.is_integer() else None
