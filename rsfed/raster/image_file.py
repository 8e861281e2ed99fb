"""A source that lies in one file: what of its header is checked, and how its pixels are decoded."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window as RasterioWindow

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.image import Pixels, Source, without_data
from rsfed.raster.item import Window
from rsfed.raster.jpeg2000 import coarse_level, quality_layers
from rsfed.raster.location import Location
from rsfed.raster.modality import Modality

_JPEG_2000_HEAD = 64 << 10  # bytes, which hold the boxes before the codestream and its header
_warnings_lock = threading.Lock()
logging.getLogger("rasterio").propagate = False  # GDAL's messages carry paths, which belong in no log


@dataclass(frozen=True, slots=True)
class ImageFile(Source):
    """A file opened by rasterio.

    Attributes:
        dataset: The rasterio dataset.
        alpha: Number of the alpha band; None without one.
        masked: The file carries a mask of its own.
        resources: What has to be closed.
    """

    dataset: Any
    alpha: int | None
    masked: bool
    resources: ExitStack

    @classmethod
    def open(cls, real: Path, driver: str, modality: Modality, remedy: str, reduction: int = 1) -> Self:
        """Open a file.

        Args:
            real: Its real path.
            driver: The one GDAL driver that may open it.
            modality: What it must be.
            remedy: What to do about an image of another kind.
            reduction: Use the file's own overview, or resolution level, of this factor where it has one.

        Raises:
            RasterRejected: with what is wrong and its remedy.
        """
        file_bytes = real.stat().st_size
        content = _coarse_content(real, driver, file_bytes, reduction)
        if driver == limits.JPEG_2000:
            _check_layers(content or _head(real))
        with ExitStack() as resources:
            level = coarse_level(content, reduction.bit_length() - 1) if content else None
            name = real if level is None else resources.enter_context(MemoryFile(level.data)).name
            dataset = resources.enter_context(_open(name, driver))
            width, height = (dataset.width, dataset.height) if level is None else (level.width, level.height)
            check_size(width, height)
            alpha = _checked(dataset, modality, file_bytes, remedy)
            location = Location.of(dataset, height)
            overview = 1 if level is None else reduction
            factors = dataset.overviews(1) if reduction > overview else ()
            if reduction in factors:
                overview = reduction
                dataset = resources.enter_context(_open(real, driver, overview_level=factors.index(reduction)))
            nodata = tuple(_usable_nodata(each, dataset.dtypes[0]) for each in dataset.nodatavals)
            return cls(
                path=real,
                width=dataset.width,
                height=dataset.height,
                whole=(width, height),
                dtype=dataset.dtypes[0],
                nodata=nodata[: len(modality.bands)],
                location=location,
                block_rows=_block_rows(dataset),
                row_bytes=_bytes(dataset, 1),
                overview=overview,
                digests={} if level is None else {str(real): hashlib.sha256(content).digest()},
                dataset=dataset,
                alpha=alpha,
                # A mask that belongs to the whole file, other than the one that an alpha band amounts to.
                masked=alpha is None and MaskFlags.per_dataset in dataset.mask_flag_enums[0],
                resources=resources.pop_all(),
            )

    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Decode some bands in a window."""
        area = RasterioWindow(window.col, window.row, window.width, window.height)
        values: NDArray[Any] = self.dataset.read([place + 1 for place in places], window=area)
        masks = [without_data(values, [self.nodata[place] for place in places])]
        if self.alpha is not None:
            masks.append(self.dataset.read(self.alpha, window=area) == 0)
        if self.masked:
            masks.append(self.dataset.read_masks(1, window=area) == 0)
        bad = np.logical_or.reduce([mask for mask in masks if mask is not None])
        return values, ~bad if bad.any() else None

    def tags(self) -> Mapping[str, str]:
        """Return the tags of the file."""
        try:
            return dict(self.dataset.tags())
        except UnicodeDecodeError:  # text in an old encoding is no reason to refuse the pixels
            return {}

    def close(self) -> None:
        """Close the file."""
        self.resources.close()


def _coarse_content(real: Path, driver: str, file_bytes: int, reduction: int) -> bytes:
    """Return a small JPEG 2000 file of which a resolution level is to be cut; nothing where it is opened as it is.

    Of a larger file GDAL offers the level, and reads of it what is wanted.
    """
    if reduction == 1 or driver != limits.JPEG_2000 or file_bytes > limits.STRIP_BYTES:
        return b""
    return real.read_bytes()


def _open(real: Path | str, driver: str, **options: Any) -> Any:  # noqa: ANN401 - rasterio has no types
    # The filters of warnings belong to the process, so one thread at a time may change them.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return DatasetReader(real, driver=driver, sharing=False, **options)  # rasterio.open adds an environment


def _checked(
    dataset: Any,  # noqa: ANN401 - rasterio has no types
    modality: Modality,
    file_bytes: int,
    remedy: str,
) -> int | None:
    """Check a header and return the number of the alpha band, if there is one."""
    if len(pages := dataset.subdatasets) > 1:  # overviews and masks are none
        raise RasterRejected(f"it has {len(pages):,} pages, of which one would be read; write each as its own file")
    alpha = _check_bands(dataset, modality, remedy)
    _check_type(dataset, modality, remedy)
    _check_bytes(dataset, file_bytes)
    return alpha


def _head(real: Path) -> bytes:
    with real.open("rb") as file:
        return file.read(_JPEG_2000_HEAD)


def _check_layers(head: bytes) -> None:
    layers = quality_layers(head[:_JPEG_2000_HEAD])
    if layers > limits.MAX_LAYERS:
        raise RasterRejected(
            f"its header promises {layers:,} layers of quality, the limit is {limits.MAX_LAYERS:,}; "
            "copy it again from its origin"
        )


def check_size(width: int, height: int) -> None:
    """Refuse a source that has no pixels, or too many."""
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
    decoded = _bytes(dataset, dataset.height)
    if max(decoded, file_bytes) > limits.MAX_BYTES:
        raise RasterRejected(f"it is larger than {limits.MAX_BYTES >> 30} GiB; cut it into smaller files")
    if decoded > limits.FREE_EXPANSION_BYTES and decoded > limits.MAX_EXPANSION * file_bytes:
        raise RasterRejected(
            f"its header promises {decoded >> 20:,} MiB of pixels and the file holds {max(1, file_bytes >> 10):,} KiB; "
            "copy it again from its origin"
        )
    largest = max(height * width for height, width in dataset.block_shapes) * _bytes(dataset, 1) // dataset.width
    if max(largest, _bytes(dataset, _block_rows(dataset))) > limits.MAX_STRIP_BYTES:
        raise RasterRejected(
            "its blocks are too large to be read piece by piece; write it again in tiles of 512 pixels"
        )


def _block_rows(dataset: Any) -> int:  # noqa: ANN401 - rasterio has no types
    """Return the height in pixels of the blocks that a file is stored in."""
    return min(int(dataset.height), max(int(height) for height, _ in dataset.block_shapes))


def _bytes(dataset: Any, rows: int) -> int:  # noqa: ANN401 - rasterio has no types
    """Return how many bytes so many rows of all bands take when decoded."""
    return int(rows * dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize)


def _usable_nodata(value: float | None, dtype: str) -> float | None:
    """Return a nodata value that samples of the type can equal; rasterio has left out those beyond its range."""
    if value is None or math.isnan(value):  # NaN is nodata anyway
        return None
    return value if dtype == "float32" or value.is_integer() else None
