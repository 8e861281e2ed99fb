"""Opening a source: one door, through which nothing but a local, plain, allow-listed image gets in.

- The real path lies inside the archive; a link out of it is refused.
- It is a regular file, opened by the one driver that its first bytes allow: no VRT, no archive, no `/vsi` name.
- Its header is within the limits before a pixel is read.
- Whatever goes wrong inside comes out as RasterRejected.
"""

from __future__ import annotations

import logging
import math
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.location import Location
from rsfed.raster.modality import Modality

# No look at neighbouring files, no side-car metadata, no name that leads to a server.
_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": False,
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,  # it makes up the rows that a truncated file lacks
    "PROJ_NETWORK": "OFF",
}
_DAMAGED = "its pixels cannot be decoded, it is truncated or damaged; copy it again from its origin"
_NOT_AN_IMAGE = "it is not a GeoTIFF, JPEG, PNG or JPEG 2000 image"
_READ_BYTES = 1 << 20
_warnings_lock = threading.Lock()
logging.getLogger("rasterio").propagate = False  # GDAL's messages carry paths, which belong in no log


@dataclass(frozen=True, slots=True)
class Source:
    """An open source whose header was checked.

    Attributes:
        dataset: The rasterio dataset.
        bands: Numbers of the modality's bands in the file, from 1.
        nodata: Nodata value of each band; None where it has none that its sample type can hold.
        alpha: Number of the alpha band; None without one.
        masked: The file carries a mask of its own.
        location: Where the pixels lie, at full resolution.
        overview: Factor by which the dataset is reduced, 1 for full resolution.
    """

    dataset: Any
    bands: tuple[int, ...]
    nodata: tuple[float | None, ...]
    alpha: int | None
    masked: bool
    location: Location
    overview: int = 1


@contextmanager
def opened(path: Path, modality: Modality, *, root: Path | None = None, reduction: int = 1) -> Iterator[Source]:
    """Open an image and check its header.

    Args:
        path: The image.
        modality: What the image must be.
        root: Archive that the real path must lie in; None for an image that the user named.
        reduction: Use the file's own overview of this factor where it has one.

    Yields:
        The source, closed on leaving.

    Raises:
        RasterRejected: with what is wrong and its remedy; also for anything that fails while it is open.
    """
    with refusing(path):
        real = _contained(path, root)
        driver = _driver(real, root)
        with rasterio.Env(**_OPTIONS):
            dataset = _open(real, driver)
            try:
                source = _checked(dataset, modality, real.stat().st_size, _remedy(modality, root))
                factors = dataset.overviews(1) if reduction > 1 else ()
                if reduction in factors:
                    dataset.close()
                    dataset = _open(real, driver, overview_level=factors.index(reduction))
                    source = replace(source, dataset=dataset, overview=reduction)
                yield source
            finally:
                dataset.close()


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn whatever a hostile image makes a decoder raise into RasterRejected, with the path as its detail."""
    try:
        yield
    except RasterRejected as error:
        if error.detail:
            raise
        raise RasterRejected(error.public, reason=error.reason, detail=str(path)) from error
    except MemoryError as error:
        raise RasterRejected(
            "it takes more memory than there is; cut it into smaller files", detail=str(path)
        ) from error
    except Exception as error:  # decoders raise what they like; nothing of it may stop an ingest
        if isinstance(error, OSError) and not isinstance(error, RasterioIOError):
            raise unreadable(error, path) from error
        raise _undecodable(path) from error


def unreadable(error: OSError, path: Path) -> RasterRejected:
    """Return the refusal of a file that cannot be read; its reason is UNREADABLE unless the file is gone."""
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
    reason = None if gone else "UNREADABLE"
    return RasterRejected(f"it cannot be read: {_cause(error)}", reason=reason, detail=str(path))


def _undecodable(path: Path) -> RasterRejected:
    """Return the refusal of a file that a decoder failed at: damaged, unless its bytes cannot be read at all."""
    try:
        with path.open("rb") as file:
            while file.read(_READ_BYTES):
                pass
    except OSError as error:
        return unreadable(error, path)
    return RasterRejected(_DAMAGED, detail=str(path))


def _cause(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission; let this user read it"
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the path"
    return f"{(error.strerror or 'input error').lower()}; check the disk or the name"


def _contained(path: Path, root: Path | None) -> Path:
    """Return the real path of a regular file inside the root."""
    try:
        real = path.resolve(strict=True)
    except RuntimeError as error:  # Python 3.11 says so of a loop
        raise RasterRejected("it is a link that leads to itself; remove the link") from error
    except ValueError as error:
        raise RasterRejected("it has no possible file name; rename it") from error
    if root is not None and not real.is_relative_to(root.resolve()):
        raise RasterRejected("it is a link out of the archive; copy the image into the archive")
    if not stat.S_ISREG(real.stat().st_mode) or str(real).startswith("/vsi"):
        raise RasterRejected("it is not a regular file; replace it by the image itself")
    return real


def _remedy(modality: Modality, root: Path | None) -> str:
    """Say what to do about an image of another kind: the owner of an archive has other ways than one who searches."""
    if root is not None:
        return "convert it, or give the archive the modality of its images"
    bands = f"{len(modality.bands)} band{'s' * (len(modality.bands) != 1)}"
    wanted = f"{modality.name} ({bands}, {' or '.join(modality.dtypes)})"
    return f"what is searched is {wanted}: choose or convert to such an image"


def _driver(real: Path, root: Path | None) -> str:
    with real.open("rb") as file:
        head = file.read(limits.MAGIC_BYTES)
    if not head:
        raise RasterRejected("it is empty; copy it again from its origin")
    if head.lstrip().startswith((b"<VRT", b"<?xml")):
        raise RasterRejected("it is a list that points to other files (VRT or XML); give the images themselves")
    if (driver := limits.driver_for(head)) is None:
        remedy = "convert it to one" if root is None else "convert it, or take it out of the archive"
        raise RasterRejected(f"{_NOT_AN_IMAGE}; {remedy}")
    return driver


def _open(real: Path, driver: str, **options: Any) -> Any:  # noqa: ANN401 - rasterio has no types
    # The filters of warnings belong to the process, so one thread at a time may change them.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(real, driver=driver, sharing=False, **options)


def _checked(
    dataset: Any,  # noqa: ANN401 - rasterio has no types
    modality: Modality,
    file_bytes: int,
    remedy: str,
) -> Source:
    _check_size(dataset.width, dataset.height)
    alpha = _check_bands(dataset, modality, remedy)
    _check_type(dataset, modality, remedy)
    _check_bytes(dataset, file_bytes)
    bands = tuple(range(1, len(modality.bands) + 1))
    nodata = tuple(_usable_nodata(value, dataset.dtypes[0]) for value in dataset.nodatavals[: len(bands)])
    # A mask that belongs to the whole file, other than the one that an alpha band amounts to.
    masked = alpha is None and MaskFlags.per_dataset in dataset.mask_flag_enums[0]
    return Source(dataset, bands, nodata, alpha, masked, Location(dataset))


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise RasterRejected("it has no pixels; copy it again from its origin")
    if max(width, height) > limits.MAX_SIDE:
        side = max(width, height)
        raise RasterRejected(f"it is {side:,} pixels long, the limit is {limits.MAX_SIDE:,}; cut it into smaller files")
    if width * height > limits.MAX_PIXELS:
        raise RasterRejected(
            f"it has {width * height:,} pixels, the limit is {limits.MAX_PIXELS:,}; cut it into smaller files"
        )


def _check_bands(dataset: Any, modality: Modality, remedy: str) -> int | None:  # noqa: ANN401 - rasterio has no types
    """Return the number of the alpha band, if there is one."""
    count, wanted = dataset.count, len(modality.bands)
    alpha = count == wanted + 1 and dataset.colorinterp[-1] == ColorInterp.alpha
    if count != wanted and not alpha:
        raise RasterRejected(
            f"it has {count} band{'s' * (count != 1)} and modality {modality.name} has {wanted}; {remedy}"
        )
    if dataset.colorinterp[0] == ColorInterp.palette:
        raise RasterRejected("its pixels are indices of a colour table; expand them to colours")
    return count if alpha else None


def _check_type(dataset: Any, modality: Modality, remedy: str) -> None:  # noqa: ANN401 - rasterio has no types
    for dtype in dataset.dtypes:
        if dtype.startswith("complex"):
            raise RasterRejected("its samples are complex numbers; convert them to amplitude or decibel")
        if dtype not in modality.dtypes:
            raise RasterRejected(
                f"its samples are {dtype} and modality {modality.name} takes {', '.join(modality.dtypes)}; {remedy}"
            )


def _check_bytes(dataset: Any, file_bytes: int) -> None:  # noqa: ANN401 - rasterio has no types
    decoded = strip_bytes(dataset, dataset.height)
    if max(decoded, file_bytes) > limits.MAX_BYTES:
        raise RasterRejected(f"it is larger than {limits.MAX_BYTES >> 30} GiB; cut it into smaller files")
    if decoded > limits.FREE_EXPANSION_BYTES and decoded > limits.MAX_EXPANSION * file_bytes:
        raise RasterRejected(
            f"its header promises {decoded >> 20:,} MiB of pixels and the file holds {max(1, file_bytes >> 10):,} KiB; "
            "copy it again from its origin"
        )
    largest = max(height * width for height, width in dataset.block_shapes) * strip_bytes(dataset, 1) // dataset.width
    if max(largest, strip_bytes(dataset, block_rows(dataset))) > limits.MAX_STRIP_BYTES:
        raise RasterRejected(
            "its blocks are too large to be read piece by piece; write it again in tiles of 512 pixels"
        )


def block_rows(dataset: Any) -> int:  # noqa: ANN401 - rasterio has no types
    """Return the height in pixels of the blocks that a file is stored in."""
    return min(int(dataset.height), max(int(height) for height, _ in dataset.block_shapes))


def strip_bytes(dataset: Any, rows: int) -> int:  # noqa: ANN401 - rasterio has no types
    """Return how many bytes so many rows of all bands take when decoded."""
    return int(rows * dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize)


def _usable_nodata(value: float | None, dtype: str) -> float | None:
    """Return a nodata value that samples of the type can equal; rasterio has left out those beyond its range."""
    if value is None or math.isnan(value):  # NaN is nodata anyway
        return None
    return value if dtype == "float32" or value.is_integer() else None
