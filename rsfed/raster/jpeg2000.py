"""What of JPEG 2000 is read from the codestream itself: a reduced resolution where GDAL offers none, and its layers.

GDAL's driver decodes fewer resolution levels only while what they give is longer than 128 pixels or just comes below,
so of a patch of 256 pixels it gives 1/2 and nothing coarser. The codestream itself has the coarser ones: where packets
come resolution by resolution, one whose header speaks of fewer levels and of the size that these have is a codestream
of the reduced image, and what follows its packets is not looked at. Nothing is decoded here, and anything but the plain
form that encoders write for small images is left to the reader's own averaging.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_SIZ, _COD, _QCD, _COM, _TLM = 0xFF51, 0xFF52, 0xFF5C, 0xFF64, 0xFF55
_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
_SOT_BYTES = 12
_LRCP, _RLCP, _RPCL = range(3)  # orders of packets: by layer first, and by resolution first
_EXPLICIT_PRECINCTS = 1  # bit of the coding style
_UNQUANTISED, _DERIVED, _EXPOUNDED = range(3)  # styles of quantisation
_BOX = struct.Struct(">I4s")
_CODESTREAM, _HEADER = b"jp2c", b"jp2h"
_START = b"\xff\x4f\xff\x51"  # of a codestream, whose first segment tells sizes
_SIZES_AT = 8  # bytes behind its start
_SIZES = struct.Struct(">8I")  # ends of the image, its origin, size of tiles, their origin: each across and down


class Level(NamedTuple):
    """A resolution level as a file.

    Attributes:
        data: A JPEG 2000 file whose full resolution it is, with the boxes of the original.
        width: Width in pixels of the original.
        height: Height in pixels of the original.
    """

    data: bytes
    width: int
    height: int


def coarse_level(data: bytes, halvings: int) -> Level | None:
    """Return a coarse resolution level of a JPEG 2000 file (with boxes, or a bare codestream) as a file.

    Args:
        data: The file; the result is only as sound as it is.
        halvings: How often width and height are halved, rounded up, at least once.

    Returns:
        The level; None where there is none, or the file is not in the plain form: one tile in one part, packets by
        resolution, one coding and one quantisation for all bands.
    """
    try:
        return (_codestream if data.startswith(_START) else _boxes)(data, halvings)
    except (struct.error, IndexError):  # it ends too early; the decoder says so
        return None


def quality_layers(head: bytes) -> int:
    """Return how many layers the header of a JPEG 2000 file promises; 0 where that is not in what is given of it."""
    place = head.find(_START) + 2
    try:
        while place > 1 and (marker := _number(head, place)) != _SOT:
            if marker == _COD:
                return _number(head, place + 6)
            place += 2 + _number(head, place + 2)
    except struct.error:  # it ends too early; the decoder says so
        pass
    return 0


def _boxes(data: bytes, halvings: int) -> Level | None:
    made, place, level = [], 0, None
    while place < len(data):
        length, kind = _BOX.unpack_from(data, place)
        end = place + length if length else len(data)  # 0: up to the end of the file
        if end < place + _BOX.size or end > len(data):  # 1: a length of 64 bits, which no small file has
            return None
        body = data[place + _BOX.size : end]
        if kind == _CODESTREAM:
            second, level = level is not None, _codestream(body, halvings)
            if second or level is None:
                return None
            body = level.data
        elif kind == _HEADER:
            body = _image_header(body, halvings)
        made += [_BOX.pack(_BOX.size + len(body), kind), body]
        place = end
    return None if level is None else level._replace(data=b"".join(made))


def _image_header(body: bytes, halvings: int) -> bytes:
    """Return the header box with height and width, which its first part begins with, reduced."""
    height, width = struct.unpack_from(">2I", body, _BOX.size)
    small = struct.pack(">2I", _halved(height, halvings), _halved(width, halvings))
    return body[: _BOX.size] + small + body[_BOX.size + len(small) :]


def _codestream(data: bytes, halvings: int) -> Level | None:
    width, height, *_ = _SIZES.unpack_from(data, _SIZES_AT)
    made, place = [data[:2]], 2
    while (marker := _number(data, place)) != _SOT:
        end = place + 2 + _number(data, place + 2)
        segment: bytes | None = data[place:end]
        if marker in _CHANGES:
            segment = _CHANGES[marker](data[place:end], halvings)
        elif marker not in {_COM, _TLM}:
            return None
        if segment is None:
            return None
        made.append(segment)
        place = end
    (length,) = struct.unpack_from(">I", data, place + 6)
    single = length == 0 or place + length == len(data) - 2  # up to the mark of the end, which a cut file lacks
    if not single or _number(data, place + _SOT_BYTES) != _SOD or _number(data, len(data) - 2) != _EOC:
        return None
    return Level(b"".join([*made, data[place:]]), width, height)


def _sizes(segment: bytes, halvings: int) -> bytes | None:
    right, bottom, *origin, tile_width, tile_height, tile_col, tile_row = _SIZES.unpack_from(segment, 6)
    if any((*origin, tile_col, tile_row)) or tile_width < right or tile_height < bottom:
        return None
    small = _halved(right, halvings), _halved(bottom, halvings)
    packed = _SIZES.pack(*small, 0, 0, *small, 0, 0)
    return segment[:6] + packed + segment[6 + len(packed) :]


def _coding(segment: bytes, halvings: int) -> bytes | None:
    style, order = segment[4], segment[5]
    layers, levels = _number(segment, 6), segment[9]
    by_resolution = order in {_RLCP, _RPCL} or (order == _LRCP and layers == 1)
    if not by_resolution or levels < halvings:
        return None
    kept = len(segment) - halvings if style & _EXPLICIT_PRECINCTS else len(segment)
    return _resized(segment[:9] + bytes([levels - halvings]) + segment[10:kept])


def _quantisation(segment: bytes, halvings: int) -> bytes:
    """Return the step sizes of the sub-bands that are left: those of each finer resolution, three, stand last."""
    each = {_UNQUANTISED: 1, _DERIVED: 0, _EXPOUNDED: 2}.get(segment[4] & 0x1F, 0)
    return _resized(segment[: len(segment) - 3 * halvings * each])


_CHANGES = {_SIZ: _sizes, _COD: _coding, _QCD: _quantisation}


def _resized(segment: bytes) -> bytes:
    return segment[:2] + struct.pack(">H", len(segment) - 2) + segment[4:]


def _number(data: bytes, place: int) -> int:
    (value,) = struct.unpack_from(">H", data, place)
    return int(value)


def _halved(length: int, halvings: int) -> int:
    return -(-length >> halvings)
