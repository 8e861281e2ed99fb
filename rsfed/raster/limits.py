"""What a source may be, decided before a pixel of it is read."""

from __future__ import annotations

MAX_SIDE = 65_535  # pixels
MAX_PIXELS = (
    1 << 29
)  # pixels of a source; a whole Sentinel-2 tile at 10 m has 121 million, a scene of Sentinel-1 426 million
MAX_BYTES = 4 << 30  # bytes of a file, and of its pixels when decoded
MAX_STRIP_BYTES = 256 << 20  # bytes of one row of blocks when decoded: the least that reading takes
MAX_EXPANSION = 500  # decoded bytes for each byte of the file, once the pixels exceed FREE_EXPANSION_BYTES
FREE_EXPANSION_BYTES = 64 << 20  # bytes
MAX_LAYERS = 1000  # of quality in JPEG 2000: each takes the decoder time, also where it is empty
MAX_PATCHES = 1_000_000  # patches cut from one source
MAX_COARSER = 8.0  # times that a source's pixels may be wider than those the encoder takes

STRIP_BYTES = 16 << 20  # bytes decoded at a time where the blocks of the file allow it

JPEG_2000 = "JP2OpenJPEG"  # GDAL's name

_BIG_TIFF, _TIFF = (b"II+\x00", b"MM\x00+"), (b"II*\x00", b"MM\x00*")
_MAGIC: tuple[tuple[bytes, str], ...] = (
    *((magic, "GTiff") for magic in (*_TIFF, *_BIG_TIFF)),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", JPEG_2000),
    (b"\xff\x4f\xff\x51", JPEG_2000),
)
MAGIC_BYTES = 64  # bytes of a file that decide how it is opened

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2"})

ONE_OF_SEVERAL = {"GDAL_NUM_THREADS": "1"}
"""Environment of a process that reads beside others: no threads of its own."""


def driver_for(head: bytes) -> str | None:
    """Return the one GDAL driver that may open a file which starts with these bytes; None for any other file."""
    return next((driver for magic, driver in _MAGIC if head.startswith(magic)), None)
